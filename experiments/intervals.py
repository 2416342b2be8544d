"""Intervals of differences between rows: how far a handful of seeds tells one from the other. Light: scipy alone, when asked.

A mean of paired differences comes with its 95 % interval: Student's, which holds for as few as two seeds if differences spread
normally; from ``MANY`` differences on the bias-corrected and accelerated bootstrap (Efron, 1987), which asks for no such thing.
One row is better than another only where the interval leaves 0 out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

CONFIDENCE = 0.95
MANY = 12
"""Differences from which they are resampled."""

LEGEND = (
    "mean of the differences seed by seed (its 95 % interval); **bold** where the interval leaves 0 out: only there is one "
    "better than the other"
)

PLACES = (
    "by the mean, and in brackets the best and the worst place that the differences seed by seed leave open (each pair at 95 %)"
)


def paired(own: Mapping[int, float], base: Mapping[int, float], relative: bool = False) -> dict[int, float]:
    """Differences by seed over the seeds that both have, in the order of ``own``; ``relative``: in percent of the base."""
    both = {seed: (value, base[seed]) for seed, value in own.items() if seed in base}
    return {seed: 100 * (value / start - 1) if relative else value - start for seed, (value, start) in both.items()}


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Lower and upper end of the mean's 95 % interval; None for fewer than two differences."""
    if len(differences) < 2:
        return None
    mean = fmean(differences)
    if max(differences) == min(differences):
        return mean, mean
    import numpy as np
    from scipy import stats

    if len(differences) < MANY:
        low, high = stats.t.interval(CONFIDENCE, len(differences) - 1, loc=mean, scale=stats.sem(differences))
    else:
        drawn = np.random.default_rng(0)
        low, high = stats.bootstrap(
            (np.asarray(differences),), np.mean, confidence_level=CONFIDENCE, method="BCa", rng=drawn
        ).confidence_interval
    return float(low), float(high)


def resolved(differences: Sequence[float]) -> bool:
    """Whether the interval leaves 0 out; False for fewer than two differences."""
    found = interval(differences)
    return found is not None and not found[0] <= 0 <= found[1]


def text(differences: Sequence[float], digits: int, unit: str = "") -> str:
    """``+0.84 (-0.36 to +2.04)``; a single difference without an interval."""
    found = interval(differences)
    mean = f"{fmean(differences):+.{digits}f}{unit}"
    return mean if found is None else f"{mean} ({found[0]:+.{digits}f} to {found[1]:+.{digits}f})"


def marked(differences: Sequence[float], digits: int, unit: str = "") -> str:
    """``text`` in Markdown, bold where ``resolved``."""
    said = text(differences, digits, unit)
    return f"**{said}**" if resolved(differences) else said


@dataclass(frozen=True)
class Place:
    """Where a row stands among others by its mean, 1 the best, and from where to where the differences leave it open."""

    place: int
    best: int
    worst: int

    def __str__(self) -> str:
        return f"{self.place}" if self.best == self.worst else f"{self.place} ({self.best} to {self.worst})"


def places(values: Mapping[str, Mapping[int, float]], higher_is_better: bool) -> dict[str, Place]:
    """Places of rows, name -> seed -> value, in the order given; equal means have the better place.

    A row stands below all that are ``resolved`` to be better, seed by seed, and above all that are resolved to be worse. What
    two rows with fewer than two seeds in common are to each other stays open. Every pair at 95 % by itself: of many rows some
    are told apart by chance.
    """
    sign = 1 if higher_is_better else -1
    means = {name: sign * fmean(own.values()) for name, own in values.items()}
    found = {}
    for name, own in values.items():
        better = worse = 0
        for other, theirs in values.items():
            differences = [sign * one for one in paired(theirs, own).values()]
            if other != name and resolved(differences):
                better, worse = (better + 1, worse) if fmean(differences) > 0 else (better, worse + 1)
        # A mean may be over other seeds than a difference: the place lies within its own interval all the same.
        place = 1 + sum(one > means[name] for one in means.values())
        best, worst = 1 + better, len(values) - worse
        found[name] = Place(min(max(place, best), worst), best, worst)
    return found
