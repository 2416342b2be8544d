"""What the site draws: gains with their intervals, gains class by class, renderers' times, losses of first iterations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from statistics import fmean

from experiments import intervals
from experiments.spec import Column
from reports.figures import ClassFigure
from reports.renderer_figures import Curve, SweepFigure
from reports.site import svg
from reports.summary import QUOTED, RERUN, Gain, Group, Summary

Plots = dict[str, str]
"""A mark in a page's text -> the figure that takes its place."""

_WIDTH = 820
_NARROW, _LINE = 430, 36
LEGEND = (
    "Dot: mean of the differences seed by seed; bar: its 95 % interval; small dots: single seeds. Green: better, red: worse, "
    "both only where the interval leaves 0 out; grey: not told apart from 0."
)
_PRINTED = "Differences of printed numbers: filled as quoted, hollow the authors' rerun. They come without seeds and intervals."


def key(of: str) -> str:
    """The mark of a figure, alone in its paragraph."""
    return f"plot-{hashlib.sha256(of.encode()).hexdigest()[:16]}-here"


def gains(summary: Summary) -> Plots:
    """Every row's gains of every metric: a figure of what is published, and one a group of ours."""
    groups: list[tuple[str, list[Group]]] = [("published", [QUOTED, RERUN])]
    groups += [(summary.heading(group), [group]) for group in summary.ours()]
    drawn: Plots = {}
    for title, members in groups:
        if figure := _gains(summary, title, members):
            drawn[key(f"gains {summary.spec.name} {title}")] = figure
    return drawn


def _gains(summary: Summary, title: str, groups: Sequence[Group]) -> str:
    parts: list[str] = []
    said: list[str] = []
    top = 6.0
    for column in summary.spec.columns:
        found = {
            row.title: gains
            for row in summary.spec.rows
            if (gains := [g for group in groups if (g := summary.gain(group, row.name, column.metric))])
        }
        if found:
            panel, top = _panel(found, column, top)
            parts += panel
            said += [f"{column.title}, {row}: {_told(one, column)}" for row, gains in found.items() for one in gains]
    if not parts:
        return ""
    legend = LEGEND if not groups[0].published else _PRINTED
    return svg.figure(_NARROW, top, parts, f"Gains over the base row, {title}. {legend}", "; ".join(said))


def _told(gain: Gain, column: Column) -> str:
    unit, digits = (" %", 1) if column.relative else ("", column.digits)
    return intervals.text(gain.difference.values, digits, unit)


def _panel(found: Mapping[str, Sequence[Gain]], column: Column, top: float) -> tuple[list[str], float]:
    """One metric: a line a row, what it says above it; returns the drawing and where the next may start."""
    left, right = 12.0, _NARROW - 12.0
    axis = svg.around((v for gains in found.values() for gain in gains for v in _extent(gain)), left, right, zero=True)
    bottom = top + 26 + _LINE * len(found)
    unit = "% of the base" if column.relative else "percentage points" if column.unit == "%" else column.unit
    name = f"{column.title}{f' [{unit}]' if unit else ''}{'' if column.higher_is_better else ', lower is better'}"
    parts = [svg.text(0, top + 14, name, css="head")]
    for tick in axis.ticks():
        parts += [svg.line(axis(tick), top + 24, axis(tick), bottom, "zero" if abs(tick) < 1e-12 else "grid")]
        parts += [svg.text(axis(tick), bottom + 14, svg.number(tick), "middle", "tick")]
    for place, (row, gains) in enumerate(found.items()):
        y = top + 26 + _LINE * place
        parts.append(svg.text(0, y + 11, row, css="over"))
        parts.append(svg.text(_NARROW, y + 11, "; ".join(_told(gain, column) for gain in gains), "end", "over value"))
        for gain in gains:
            parts += _gain(gain, column, axis, y + 25)
    return parts, bottom + 32


def _extent(gain: Gain) -> tuple[float, ...]:
    values = gain.difference.values
    return (*values, *(intervals.interval(values) or ()))


