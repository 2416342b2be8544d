"""The page of claims: what the papers say, one line each, and what our records say to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments import intervals
from experiments.spec import PRESETS, ViewSpec
from reports import markdown
from reports.claimed import CLAIMS, Claim
from reports.summary import Group, Summary

Word = Literal["confirmed", "not resolved", "contradicted", "not run"]

_HOSTS = ("tpvformer",)
"""Rows with and without GaussRender that stand in every table of its paper."""

LEGEND = """- **confirmed**: the 95 % interval of the paired difference lies on the claim's side of 0.
- **not resolved**: 0 is in the interval, or one seed was run: nothing is said for or against it.
- **contradicted**: the interval lies on the other side.
- **not run**: there are no records of the two rows with the same preset, renderer, data and seeds, or no such rows.

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
    """One a renderer whose records of the preset have both rows, on the same data; none without."""
    if summary is None or not claim.row:
        return []
    found = []
    for group in summary.trained(preset):
        own, base = (summary.number(group, row, claim.metric) for row in (claim.row, claim.base))
        data = {record.data_fingerprint for row in (claim.row, claim.base) for record in summary.of_group(group, row)}
        if own is None or base is None or len(data) > 1:
            continue
        values, starts = (dict(zip(number.seeds, number.values, strict=True)) for number in (own, base))
        if differences := intervals.paired(values, starts):
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
    """Of hosts with and without GaussRender: in how many seeds the depth error falls, whether mIoU moves beyond its spread."""
    lines = []
    for preset in PRESETS:
        for host in _HOSTS:
            depth: list[str] = []
            moved: list[str] = []
            still: list[str] = []
            titles: list[str] = []
            for name, summary in summaries.items():
                rows = {row.name: row.title for row in summary.spec.rows}
                if summary.spec.brief or not {host, f"{host}+gaussrender"} <= set(rows):
                    continue
                titles.append(rows[host])
                title = summary.spec.title.partition(":")[0]
                for metric in ("depth_l1", "mIoU"):
                    claim = Claim("GaussRender", "", name, f"{host}+gaussrender", host, metric, 1.0, "")
                    for one in findings(claim, summary, preset):
                        values = one.differences
                        if metric == "depth_l1":
                            depth.append(f"{title} in {sum(value < 0 for value in values)} of {len(values)} seeds")
                        else:
                            (moved if intervals.resolved(values) else still).append(f"{title} {intervals.text(values, 2)}")
            if depth:
                said = (
                    f"**{titles[0]} with GaussRender, preset `{preset}`**: the rendered depth error falls on {', '.join(depth)}. "
                )
                if still:
                    said += f"mIoU does not move beyond what seeds differ by: {', '.join(still)}. "
                if moved:
                    said += f"mIoU moves: {', '.join(moved)}."
                lines.append(said.strip())
    return lines
