"""Regularisers of volume rendering, from the sums that a rendering carries; each a scalar.

share: [R] of each ray in a mean over rays, 1 together; None: all alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.rays.interface import RayRendering


def distortion_flattened(rendering: RayRendering, scale: float, share: Tensor | None = None, of_all_rays: bool = True) -> Tensor:
    """Mean over rays of the distortion loss with one interval for all samples, 1 over their number
    (RenderOcc nerf_head.py:277-283, torch_efficient_distloss's flatten_eff_distloss).

    scale        metres in a unit of the loss; RenderOcc's is the radius, 39, as its distances are t / (1 + t)
    of_all_rays  the samples of the whole batch are counted, as published; False: each ray's own
    """
    samples = rendering.samples.sum() if of_all_rays else rendering.samples
    return _mean(rendering.squares / (3 * samples.clamp(min=1)) + rendering.spread / scale, share)


def distortion(rendering: RayRendering) -> Tensor:
    """Mean over rays of the distortion loss whose intervals are the ways between samples (m): mip-NeRF 360's, GaussianOcc's
    (networks/occupancy_decoder.py:422-430)."""
    return (rendering.spaced_squares / 3 + rendering.spread).mean()


def binary_entropy(probability: Tensor, least: float = 1e-6, share: Tensor | None = None) -> Tensor:
    """Mean of -p ln p - (1 - p) ln(1 - p), p held to [least, 1 - least]; RenderOcc's and GaussianOcc's is the transmittance."""
    p = probability.clamp(least, 1 - least)
    return _mean(-(p * p.log() + (1 - p) * (1 - p).log()), share)


def one_sided_entropy(probability: Tensor, least: float = 1e-8) -> Tensor:
    """Mean of -p ln(p + least), which is least where p is 0 or 1 (GaussianOcc networks/occupancy_decoder.py:534-537)."""
    return -(probability * (probability + least).log()).mean()


def total_variation(grid: Tensor) -> Tensor:
    """Mean of absolute differences between neighbours of a grid [B, X, Y, Z, ...], over all three axes at once."""
    steps = [grid.diff(dim=axis).abs() for axis in (1, 2, 3)]
    total = torch.stack([step.sum() for step in steps]).sum()
    return total / max(sum(step.numel() for step in steps), 1)


def _mean(values: Tensor, share: Tensor | None) -> Tensor:
    return values.mean() if share is None else (share * values).sum()
