"""Figures of ``table_renderers``: time against channels, and against Gaussians. The same data give the same bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.renderer_records import TABLE, RendererRecord
from reports.figures import png
from reports.renderers import SWEPT, heading

_COLOURS = ("#d1662b", "#3b6ea5", "#4d8f4d", "#8c5fa8", "#9aa5b1", "#b8963e")
_MARKERS = ("o", "s", "^", "D", "v", "P")

Curve = tuple[tuple[float, float, float, float], ...]
"""Points (x, median, smallest, largest) in ms, by x."""


@dataclass(frozen=True)
class SweepFigure:
    """Forward and backward time of every renderer and machine over one quantity; curves by "renderer, machine"."""

    name: str
    caption: str
    over: str
    forward: dict[str, Curve]
    backward: dict[str, Curve]

    @property
    def digest(self) -> str:
        """Hash of the data and of this module: the figure is up to date if its file carries the same."""
        content = json.dumps(asdict(self), sort_keys=True).encode() + Path(__file__).read_bytes()
        return hashlib.sha256(content).hexdigest()

    def draw(self) -> bytes:
        """PNG bytes: forward left, backward right, both logarithmic; bars from the smallest to the largest time."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter

        canvas = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
        panels = canvas.subplots(1, 2, sharey=True)
        labels = list(self.forward)
        for axes, curves, title in zip(panels, (self.forward, self.backward), ("forward", "backward"), strict=True):
            for place, (label, curve) in enumerate(curves.items()):
                x, middle = [p[0] for p in curve], [p[1] for p in curve]
                bars = [[p[1] - p[2] for p in curve], [p[3] - p[1] for p in curve]]
                look = {"color": _COLOURS[place % 6], "marker": _MARKERS[place % 6], "markersize": 5, "linewidth": 1.5}
                axes.errorbar(x, middle, yerr=bars, label=label, capsize=2, elinewidth=0.8, **look)
            axes.set_xscale("log")
            axes.set_yscale("log")
            ticks = sorted({p[0] for curve in curves.values() for p in curve})
            axes.set_xticks(ticks, [_short(x) for x in ticks])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(self.over)
            axes.set_title(title, fontsize=10)
            axes.grid(linewidth=0.4, alpha=0.5)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("time [ms]")
        handles = panels[0].get_legend_handles_labels()[0]
        canvas.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), fontsize=8, frameon=False)
        canvas.suptitle(self.caption, fontsize=10)
        return png(canvas, self.digest)


def _short(x: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"


def figures(machines: dict[str, list[RendererRecord]]) -> list[SweepFigure]:
    """One figure a sweep that has measurements."""
    found = []
    for group, over in SWEPT.items():
        forward: dict[str, Curve] = {}
        backward: dict[str, Curve] = {}
        for records in machines.values():
            swept = [r for r in records if r.group == group and r.status == "measured"]
            for renderer in sorted({r.renderer for r in swept}):
                label = f"{renderer}, {heading(swept[0])}"
                own = sorted((r for r in swept if r.renderer == renderer), key=lambda r: r.scene[group])
                forward[label] = tuple(_point(r.scene[group], r.forward_ms, r.forward_range_ms) for r in own)
                backward[label] = tuple(_point(r.scene[group], r.backward_ms, r.backward_range_ms) for r in own)
        if forward:
            caption = f"Time against {over}, 800x450 pixels"
            found.append(SweepFigure(f"{TABLE}--{group}.png", caption, over, forward, backward))
    return found


def _point(x: float, median: float | None, ends: tuple[float, float] | None) -> tuple[float, float, float, float]:
    assert median is not None and ends is not None, "a measured record has times"
    return float(x), median, *ends
