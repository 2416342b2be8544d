"""Where samples lie: distances along a ray, the contraction of far space into a grid, and which samples are skipped.

Everything is in metres, before and after a contraction: within the inner region a contracted position is the position itself,
beyond it space is squeezed into a shell. A grid's range is therefore that of contracted positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor

MOST_SAMPLES = 1 << 16  # a ray
Point = tuple[float, float, float]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_number(name: str, value: object, low: float, high: float = math.inf) -> None:
    """A finite number in (low, high)."""
    fine = isinstance(value, Real) and not isinstance(value, bool) and low < float(value) < high and math.isfinite(value)
    require(fine, f"{name} must be a number in ({low}, {high}), got {value!r}")


def _require_count(name: str, value: object, least: int = 1) -> None:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(whole and least <= int(value) <= MOST_SAMPLES, f"{name} must be in {least}..{MOST_SAMPLES}, got {value!r}")  # type: ignore[call-overload]


def require_box(name: str, lower: object, upper: object) -> None:
    """Two corners of three finite numbers each, the lower one below the upper one on every axis."""
    for corner in (lower, upper):
        fine = isinstance(corner, tuple) and len(corner) == 3 and all(isinstance(v, Real) and math.isfinite(v) for v in corner)
        require(fine, f"{name} must have corners of three finite numbers (m), got {corner!r}")
    assert isinstance(lower, tuple) and isinstance(upper, tuple)
    require(all(a < b for a, b in zip(lower, upper, strict=True)), f"{name} must have lower < upper, got {lower} and {upper}")


def _middles(edges: Tensor) -> Tensor:
    return 0.5 * (edges[1:] + edges[:-1])


@dataclass(frozen=True)
class UniformSampler:
    """``count`` samples at the middles of equal steps from ``near`` to ``far``; no contraction."""

    near: float
    far: float
    count: int

    def __post_init__(self) -> None:
        _require_number("near", self.near, -math.inf)
        _require_number("far", self.far, self.near)
        _require_count("count", self.count)

    def distances(self) -> Tensor:
        """[S] float64, ascending."""
        return _middles(torch.linspace(self.near, self.far, self.count + 1, dtype=torch.float64))

    def contract(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points [..., 3] as they are, and [...] bool: all of them lie in the inner region."""
        return points, torch.ones_like(points[..., 0], dtype=torch.bool)


