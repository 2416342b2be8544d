"""Photometric error of images against images, its minimum over neighbours, and smoothness.

Reproduces GANWANSHUI/GaussianOcc runner.py:1093-1195 and utils/layers.py (SSIM, get_smooth_loss), which are Monodepth2's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.interface import Neighbours
from baselines.options import check_not_negative
from baselines.photometric.warping import warped

C1, C2 = 0.01**2, 0.03**2  # of SSIM, for colours in 0..1
LEAST = 1e-7  # added to what divides


@dataclass(frozen=True)
class Photometric:
    """How images are compared. The defaults are published.

    ssim        share of the structural similarity in the error; the rest is that of the absolute difference
    auto_mask   an image that fits better as it is than warped teaches nothing: what moves along, and what has no texture
    tie_noise   standard deviation of what is added to the errors of unwarped images, so that ties are no habit; 0 for none
    smoothness  weight of ``smoothness``

    Raises ValueError for what is none of these.
    """

    ssim: float = 0.85
    auto_mask: bool = True
    tie_noise: float = 1e-5
    smoothness: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.ssim <= 1:
            raise ValueError(f"ssim must be within 0..1, got {self.ssim}")
        check_not_negative(self, "tie_noise", "smoothness")


def dissimilarity(one: Tensor, other: Tensor) -> Tensor:
    """(1 - SSIM) / 2 within 0..1 of images [..., C, h, w] in 0..1, over 3 x 3 pixels, reflected at the border.

    Means, variances and covariance are those of the nine pixels alike, not of a Gaussian window.
    """
    shape = one.shape
    x, y = (F.pad(image.reshape(-1, *shape[-3:]), (1, 1, 1, 1), mode="reflect") for image in (one, other))
    mean_x, mean_y = F.avg_pool2d(x, 3, 1), F.avg_pool2d(y, 3, 1)
    variance_x = F.avg_pool2d(x**2, 3, 1) - mean_x**2
    variance_y = F.avg_pool2d(y**2, 3, 1) - mean_y**2
    covariance = F.avg_pool2d(x * y, 3, 1) - mean_x * mean_y
    above = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    below = (mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2)
    return ((1 - above / below) / 2).clamp(0, 1).reshape(shape)


def photometric_error(image: Tensor, target: Tensor, ssim: float = 0.85) -> Tensor:
    """[..., h, w]: ``ssim`` x dissimilarity + the rest x absolute difference, of images [..., C, h, w], means over channels."""
    difference = (target - image).abs().mean(dim=-3)
    return ssim * dissimilarity(image, target).mean(dim=-3) + (1 - ssim) * difference if ssim else difference


def least_error(
    warped_error: Tensor, plain_error: Tensor | None, valid: Tensor, tie_noise: float, generator: torch.Generator
) -> Tensor:
    """[B, V, h, w] the least error of each pixel over T neighbours, warped and, with ``plain_error``, as they are.

    warped_error, plain_error  [B, T, V, h, w]
    valid                      [B, T, V] bool, neighbours that exist; of an image without any the error is 0
    tie_noise                  standard deviation of what is added to ``plain_error``
    generator                  on the CPU, of that noise
    """
    missing = ~valid[..., None, None]
    candidates = [warped_error]
    if plain_error is not None:
        if tie_noise:
            noise = torch.randn(plain_error.shape, generator=generator).to(plain_error)
            plain_error = plain_error + tie_noise * noise
        candidates.insert(0, plain_error)
    least = torch.cat([error.masked_fill(missing, torch.inf) for error in candidates], dim=1).amin(dim=1)
    return least.masked_fill(missing.all(dim=1), 0.0)


def neighbour_loss(
    depth: Tensor, neighbours: Neighbours, motion: Tensor, options: Photometric, generator: torch.Generator
) -> Tensor:
    """Mean of the least photometric errors over the pixels of all images that have a neighbour; 0 if none has.

    depth      [B, V, H, W] metres along the cameras' z axes, at the pixels of ``neighbours.current``
    motion     [B, T, V, 4, 4] camera of ``current`` -> the same camera at the neighbour's moment, metres: learned, or
               ``neighbours.camera_motion``
    generator  on the CPU, of the noise of ``Photometric.tie_noise``

    Warped errors are multiplied by ``neighbours.mask`` before the least is taken: a pixel that it leaves out counts with 0 in the
    mean, as published.
    """
    around = neighbours.images
    current, intrinsics = (
        neighbours.current[:, None].expand_as(around),
        neighbours.intrinsics[:, None].expand_as(motion[..., :3, :3]),
    )
    brought, _ = warped(around, depth[:, None].expand(*around.shape[:3], -1, -1), intrinsics, motion, intrinsics)
    error = photometric_error(brought, current, options.ssim)
    if neighbours.mask is not None:
        error = error * neighbours.mask[:, None]
    plain = photometric_error(around, current, options.ssim) if options.auto_mask else None
    least = least_error(error, plain, neighbours.valid, options.tie_noise, generator)
    return least.sum() / (neighbours.valid.any(dim=1).sum().clamp(min=1) * least[0, 0].numel())


def smoothness(depth: Tensor, image: Tensor) -> Tensor:
    """Mean gradient of the inverse of ``depth`` [..., h, w], divided by its mean over each image, less where ``image``
    [..., C, h, w] has edges itself: e to the minus its gradient's mean over channels."""
    inverse = 1 / (depth + LEAST)
    inverse = inverse / (inverse.mean(dim=(-2, -1), keepdim=True) + LEAST)
    along_u = (inverse[..., :, :-1] - inverse[..., :, 1:]).abs()
    along_v = (inverse[..., :-1, :] - inverse[..., 1:, :]).abs()
    edges_u = (image[..., :, :-1] - image[..., :, 1:]).abs().mean(dim=-3)
    edges_v = (image[..., :-1, :] - image[..., 1:, :]).abs().mean(dim=-3)
    return (along_u * (-edges_u).exp()).mean() + (along_v * (-edges_v).exp()).mean()
