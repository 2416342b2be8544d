"""Volume rendering of grids along rays behind one contract; usable on its own (needs only torch)."""

from renderers.rays.interface import (
    Exponential,
    GridField,
    Probability,
    RayRenderer,
    RayRendering,
    Rays,
    RaySettings,
    ShiftedSoftplus,
)
from renderers.rays.samplers import AxisSampler, SkipAccumulated, SkipPerAxis, SphereSampler, UniformSampler

__all__ = [
    "AxisSampler",
    "Exponential",
    "GridField",
    "Probability",
    "RayRenderer",
    "RayRendering",
    "RaySettings",
    "Rays",
    "ShiftedSoftplus",
    "SkipAccumulated",
    "SkipPerAxis",
    "SphereSampler",
    "UniformSampler",
]