@dataclass(frozen=True)
class SphereSampler:
    """A ball about ``centre``, all beyond it in a shell (RenderOcc mmdet3d/models/nerf/nerf_head.py:33-51, after mip-NeRF 360).

    A point at distance q > radius from the centre goes to radius + shell (1 - radius / q). ``inner`` samples at the middles of
    equal steps from 0 to 2 radius, ``outer`` ones from there to 128 radius at the middles of steps that are equal in 1 / t.
    """

    centre: Point
    radius: float
    shell: float
    inner: int
    outer: int

    def __post_init__(self) -> None:
        require_box("centre", self.centre, tuple(v + 1 for v in self.centre) if isinstance(self.centre, tuple) else None)
        _require_number("radius", self.radius, 0)
        _require_number("shell", self.shell, 0)
        _require_count("inner", self.inner)
        _require_count("outer", self.outer, 0)
        _require_count("inner + outer", self.inner + self.outer)

    def distances(self) -> Tensor:
        """[S] float64, ascending."""
        near = _middles(torch.linspace(0, 2, self.inner + 1, dtype=torch.float64))
        far = _middles(2 / torch.linspace(1, 1 / 64, self.outer + 1, dtype=torch.float64))
        return self.radius * torch.cat([near, far if self.outer else far[:0]])

    def contract(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points [..., 3] contracted, and [...] bool: within the ball."""
        centre = points.new_tensor(self.centre)
        offset = points - centre
        distance = torch.linalg.vector_norm(offset, dim=-1)
        inside = distance <= self.radius
        far = torch.where(inside, self.radius, distance)
        scale = torch.where(inside, 1, (self.radius + self.shell - self.shell * self.radius / far) / far)
        return torch.where(inside[..., None], points, centre + offset * scale[..., None]), inside


@dataclass(frozen=True)
class AxisSampler:
    """A box from ``lower`` to ``upper`` that has ``ratio`` of each axis of the grid, all beyond it squeezed into the rest.

    Axis by axis (OccNeRF, GaussianOcc utils/vox.py:13-59, networks/occupancy_decoder.py:101-121).

    With u = -1..1 in the box and tau = ratio / (1 - ratio), u > 1 goes to 1 + (1 - 1 / (tau (u - 1) + 1)) / tau, below
    1 / ratio. Samples lie at near + reach u, u the inverse of ``count`` equal steps of the contracted one from 0 to ``end``.
    """

    lower: Point
    upper: Point
    ratio: float
    reach: float
    count: int
    near: float
    end: float

    def __post_init__(self) -> None:
        require_box("the sampler's box", self.lower, self.upper)
        _require_number("ratio", self.ratio, 0, 1)
        _require_number("reach", self.reach, 0)
        _require_count("count", self.count, 2)
        _require_number("near", self.near, -math.inf)
        _require_number("end", self.end, 0, 1)

    @property
    def tau(self) -> float:
        return self.ratio / (1 - self.ratio)

    @property
    def grid_range(self) -> tuple[Point, Point]:
        """Lower and upper corner of all contracted positions (m)."""
        corners = []
        for sign in (-1, 1):
            axes = zip(self.lower, self.upper, strict=True)
            corners.append(tuple(0.5 * (a + b) + sign * 0.5 * (b - a) / self.ratio for a, b in axes))
        return corners[0], corners[1]  # type: ignore[return-value]

    def distances(self) -> Tensor:
        """[S] float64, ascending."""
        tau = self.tau
        v = torch.linspace(0, self.end, self.count, dtype=torch.float64) * (tau + 1)
        beyond = tau - 1 + 1 / (tau + 1 - v)
        return self.near + self.reach * torch.where(v <= tau, v, beyond) / tau

    def contract(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points [..., 3] contracted, and [...] bool: within the box."""
        lower, upper = points.new_tensor(self.lower), points.new_tensor(self.upper)
        centre, half = 0.5 * (lower + upper), 0.5 * (upper - lower)
        u = (points - centre) / half
        beyond = u.abs() > 1
        shell = 1 + (1 - 1 / (self.tau * (u.abs().clamp_min(1) - 1) + 1)) / self.tau
        return torch.where(beyond, centre + half * torch.copysign(shell, u), points), ~beyond.any(-1)


Sampler = UniformSampler | SphereSampler | AxisSampler


@dataclass(frozen=True)
class SkipAccumulated:
    """Keep samples of the inner region; of others one whenever the contracted way since the last time exceeds ``distance`` (m).

    RenderOcc mmdet3d/models/nerf/nerf_head.py:192-198, cuda/ub360_utils_kernel.cu:13-31.

    The way is added up over all gaps between samples, inner ones too, and starts again at 0 where it exceeds ``distance``.
    """

    distance: float

    def __post_init__(self) -> None:
        _require_number("distance", self.distance, 0)


@dataclass(frozen=True)
class SkipPerAxis:
    """Keep samples whose contracted position is more than ``distances`` (m) from the previous sample's on any axis; the first is
    held to the ray's origin (GaussianOcc networks/occupancy_decoder.py:295-300)."""

    distances: Point

    def __post_init__(self) -> None:
        require_box("distances", (0.0, 0.0, 0.0), self.distances)


SkipRule = SkipAccumulated | SkipPerAxis


@torch.no_grad()
def kept_samples(points: Tensor, inside: Tensor, first: Tensor, rule: SkipRule | None) -> Tensor:
    """[R, S] bool: samples that count. points [R, S, 3] contracted; inside [R, S]; first [R, 3] the origins, contracted."""
    if rule is None:
        return torch.ones_like(inside)
    if isinstance(rule, SkipPerAxis):
        gaps = (points - torch.cat([first[:, None], points[:, :-1]], 1)).abs()
        return (gaps > points.new_tensor(rule.distances)).any(-1)
    kept = inside.clone()
    way = torch.zeros_like(points[:, 0, 0])
    for i, gap in enumerate(torch.linalg.vector_norm(points.diff(dim=1), dim=-1).unbind(1), 1):
        way = way + gap
        over = way > rule.distance
        kept[:, i] |= over
        way = torch.where(over, 0, way)
    return kept
