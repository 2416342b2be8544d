"""The contract of rays as data: scenes, some with rays known to seven digits, and inputs that every backend refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from renderers.rays.interface import Exponential, GridField, Probability, Rays, RaySettings, ShiftedSoftplus
from renderers.rays.published import (
    GAUSSIANOCC_DENSITY,
    GAUSSIANOCC_PROB,
    GAUSSIANOCC_RANGE,
    RENDEROCC,
    RENDEROCC_RANGE,
)
from renderers.rays.samplers import AxisSampler, Point, SkipAccumulated, SphereSampler, UniformSampler


@dataclass(frozen=True)
class Known:
    """What one ray shows: features [C], depth (m), alpha, transmittance."""

    ray: int
    features: tuple[float, ...]
    depth: float
    alpha: float
    transmittance: float


@dataclass(frozen=True)
class RayCase:
    """Inputs of one rendering (float32, CPU) and the rays known without any renderer."""

    name: str
    rays: Rays
    grid: GridField
    settings: RaySettings
    known: tuple[Known, ...] = ()

    def to(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> RayCase:
        """The same case on another device and in another floating-point type."""

        def moved(record: Any) -> Any:
            tensors = {n: v for n, v in vars(record).items() if isinstance(v, Tensor)}
            return replace(record, **{n: v.to(device, dtype if v.is_floating_point() else v.dtype) for n, v in tensors.items()})

        return replace(self, rays=moved(self.rays), grid=moved(self.grid))

    def part(self, index: Tensor) -> RayCase:
        """The rays ``index`` of the case alone."""
        r = self.rays
        some = Rays(*(None if v is None else v[index] for v in (r.origins, r.directions, r.scene, r.offsets, r.cosines)))  # type: ignore[arg-type]
        return replace(self, rays=some, known=())


def rays_along(*lines: tuple[tuple[float, float, float], tuple[float, float, float]]) -> Rays:
    """Rays of scene 0 from (origin, direction) pairs."""
    origins, directions = (torch.tensor([line[k] for line in lines], dtype=torch.float32) for k in (0, 1))
    return Rays(origins, directions, torch.zeros(len(lines), dtype=torch.int64))


EDGE = 4.0  # m, of the small grid: voxels 1 m apart from 0 to 4, corners aligned
EVERY_METRE = UniformSampler(-0.5, 6.5, 7)  # samples at 0, 1, ... 6 m: on voxels, for rays that start on one


def small(density: Tensor, channels: int = 2) -> GridField:
    """A grid [1, 5, 5, 5] from 0 to 4 m whose voxels have their x and y as features, then ones."""
    axis = torch.arange(5.0)
    x, y, _ = torch.meshgrid(axis, axis, axis, indexing="ij")
    features = torch.stack([x, y, *(torch.ones_like(x) for _ in range(channels - 2))], -1)
    return GridField(density[None], features[None], (0.0,) * 3, (EDGE,) * 3, "corners")


def _empty(name: str) -> RayCase:
    rays = rays_along(((0, 2, 2), (1, 0, 0)), ((2, 2, 2), (0.3, 0.4, 0.5)))
    nothing = (0.0, 0.0)
    known = tuple(Known(i, nothing, 0.0, 0.0, 1.0) for i in range(2))
    return RayCase(name, rays, small(torch.zeros(5, 5, 5)), RaySettings(EVERY_METRE, Exponential()), known)


def _one_cell(name: str) -> RayCase:
    """Density ln 2 at the voxel (3, 2, 2): a ray through it loses a half, one through its cell's middle face a quarter root."""
    density = torch.zeros(5, 5, 5)
    density[3, 2, 2] = math.log(2)
    rays = rays_along(
        ((0, 2, 2), (1, 0, 0)),  # through it
        ((0, 2, 2), (5, 0, 0)),  # the same, of another length
        ((0, 1.5, 2), (1, 0, 0)),  # half a voxel beside it: half the density
        ((0, 1, 2), (1, 0, 0)),  # a voxel beside it
        ((-2, 2, 2), (1, 0, 0)),  # from outside of the grid
        ((0, 2, 9), (1, 0, 0)),  # misses the grid
        ((9, 9, 9), (1, 1, 1)),  # leads away from it
        ((3, 4, 2), (0, -1, 0)),  # along another axis
    )
    a = 1 - 2**-0.5
    nothing = ((0.0, 0.0), 0.0, 0.0, 1.0)
    hit = ((1.5, 1.0), 1.5, 0.5, 0.5)
    known = (
        Known(0, *hit),
        Known(1, *hit),
        Known(2, (3 * a, 1.5 * a), 3 * a, a, 1 - a),
        Known(3, *nothing),
        Known(4, (1.5, 1.0), 2.5, 0.5, 0.5),
        Known(5, *nothing),
        Known(6, *nothing),
        Known(7, (1.5, 1.0), 1.0, 0.5, 0.5),
    )
    return RayCase(name, rays, small(density), RaySettings(EVERY_METRE, Exponential()), known)


