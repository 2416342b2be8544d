"""The page of one table, as GitHub markdown, and the blocks that views, ablations and the README share with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from statistics import fmean

import pandas as pd

from experiments import absences, intervals
from experiments.comparable import Marks, mixed
from experiments.datasets.layouts import layout_of
from experiments.records import Record
from experiments.spec import PRESETS, Column, Row, ViewSpec
from reports.summary import (
    ABSENT,
    ONE_SEED,
    PRIOR,
    QUOTED,
    RERUN,
    WHOLE,
    Gain,
    Group,
    Number,
    Summary,
    group_of,
    shared_data,
    spread,
    weights,
)

# A column's heading says its unit; a published number's note that only repeats it is not printed.
_UNITS = {"m": "metres"}

NOT_COMPARABLE = {
    "toy": "**Not comparable with any published number.** The `toy` preset trains a small network for minutes on a small "
    "generated world, on coarser voxels. Compare rows of this table with each other, and with nothing else.",
    "mini": "**Not comparable with any published number.** The `mini` preset trains on a fifth of the samples with a short "
    "schedule. Compare rows of this table with each other, and with nothing else.",
}


def page(name: str) -> str:
    """File name of the page of a table or view."""
    return f"{name}.md"


def heading(title: str, how: str) -> str:
    """The first lines of a page: its title, and the command that makes its numbers."""
    return f"# {title}\n\nNumbers: `{how}`. This page: `python -m reports.build`, from records and quoted numbers; do not edit."


def render(summary: Summary, figures: dict[str, str], views: Sequence[ViewSpec] = ()) -> str:
    """The page of a table. ``figures``: path as the page links it -> caption; ``views`` show more of the same cells."""
    spec, columns = summary.spec, summary.spec.columns
    parts = [heading(spec.title, f"python -m experiments.run {spec.name}")]
    parts += [f"More of the same cells: [{view.title}]({page(view.name)})." for view in views]
    parts += [_published(summary), gain_table(summary, columns, [QUOTED, RERUN, *summary.ours("paper")])]
    parts += [_ours(summary, preset) for preset in PRESETS if summary.ours(preset)]
    if not summary.trained("paper"):
        parts.append("Ours at the published configuration (preset `paper`) has not been run yet.")
    parts.append(details("Figures: gains class by class", *(f"![{caption}]({path})" for path, caption in figures.items())))
    parts += [f"> {note}" for note in summary.notes]
    return "\n\n".join(part for part in parts if part)


# ---- cells


def linked(text: str, link: str) -> str:
    """Text that leads to what is behind it, if there is a page of that."""
    return f"[{text}]({link})" if link else text


def cell(number: Number | None, digits: int, expected: int, marks: Marks) -> str:
    """``12.34 ± 0.56``; ``(n=2)`` where the number of seeds is not the heading's; a mark where its records differ.

    Where classes do not occur, a mark and in brackets the mean over the others.
    """
    if number is None:
        return ABSENT
    text = linked(spread(number.values, digits), number.link)
    text += _odd_count(number, expected) + absences.bracketed(number.others, digits)
    return text + marks(number.mixed, absences.remark(number.absent, number.others))


def gain_cell(gain: Gain | None, digits: int, expected: int, marks: Marks) -> str:
    """``+0.41 (+0.11 to +0.71)``: mean of the paired differences and its 95 % interval, bold where 0 is not in it.

    A mark where its records differ, where it is of one seed, or where classes do not occur.
    """
    if gain is None:
        return ABSENT
    number = gain.difference
    text = linked(intervals.marked(number.values, digits), number.link)
    text += _odd_count(number, expected) + absences.bracketed(number.others, digits, "+")
    return text + gain_marks(gain, marks)


def gain_marks(gain: Gain, marks: Marks) -> str:
    """All that must be said beside a gain."""
    number = gain.difference
    return marks(number.mixed, gain.noise, absences.remark(number.absent, number.others))


def difference_cell(number: Number, digits: int, marks: Marks) -> str:
    """A gain's text and the number of seeds."""
    count = len(number.seeds)
    text = linked(f"{intervals.marked(number.values, digits)}, {count} seed{'s' * (count != 1)}", number.link)
    text += absences.bracketed(number.others, digits, "+")
    return text + marks(number.mixed, ONE_SEED if count == 1 else "", absences.remark(number.absent, number.others))


