"""Pages of what is behind the numbers: a row's records of all seeds, the records of a machine's renderers, published sources."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.comparable import Marks
from experiments.records import Record
from experiments.renderer_records import TABLE, RendererRecord
from experiments.spec import Row
from reports import front, markdown, renderers
from reports.site import plots
from reports.site.links import link, machine_anchor, machine_page, record_page, source_anchor
from reports.summary import ABSENT, WHOLE, Group, Number, Summary, behind, group_of, is_variant, weights

Files = Mapping[tuple[Group, str, int], str]
"""Path of a record's copy on the site by group, row and seed."""


def files(summary: Summary, results: Path) -> dict[tuple[Group, str, int], Path]:
    """Where the records of a table lie."""
    return {
        (group_of(one.record), one.row.name, one.record.seed): one.path
        for one in behind(summary.spec, results, lambda _: None)
        if not is_variant(one.record)
    }


def cells(summary: Summary) -> list[tuple[Group, str]]:
    """(group, row) of a table's records, each once."""
    return list(dict.fromkeys((group_of(record), record.row) for record in summary.records))


def record(summary: Summary, group: Group, row: str, copies: Files) -> tuple[str, plots.Plots]:
    """The page of a row's records of one group, and the plots in it."""
    spec, found = summary.spec, sorted(summary.of_group(group, row), key=lambda r: r.seed)
    title = spec.row(row).title
    where = f"{spec.title.partition(':')[0]}, {group.preset}, {group.renderer}"
    text = [f"# {title} ({where})", f"Shown in [{spec.title}]({link(f'reports/pages/{markdown.page(spec.name)}')})."]
    if weights(found[0]):
        text.append(f"Weights that were released (`{weights(found[0])}`), evaluated here and not trained here.")
    if note := markdown.NOT_COMPARABLE.get(group.preset):
        text.append(note)
    text += ["## Metrics", _metrics(summary, group, row, found)]
    drawn: plots.Plots = {}
    if any(r.first_losses for r in found):
        drawn = {plots.key(record_page(spec.name, group, row)): plots.losses({r.seed: r.first_losses for r in found})}
        text += ["## Losses of the first iterations", *drawn]
    if columns := [metric for metric in dict.fromkeys(k for r in found for k in r.per_class)]:
        text += ["## Per class", *(_classes(summary, group, row, found, metric) for metric in columns)]
    text += ["## How they were made", markdown.costs(summary, [spec.row(row)], found), markdown.conditions(found)]
    text += [_history(found), "## Files", _files(group, row, found, copies)]
    return "\n\n".join(part for part in text if part), drawn


def _metrics(summary: Summary, group: Group, row: str, found: Sequence[Record]) -> str:
    columns = {column.metric: column for column in summary.spec.columns}
    base, marks, lines = summary.spec.row(row).base, Marks(), []
    for metric in dict.fromkeys((*columns, *(m for r in found for m in r.metrics))):
        number = summary.numbers.get((group, row, metric, WHOLE))
        if number is None:
            continue
        column = columns.get(metric)
        digits = column.digits if column else 2
        line = {"Metric": markdown.label(column) if column else metric}
        line |= _by_seed(found, number.by_seed, digits)
        line["mean ± sample standard deviation"] = markdown.cell(number, digits, len(found), marks)
        gain = summary.gain(group, row, metric)
        if base is not None and gain is not None:
            line[f"against {summary.spec.row(base).title}"] = markdown.gain_cell(gain, digits, len(found), marks)
        lines.append(line)
    lines += [
        {"Metric": f"check: {key}"} | _by_seed(found, {r.seed: r.checks[key] for r in found if key in r.checks}, 2)
        for key in dict.fromkeys(k for r in found for k in r.checks)
    ]
    text = [markdown.markdown_table(({k: line.get(k, ABSENT) for k in _keys(lines)} for line in lines), marks)]
    if base is not None and (there := summary.link(group, base)):
        text.append(f"The base: [{summary.spec.row(base).title}]({there}).")
    return "\n\n".join(text)


def _keys(lines: Sequence[Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for line in lines for key in line))


def _by_seed(found: Sequence[Record], values: Mapping[int, float], digits: int) -> dict[str, str]:
    return {f"seed {r.seed}": f"{values[r.seed]:.{digits}f}" if r.seed in values else ABSENT for r in found}


def _classes(summary: Summary, group: Group, row: str, found: Sequence[Record], metric: str) -> str:
    lines, marks = [], Marks()
    for name in dict.fromkeys(n for r in found for n in r.per_class.get(metric, {})):
        values = {r.seed: r.per_class[metric][name] for r in found if name in r.per_class.get(metric, {})}
        number = summary.numbers.get((group, row, metric, name))
        mean = markdown.cell(number, 2, len(found), marks)
        lines.append({"Class": name} | _by_seed(found, values, 2) | {"mean ± sample standard deviation": mean})
    return f"{metric}\n\n{markdown.markdown_table(lines, marks)}"


def _history(found: Sequence[Record]) -> str:
    """When each was made, by what code, and what happened to it since."""
    lines = []
    for r in found:
        commit = f"commit `{r.git_commit[:12]}`{' with uncommitted changes' if r.git_dirty else ''}"
        lines.append(f"- seed {r.seed}: started {r.started}, {commit}{f', code `{r.code}`' if r.code else ''}")
        lines += [f"- seed {r.seed}: continued: {what}" for what in r.continued]
        lines += [
            f"- seed {r.seed}: numbers came out again {c.when}, commit `{c.git_commit[:12]}`, code `{c.code}`"
            for c in r.confirmed
        ]
        if r.re_evaluated:
            lines.append(f"- seed {r.seed}: measured anew {r.re_evaluated.when}, commit `{r.re_evaluated.git_commit[:12]}`")
    return "\n".join(lines)


