"""Figures of a table: what a row gains class by class. Drawn without a display; the same data give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import intervals
from reports.summary import RERUN, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DIGEST_KEY = "Data-SHA256"
_BASE_COLOUR, _ROW_COLOUR, _LOSS_COLOUR = "#9aa5b1", "#d1662b", "#3b6ea5"


@dataclass(frozen=True)
class ClassFigure:
    """Per-class scores of a row and its base in one group, and their paired differences.

    base, row    class -> one value a seed (a single one if published), in %
    differences  class -> one paired difference a seed, in percentage points
    remarks      what must be said beside the differences
    """

    name: str
    caption: str
    metric: str
    base_title: str
    row_title: str
    base: dict[str, tuple[float, ...]]
    row: dict[str, tuple[float, ...]]
    differences: dict[str, tuple[float, ...]]
    remarks: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Hash of the data and of this module: the figure is up to date if its file carries the same."""
        content = json.dumps(asdict(self), sort_keys=True).encode() + Path(__file__).read_bytes()
        return hashlib.sha256(content).hexdigest()

    def draw(self) -> bytes:
        """PNG bytes, see ``draw``."""
        return draw(self)


def figures(summary: Summary) -> list[ClassFigure]:
    """One figure a group, row and metric with per-class gains."""
    found = []
    for group in (RERUN, *summary.ours()):
        for row in summary.spec.rows:
            for column in summary.spec.columns:
                names = [n for n in summary.classes(group, column.metric) if summary.gain(group, row.name, column.metric, n)]
                if row.base is None or not names:
                    continue
                metric = column.title.removeprefix("m")
                slug = "-".join(filter(None, (group.origin, group.preset, group.renderer)))
                base = [summary.numbers[group, row.base, column.metric, n].values for n in names]
                own = [summary.numbers[group, row.name, column.metric, n].values for n in names]
                gains = [summary.gains[group, row.name, column.metric, n] for n in names]
                seeds = max(len(gain.difference.values) for gain in gains)
                remarks = dict.fromkeys(note for gain in gains for note in (gain.difference.mixed, gain.noise) if note)
                found.append(
                    ClassFigure(
                        name=f"{summary.spec.name}--{row.name}--{slug}--{column.metric}.png",
                        caption=f"{metric} per class, {row.title} against its base ({summary.heading(group, seeds)})",
                        metric=metric,
                        base_title=summary.spec.row(row.base).title,
                        row_title=row.title,
                        base=dict(zip(names, base, strict=True)),
                        row=dict(zip(names, own, strict=True)),
                        differences=dict(zip(names, (gain.difference.values for gain in gains), strict=True)),
                        remarks=tuple(remarks),
                    )
                )
    return found


def stored_digest(path: Path) -> str | None:
    """Digest written into a figure's file, None if there is no such file or it carries none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.info.get(_DIGEST_KEY)
    except (FileNotFoundError, UnidentifiedImageError):
        return None


def draw(figure: ClassFigure) -> bytes:
    """PNG bytes. Left: scores with their spread over seeds; right: paired differences, their dots and interval."""
    from statistics import fmean, stdev

    from matplotlib.figure import Figure

    names = list(figure.differences)
    places = range(len(names))
    canvas = Figure(figsize=(11, 0.34 * len(names) + 1.5), dpi=110, layout="constrained")
    scores, gains = canvas.subplots(1, 2, sharey=True)
    sides = ((figure.base, figure.base_title, _BASE_COLOUR, -0.2), (figure.row, figure.row_title, _ROW_COLOUR, 0.2))
    for values, title, colour, offset in sides:
        means = [fmean(values[n]) for n in names]
        errors = [stdev(values[n]) if len(values[n]) > 1 else 0.0 for n in names]
        scores.barh([p + offset for p in places], means, height=0.38, color=colour, label=title)
        if any(errors):
            scores.errorbar(means, [p + offset for p in places], xerr=errors, fmt="none", ecolor="black", elinewidth=1, capsize=2)
    scores.set_yticks(list(places), names)
    scores.set_ylim(len(names) - 0.4, -0.6)
    scores.set_xlabel(f"{figure.metric} [%]")
    scores.set_xlim(left=0)
    canvas.legend(loc="outside lower left", ncols=2, fontsize=8, frameon=False)  # within, it covers the longest bars
    for place, differences in zip(places, figure.differences.values(), strict=True):
        mean = fmean(differences)
        gains.barh(place, mean, height=0.6, color=_ROW_COLOUR if mean >= 0 else _LOSS_COLOUR, alpha=0.55)
        if (ends := intervals.interval(differences)) is not None:
            gains.plot(ends, [place] * 2, "|-", color="black", linewidth=1, markersize=6)
            gains.plot(differences, [place] * len(differences), "o", color="black", markersize=3)
    gains.axvline(0, color="black", linewidth=0.8)
    gains.set_xlabel("difference to the base [percentage points]" + _dots(figure))
    for axes in (scores, gains):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        axes.set_axisbelow(True)
    canvas.suptitle("\n".join((figure.caption, *figure.remarks)), fontsize=10)
    return png(canvas, figure.digest)


def png(canvas: Figure, digest: str) -> bytes:
    """The bytes of a figure, with the digest of its data."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(canvas).print_png(buffer, metadata={"Software": None, _DIGEST_KEY: digest})
    return buffer.getvalue()


def _dots(figure: ClassFigure) -> str:
    several = any(len(v) > 1 for v in figure.differences.values())
    return "\na dot a seed, a line the mean's 95 % interval" if several else ""
