"""The page of an ablation or another brief table: one line until it was run, then numbers with their gains."""

from __future__ import annotations

from experiments import absences, intervals
from experiments.comparable import Marks
from experiments.spec import PRESETS, Column
from reports import markdown
from reports.summary import ABSENT, QUOTED, RERUN, Gain, Group, Summary, group_of


def render(summary: Summary) -> str:
    """The page of a brief table."""
    spec, groups = summary.spec, shown(summary)
    command = f"python -m experiments.run {spec.name}"
    text = [markdown.heading(spec.title, command)]
    if not groups:
        return "\n\n".join((*text, f"Not run yet: `{command}`."))
    for group in groups:
        text += [f"**{summary.heading(group)[0].upper()}{summary.heading(group)[1:]}**", _numbers(summary, group)]
    if any(group.published for group in groups):
        text.append("\n".join(markdown.remarks(summary, spec.columns)))
    presets = [p for p in PRESETS if any(g.preset == p for g in groups)]
    text += [markdown.NOT_COMPARABLE[p] for p in presets if p in markdown.NOT_COMPARABLE]
    text.append("\n".join(f"- {note}" for note in (_legend(summary, groups), *spec.notes, markdown.csv_link(summary))))
    text.append(markdown.conditions([r for r in summary.records if r.preset in presets]))
    text += [f"> {note}" for note in summary.notes]
    return "\n\n".join(part for part in text if part)


def shown(summary: Summary) -> list[Group]:
    """Groups with numbers that are not another table's: a row that only shows another table's cell makes none."""
    own = {group_of(r) for r in summary.records if r.table == summary.spec.name}
    published = [g for g in (QUOTED, RERUN) if any(key[0] == g for key in summary.numbers)]
    return published + [g for g in summary.ours() if g in own]


def _legend(summary: Summary, groups: list[Group]) -> str:
    several = any(summary.seed_count(group) > 1 for group in groups)
    second = "In the second line of a cell, {} the row's base"
    if not several:
        return f"{second.format('the difference to')}."
    return f"Mean ± sample standard deviation over seeds. {second.format('against')}: {intervals.LEGEND}."


def _numbers(summary: Summary, group: Group) -> str:
    """Rows x metrics of one group; below a number the difference to the row's base, seed by seed."""
    spec, expected, marks = summary.spec, summary.seed_count(group), Marks()
    columns = [c for c in spec.columns if any(summary.number(group, r.name, c.metric) for r in spec.rows)]
    lines = []
    for row in spec.rows:
        if not any(summary.number(group, row.name, c.metric) for c in columns):
            continue
        line = {"Training": f"{row.title}, {row.note}" if row.note else row.title}
        for column in columns:
            text = markdown.cell(summary.number(group, row.name, column.metric), column.digits, expected, marks)
            gain = summary.gain(group, row.name, column.metric)
            if gain is not None and text != ABSENT:
                text += f"<br>{difference(gain, column)}{markdown.gain_marks(gain, marks)}"
            line[markdown.label(column)] = text
        lines.append(line)
    return markdown.markdown_table(lines, marks)


def difference(gain: Gain, column: Column) -> str:
    """``+0.41 (+0.11 to +0.71)``, or ``+12.3 % (+11.9 to +12.7)`` where the column compares by ratio."""
    number, digits = gain.difference, 1 if column.relative else column.digits
    others = absences.bracketed(number.others, digits, "+")
    return markdown.linked(intervals.marked(number.values, digits, " %" if column.relative else ""), number.link) + others
