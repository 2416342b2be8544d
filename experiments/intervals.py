"""Intervals of differences between rows: how far a handful of seeds tells one from the other. Light: scipy alone, when asked.

A mean of paired differences comes with its 95 % interval: Student's, which holds for as few as two seeds if differences spread
normally; from ``MANY`` differences on the bias-corrected and accelerated bootstrap (Efron, 1987), which asks for no such thing.
One row is better than another only where the interval leaves 0 out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

CONFIDENCE = 0.95
MANY = 12
"""Differences from which they are resampled."""

LEGEND = (
    "mean of the differences seed by seed (its 95 % interval); **bold** where the interval leaves 0 out: only there is one "
    "better than the other"
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
