"""Images seen from elsewhere: a pixel's depth makes it a point, the point moves into another camera, whose image is looked up.

Reproduces GANWANSHUI/GaussianOcc runner.py:1026-1091 with utils/layers.py (BackprojectDepth, Project3D), but for pixel centres:
they lie at +0.5 as everywhere here, there at whole numbers, half a pixel off in both directions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_DEPTH = 1e-7
"""Metres added to z before it divides, as published."""


def pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """[h, w, 3] of (u, v, 1), the centres of an image's pixels."""
    v, u = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5 for size in (height, width))
    grid_v, grid_u = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([grid_u, grid_v, torch.ones_like(grid_u)], dim=-1)


def back_projected(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points [..., h, w, 3] in metres, in the camera's own frame, of pixels with ``depth`` [..., h, w] along its z axis.

    intrinsics  [..., 3, 3] for pixels of ``depth``
    """
    height, width = depth.shape[-2:]
    rays = torch.einsum("...ij,hwj->...hwi", torch.linalg.inv(intrinsics), pixel_centres(height, width, like=depth))
    return rays * depth[..., None]


def moved(points: Tensor, motion: Tensor) -> Tensor:
    """``points`` [..., h, w, 3] by ``motion`` [..., 4, 4]."""
    return torch.einsum("...ij,...hwj->...hwi", motion[..., :3, :3], points) + motion[..., None, None, :3, 3]


def projected(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels [..., h, w, 2] (u, v) of ``points`` [..., h, w, 3] in a camera with ``intrinsics`` [..., 3, 3].

    What lies behind the camera gets pixels too, which ``in_sight`` tells apart.
    """
    onto = torch.einsum("...ij,...hwj->...hwi", intrinsics, points)
    return onto[..., :2] / (onto[..., 2:] + LEAST_DEPTH)


def in_sight(points: Tensor, pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """[..., h, w] bool: ``points`` in front of the camera whose ``pixels`` are within an image of ``size`` (width, height)."""
    within = (pixels >= 0).all(dim=-1) & (pixels < pixels.new_tensor(size)).all(dim=-1)
    return within & (points[..., 2] > 0)


def sampled(images: Tensor, pixels: Tensor) -> Tensor:
    """``images`` [..., C, H, W] at ``pixels`` [..., h, w, 2] (u, v): [..., C, h, w], bilinear, the border's colour beyond it."""
    shape, (height, width) = images.shape[:-3], images.shape[-2:]
    # align_corners=True, as published: -1 and 1 are the centres of the outermost pixels.
    span = pixels.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    grid = (pixels - 0.5) / span * 2 - 1
    flat = F.grid_sample(
        images.reshape(-1, *images.shape[-3:]), grid.reshape(-1, *grid.shape[-3:]), padding_mode="border", align_corners=True
    )
    return flat.reshape(*shape, *flat.shape[1:])


def warped(images: Tensor, depth: Tensor, target_intrinsics: Tensor, motion: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """``images`` as the target camera sees them if ``depth`` is right and nothing moves: [..., C, h, w], differentiable in depth
    and motion; and [..., h, w] bool, where the point is in the other image's sight.

    images             [..., C, H, W]
    depth              [..., h, w] metres along the target camera's z axis
    target_intrinsics  [..., 3, 3] for pixels of ``depth``
    motion             [..., 4, 4] target camera -> the other camera, metres
    intrinsics         [..., 3, 3] for pixels of ``images``
    """
    points = moved(back_projected(depth, target_intrinsics), motion)
    pixels = projected(points, intrinsics)
    return sampled(images, pixels), in_sight(points, pixels, (images.shape[-1], images.shape[-2]))