def _odd_count(number: Number, expected: int) -> str:
    return f" (n={len(number.seeds)})" if number.seeds and len(number.seeds) != expected else ""


def label(column: Column) -> str:
    unit = "" if column.unit in ("%", "") else f" [{column.unit}]"
    return f"{column.title}{unit}{'' if column.higher_is_better else ' (lower is better)'}"


def markdown_table(rows: Iterable[dict[str, str]], marks: Marks | None = None) -> str:
    """Lines as a table, the first column left, without columns that hold nothing; below it what its marks say.

    "" for no lines.
    """
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return ""
    empty = frame.isin([ABSENT, ""]).all()
    empty.iloc[0] = False
    frame = frame.loc[:, ~empty]
    align = ["left"] + ["right"] * (frame.shape[1] - 1)
    text = str(frame.to_markdown(index=False, disable_numparse=True, colalign=align))
    lines = marks.lines() if marks is not None else []
    return "\n".join([text, "", *(f"- {line}" for line in lines)]) if lines else text


def details(title: str, *parts: str) -> str:
    """Parts folded under a title; "" if all are empty."""
    body = "\n\n".join(part for part in parts if part)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>" if body else ""


# ---- the blocks of a section


def metric_table(summary: Summary, rows: Sequence[Row], columns: Sequence[Column], groups: Sequence[Group]) -> str:
    """Rows x (metric x group), without those that hold no number."""
    shown = [r for r in rows if any(summary.number(g, r.name, c.metric) for g in groups for c in columns)]
    marks = Marks()
    lines = []
    for row in shown:
        line = {"Method": row.title}
        for column in columns:
            for group in groups:
                key = f"{label(column)}<br>{summary.heading(group)}"
                number = summary.number(group, row.name, column.metric)
                line[key] = cell(number, column.digits, summary.seed_count(group), marks)
        lines.append(line)
    parts = [markdown_table(lines, marks), *(_evaluated(summary, g) for g in groups if g.origin == "weights")]
    return "\n\n".join(part for part in parts if part)


def _evaluated(summary: Summary, group: Group) -> str:
    """Which files a group of released weights is."""
    files = {r.row: weights(r) for r in summary.of_group(group)}
    named = ", ".join(f"{r.title} `{files[r.name]}`" for r in summary.spec.rows if r.name in files)
    return f"*Authors' weights, our evaluation*: files that were released, evaluated here and not trained here: {named}."


def _published(summary: Summary) -> str:
    """What was published, and ours beside it where it ran at the published configuration."""
    spec, ours = summary.spec, summary.ours("paper")
    rows = [r for r in spec.rows if "paper" in r.presets]
    text = [
        "**Published numbers, and ours at the published configuration**" if ours else "**Published numbers**",
        metric_table(summary, rows, spec.columns, [QUOTED, RERUN, *ours]),
    ]
    text.append(
        f"`{ABSENT}`: not published{', or not run' if ours else ''}. "
        "*Quoted*: printed by the authors, who took most base rows from other papers, or by others where a line below says so. "
        f"*Authors' rerun*: evaluation logs that they committed beside their code. {csv_link(summary)}"
    )
    text.append("\n".join(remarks(summary, spec.columns)))
    text.append(details("Published numbers per class", *(per_class(summary, c, [QUOTED, RERUN]) for c in spec.columns)))
    return "\n\n".join(part for part in text if part)


def csv_link(summary: Summary) -> str:
    """Where all numbers of a table are."""
    name = f"{summary.spec.name}.csv"
    return f"Every number with its source: [`{name}`](../tables/{name})."


