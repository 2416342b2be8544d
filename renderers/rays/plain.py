"""Settings as plain numbers, for backends that are compiled: what their own structures and kernels take."""

from __future__ import annotations

from dataclasses import dataclass

from renderers.rays.interface import Exponential, GridField, Probability, RaySettings, ShiftedSoftplus
from renderers.rays.samplers import AxisSampler, Point, SkipAccumulated, SkipPerAxis, SphereSampler

CONTRACTIONS = ("none", "sphere", "axes")
SKIPS = ("none", "accumulated", "per axis")
ACTIVATIONS = ("shifted softplus", "exponential", "probability")
DEPTHS = ("along", "contracted", "z")

_NOTHING: Point = (0.0, 0.0, 0.0)


@dataclass
class Plain:
    """``RaySettings`` and where a grid's voxels lie. Kinds are places in the tuples above; what a kind does not have is 0.

    centre, half    of the contraction's ball or box; radius, shell of the ball; tau of the box
    factor, term    a contracted position times the one plus the other is a voxel index
    skip            distances of the skip rule (m); the accumulated one has the first
    """

    centre: Point = _NOTHING
    half: Point = _NOTHING
    radius: float = 0.0
    shell: float = 0.0
    tau: float = 0.0
    factor: Point = _NOTHING
    term: Point = _NOTHING
    skip: Point = _NOTHING
    shift: float = 0.0
    interval: float = 0.0
    last: float = 0.0
    least_passed: float = 0.0
    alpha_min: float = 0.0
    weight_min: float = 0.0
    transmittance_min: float = 0.0
    contraction: int = 0
    skip_rule: int = 0
    activation: int = 0
    closed: bool = False
    unit_directions: bool = False
    depth: int = 0


def plain(settings: RaySettings, grid: GridField) -> Plain:
    """The numbers of ``settings`` for the voxels of ``grid``."""
    sampler, activation = settings.sampler, settings.activation
    found = Plain(depth=DEPTHS.index(settings.depth), unit_directions=settings.unit_directions)
    found.factor, found.term = grid.to_index
    if isinstance(sampler, SphereSampler):
        found.contraction = 1
        found.centre, found.radius, found.shell = sampler.centre, sampler.radius, sampler.shell
    elif isinstance(sampler, AxisSampler):
        found.contraction, found.tau = 2, sampler.tau
        axes = list(zip(sampler.lower, sampler.upper, strict=True))
        found.centre = tuple(0.5 * (a + b) for a, b in axes)  # type: ignore[assignment]
        found.half = tuple(0.5 * (b - a) for a, b in axes)  # type: ignore[assignment]
    if isinstance(settings.skip, SkipAccumulated):
        found.skip_rule, found.skip = 1, (settings.skip.distance, 0.0, 0.0)
    elif isinstance(settings.skip, SkipPerAxis):
        found.skip_rule, found.skip = 2, settings.skip.distances
    if isinstance(activation, ShiftedSoftplus):
        found.activation, found.shift, found.interval = 0, activation.shift, activation.interval
    elif isinstance(activation, Exponential):
        found.activation, found.last, found.least_passed = 1, activation.last, activation.least_passed
    elif isinstance(activation, Probability):
        found.activation, found.closed = 2, activation.closed
    for name in ("alpha_min", "weight_min", "transmittance_min"):
        setattr(found, name, float(getattr(settings, name)))
    return found
