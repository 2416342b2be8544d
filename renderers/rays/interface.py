"""The second contract: grids + rays -> features, depth, alpha, and what regularisers need.

Conventions (all backends, no exceptions):

- Rays and grids are in one reference frame, in metres. A grid that was augmented by a rotation or a flip about the sampler's
  centre is rendered with rays that were turned likewise.
- A sample lies at origin + distance x direction, the direction scaled to unit length or as given (``unit_directions``).
- The grid is interpolated trilinearly at contracted positions; outside of it everything is zero. Where voxels lie is said by
  the grid (``alignment``).
- Samples are placed in double precision, whatever the dtype: which cell one lies in decides about gradients.
- Device and dtype of the outputs follow the inputs. Rays have no gradient, density and features do.
- A backend works on the rays of the moment of the call: the caller may fill its buffers again before the backward pass.
- Whatever would be rendered wrongly is refused by name: the dataclasses check themselves, ``validate`` the tensors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from renderers.interface import Availability, first_derivative_only, require_finite
from renderers.rays.samplers import (
    AxisSampler,
    Point,
    Sampler,
    SkipAccumulated,
    SkipPerAxis,
    SkipRule,
    SphereSampler,
    UniformSampler,
    require,
    require_box,
)
from renderers.registry import Kind

Alignment = Literal["corners", "centres"]
DepthTransform = Literal["along", "contracted", "z"]
LENGTHS = (1e-12, 1e18)  # of directions; what float32 can normalise: squares stay within its range
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True)
class Rays:
    """R rays in the grid's frame.

    origins    [R, 3] m
    directions [R, 3] of any length from 1e-12 to 1e18
    scene      [R] int64, which grid of the batch a ray passes through
    offsets    [R] added to every distance of the ray (jitter, drawn by the caller), which then is at least 0; or None
    cosines    [R] between each ray and its camera's axis, for depth "z"; or None
    """

    origins: Tensor
    directions: Tensor
    scene: Tensor
    offsets: Tensor | None = None
    cosines: Tensor | None = None

    @property
    def count(self) -> int:
        return self.origins.shape[0]


@dataclass(frozen=True)
class GridField:
    """Density and features at the voxels of B grids. Channels last, so that a voxel's are neighbours in memory.

    density    [B, X, Y, Z]: what ``RaySettings.activation`` makes of it
    features   [B, X, Y, Z, C]
    lower, upper  corners of the grid (m), among contracted positions (see ``renderers.rays.samplers``)
    alignment  "corners": the outermost voxels lie on the range's faces (grid_sample's align_corners=True);
               "centres": the range is that of the voxels' cells, at whose middles they lie (align_corners=False)
    """

    density: Tensor
    features: Tensor
    lower: Point
    upper: Point
    alignment: Alignment

    def __post_init__(self) -> None:
        require_box("range", self.lower, self.upper)
        require(
            self.alignment in get_args(Alignment),
            f"alignment must be one of {', '.join(get_args(Alignment))}, got {self.alignment!r}",
        )

    @property
    def batch(self) -> int:
        return self.density.shape[0]

    @property
    def channels(self) -> int:
        return self.features.shape[-1]

    @property
    def to_index(self) -> tuple[Point, Point]:
        """Factor and term by axis: a contracted position times the one plus the other is a voxel index, whole at a voxel."""
        factors, terms = [], []
        for n, low, high in zip(self.density.shape[1:], self.lower, self.upper, strict=True):
            factors.append((n - 1 if self.alignment == "corners" else n) / (high - low))
            terms.append(-low * factors[-1] - (0 if self.alignment == "corners" else 0.5))
        return tuple(factors), tuple(terms)  # type: ignore[return-value]


@dataclass(frozen=True)
class ShiftedSoftplus:
    """alpha = 1 - (1 + exp(density + shift))^-interval, shift = ln(1 / (1 - alpha_init) - 1): DVGO's and RenderOcc's
    (nerf_head.py:218, 301-304), whose interval does not follow the spacing of samples."""

    interval: float = 0.5
    alpha_init: float = 1e-6

    def __post_init__(self) -> None:
        require(0 < self.interval < math.inf, f"interval must be positive, got {self.interval}")
        require(0 < self.alpha_init < 1, f"alpha_init must lie between 0 and 1, got {self.alpha_init}")

    @property
    def shift(self) -> float:
        return math.log(1 / (1 - self.alpha_init) - 1)


@dataclass(frozen=True)
class Exponential:
    """alpha = 1 - exp(-relu(density) delta), delta the way (m) to the next sample, ``last`` behind the last one; a sample leaves
    at least ``least_passed`` of the transmittance (GaussianOcc's ``density``, utils/render.py:76-84)."""

    last: float = 1e4
    least_passed: float = 1e-5

    def __post_init__(self) -> None:
        require(0 < self.last < math.inf, f"last must be positive, got {self.last}")
        require(0 <= self.least_passed < 1, f"least_passed must lie in [0, 1), got {self.least_passed}")


@dataclass(frozen=True)
class Probability:
    """sigmoid(density) is the probability that a ray ends at a sample, added up to 1 at most (GaussianOcc's ``prob``,
    networks/occupancy_decoder.py:372-387, where density is minus the logit of free space).

    closed  where the last sample is skipped, the ray ends there for sure, with features of zero. (GaussianOcc takes logits of one
            there, which adds the same to every channel.)
    """

    closed: bool = True

    def __post_init__(self) -> None:
        require(isinstance(self.closed, bool), f"closed must be True or False, got {self.closed!r}")


Activation = ShiftedSoftplus | Exponential | Probability


@dataclass(frozen=True)
class RaySettings:
    """How rays are rendered; without the last four everything counts, which is what published thresholds approximate.

    sampler            where samples lie, and the contraction
    activation         what a sample's density does to the ray
    unit_directions    True: directions are scaled to unit length, distances are in metres; False: distances are multiples of the
                       direction (depth is the camera's z if directions have z = 1)
    depth              what of a sample's distance t is averaged: "along" = t; "contracted" = r t / (r + t) with the radius r of a
                       ``SphereSampler`` (RenderOcc: a surface at D metres has depth D / (1 + D / r)); "z" = t times the ray's
                       cosine
    skip               a rule for samples that do not count, or None
    alpha_min          samples with alpha of at most that do not count
    weight_min         samples with a weight of at most that are left out of all sums, not of the transmittance
    transmittance_min  the first sample that makes the transmittance smaller is the last one that counts; 0 for no stop
    """

    sampler: Sampler
    activation: Activation = ShiftedSoftplus()
    unit_directions: bool = True
    depth: DepthTransform = "along"
    skip: SkipRule | None = None
    alpha_min: float = 0.0
    weight_min: float = 0.0
    transmittance_min: float = 0.0

    def __post_init__(self) -> None:
        kinds: dict[str, tuple[type, ...]] = {
            "sampler": (UniformSampler, SphereSampler, AxisSampler),
            "activation": (ShiftedSoftplus, Exponential, Probability),
            "skip": (SkipAccumulated, SkipPerAxis, type(None)),
        }
        for name, allowed in kinds.items():
            value = getattr(self, name)
            known = ", ".join(kind.__name__.replace("NoneType", "None") for kind in allowed)
            require(isinstance(value, allowed), f"{name} must be one of {known}, got {value!r}")
        require(isinstance(self.unit_directions, bool), f"unit_directions must be True or False, got {self.unit_directions!r}")
        require(
            self.depth in get_args(DepthTransform),
            f"depth must be one of {', '.join(get_args(DepthTransform))}, got {self.depth!r}",
        )
        require(
            self.depth != "contracted" or isinstance(self.sampler, SphereSampler),
            f"depth 'contracted' needs the radius of a SphereSampler, the sampler is a {type(self.sampler).__name__}",
        )
        require(
            self.depth != "contracted" or self.unit_directions,
            "depth 'contracted' needs distances in metres: unit_directions=True",
        )
        for name in ("alpha_min", "weight_min", "transmittance_min"):
            value = getattr(self, name)
            fine = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
            require(fine, f"{name} must lie in [0, 1), got {value!r}")

    def with_(self, **changes: Any) -> RaySettings:
        """A copy with the named settings changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class RayRendering:
    """What R rays show, and sums over their samples' weights w that regularisers need (``renderers.rays.regularisers``).

    features       [R, C] sum of w times features: not divided by alpha
    depth          [R] sum of w m, m the sample's distance after the depth transform (m)
    alpha          [R] sum of w
    transmittance  [R] what is left behind the last sample that counted (RenderOcc's alphainv_last)
    squares        [R] sum of w^2
    spaced_squares [R] sum of w^2 times the way to the next sample (m; of the last it is ``Exponential.last``, or the way before)
    spread         [R] sum over all pairs of samples of w w' |m - m'| (m): 2 sum_i w_i (m_i W_<i - WM_<i)
    samples        [R] int64: how many weights are in the sums; no gradient
    """

    features: Tensor
    depth: Tensor
    alpha: Tensor
    transmittance: Tensor
    squares: Tensor
    spaced_squares: Tensor
    spread: Tensor
    samples: Tensor


DIFFERENTIABLE = tuple(f.name for f in fields(RayRendering) if f.name != "samples")


def validate(rays: Rays, grid: GridField, settings: RaySettings) -> None:
    """Raise ValueError naming the first argument that cannot be rendered, or not rendered right.

    That is a wrong shape, dtype or device, a non-finite value, a direction without a length, a scene that is not there, a ray
    that wants a gradient, a depth transform that lacks its cosines.
    """
    named = {"density": grid.density, "features": grid.features, "origins": rays.origins, "directions": rays.directions}
    optional = {"offsets": rays.offsets, "cosines": rays.cosines}
    named |= {name: value for name, value in optional.items() if value is not None}
    for name, given in {**named, "scene": rays.scene}.items():
        require(isinstance(given, Tensor), f"{name} must be a tensor, got {type(given).__name__}")
    density, r = grid.density, rays.origins.shape[0] if rays.origins.dim() else -1
    require(density.dim() == 4 and 0 not in density.shape[1:], f"density must be [B,X,Y,Z], got {list(density.shape)}")
    require(density.dtype in (torch.float32, torch.float64), f"density must be float32 or float64, got {density.dtype}")
    require(
        grid.features.dim() == 5 and grid.features.shape[:4] == density.shape and grid.features.shape[4] > 0,
        f"features must be [{','.join(map(str, density.shape))},C] with C > 0, channels last, got {list(grid.features.shape)}",
    )
    require(
        grid.alignment != "corners" or min(density.shape[1:]) > 1,
        f"density must have two voxels or more on each axis if corners are aligned, got {list(density.shape)}",
    )
    require(rays.origins.dim() == 2 and rays.origins.shape[1] == 3, f"origins must be [R,3], got {list(rays.origins.shape)}")
    shapes = {"directions": [r, 3], "scene": [r]} | {name: [r] for name in optional if name in named}
    for name, shape in shapes.items():
        value = rays.scene if name == "scene" else named[name]
        require(list(value.shape) == shape, f"{name} must be {shape}, got {list(value.shape)}")
    for name, value in named.items():
        require(value.device == density.device, f"{name} is on {value.device}, density on {density.device}")
        require(value.dtype == density.dtype, f"{name} is {value.dtype}, density is {density.dtype}")
        require_finite(name, value)
        wanted = name not in ("density", "features") and value.requires_grad and torch.is_grad_enabled()
        require(not wanted, f"{name} requires a gradient, and no backend has one for rays: pass {name}.detach()")
    require(rays.scene.device == density.device, f"scene is on {rays.scene.device}, density on {density.device}")
    require(rays.scene.dtype in WHOLE, f"scene must be int64, got {rays.scene.dtype}")
    require(settings.depth != "z" or rays.cosines is not None, "cosines must be given for depth 'z': [R], ray to camera's axis")
    if r > 0:
        least, most = rays.scene.min(), rays.scene.max()
        lengths = torch.linalg.vector_norm(rays.directions, dim=1).aminmax()
        require(0 <= int(least) and int(most) < grid.batch, f"scene must lie in 0..{grid.batch - 1}, got {least} to {most}")
        shortest, longest = (float(length) for length in lengths)
        require(
            shortest >= LENGTHS[0] and longest <= LENGTHS[1],
            f"directions must have lengths in {LENGTHS[0]}..{LENGTHS[1]}, got {shortest:.3g} to {longest:.3g}",
        )


def _own(rays: Rays) -> Rays:
    """Copies, which the caller's next frame does not change before the backward pass."""

    def copied(value: Tensor) -> Tensor:
        return value.detach().clone(memory_format=torch.contiguous_format)

    optional = (None if value is None else copied(value) for value in (rays.offsets, rays.cosines))
    return Rays(copied(rays.origins), copied(rays.directions), rays.scene.to(torch.int64, copy=True), *optional)


def _no_rays(grid: GridField) -> RayRendering:
    """Outputs of no ray, connected to the graph of the inputs."""
    zero = torch.stack([field.flatten()[:0].sum() for field in (grid.density, grid.features)]).sum()
    flat = {name: zero.expand(0).clone() for name in DIFFERENTIABLE}
    flat["features"] = zero.expand(0, grid.channels).clone()
    return RayRendering(**flat, samples=torch.zeros(0, dtype=torch.int64, device=zero.device))


class RayRenderer(ABC):
    """A backend that renders grids along rays.

    ``render`` checks its arguments, then hands over to the backend's ``_render``; it is differentiable in density and
    features (not in the rays).

    second_derivatives  whether gradients can be differentiated again (``create_graph=True``); where not, asking raises
                        NotImplementedError
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "rays"
    second_derivatives: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Whether this backend can run on this machine."""

    def render(self, rays: Rays, grid: GridField, settings: RaySettings) -> RayRendering:
        """Render every ray. Rays that miss the grid meet density zero everywhere.

        No rays give empty outputs with a gradient of zero. Raises ValueError for whatever ``validate`` refuses, naming the
        argument, and SettingNotSupported for what the backend cannot do.
        """
        validate(rays, grid, settings)
        # Half precision cannot hold weights of 1e-7; mixed-precision training must not reach in here.
        with torch.autocast(grid.density.device.type, enabled=False):
            if rays.count == 0:
                return _no_rays(grid)
            out = self._render(_own(rays), grid, settings)
        if not self.second_derivatives:
            for name in DIFFERENTIABLE:
                first_derivative_only(getattr(out, name), f"renderer '{self.name}'", "render with 'reference'")
        return out

    @abstractmethod
    def _render(self, rays: Rays, grid: GridField, settings: RaySettings) -> RayRendering: ...