def _files(group: Group, row: str, found: Sequence[Record], copies: Files) -> str:
    lines = [f"[seed {r.seed}]({link(copies[group, row, r.seed])})" for r in found if (group, row, r.seed) in copies]
    return f"The records themselves, with every digit: {', '.join(lines)}."


def machine(records: Sequence[RendererRecord]) -> str:
    """The page of a machine's records of renderers."""
    text = [f"# Renderers on {renderers.heading(records[0])}"]
    text.append(f"Shown in [{renderers.TITLE}]({link(f'reports/pages/{markdown.page(TABLE)}')}).")
    for r in records:
        text += [f"## {r.renderer}, {r.workload} {{#{machine_anchor(r)}}}", "\n".join(_measurement(r))]
    return "\n\n".join(text)


def _measurement(r: RendererRecord) -> list[str]:
    machine, commit = r.machine, f"`{r.git_commit[:12]}`{' with uncommitted changes' if r.git_dirty else ''}"
    lines = [f"- {r.title}", f"- {r.status}{f': {r.reason}' if r.reason else ''}"]
    for way, median, ends in (("forward", r.forward_ms, r.forward_range_ms), ("backward", r.backward_ms, r.backward_range_ms)):
        if median is not None and ends is not None:
            lines.append(f"- {way}: {median:.4g} ms, median of {r.repeats} repetitions ({ends[0]:.4g} to {ends[1]:.4g})")
    lines += [f"- peak memory: {r.peak_mb:.4g} MiB ({r.memory_definition})"] if r.peak_mb is not None else []
    if r.max_abs_error is not None:
        lines.append(
            f"- agreement: largest error {r.max_abs_error:.3g}, gradient cosine {r.grad_cosine} ({r.agreement_definition})"
        )
    lines += [f"- scene: `{json.dumps(r.scene)}`"] if r.scene else []
    lines += [f"- settings of its own [asked, used]: `{json.dumps(r.settings, sort_keys=True)}`"] if r.settings else []
    cpu = f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads, {machine.memory_gb:g} GB"
    lines.append(f"- machine: {machine.gpu or 'no GPU'}; {cpu}")
    lines.append(f"- versions: {', '.join(f'{name} {version}' for name, version in r.versions.items())}")
    return [*lines, f"- started {r.started}, commit {commit}", f"- command: `{r.command}`"]


def sources(summary: Summary) -> str:
    """The page of a table's published numbers, each with its source; "" where nothing is published."""
    spec, lines = summary.spec, []
    titles = {column.metric: column.title for column in spec.columns}

    def line(row: Row, numbers: Sequence[Number], anchor: str, note: str = "") -> dict[str, str]:
        first = numbers[0]
        notes = dict.fromkeys(n.note for n in numbers if n.note)
        return {
            "Row": f"{anchor}{_cell(row.title)}",
            "Metric": titles.get(first.metric, first.metric) + ("" if first.class_name == WHOLE else ", per class"),
            "Printed": ", ".join(f"{n.class_name} {n.mean:g}".strip() for n in numbers),
            "By": summary.heading(first.group),
            "Source": _cell("; ".join(dict.fromkeys(n.source for n in numbers))),
            "Note": _cell("; ".join(filter(None, (note, *notes)))),
        }

    for row in spec.rows:
        together: dict[str, list[Number]] = {}
        for number in summary.numbers.values():
            if number.group.published and number.row == row.name:
                together.setdefault(source_anchor(number), []).append(number)
        lines += [line(row, numbers, f'<span id="{anchor}"></span>') for anchor, numbers in together.items()]
        lines += [
            line(row, [b], "", f"another number than the {a.mean:g} shown") for a, b in summary.conflicts if a.row == row.name
        ]
    if not lines:
        return ""
    shown = f"Shown in [{spec.title}]({link(f'reports/pages/{markdown.page(spec.name)}')})."
    return "\n\n".join((f"# Sources: {spec.title}", shown, markdown.markdown_table(lines)))


def _cell(text: str) -> str:
    """Plain text in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def listed(summary: Summary, group: Group, row: str) -> dict[str, str]:
    """A line of the list of all records."""
    spec, found = summary.spec, summary.of_group(group, row)
    column = front.headline(spec)
    return {
        "Row": f"[{spec.row(row).title}]({link(record_page(spec.name, group, row))})",
        "Table": spec.title if spec.brief else spec.title.partition(":")[0],
        "Preset": group.preset,
        "Renderer": group.renderer,
        "Seeds": ", ".join(str(seed) for seed in sorted(r.seed for r in found)),
        "Metric": column.title,
        "Number": markdown.cell(summary.number(group, row, column.metric), column.digits, len(found), Marks()),
    }


def index(lines: Sequence[dict[str, str]], machines: Mapping[str, RendererRecord]) -> str:
    """The list of all records' pages."""
    text = ["# All records", "A line a row of a table, all its seeds together.", markdown.markdown_table(lines)]
    text += ["## Renderers", *(f"- [{renderers.heading(r)}]({link(machine_page(name))})" for name, r in machines.items())]
    return "\n\n".join(part for part in text if part)