def remarks(summary: Summary, columns: Sequence[Column]) -> list[str]:
    """Notes of the published numbers in these columns, contradictions between sources, and the sources."""
    shown = {r.name: r.title for r in summary.spec.rows}
    titles = {c.metric: c.title for c in columns}
    units = {c.metric: c.unit for c in columns}
    published = [n for n in summary.numbers.values() if n.group.published and n.row in shown and n.metric in titles]
    whole = [n for n in published if n.class_name == WHOLE]
    classes = {(n.row, n.metric): n.source for n in published if n.class_name != WHOLE and n.group == QUOTED}
    noted: dict[tuple[str, str, str], list[str]] = {}  # numbers of a row that share a note
    for n in whole:
        unit = _UNITS.get(units[n.metric], "")
        note = n.note.removeprefix(unit).removeprefix("; ") if unit else n.note
        if note:
            noted.setdefault((n.row, summary.heading(n.group), note), []).append(f"{titles[n.metric]} {n.mean:g}")
    lines = [f"- {shown[row]}, {', '.join(numbers)} ({heading}): {note}." for (row, heading, note), numbers in noted.items()]
    for a, b in summary.conflicts:
        if a.row in shown and a.metric in titles:
            note = f" ({b.note})" if b.note else ""
            whose = "; the values per class are the latter's" if classes.get((a.row, a.metric)) == b.source != a.source else ""
            lines.append(
                f"- {shown[a.row]}, {titles[a.metric]}: {a.source} prints {a.mean:g}, {b.source} {b.mean:g}{note}{whose}."
            )
    for group in (QUOTED, RERUN):
        sources = list(dict.fromkeys(n.source for n in published if n.group == group))
        if sources:
            lines.append(f"- Sources, {summary.heading(group)}: {'; '.join(sources)}.")
    return lines


def gain_table(summary: Summary, columns: Sequence[Column], groups: Sequence[Group]) -> str:
    """Gains of every row over its base, each within its own group; "" where there are none."""
    spec, marks = summary.spec, Marks()
    lines = []
    for row in spec.rows:
        for column in columns:
            found = {g: summary.gain(g, row.name, column.metric) for g in groups}
            if row.base is None or not any(found.values()):
                continue
            line = {"Row - base": f"{row.title} - {spec.row(row.base).title}", "Metric": label(column)}
            for group, gain in found.items():
                line[summary.heading(group)] = gain_cell(gain, column.digits, summary.seed_count(group), marks)
            lines.append(line)
    if not lines:
        return ""
    text = []
    if any(group.published for group in groups):
        text += [
            "Each column compares within itself: quoted with quoted of the same source, the authors' rerun with their rerun. "
            "What they print comes without seeds and without a spread. Sizes of gains of different columns are not comparable "
            "either."
        ]
    if any(not group.published for group in groups):
        text += [f"Ours with ours of the same preset, renderer, data and seed: {intervals.LEGEND}."]
    return "\n\n".join(("**Gains, like for like**", " ".join(text), markdown_table(lines, marks)))


def place_table(summary: Summary, columns: Sequence[Column], groups: Sequence[Group]) -> str:
    """Places of our trained rows, of those with several seeds, within each group; "" where no two can be compared."""
    lines: dict[str, dict[str, str]] = {}
    for group in groups:
        names = [r.name for r in summary.spec.rows if r.trained and len(summary.of_group(group, r.name)) > 1]
        data = {name: shared_data(summary.of_group(group, name)[0]) for name in names}
        names = [name for name in names if data[name] == data[names[0]]]
        for column in columns if len(names) > 1 else ():
            numbers = {name: summary.number(group, name, column.metric) for name in names}
            own = {name: number.by_seed for name, number in numbers.items() if number is not None and number.by_seed}
            for name, place in intervals.places(own, column.higher_is_better).items():
                line = lines.setdefault(name, {"Method": summary.spec.row(name).title})
                line[f"{label(column)}<br>{summary.heading(group)}"] = str(place)
    if not lines:
        return ""
    headings = list(dict.fromkeys(key for line in lines.values() for key in line))
    table = markdown_table({key: line.get(key, ABSENT) for key in headings} for line in lines.values())
    return f"**Places** of the rows with several seeds: {intervals.PLACES}.\n\n{table}"


