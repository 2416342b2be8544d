"""How a rig moved between two moments, by aligning its images directly: brightness over a flat ground, least squares.

Gauss and Newton's steps on the difference of two images, as Lucas and Kanade (IJCAI 1981) have them, with the mean of both ones'
gradients (Benhimane and Malis, IROS 2004), for one motion of all cameras. How far a pixel sees is not known: below the horizon it
is taken for as far as the ground. That says how a rig turns, and how far it moves up to a factor that is much the same in all
frames.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from baselines.interface import Neighbours
from baselines.photometric.rigid import rigid, rotation_matrix
from baselines.photometric.scales import smaller
from baselines.photometric.warping import back_projected, in_sight, moved, projected, sampled

DIVISORS = (8, 4)
"""By which the images' size is divided, one after the other: what moves by much is found in the small ones."""

STEPS = 3
"""At each size."""

FARTHEST = 30.0
"""Metres; depth of what is above the horizon or farther on the ground. At 15 and 60 rotations are found less well."""

UNLIKE = 0.06
"""Difference of brightness in 0..1 at which a pixel counts by half: what moves by itself, or is not where it is taken to be."""

LARGEST = (0.2, 4.0)
"""Radians and metres of each axis; what goes beyond has gone astray."""

_LEAST = 1e-6  # added to the squares that divide, so that images without any gradient have a solution: no motion


@torch.no_grad()
def aligned(earlier: Tensor, later: Tensor, at: Neighbours, valid: Tensor) -> Tensor:
    """[N, 6] axis-angle in radians and shift in metres of the rig: it brings points to where they are seen from later.

    earlier, later  [N, V, 3, H, W] in 0..1
    at              ``intrinsics`` [N, V, 3, 3], ``camera_to_ego`` [N, V, 4, 4] and ``mask`` [N, V, H, W] of both; z = 0 of the
                    rig's frame is the ground
    valid           [N, V] bool, cameras that there are at both moments

    Raises ValueError for cameras that are not above the ground.
    """
    rotation, place = at.camera_to_ego[..., :3, :3], at.camera_to_ego[..., :3, 3]
    if not bool((place[..., 2] > 0).all()):
        lowest = float(place[..., 2].min())
        raise ValueError(f"aligned cameras must be above the ground, z = 0 of the labels' frame; one is at {lowest:.2f} m")
    grey = replace(at, current=earlier.mean(dim=2, keepdim=True), images=later.mean(dim=2, keepdim=True)[:, None])
    limit = earlier.new_tensor(LARGEST).repeat_interleave(3)
    found = earlier.new_zeros(len(earlier), 6)
    for divisor in DIVISORS:
        small = smaller(grey, divisor)
        before, after, intrinsics = small.current[:, :, 0], small.images[:, 0, :, 0], small.intrinsics
        size = (before.shape[-1], before.shape[-2])
        rays = _turned(rotation, back_projected(torch.ones_like(before), intrinsics))
        nearness = (-rays[..., 2] / place[..., 2, None, None]).clamp(min=1 / FARTHEST)
        points = place[:, :, None, None] + rays / nearness[..., None]
        counts = valid[..., None, None].expand_as(before)
        if small.mask is not None:
            counts = counts & small.mask
        slopes = torch.stack(torch.gradient(before, dim=(3, 2)), dim=2)
        looked_up = torch.cat([after[:, :, None], torch.stack(torch.gradient(after, dim=(3, 2)), dim=2)], dim=2)
        for _ in range(STEPS):
            motion = rigid(rotation_matrix(found[:, :3]), found[:, 3:])
            there = moved(points, motion[:, None])
            seen = _turned(rotation.mT, there - place[:, :, None, None])
            pixels = projected(seen, intrinsics)
            shown = sampled(looked_up, pixels)
            difference = shown[:, :, 0] - before
            weight = (counts & in_sight(seen, pixels, size)) / (1 + (difference / UNLIKE) ** 2)
            slope = (shown[:, :, 1:] + slopes) / 2
            across = intrinsics[:, :, None, None, :2] - pixels[..., None] * intrinsics[:, :, None, None, 2:]
            by_point = torch.einsum("nvahw,nvhwac->nvhwc", slope, across) / seen[..., 2:].clamp(min=1e-3)
            by_point = _turned(rotation, by_point)
            by_motion = torch.cat([torch.linalg.cross(there, by_point, dim=-1), by_point], dim=-1).flatten(1, 3).double()
            weighted = by_motion * weight.flatten(1)[..., None]
            squares = weighted.mT @ by_motion + _LEAST * torch.eye(6).to(by_motion)
            step = torch.linalg.solve(squares, (weighted.mT @ difference.flatten(1)[..., None].double())[..., 0])
            found = (found - step.to(found)).clamp(-limit, limit)
    return found


def _turned(rotation: Tensor, vectors: Tensor) -> Tensor:
    """``vectors`` [N, V, h, w, 3] by ``rotation`` [N, V, 3, 3]."""
    return torch.einsum("nvij,nvhwj->nvhwi", rotation, vectors)
