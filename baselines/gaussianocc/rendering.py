"""GaussianOcc's contracted grid as cameras see it: every vertex a Gaussian, or a volume along rays.

Reproduces GANWANSHUI/GaussianOcc networks/occupancy_decoder.py:274-448, 495-631 and lib/gaussian_renderer/__init__.py:46-165.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from baselines.gaussianocc.lifting import NEAR, STEP, ContractedGrid
from baselines.gaussianocc.recipe import Volume
from renderers import Cameras, Gaussians, RasterSettings, Renderer
from renderers.dialects import DIALECTS

if TYPE_CHECKING:
    from renderers.rays import RayRendering, RaySettings

RASTER = RasterSettings(**DIALECTS["original"].settings, depth="accumulated", legacy_fov_y=True)  # type: ignore[arg-type]
"""How the published fork of the original rasterizer renders. Its background is zeros: of 18 channels the kernel reads 15 past the
end of three."""

FAR = 1.5  # times half of the box's length: vertices beyond are larger
LARGER, LARGEST = 4.0, 8.0  # beyond that, and beyond the farthest depth
JITTER = 0.1  # of a step, to either side


@dataclass(frozen=True)
class Seen:
    """What V cameras of B samples see.

    logits        [B, V, h, w, C] accumulated
    depth         [B, V, h, w] metres along the cameras' z axes, accumulated
    alpha         [B, V, h, w]
    rays          what else a volume says, V * h * w rays a sample; None for splats
    """

    logits: Tensor
    depth: Tensor
    alpha: Tensor
    rays: RayRendering | None = None


def opacities(volume: Tensor, free: int) -> Tensor:
    """[B, N] in 0..1 of ``volume`` [B, C, X, Y, Z]: one minus the probability that a vertex is free, z outermost."""
    return torch.sigmoid(-volume[:, free]).transpose(1, 3).flatten(1)


def gaussians(volume: Tensor, free: int, vertices: Tensor, scale: float, reach: float, farthest: float) -> Gaussians:
    """Every vertex as an isotropic Gaussian with all logits, those of z = 0 first.

    volume    [B, C, X, Y, Z] logits
    free      the channel of free space
    vertices  [X, Y, Z, 3] metres
    scale     metres, standard deviation up to 1.5 ``reach`` m from the reference frame's origin; beyond, four times as much, and
              eight times beyond ``farthest`` m
    """
    means = vertices.transpose(0, 2).reshape(-1, 3).to(volume)
    distance = means.norm(dim=1)
    scales = torch.full_like(distance, scale)
    scales = torch.where(distance > FAR * reach, LARGER * scale, scales)
    scales = torch.where(distance > farthest, LARGEST * scale, scales)
    batch = volume.shape[0]
    return Gaussians(
        means=means.expand(batch, -1, -1),
        scales=scales[None, :, None].expand(batch, -1, -1),
        opacities=opacities(volume, free),
        features=volume.permute(0, 4, 3, 2, 1).flatten(1, 3),
    )


def half_spaces(means: Tensor, world_to_camera: Tensor) -> Tensor:
    """[B, V, N] bool: Gaussians on that side of a camera to which it looks, along the horizontal axis that it looks along most.
    For nuScenes and DDAD that is what is published by the camera's number.

    means            [B, N, 3]
    world_to_camera  [B, V, 4, 4]
    """
    rotation = world_to_camera[..., :3, :3]
    places = -(rotation.transpose(-1, -2) @ world_to_camera[..., :3, 3:])[..., :2, 0]
    forward = rotation[..., 2, :2]
    axis = forward.abs().argmax(dim=-1, keepdim=True)
    sign = forward.gather(-1, axis).sign()
    along = torch.where(axis == 0, means[:, None, :, 0], means[:, None, :, 1])
    return sign * (along - places.gather(-1, axis)) > 0


def splatted(cloud: Gaussians, cameras: Cameras, renderer: Renderer, settings: RasterSettings, culled: bool) -> Seen:
    """Images of Gaussians; ``culled``: each camera's of its half space alone."""
    visible = half_spaces(cloud.means, cameras.world_to_camera) if culled else None
    found = renderer.render(cloud, cameras, settings, visible)
    return Seen(found.features, found.depth, found.alpha)


def ray_settings(space: ContractedGrid, volume: Volume) -> RaySettings:
    """How ``renderers.rays`` has to render the contracted grid; ``renderers.rays.published`` has that of the published one."""
    from renderers import rays

    lower, upper = space.range
    fifths = tuple(0.2 * (b - a) / n for a, b, n in zip(lower, upper, space.shape, strict=True))
    sampler = rays.AxisSampler(
        space.lower, space.upper, space.ratio, space.diagonal, space.samples, NEAR, 1 - STEP / space.shape[0]
    )  # fmt: skip
    activation = rays.Probability(closed=True) if volume == "prob" else rays.Exponential(last=1e4, least_passed=1e-5)
    return rays.RaySettings(sampler, activation, unit_directions=False, skip=rays.SkipPerAxis(fifths))  # type: ignore[arg-type]


def cast(
    volume: Tensor,
    free: int,
    space: ContractedGrid,
    cameras: Cameras,
    renderer: str,
    kind: Volume,
    generator: torch.Generator | None,
) -> Seen:
    """Images of the logits as a volume, by a backend of ``renderers.rays`` by name; ``generator``, on the CPU, moves all samples
    of a ray by up to a tenth of a step, None: not.

    Of "density" the logit of free space is the density as it is, which upstream does not turn round.
    """
    from renderers import rays, registry
    from renderers.rays.cameras import joined, pixel_rays

    batch, views, width, height = volume.shape[0], cameras.views, cameras.width, cameras.height
    rows, columns = torch.meshgrid(
        torch.arange(height, device=volume.device), torch.arange(width, device=volume.device), indexing="ij"
    )  # fmt: skip
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
    lines = joined([pixel_rays(cameras, scene, view, pixels) for scene in range(batch) for view in range(views)])
    if generator is not None:
        drawn = torch.rand(lines.count, generator=generator) * 2 - 1
        offsets = (JITTER * STEP * space.voxel * drawn).to(volume)
        lines = rays.Rays(lines.origins, lines.directions, lines.scene, offsets, lines.cosines)
    grid = volume.permute(0, 2, 3, 4, 1).contiguous()
    density = -grid[..., free] if kind == "prob" else grid[..., free]
    field = rays.GridField(density.contiguous(), grid, *space.range, "corners")
    found = registry.get(renderer, "rays").render(lines, field, ray_settings(space, kind))
    shape = (batch, views, height, width)
    return Seen(found.features.unflatten(0, shape), found.depth.unflatten(0, shape), found.alpha.unflatten(0, shape), found)
