"""The README's first words on results: which tables hold numbers of ours, at which preset, and which hold none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from experiments.spec import PRESETS
from reports.summary import Group, Summary

SECTION = "status"

_WHAT = {
    "toy": "a small network on a generated world, not comparable with any published number",
    "mini": "the paper's network on a fifth of the samples, not comparable with any published number",
    "paper": "the published configuration",
}


def render(summaries: Sequence[Summary]) -> str:
    """Markdown between the section's markers: a line a preset, and what follows for the published numbers."""
    summaries = sorted(summaries, key=lambda summary: summary.spec.brief)
    lines = ["**What has been run here so far**"]
    listed = []
    for preset in PRESETS:
        shown = [_line(s, [g for g in s.trained(preset) if _own(s, g)]) for s in summaries]
        listed.append(f"- preset `{preset}` ({_WHAT[preset]}): {_list(shown)}")
    evaluated = [_line(s, [g for g in s.ours() if g.origin == "weights" and _own(s, g)]) for s in summaries]
    listed.append(f"- evaluation of weights that the papers' authors released: {_list(evaluated)}")
    lines.append("\n".join(listed))
    if not any(s.trained("paper") for s in summaries) and not any(evaluated):
        lines.append(
            "So **no published number has been reproduced here yet**: those in the tables are quoted, each with its source."
        )
    return "\n\n".join(lines)


def _own(summary: Summary, group: Group) -> bool:
    """Whether a group has a record of the table itself, not only another table's that a row shows."""
    return bool(_seeds(summary, group))


def _seeds(summary: Summary, group: Group) -> int:
    """Seeds of a group's best covered row among the table's own."""
    rows = Counter(record.row for record in summary.of_group(group) if record.table == summary.spec.name)
    return max(rows.values(), default=0)


def _line(summary: Summary, groups: Sequence[Group]) -> str:
    """``Occ3D-nuScenes (cpu, 3 seeds)``, "" for no groups."""
    title = summary.spec.title.partition(":")[0] if not summary.spec.brief else f"`{summary.spec.name}`"
    counted = [f"{g.renderer}, {n} seed{'s' * (n != 1)}" for g in groups for n in [_seeds(summary, g)]]
    return f"{title} ({'; '.join(counted)})" if counted else ""


def _list(parts: Sequence[str]) -> str:
    return ", ".join(part for part in parts if part) or "**nothing yet**"
