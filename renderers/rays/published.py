"""How published systems render along rays: settings, and the range in which each has its grid.

RenderOcc (``pmj110119/RenderOcc`` mmdet3d/models/nerf/nerf_head.py:27-54, 105-160, 192-245) and the two volume renderers of
GaussianOcc (``GANWANSHUI/GaussianOcc`` networks/occupancy_decoder.py:101-121, 274-448).
"""

from __future__ import annotations

from renderers.rays.interface import Exponential, Probability, RaySettings, ShiftedSoftplus
from renderers.rays.samplers import AxisSampler, Point, SkipAccumulated, SkipPerAxis, SphereSampler

RENDEROCC = RaySettings(
    SphereSampler(centre=(0.0, 0.0, 2.2), radius=39.0, shell=1.0, inner=391, outer=26),
    ShiftedSoftplus(interval=0.5, alpha_init=1e-6),
    depth="contracted",
    skip=SkipAccumulated(80 / 200 * 0.5 * 0.95),
    alpha_min=1e-7,
    weight_min=1e-7,
    transmittance_min=1e-3,
)
"""Its depth is 39 (sum + 1e-7): the head adds the 3.9e-6 m."""

RENDEROCC_RANGE: tuple[Point, Point] = ((-40.0, -40.0, 2.2 - 3.12), (40.0, 40.0, 2.2 + 3.12))
"""Corners aligned. In z it is 6.4 / 80 of the radius to each side of the centre, 3.12 m, where the labels have 3.2 m."""

_AXES = AxisSampler(
    lower=(-40.0, -40.0, -1.0),
    upper=(40.0, 40.0, 5.4),
    ratio=0.66667,
    reach=(80.0**2 + 80.0**2 + 6.4**2) ** 0.5,
    count=424,
    near=0.1,
    end=1 - 0.5 / 300,
)
GAUSSIANOCC_RANGE: tuple[Point, Point] = _AXES.grid_range
"""Corners aligned; 300 x 300 x 24 voxels."""

_LOWER, _UPPER = GAUSSIANOCC_RANGE
# 0.4 over the number of voxels, of a coordinate that is -1..1 over the grid: a fifth of a voxel.
_FIFTHS: Point = tuple(0.2 * (b - a) / n for a, b, n in zip(_LOWER, _UPPER, (300, 300, 24), strict=True))  # type: ignore[assignment]

GAUSSIANOCC_PROB = RaySettings(_AXES, Probability(closed=True), unit_directions=False, skip=SkipPerAxis(_FIFTHS))
"""Directions with z = 1 in the camera's frame; density is minus the logit of free space."""

GAUSSIANOCC_DENSITY = GAUSSIANOCC_PROB.with_(activation=Exponential(last=1e4, least_passed=1e-5))
"""Density is the logit of free space as it is, which the published code does not turn around."""
