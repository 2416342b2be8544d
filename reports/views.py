"""The page of a view: other metrics of several tables' cells, a block a table."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.spec import PRESETS, Column, ViewSpec
from reports import markdown
from reports.summary import QUOTED, RERUN, Group, Summary


def render(view: ViewSpec, summaries: Sequence[Summary]) -> str:
    """The page of a view; ``summaries`` are of its tables."""
    parts = [markdown.heading(view.title, f"python -m experiments.run {view.name}")]
    return "\n\n".join((*parts, *(_block(summary, view.columns) for summary in summaries)))


def _block(summary: Summary, columns: Sequence[Column]) -> str:
    title = summary.spec.title.partition(":")[0]
    gains = markdown.gain_table(summary, columns, [QUOTED, RERUN, *summary.ours("paper")])
    link = f"The same cells as [{summary.spec.title}]({markdown.page(summary.spec.name)})."
    text = [f"## {title}", link, _published(summary, columns), gains]
    text += [_ours(summary, preset, columns) for preset in PRESETS if summary.ours(preset)]
    if not any(part for part in text[2:]):
        text.append(f"Nothing is published, and nothing has been run: `python -m experiments.run {summary.spec.name}`.")
    return "\n\n".join(part for part in text if part)


def _published(summary: Summary, columns: Sequence[Column]) -> str:
    """What was published, beside ours at the published configuration; only rows with a number."""
    groups = [QUOTED, RERUN, *summary.ours("paper")]
    rows = [r for r in summary.spec.rows if _has(summary, r.name, columns, groups)]
    if not rows:
        return ""
    parts = (
        markdown.metric_table(summary, rows, columns, groups),
        "\n".join([*markdown.remarks(summary, columns), f"- {markdown.csv_link(summary)}"]),
        _classes(summary, "Published numbers per class", columns, groups),
    )
    return "\n\n".join(part for part in parts if part)


def _ours(summary: Summary, preset: str, columns: Sequence[Column]) -> str:
    """Our runs of a preset; conditions and costs are with the table itself."""
    groups = summary.ours(preset)
    rows = [r for r in summary.spec.rows if _has(summary, r.name, columns, groups)]
    if not rows:
        return ""
    parts = [markdown.renderer_table(summary, preset, columns)]
    if preset != "paper":
        parts = [
            f"**Ours, `{preset}` preset** (mean ± sample standard deviation over seeds)",
            markdown.NOT_COMPARABLE.get(preset, ""),
            markdown.metric_table(summary, rows, columns, groups),
            markdown.gain_table(summary, columns, groups),
            *parts,
            _classes(summary, f"Ours, {preset}, per class", columns, groups),
        ]
    return "\n\n".join(part for part in parts if part)


def _has(summary: Summary, row: str, columns: Sequence[Column], groups: Sequence[Group]) -> bool:
    return any(summary.number(group, row, column.metric) for group in groups for column in columns)


def _classes(summary: Summary, title: str, columns: Sequence[Column], groups: Sequence[Group]) -> str:
    return markdown.details(title, *(markdown.per_class(summary, column, groups) for column in columns))
