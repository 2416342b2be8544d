"""RenderOcc's voxels as Gaussians: the same rays, read from splatted images in place of samples along them.

Nothing of this is published for RenderOcc; it is there so that the renderer alone differs between two rows of a table. A voxel is
an isotropic Gaussian at its centre, of the size that GaussRender publishes for the data set. Gaussians of that size overlap: a
layer of voxels, of edge e and deviation s, has 2 pi s^2 / e^2 of their peaks in every point (2.9 as published). So each stops as
much of a ray as that part of a voxel would, and a layer as much as a voxel. Rays of one origin (a camera at a moment) are pixels
of one image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.gaussrender.config import PAPER, gaussian_scale
from baselines.interface import OccupancyGrid
from baselines.renderocc.rendering import ALPHA_INIT, STOP, THRESHOLD, Caster
from renderers import Cameras, Gaussians, RasterSettings, get, rays

ORIGINS = 1e3  # a metre's parts to which origins of one camera agree
STEEP = 0.99  # upwards part of an axis that another side of the image is found for
MARGIN = 1.01  # of the image around the outermost rays
LEAST_COSINE = 0.05  # of a ray's angle to its image's axis


def splatter(renderer: str, grid: OccupancyGrid, size: tuple[int, int]) -> Caster:
    """A caster (see ``rendering.Caster``) that splats with a backend of ``renderers`` by name, looked for at the first call.

    size  (width, height) in pixels of the image of each origin

    What it gives is ``depth`` along the ray in metres, ``features``, ``alpha`` and ``transmittance``; what only samples along a
    ray have is NaN. Raises ValueError for rays of one origin that look to more than one side.
    """
    settings = RasterSettings(alpha_min=THRESHOLD, transmittance_min=STOP)
    scale = gaussian_scale(grid, PAPER)
    overlap = 2 * math.pi * (scale / grid.voxel_size) ** 2
    activation = rays.ShiftedSoftplus(1.0 / overlap, ALPHA_INIT)

    def cast(density: Tensor, features: Tensor, origins: Tensor, directions: Tensor) -> rays.RayRendering:
        view, cameras, pixels, cosines = images_of(origins, directions, size)
        opacities = -torch.expm1(-activation.interval * F.softplus(density.flatten() + activation.shift))
        means = grid.centres(density.device).to(density).reshape(1, -1, 3)
        gaussians = Gaussians(
            means=means,
            scales=means.new_full((1, means.shape[1], 1), scale),
            opacities=opacities[None],
            features=features.reshape(1, means.shape[1], -1),
        )
        seen = get(renderer).render(gaussians, cameras, get(renderer).native(settings))
        row, column = pixels.unbind(-1)
        alpha = seen.alpha[0, view, row, column]
        unknown = alpha.new_full(alpha.shape, torch.nan)
        return rays.RayRendering(
            features=seen.features[0, view, row, column],
            depth=seen.depth[0, view, row, column] / cosines,
            alpha=alpha,
            transmittance=1 - alpha,
            squares=unknown,
            spaced_squares=unknown,
            spread=unknown,
            samples=torch.zeros_like(view),
        )

    return cast


def images_of(origins: Tensor, directions: Tensor, size: tuple[int, int]) -> tuple[Tensor, Cameras, Tensor, Tensor]:
    """One upright camera an origin, which sees all its rays; at least one ray is needed.

    origins, directions  [R, 3], directions of length 1
    size                 (width, height) of the images

    Returns which camera a ray belongs to [R], the cameras (a batch of one), its (row, column) [R, 2] there, and the cosine [R] of
    its angle to the camera's axis.
    """
    _, view = torch.unique((origins * ORIGINS).round(), dim=0, return_inverse=True)
    count = int(view.max()) + 1
    mean = torch.zeros(count, 7, dtype=origins.dtype, device=origins.device)
    mean.index_add_(0, view, torch.cat([origins, directions, torch.ones_like(origins[:, :1])], dim=1))
    centres, forward = mean[:, :3] / mean[:, 6:], F.normalize(mean[:, 3:6], dim=1)
    steep = forward[:, 2:].abs() > STEEP
    up = torch.where(steep, forward.new_tensor([1.0, 0.0, 0.0]), forward.new_tensor([0.0, 0.0, 1.0]))
    right = F.normalize(torch.linalg.cross(forward, up), dim=1)
    axes = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=1)  # rows: camera's x, y, z
    local = (axes[view] @ directions[..., None])[..., 0]
    cosines = local[:, 2]
    if bool((cosines < LEAST_COSINE).any()):
        raise ValueError(
            "rays: some of one origin look to another side than the others; splats need those of one camera together"
        )
    tangents = local[:, :2] / cosines[:, None]
    width, height = size
    reach = torch.zeros(count, 2, dtype=origins.dtype, device=origins.device)
    reach.scatter_reduce_(0, view[:, None].expand(-1, 2), tangents.abs(), "amax")
    middle = origins.new_tensor([width / 2, height / 2])
    focal = middle / (MARGIN * reach.clamp(min=1e-3))
    intrinsics = torch.zeros(1, count, 3, 3, dtype=origins.dtype, device=origins.device)
    intrinsics[0, :, 0, 0], intrinsics[0, :, 1, 1], intrinsics[0, :, 2, 2] = focal[:, 0], focal[:, 1], 1.0
    intrinsics[0, :, :2, 2] = middle
    to_camera = torch.eye(4, dtype=origins.dtype, device=origins.device).repeat(1, count, 1, 1)
    to_camera[0, :, :3, :3] = axes
    to_camera[0, :, :3, 3] = -(axes @ centres[..., None])[..., 0]
    pixels = (tangents * focal[view] + middle).long().flip(-1)
    return view, Cameras(intrinsics, to_camera, width, height), pixels, cosines