def _opaque_cell(name: str) -> RayCase:
    """Nothing passes, but for ``least_passed``, which the sample behind then has a share of."""
    density = torch.zeros(5, 5, 5)
    density[2:4, 2, 2] = 100.0
    rays = rays_along(((0, 2, 2), (1, 0, 0)))
    known = (Known(0, (2 + 0.03, 2 + 0.02), 2 + 0.03, 1.01, 1e-4),)
    settings = RaySettings(EVERY_METRE, Exponential(least_passed=0.01))
    return RayCase(name, rays, small(density), settings, known)


def _five_samples(name: str) -> RayCase:
    """A stop at a fifth: of alpha = 1/2 at each voxel on x = 0 .. 4, the third makes T an eighth and is the last that counts."""
    rays = rays_along(((0, 2, 2), (1, 0, 0)), ((2, 2, 2), (1, 0, 0)))
    known = (
        Known(0, (0.25 + 0.25, 1.75), 0.25 + 0.25, 0.875, 0.125),
        Known(1, (1 + 0.75 + 0.5, 1.75), 0.25 + 0.25, 0.875, 0.125),
    )
    density = torch.full((5, 5, 5), math.log(2))
    settings = RaySettings(EVERY_METRE, Exponential(), transmittance_min=0.2)
    return RayCase(name, rays, small(density), settings, known)


def _thresholds(name: str) -> RayCase:
    """Of alpha 0.3, 0.05, 0.3, ... the small ones do not count; weights of at most 0.15 are left out, the light still taken."""
    density = torch.full((5, 5, 5), -math.log(0.7))
    density[1::2] = -math.log(0.95)
    rays = rays_along(((0, 2, 2), (1, 0, 0)))
    known = (Known(0, (0.21 * 2, 0.51 * 2), 0.21 * 2, 0.51, 0.343),)
    settings = RaySettings(EVERY_METRE, Exponential(), alpha_min=0.06, weight_min=0.15)
    return RayCase(name, rays, small(density), settings, known)


def _probability(name: str) -> RayCase:
    """Probabilities 0.4 at every voxel: 0.4, 0.4, 0.2, nothing more."""
    density = torch.full((5, 5, 5), math.log(0.4 / 0.6))
    rays = rays_along(((0, 2, 2), (1, 0, 0)), ((3, 2, 2), (1, 0, 0)))
    # Outside of the grid the density is 0, the probability a half.
    known = (Known(0, (0.8, 2.0), 0.8, 1.0, 0.0), Known(1, (1.2 + 1.6, 1.6), 0.4 + 0.2 * 2, 1.0, 0.0))
    return RayCase(name, rays, small(density), RaySettings(EVERY_METRE, Probability()), known)


def _centres(name: str) -> RayCase:
    """Voxels 1 m apart with centres at 0.5, 1.5, ...; half a metre before the first a half is left, a metre before nothing."""
    density = torch.zeros(1, 4, 4, 4)
    density[0, 0] = 2 * math.log(2)
    features = torch.ones(1, 4, 4, 4, 1)
    grid = GridField(density, features, (0.0,) * 3, (4.0,) * 3, "centres")
    rays = rays_along(((0, 1.5, 2.5), (0, 0, 0.5)), ((0.5, 1.5, 2.5), (0, 1, 0)), ((-0.25, 2.5, 1.5), (0, 1, 0)))
    sampler = UniformSampler(-0.5, 1.5, 2)  # at 0 and 1 m
    a = 1 - 2**-0.5  # 0.75 m off the voxel, a quarter of its density
    known = (
        Known(0, (0.5 * 0.5 + 0.5 * 0.5 * 0.5,), 0.25, 0.75, 0.25),
        Known(1, (0.9375,), 0.1875, 0.9375, 0.0625),
        Known(2, (0.25 * (a + (1 - a) * a),), (1 - a) * a, a + (1 - a) * a, (1 - a) ** 2),
    )
    return RayCase(name, rays, grid, RaySettings(sampler, Exponential(last=1.0)), known)


