"""How RenderOcc renders rays: its rules for the scene, handed to a backend.

Reproduces pmj110119/RenderOcc mmdet3d/models/nerf/nerf_head.py:29-60, 105-257.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid
from baselines.renderocc.losses import RenderedRays, Teaching

if TYPE_CHECKING:
    from renderers.rays import RaySettings

Caster = Callable[[Tensor, Tensor, Tensor, Tensor], RenderedRays]
"""(density [X, Y, Z], features [X, Y, Z, C], origins [R, 3] metres, directions [R, 3] of length 1) -> rendered rays."""

ALPHA_INIT = 1e-6  # of a density of 0, over one voxel
STEP = 0.5  # voxels from one sample to the next
OUTER = 15  # one sample beyond the sphere for so many within it
SKIP = 0.95  # of a step, which samples of contracted space lie apart at least
THRESHOLD = 1e-7  # of the opacity and of the weight of samples that count
STOP = 1e-3  # transmittance behind which there is nothing
RIM = 1.0  # metres of the grid, all around, into which everything beyond the sphere is squeezed


@dataclass(frozen=True)
class Scene:
    """The sphere that is rendered as it is, and the box of the grid, as the published code has them: beyond the sphere space is
    contracted into the box's rim, and the box's height is measured in radii, a fortieth too low.

    centre        (x, y, z) metres
    radius        metres
    lower, upper  corners of the box in metres; the outermost voxels' centres lie on its faces
    steps         samples along the sphere's diameter
    step          metres from one to the next
    """

    centre: tuple[float, float, float]
    radius: float
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    steps: int
    step: float

    @classmethod
    def of(cls, grid: OccupancyGrid) -> Scene:
        """A grid's scene. Raises ValueError for a grid that leaves no room for a sphere."""
        half = [(high - low) / 2 for low, high in zip(grid.lower, grid.upper, strict=True)]
        radius = half[0] - RIM
        if radius <= 0:
            raise ValueError(f"grid: {2 * half[0]:g} m along x have no room for rays and a rim of {RIM:g} m on both sides")
        half[2] *= radius / half[0]
        centre = tuple((low + high) / 2 for low, high in zip(grid.lower, grid.upper, strict=True))
        lower = tuple(c - h for c, h in zip(centre, half, strict=True))
        upper = tuple(c + h for c, h in zip(centre, half, strict=True))
        # The number is whole on paper; float32 and float64 fall on different sides of it.
        steps = int(radius / half[0] * grid.shape[0] / STEP + 1e-6) + 1
        return cls(centre, radius, lower, upper, steps, STEP * grid.voxel_size)  # type: ignore[arg-type]

    def published_buffers(self) -> dict[str, list[float]]:
        """What the published state dict has of this below ``nerf_head``, in radii around the centre."""
        box = {
            name: [(value - c) / self.radius for value, c in zip(corner, self.centre, strict=True)]
            for name, corner in (("xyz_min", self.lower), ("xyz_max", self.upper))
        }
        shift = math.log(1 / (1 - ALPHA_INIT) - 1)
        return {"scene_center": list(self.centre), "scene_radius": [self.radius] * 3, **box, "act_shift": [shift]}


def caster(renderer: str, grid: OccupancyGrid, teaching: Teaching) -> Caster:
    """A backend of ``renderers.rays`` by name, with the scene of the grid.

    The backend is looked for at the first call, which raises UnknownRenderer for a name that renders no rays and
    RendererUnavailable where it cannot run.
    """
    scene = Scene.of(grid)

    def cast(density: Tensor, features: Tensor, origins: Tensor, directions: Tensor) -> RenderedRays:
        from renderers import rays, registry

        lower, upper = (scene.lower, scene.upper) if teaching.corner_aligned else (grid.lower, grid.upper)
        alignment = "corners" if teaching.corner_aligned else "centres"
        field = rays.GridField(density[None], features[None], lower, upper, alignment)
        scenes = torch.zeros(len(origins), dtype=torch.int64, device=origins.device)
        return registry.get(renderer, "rays").render(
            rays.Rays(origins, directions, scenes), field, ray_settings(scene, teaching)
        )  # fmt: skip

    return cast


def ray_settings(scene: Scene, teaching: Teaching) -> RaySettings:
    """How ``renderers.rays`` has to render the scene."""
    from renderers import rays

    if teaching.contraction:
        sampler = rays.SphereSampler(scene.centre, scene.radius, RIM, scene.steps, scene.steps // OUTER)
    else:
        sampler = rays.UniformSampler(0.0, 2 * scene.radius, scene.steps)
    return rays.RaySettings(
        sampler,
        rays.ShiftedSoftplus(STEP, ALPHA_INIT),
        depth=teaching.depth_transform,
        skip=rays.SkipAccumulated(scene.step * SKIP) if teaching.contraction else None,
        alpha_min=THRESHOLD,
        weight_min=THRESHOLD,
        transmittance_min=STOP,
    )
