"""The README's results: a summary table a paper table, ours at other sizes apart from them, and where the pages are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from experiments import intervals
from experiments.comparable import Marks
from experiments.datasets.registry import DATASETS
from experiments.renderer_records import TABLE, RendererRecord
from experiments.spec import PRESETS, Column, TableSpec, ViewSpec
from reports import brief, markdown, renderers
from reports.summary import QUOTED, RERUN, Group, Summary

SECTION = "results"
PAGES = "reports/pages"

_SMALL = {
    "toy": "a small network, minutes of training on a small generated world",
    "mini": "a fifth of the samples, a short schedule",
}


def render(summaries: Sequence[Summary], views: Sequence[ViewSpec], machines: Mapping[str, Sequence[RendererRecord]]) -> str:
    """Markdown between the section's markers."""
    order = DATASETS.names()
    main = sorted(
        (s for s in summaries if not s.spec.brief), key=lambda s: (order.index(s.spec.dataset), not s.spec.main, s.spec.name)
    )
    parts = [_published(summary) for summary in main]
    parts += [_small(main, preset) for preset in PRESETS if preset != "paper"]
    lines = ["- [What the papers claim, and what our records say](reports/claims.md)"]
    lines += [f"- {_link(view.name, view.title)}" for view in views]
    lines += [f"- {_link(s.spec.name, s.spec.title)}: {_state(s)}" for s in summaries if s.spec.brief]
    measured = "; ".join(renderers.heading(records[0]) for records in machines.values())
    lines.append(f"- {_link(TABLE, renderers.TITLE)}: {measured or 'not measured yet'}")
    return "\n\n".join(part for part in (*parts, "More pages:", "\n".join(lines)) if part)


def _link(name: str, text: str) -> str:
    return f"[{text}]({PAGES}/{markdown.page(name)})"


def _title(spec: TableSpec) -> str:
    return spec.title.partition(":")[0]


def _published(summary: Summary) -> str:
    """What was published of a table, and ours at the published configuration beside it."""
    spec = summary.spec
    groups = [QUOTED, RERUN, *summary.ours("paper")]
    rows = [row for row in spec.rows if "paper" in row.presets]
    return f"**{_link(spec.name, spec.title)}**\n\n{compact(markdown.metric_table(summary, rows, spec.columns, groups))}"


def _small(summaries: Sequence[Summary], preset: str) -> str:
    """Ours of one preset that is comparable with nothing published: methods x main tables, "" where none was run."""
    trained = [summary for summary in summaries if summary.trained(preset)]
    shown = [(summary, _fullest(summary, summary.trained(preset))) for summary in trained if summary.spec.main]
    if not shown:
        return ""
    lines: dict[str, dict[str, str]] = {}
    marks = Marks()
    for summary, group in shown:
        column = headline(summary.spec)
        key = f"{_link(summary.spec.name, _title(summary.spec))}<br>{column.title}, {_seeds(summary, group)}"
        for row in summary.spec.rows:
            if summary.spec.origin(row, preset)[0] != summary.spec.name:  # type: ignore[arg-type]
                continue  # it stands in the other table's column
            if text := _cell(summary, group, row.name, column, marks):
                lines.setdefault(row.title, {"Method": row.title})[key] = text
    keys = list(dict.fromkeys(key for line in lines.values() for key in line))  # without tables that have no row of their own
    table = markdown.markdown_table(({key: line.get(key, "-") for key in keys} for line in lines.values()), marks)
    said = f"**Ours, `{preset}` preset, not comparable with any published number** ({_SMALL[preset]}); mean ± sample standard "
    said += f"deviation over seeds, in the second line, against the row's base: {intervals.LEGEND}"
    if others := [_link(s.spec.name, _title(s.spec)) for s, _ in shown if len(s.trained(preset)) > 1]:
        said += f". With other renderers: on the page of {', '.join(others)}"
    if len(shown) < len(trained):
        said += ". Ours of the other tables: on their pages"
    return f"{said}\n\n{compact(table)}"


def _fullest(summary: Summary, groups: Sequence[Group]) -> Group:
    """The renderer with which most rows were run, for a table that has one column."""
    metric = headline(summary.spec).metric
    return max(groups, key=lambda group: sum(summary.number(group, row.name, metric) is not None for row in summary.spec.rows))


def headline(spec: TableSpec) -> Column:
    """The metric that stands for a table: its mIoU, else its first."""
    return next((column for column in spec.columns if column.metric == "mIoU"), spec.columns[0])


def _seeds(summary: Summary, group: Group) -> str:
    count = summary.seed_count(group)
    return f"{group.renderer}, {count} seed{'s' * (count != 1)}"


def _cell(summary: Summary, group: Group, row: str, column: Column, marks: Marks) -> str:
    """A number with its gain; what must be said beside them stands on the page, and a mark says that there is something."""
    number, gain = summary.number(group, row, column.metric), summary.gain(group, row, column.metric)
    if number is None:
        return ""
    unsaid = Marks()
    text = markdown.cell(number, column.digits, summary.seed_count(group), unsaid)
    if gain is not None:
        text += f"<br>{brief.difference(gain, column)}{markdown.gain_marks(gain, unsaid)}"
    if unsaid.lines():
        text = re.sub(r" †\d+", "", text) + marks("something must be said beside it: see the page")
    return text


def _state(summary: Summary) -> str:
    """``toy, cpu, 3 seeds``, or that there are no numbers."""
    return "; ".join(summary.heading(group) for group in brief.shown(summary)) or "not run yet"


def compact(text: str) -> str:
    """The same markdown tables without the blanks that align their columns."""
    lines = [re.sub(r" {2,}", " ", line) if line.startswith("|") else line for line in text.split("\n")]
    return "\n".join(re.sub(r"-{4,}", "---", line) if line.startswith("|:-") else line for line in lines)
