"""The page of claims: what the papers say, one line each, and what our records say to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments import intervals
from experiments.spec import PRESETS, ViewSpec
from reports import markdown
from reports.claimed import CLAIMS, Claim
from reports.summary import Group, Summary, shared_data

Word = Literal["confirmed", "not resolved", "contradicted", "not run"]

_HOST, _PLUGGED = "tpvformer", "tpvformer+gaussrender"
"""The rows without and with GaussRender that stand in every table of its paper."""

LEGEND = """- **confirmed**: the 95 % interval of the paired difference lies on the claim's side of 0.
- **not resolved**: 0 is in the interval, or one seed was run: nothing is said for or against it.
- **contradicted**: the interval lies on the other side.
- **not run**: there are no records of the two rows with the same preset, renderer, seeds and data (the frames and labels that
  all rows read: what else a row learns from may be another thing), or no such rows.

Only the preset `paper` says anything of a claim's size. What is confirmed or contradicted with the preset `toy` or `mini` is so
on a small world, or for a short training, and no further. And of twenty intervals over nothing but noise one leaves 0 out."""


@dataclass(frozen=True)
class Finding:
    """What the records of one group say of a claim. differences: of paired seeds, in the metric's unit. link: see ``Number``."""

    claim: Claim
    group: Group
    differences: tuple[float, ...]
    link: str = ""

    @property
    def word(self) -> Word:
        """The verdict."""
        if not self.differences:
            return "not run"
        if not intervals.resolved(self.differences):
            return "not resolved"
        return "confirmed" if (sum(self.differences) > 0) == (self.claim.size > 0) else "contradicted"


def findings(claim: Claim, summary: Summary | None, preset: str) -> list[Finding]:
    """One a renderer whose records of the preset have both rows, on the same frames and labels; none without. What else
    they read may differ: it is what they learn from."""
    if summary is None or not claim.row:
        return []
    found = []
    for group in summary.trained(preset):
        own, base = (summary.number(group, row, claim.metric) for row in (claim.row, claim.base))
        data = {shared_data(record) for row in (claim.row, claim.base) for record in summary.of_group(group, row)}
        if own is None or base is None or len(data) > 1:
            continue
        if differences := intervals.paired(own.by_seed, base.by_seed):
            found.append(Finding(claim, group, tuple(differences.values()), own.link))
    return found


def render(summaries: Mapping[str, Summary], views: Sequence[ViewSpec]) -> str:
    """The page. ``views`` know how metrics are printed that a table itself does not show."""
    text = ["# What the papers claim, and what our records say"]
    text.append("This page: `python -m reports.build`, from the claims in `reports/claimed.py` and the records; do not edit.")
    text += [LEGEND, *_said(summaries)]
    for paper in dict.fromkeys(claim.paper for claim in CLAIMS):
        lines = [_line(claim, summaries, views) for claim in CLAIMS if claim.paper == paper]
        text += [f"## {paper}", markdown.markdown_table(lines)]
    return "\n\n".join(text)


def _line(claim: Claim, summaries: Mapping[str, Summary], views: Sequence[ViewSpec]) -> dict[str, str]:
    summary = summaries.get(claim.table)
    digits = _digits(claim, summary, views)
    line = {"Claim": claim.says, "Claimed": f"{claim.size:+.{digits}f}"}
    for preset in PRESETS:
        found = findings(claim, summary, preset)
        line[f"`{preset}`"] = "<br>".join(_verdict(one, digits, several=len(found) > 1) for one in found) or "not run"
    where = f"[{claim.table}](pages/{markdown.page(claim.table)})" if summary is not None and claim.row else "no such rows"
    return line | {"Source": claim.source, "Table": where}


def _digits(claim: Claim, summary: Summary | None, views: Sequence[ViewSpec]) -> int:
    columns = [*(summary.spec.columns if summary else ()), *(column for view in views for column in view.columns)]
    return next((column.digits for column in columns if column.metric == claim.metric), 2)


def _verdict(finding: Finding, digits: int, several: bool) -> str:
    count = len(finding.differences)
    said = f"{finding.word}: {intervals.text(finding.differences, digits)}, {count} seed{'s' * (count != 1)}"
    return markdown.linked(f"{finding.group.renderer}: {said}" if several else said, finding.link)


def _said(summaries: Mapping[str, Summary]) -> list[str]:
    """Of the host that stands in every table, with and without GaussRender: in how many seeds the depth error falls, and whether
    mIoU moves beyond its spread; a line a preset that was run."""
    tables = [s for s in summaries.values() if not s.spec.brief and {_HOST, _PLUGGED} <= {row.name for row in s.spec.rows}]
    return [line for preset in PRESETS if (line := _said_of(tables, preset))]


def _said_of(tables: Sequence[Summary], preset: str) -> str:
    depth = [
        f"{at} in {sum(x < 0 for x in values)} of {len(values)} seeds" for at, values in _plugged(tables, "depth_l1", preset)
    ]
    if not depth:
        return ""
    title = tables[0].spec.row(_HOST).title
    said = [f"**{title} with GaussRender, preset `{preset}`**: the rendered depth error falls on {', '.join(depth)}."]
    miou = _plugged(tables, "mIoU", preset)
    moved, still = (
        [f"{at} {intervals.text(v, 2)}" for at, v in miou if intervals.resolved(v) == which] for which in (True, False)
    )
    if still:
        said.append(f"mIoU does not move beyond what seeds differ by: {', '.join(still)}.")
    if moved:
        said.append(f"mIoU moves: {', '.join(moved)}.")
    return " ".join(said)


def _plugged(tables: Sequence[Summary], metric: str, preset: str) -> list[tuple[str, tuple[float, ...]]]:
    """What GaussRender changes of the host's metric: the table, with the renderer where there are several, and differences."""
    found = []
    for summary in tables:
        claim = Claim("GaussRender", "", summary.spec.name, _PLUGGED, _HOST, metric, 1.0, "")
        title = summary.spec.title.partition(":")[0]
        said = findings(claim, summary, preset)
        found += [(f"{title} ({f.group.renderer})" if len(said) > 1 else title, f.differences) for f in said]
    return found