def _ours(summary: Summary, preset: str) -> str:
    """Our runs of a preset: numbers, checks, per class, conditions."""
    spec, groups = summary.spec, summary.ours(preset)
    rows = [r for r in spec.rows if r.runs and preset in r.presets]
    records = [r for r in summary.records if r.preset == preset]
    text = [f"**Ours, `{preset}` preset** (mean ± sample standard deviation over seeds)", NOT_COMPARABLE.get(preset, "")]
    if preset != "paper":
        text += [metric_table(summary, rows, spec.columns, groups), gain_table(summary, spec.columns, groups)]
    text.append(place_table(summary, spec.columns, [group for group in groups if group.origin == "ours"]))
    text += [renderer_table(summary, preset, spec.columns), _checks(summary, rows, groups)]
    text.append(details(f"Ours, {preset}, per class", *(per_class(summary, c, groups) for c in spec.columns)))
    text.append(details(f"Ours, {preset}: time, memory, versions, commands", costs(summary, rows, records), conditions(records)))
    return "\n\n".join(part for part in text if part)


def renderer_table(summary: Summary, preset: str, columns: Sequence[Column]) -> str:
    """What another renderer changes, seed by seed; "" where all records are of one."""
    pairs = [p for p in summary.renderer_pairs if p.preset == preset]
    lines, marks = [], Marks()
    for row in summary.spec.rows:
        for column in columns:
            line = {"Method": row.title, "Metric": label(column)}
            for pair in pairs:
                number = summary.renderer_differences.get((pair, row.name, column.metric))
                if number is not None:
                    line[f"{pair.other} - {pair.first}"] = difference_cell(number, column.digits, marks)
            if len(line) > 2:
                lines.append(line | {f"{p.other} - {p.first}": ABSENT for p in pairs if f"{p.other} - {p.first}" not in line})
    if not lines:
        return ""
    return (
        f"**Renderers: paired difference.** The same rows, seeds and data trained with each renderer: {intervals.LEGEND}. Two "
        "runs of one seed with the same renderer may differ as well where a renderer, or PyTorch on a GPU, adds in no fixed "
        "order: rows that render nothing while they train, such as the bases of + GaussRender, show what that alone does.\n\n"
    ) + markdown_table(lines, marks)


def _checks(summary: Summary, rows: Sequence[Row], groups: Sequence[Group]) -> str:
    """Does the model use its images? Its mIoU against the prior's, and with images shuffled between frames."""
    lines, marks, classes = [], Marks(), layout_of(summary.spec.dataset).classes

    def absent(records: Sequence[Record], metric: str) -> tuple[float | None, str]:
        others = absences.over_others(records, metric, classes)
        return others, absences.remark(absences.statement(records, metric, classes), others)

    def mean(records: Sequence[Record], metric: str, values: list[float]) -> str:
        others, remark = absent(records, metric)
        return spread(values, 2) + absences.bracketed(others, 2) + marks(mixed(records), remark) if values else ABSENT

    def over(prior: Sequence[Record], records: Sequence[Record], metric: str, values: list[float]) -> str:
        """The ratio to the prior's mIoU, in brackets that of the means over the classes that occur."""
        whole = fmean(r.metrics["mIoU"] for r in prior) if prior else 0.0
        if not whole or not values:
            return ABSENT
        (others, remark), (reference, _) = absent(records, metric), absent(prior, "mIoU")
        ratio = others / reference if others is not None and reference else None
        return spread([v / whole for v in values], 2) + absences.bracketed(ratio, 2) + marks(remark)

    for group in groups:
        for row in rows:
            found = summary.of_group(group, row.name)
            if row.model == PRIOR or not any(r.checks for r in found):
                continue
            prior = _prior(summary, found[0])
            scores = [r.metrics["mIoU"] for r in found if "mIoU" in r.metrics]
            shuffled = [r.checks[absences.SHUFFLED] for r in found if absences.SHUFFLED in r.checks]
            line = {
                "Method": linked(_titled(row, group), summary.link(group, row.name)),
                "Renderer": group.renderer,
                "mIoU": mean(found, "mIoU", scores),
                "images shuffled": mean(found, absences.SHUFFLED, shuffled),
                "prior": mean(prior, "mIoU", [fmean(r.metrics["mIoU"] for r in prior)] if prior else []),
                "mIoU / prior": over(prior, found, "mIoU", scores),
                "shuffled / prior": over(prior, found, absences.SHUFFLED, shuffled),
            }
            for key in sorted({k for r in found for k in r.checks} - {absences.SHUFFLED}):
                line[key] = mean(found, key, [r.checks[key] for r in found if key in r.checks])
            lines.append(line)
    if not lines:
        return ""
    return (
        "Does the network use its images? Its mIoU against the per-voxel prior (each voxel's most frequent training label), "
        "and its mIoU when the validation images are shuffled between frames:\n\n"
    ) + markdown_table(lines, marks)