def random_rays(count: int, seed: int, batch: int = 1, spread: float = 5.0) -> Rays:
    """Rays from near the middle, rather level, with offsets and cosines."""
    generator = torch.Generator().manual_seed(seed)
    origins = spread * torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.2]) + torch.tensor([0.0, 0.0, 1.5])
    directions = torch.randn(count, 3, generator=generator) * torch.tensor([1.0, 1.0, 0.15])
    scene = torch.randint(0, batch, (count,), generator=generator)
    cosines = 0.6 + 0.4 * torch.rand(count, generator=generator)
    return Rays(origins, directions, scene, 0.2 * torch.rand(count, generator=generator) - 0.1, cosines)


def random_grid(
    lower: tuple[float, float, float],
    upper: tuple[float, float, float],
    seed: int,
    density: tuple[float, float] = (0.0, 14.0),
    size: tuple[int, int, int] = (18, 15, 6),
    channels: int = 4,
    batch: int = 1,
    alignment: str = "corners",
) -> GridField:
    """Densities from the first number up to the second, few of them large; normal features."""
    generator = torch.Generator().manual_seed(seed)
    low, high = density
    values = low + (high - low) * torch.rand(batch, *size, generator=generator) ** 2
    return GridField(values, torch.randn(batch, *size, channels, generator=generator), lower, upper, alignment)  # type: ignore[arg-type]


FEWER = SphereSampler((0.0, 0.0, 2.2), 39.0, 1.0, 120, 12)
RENDEROCC_FEWER = RENDEROCC.with_(sampler=FEWER, skip=SkipAccumulated(0.5))
assert isinstance(GAUSSIANOCC_PROB.sampler, AxisSampler)
FEWER_ON_AXES = replace(GAUSSIANOCC_PROB.sampler, count=120)


def _random(settings: RaySettings, corners: tuple[Point, Point], **grid: Any) -> Callable[[str], RayCase]:
    lower, upper = corners
    return lambda name: RayCase(name, random_rays(60, 1, grid.get("batch", 1)), random_grid(lower, upper, 2, **grid), settings)


def _border(name: str) -> RayCase:
    """Rays that start on the border of the inner region, run along it and cross it, axis-parallel ones among them."""
    rays = rays_along(
        ((39, 0, 2.2), (0, 1, 0)),
        ((39, 0, 2.2), (1, 0, 0)),
        ((-39, 0, 2.2), (1, 0, 0)),
        ((0, 39.5, 2.2), (1, 0, 0)),
        ((50, 0, 2.2), (-1, 0, 0)),
        ((0, 0, 2.2), (0, 0, 1)),
        ((0, 0, 2.2), (0.6, 0.8, 0)),
        ((300, 200, 2.2), (-0.9, -0.6, 0)),
    )
    grid = random_grid(*RENDEROCC_RANGE, seed=3, density=(6.0, 14.0), channels=17)
    return RayCase(name, rays, grid, RENDEROCC_FEWER)


