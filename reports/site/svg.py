"""Plots as SVG inside a page: axes, dots, bars and lines. Colours are classes of the site's style sheet, which has two themes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

SERIES = 6
"""How many colours of series the style sheet has (``s0`` to ``s5``)."""


@dataclass(frozen=True)
class Axis:
    """Values low..high at the pixels start..end, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((at - low) / (high - low) if high > low else 0.5)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within: powers of ten, or some ``count`` in steps of 1, 2 or 5."""
        if self.logarithmic:
            return [10.0**n for n in range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)]
        span = (self.high - self.low) or 1.0
        rough = span / count
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(m for m in (1, 2, 5, 10) if m * unit >= rough)
        return [n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def around(values: Iterable[float], start: float, end: float, *, zero: bool = False) -> Axis:
    """A linear axis with room at both ends; ``zero``: 0 is on it."""
    found = [*values, *((0.0,) if zero else ())]
    low, high = min(found), max(found)
    room = 0.06 * ((high - low) or abs(high) or 1.0)
    return Axis(low - room, high + room, start, end)


def number(value: float) -> str:
    """A tick's text: ``0.5``, ``20k``."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:.6g}"


def text(x: float, y: float, content: str, anchor: str = "start", css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{_class(css)}>{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_class(css)}/>'


def dot(x: float, y: float, radius: float, css: str, said: str = "") -> str:
    """A circle; ``said`` is shown where the pointer rests on it."""
    inner = f"<title>{escape(said)}</title>" if said else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"{_class(css)}>{inner}</circle>'


def path(points: Sequence[tuple[float, float]], css: str) -> str:
    return f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"{_class(css)}/>'


def figure(width: int, height: float, parts: Iterable[str], caption: str, said: str) -> str:
    """An HTML figure; ``said`` is what it shows, in words, for those who do not see it."""
    drawing = f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(said, quote=True)}">{"".join(parts)}</svg>'
    size = "narrow" if width < 500 else "wide"
    return (
        f'<figure class="plot {size}"><div class="plot-scroll">{drawing}</div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _class(css: str) -> str:
    return f' class="{css}"' if css else ""