def _titled(row: Row, group: Group) -> str:
    return f"{row.title}, authors' weights" if group.origin == "weights" else row.title


def _prior(summary: Summary, record: Record) -> list[Record]:
    """The prior's records with an mIoU on the same frames and labels as ``record``."""
    return [
        r
        for r in summary.records
        if summary.spec.row(r.row).model == PRIOR
        and (r.preset, shared_data(r)) == (record.preset, shared_data(record))
        and "mIoU" in r.metrics
    ]


def per_class(summary: Summary, column: Column, groups: Sequence[Group]) -> str:
    """Classes x (row x group), with the gain beside every row that has one."""
    names: list[str] = []
    for group in groups:
        names += [n for n in summary.classes(group, column.metric) if n not in names]
    rows = summary.spec.rows
    shown = [(g, r) for g in groups for r in rows if any(summary.number(g, r.name, column.metric, n) for n in names)]
    lines, marks = [], Marks()
    for name in names:
        line = {"Class": name}
        for group, row in shown:
            title, count = summary.heading(group), summary.seed_count(group)
            number = summary.number(group, row.name, column.metric, name)
            line[f"{row.title}<br>{title}"] = cell(number, column.digits, count, marks)
            if any(summary.gain(group, row.name, column.metric, n) for n in names):
                gain = summary.gain(group, row.name, column.metric, name)
                line[f"gain of {row.title}<br>{title}"] = gain_cell(gain, column.digits, count, marks)
        lines.append(line)
    return f"{column.title.replace('mIoU', 'IoU')} per class\n\n{markdown_table(lines, marks)}" if lines else ""


def costs(summary: Summary, rows: Sequence[Row], records: Sequence[Record]) -> str:
    lines, marks = [], Marks()
    for row in rows:
        for group in sorted({group_of(r) for r in records if r.row == row.name}, key=lambda g: (g.origin, g.renderer)):
            found = [r for r in records if (r.row, group_of(r)) == (row.name, group)]
            mark = marks(mixed(found, timed=True))
            lines.append(
                {
                    "Method": linked(_titled(row, group), summary.link(group, row.name)),
                    "Renderer": group.renderer,
                    "Seeds": ", ".join(str(r.seed) for r in sorted(found, key=lambda r: r.seed)),
                    "Iterations": ", ".join(sorted({str(r.iterations) for r in found})),
                    "Training [s]": spread([r.train_seconds for r in found], 0) + mark,
                    "Evaluation [s]": spread([r.eval_seconds for r in found], 0) + mark,
                    "Peak memory [MB]": spread([r.peak_memory_mb for r in found], 0) + mark,
                    "Parameters": f"{found[0].parameters:,}",
                    "Samples": ", ".join(f"{k} {v}" for k, v in found[0].samples.items()),
                }
            )
    return markdown_table(lines, marks)


def distinct(title: str, values: Iterable[str]) -> list[str]:
    """``- title: value`` for each value that is not empty, once."""
    return [f"- {title}: {value}" for value in dict.fromkeys(values) if value]


def conditions(records: Sequence[Record]) -> str:
    """Where the numbers come from: each distinct machine, set of versions, commit, data set and command once."""

    def machine(r: Record) -> str:
        return f"{r.hardware.gpu or 'no GPU'}; {r.hardware.cpu}, {r.hardware.cores} cores, {r.hardware.memory_gb:g} GB"

    lines = distinct("machine", (machine(r) for r in records))
    lines += distinct("versions", (", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in records))
    lines += distinct("commit", (f"`{r.git_commit[:12]}`{' with uncommitted changes' if r.git_dirty else ''}" for r in records))
    lines += distinct("data", (f"fingerprint `{r.data_fingerprint}`" for r in records))
    lines += distinct(
        "rendered with",
        (f"{r.renderer}: `{json.dumps(r.renderer_settings, sort_keys=True)}`" if r.renderer_settings else "" for r in records),
    )
    lines += distinct("command", (f"`{r.command}`" for r in records))
    return "\n".join(lines)