def _no_rays(name: str) -> RayCase:
    rays = Rays(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    return RayCase(name, rays, random_grid(*RENDEROCC_RANGE, seed=3), RENDEROCC)


_THIN: dict[str, Any] = {"size": (7, 1, 1), "alignment": "centres", "density": (9.0, 14.0)}
_BUILDERS: dict[str, Callable[[str], RayCase]] = {
    "empty": _empty,
    "one_cell": _one_cell,
    "opaque_cell": _opaque_cell,
    "five_samples": _five_samples,
    "thresholds": _thresholds,
    "probability": _probability,
    "centres": _centres,
    "border": _border,
    "no_rays": _no_rays,
    "renderocc": _random(RENDEROCC_FEWER, RENDEROCC_RANGE, channels=17, batch=2),
    "renderocc_opaque": _random(RENDEROCC_FEWER, RENDEROCC_RANGE, density=(8.0, 22.0)),
    "renderocc_whole": _random(RENDEROCC, RENDEROCC_RANGE, channels=3),
    "interval": _random(RENDEROCC_FEWER.with_(activation=ShiftedSoftplus(1.3, 1e-4)), RENDEROCC_RANGE),
    "gaussianocc_prob": _random(
        GAUSSIANOCC_PROB.with_(sampler=FEWER_ON_AXES), GAUSSIANOCC_RANGE, density=(-9.0, 0.0), channels=18, batch=2
    ),
    "gaussianocc_density": _random(GAUSSIANOCC_DENSITY.with_(sampler=FEWER_ON_AXES), GAUSSIANOCC_RANGE, density=(-0.01, 0.06)),
    "prob_open": _random(
        GAUSSIANOCC_PROB.with_(sampler=FEWER_ON_AXES, activation=Probability(False)), GAUSSIANOCC_RANGE, density=(-9.0, -4.0)
    ),
    "uniform_z": _random(
        RaySettings(UniformSampler(0.5, 50.0, 90), Exponential(), depth="z"),
        RENDEROCC_RANGE,
        density=(-0.1, 0.3),
        alignment="centres",
    ),
    "axes_accumulated": _random(
        RaySettings(FEWER_ON_AXES, ShiftedSoftplus(), skip=SkipAccumulated(0.7), unit_directions=False), GAUSSIANOCC_RANGE
    ),
    "thin_grid": _random(RENDEROCC_FEWER, RENDEROCC_RANGE, **_THIN),
    "one_voxel": _random(RENDEROCC_FEWER, RENDEROCC_RANGE, size=(1, 1, 1), alignment="centres", density=(11.0, 14.0)),
    **{f"channels_{c}": _random(RENDEROCC_FEWER, RENDEROCC_RANGE, channels=c) for c in (1, 7, 8, 9, 16, 24, 33, 70)},
}


def _bound(name: str, builder: Callable[[str], RayCase]) -> Callable[[], RayCase]:
    return lambda: builder(name)


RAY_CASES: Mapping[str, Callable[[], RayCase]] = MappingProxyType({n: _bound(n, build) for n, build in _BUILDERS.items()})


@dataclass(frozen=True)
class RayRejection:
    """Inputs that every backend must refuse with a ValueError that contains ``argument``."""

    argument: str
    case: RayCase


def ray_rejections() -> list[RayRejection]:
    """Wrong shapes, types and values, rays without a direction or a scene, gradients that nobody has, one argument each."""
    grid = random_grid(*RENDEROCC_RANGE, seed=0, size=(4, 3, 2), channels=2, batch=2)
    good = RayCase("rejected", random_rays(5, 0, batch=2), grid, RENDEROCC_FEWER)

    def spoiled(value: Tensor, with_: float) -> Tensor:
        value = value.clone()
        value.view(-1)[-1] = with_
        return value

    found = []
    for name in ("density", "features"):
        value = getattr(grid, name)
        for bad in (spoiled(value, math.nan), spoiled(value, math.inf), value[:, :-1], value.to(torch.float16), value.numpy()):
            # density's own shape is taken for right, so features then differ from it
            shape = name if bad is not None and getattr(bad, "shape", None) == value.shape else "features"
            spoilt: dict[str, Any] = {name: bad}
            found.append(RayRejection(shape, replace(good, grid=replace(grid, **spoilt))))
    for name in ("origins", "directions", "offsets", "cosines"):
        value = getattr(good.rays, name)
        assert value is not None
        bads = [
            spoiled(value, math.nan),
            spoiled(value, -math.inf),
            value.double(),
            value.clone().requires_grad_(),
            value[..., None],
        ]
        found += [RayRejection(name, replace(good, rays=replace(good.rays, **{name: bad}))) for bad in bads]
    for length in (0.0, 1e-20, 1e19):
        turned = good.rays.directions.clone()
        turned[-1] = length
        found.append(RayRejection("directions", replace(good, rays=replace(good.rays, directions=turned))))
    for scene in (
        torch.tensor([0, 1, 2, 0, 0]),
        torch.tensor([0, -1, 0, 0, 0]),
        torch.zeros(5),
        torch.zeros(4, dtype=torch.int64),
    ):
        found.append(RayRejection("scene", replace(good, rays=replace(good.rays, scene=scene))))
    flat = replace(grid, density=grid.density[..., :1], features=grid.features[..., :1, :])
    found += [
        RayRejection("density", replace(good, grid=flat)),  # one voxel has no two corners
        RayRejection("density", replace(good, grid=replace(grid, density=grid.density[0]))),
        RayRejection("features", replace(good, grid=replace(grid, features=grid.features.permute(0, 4, 1, 2, 3)))),
        RayRejection("features", replace(good, grid=replace(grid, features=grid.features[..., :0]))),
        RayRejection("cosines", replace(good, rays=replace(good.rays, cosines=None), settings=good.settings.with_(depth="z"))),
    ]
    return found