def _gain(gain: Gain, column: Column, axis: svg.Axis, y: float) -> list[str]:
    values, group = gain.difference.values, gain.difference.group
    mean, ends = fmean(values), intervals.interval(values)
    css = verdict(values, column.higher_is_better)
    if group.published:
        css = "printed hollow" if group == RERUN else "printed"
    parts = [svg.line(axis(ends[0]), y, axis(ends[1]), y, f"bar {css}")] if ends else []
    parts += [
        svg.dot(axis(v), y - 7, 1.8, "seed", f"seed {s}: {v:+.3g}") for s, v in zip(gain.difference.seeds, values, strict=False)
    ]
    return [*parts, svg.dot(axis(mean), y, 5, f"dot {css}", _told(gain, column))]


def verdict(differences: Sequence[float], higher_is_better: bool) -> str:
    """``better``, ``worse`` or ``open``: a word only where the interval leaves 0 out."""
    if not intervals.resolved(differences):
        return "open"
    return "better" if (fmean(differences) > 0) == higher_is_better else "worse"


def drawn(figure: object) -> str:
    """A figure of the pages as one that is drawn in the page."""
    if isinstance(figure, ClassFigure):
        return classes(figure)
    assert isinstance(figure, SweepFigure), f"no drawing of {type(figure).__name__}"
    return sweep(figure)


def classes(figure: ClassFigure) -> str:
    """Left the scores of base and row, right the paired differences with their interval, class by class."""
    middle, first, second = 24.0, (150.0, 440.0), (490.0, 720.0)
    bottom = middle + 20 * len(figure.row) + 4
    scores = svg.around((v for side in (figure.base, figure.row) for values in side.values() for v in values), *first, zero=True)
    spans = [(*values, *(intervals.interval(values) or ())) for values in figure.differences.values()]
    gains = svg.around((v for span in spans for v in span), *second, zero=True)
    parts = [svg.text(first[0], 14, f"{figure.metric} [%]", css="head"), svg.text(second[0], 14, "difference", css="head")]
    for axis in (scores, gains):
        for tick in axis.ticks(4):
            parts.append(svg.line(axis(tick), middle - 2, axis(tick), bottom, "zero" if abs(tick) < 1e-12 else "grid"))
            parts.append(svg.text(axis(tick), bottom + 15, svg.number(tick), "middle", "tick"))
    for place, (name, differences) in enumerate(figure.differences.items()):
        y, css = middle + 20 * (place + 0.5), verdict(differences, True)
        parts.append(svg.text(first[0] - 10, y + 4, name, "end"))
        base, row, ends = fmean(figure.base[name]), fmean(figure.row[name]), intervals.interval(differences)
        parts.append(svg.line(scores(base), y, scores(row), y, "grid"))
        parts.append(svg.dot(scores(base), y, 4.5, "dot base", f"{figure.base_title}: {base:.2f}"))
        parts.append(svg.dot(scores(row), y, 4.5, "dot s0", f"{figure.row_title}: {row:.2f}"))
        parts += [svg.line(gains(ends[0]), y, gains(ends[1]), y, f"bar {css}")] if ends else []
        parts.append(svg.dot(gains(fmean(differences)), y, 4.5, f"dot {css}", intervals.text(differences, 2)))
        parts.append(svg.text(second[1] + 10, y + 4, f"{fmean(differences):+.2f}", css="value"))
    said = "; ".join(f"{name} {intervals.text(values, 2)}" for name, values in figure.differences.items())
    legend = f"Left, hollow: {figure.base_title}, filled: {figure.row_title}. Right, differences. {LEGEND.split('; small')[0]}"
    notes = "".join(f" {remark}." for remark in figure.remarks)
    colours = " Colours: green better, red worse, grey not told apart from 0."
    return svg.figure(_WIDTH, bottom + 24, parts, f"{figure.caption}. {legend}.{colours}{notes}", said)


def sweep(figure: SweepFigure) -> str:
    """Forward and backward time over one quantity, both logarithmic; bars from the smallest to the largest time."""
    curves = [*figure.forward.values(), *figure.backward.values()]
    xs = [p[0] for curve in curves for p in curve]
    ys = [v for curve in curves for p in curve for v in p[2:]]
    labels, parts = list(figure.forward), []
    bottom, below = 290.0, 290.0 + 50
    for title, by_label, left in (("forward", figure.forward, 60.0), ("backward", figure.backward, 450.0)):
        across = svg.Axis(min(xs) / 1.1, max(xs) * 1.1, left, left + 350, logarithmic=True)
        up = svg.Axis(min(ys) / 1.3, max(ys) * 1.3, bottom, 30, logarithmic=True)
        parts.append(svg.text(left, 18, f"{title} [ms]", css="head"))
        for tick in up.ticks():
            parts += [svg.line(left, up(tick), left + 350, up(tick), "grid")]
            parts += [svg.text(left - 6, up(tick) + 4, svg.number(tick), "end", "tick")]
        for x in sorted(set(xs)):
            parts.append(svg.text(across(x), bottom + 16, svg.number(x), "middle", "tick"))
        parts.append(svg.text(left + 175, bottom + 34, figure.over, "middle", "tick"))
        for place, label in enumerate(labels):
            parts += _curve(by_label[label], label, f"s{place % svg.SERIES}", across, up)
    for place, label in enumerate(labels):
        y = below + 18 * (place // 2) + 14
        x = 60.0 + 390 * (place % 2)
        parts += [svg.dot(x, y - 4, 5, f"dot s{place % svg.SERIES}"), svg.text(x + 12, y, label)]
    said = "; ".join(f"{label}: {', '.join(f'{p[0]:g} {p[1]:.3g} ms' for p in curve)}" for label, curve in figure.forward.items())
    return svg.figure(
        _WIDTH,
        below + 18 * ((len(labels) + 1) // 2) + 8,
        parts,
        f"{figure.caption}. Median; bars from the smallest to the largest time.",
        said,
    )


def _curve(curve: Curve, label: str, css: str, across: svg.Axis, up: svg.Axis) -> list[str]:
    parts = [svg.path([(across(x), up(y)) for x, y, _, _ in curve], f"curve {css}")]
    for x, y, low, high in curve:
        parts.append(svg.line(across(x), up(low), across(x), up(high), f"bar {css}"))
        parts.append(
            svg.dot(across(x), up(y), 4, f"dot {css}", f"{label}, {svg.number(x)}: {y:.4g} ms ({low:.4g} to {high:.4g})")
        )
    return parts


def losses(by_seed: Mapping[int, Sequence[Mapping[str, float]]]) -> str:
    """Named losses of the first iterations: a panel a loss, a line a seed."""
    names = list(dict.fromkeys(name for steps in by_seed.values() for step in steps for name in step))
    last = max(len(steps) for steps in by_seed.values())
    parts, columns, height = [], 3, 150.0
    for place, name in enumerate(names):
        left, top = 46 + (place % columns) * 262.0, (place // columns) * height
        lines = {s: [(n + 1, step[name]) for n, step in enumerate(steps) if name in step] for s, steps in by_seed.items()}
        across = svg.Axis(1, max(last, 2), left, left + 205)
        up = svg.around((v for points in lines.values() for _, v in points), top + height - 34, top + 26)
        parts.append(svg.text(left, top + 16, name, css="head"))
        for tick in up.ticks(3):
            parts += [svg.line(left, up(tick), left + 205, up(tick), "grid")]
            parts += [svg.text(left - 5, up(tick) + 4, svg.number(tick), "end", "tick")]
        for x in dict.fromkeys((1, last)):
            parts.append(svg.text(across(x), top + height - 16, f"{x}", "middle", "tick"))
        for order, (seed, points) in enumerate(lines.items()):
            css = f"s{order % svg.SERIES}"
            parts.append(svg.path([(across(x), up(v)) for x, v in points], f"curve {css}"))
            parts += [svg.dot(across(x), up(v), 2.5, f"dot {css}", f"seed {seed}, iteration {x}: {v:.4g}") for x, v in points]
    below = height * ((len(names) + columns - 1) // columns) + 14
    for order, seed in enumerate(by_seed):
        parts += [
            svg.dot(52 + 90 * order, below - 4, 5, f"dot s{order % svg.SERIES}"),
            svg.text(62 + 90 * order, below, f"seed {seed}"),
        ]
    caption = f"Losses of the first {last} iterations, as the record keeps them; the whole curves are with MLflow."
    return svg.figure(_WIDTH, below + 10, parts, caption, f"{', '.join(names)} over {last} iterations")
