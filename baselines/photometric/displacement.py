"""How far images are displaced between two moments, by least squares (Lucas and Kanade, IJCAI 1981)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 5
"""Pixels of the reduced images, across and down, that are taken to move alike."""

FLAT = 1e-4
"""Squared gradient of brightness in 0..1 a pixel, below which a window tells little of where it went."""

FARTHEST = 3.0
"""Pixels; what is found beyond is found by chance."""


@torch.no_grad()
def displacement(earlier: Tensor, later: Tensor, divisor: int) -> Tensor:
    """[N, V, 2] pixels across and down that what images show has moved by, mean over the image; in pixels of images whose size is
    divided by ``divisor``. Each axis by itself, in one step: what moves by more than about a pixel is found to move less.

    earlier, later  [N, V, 3, H, W] in 0..1
    """
    before, after = (F.avg_pool2d(images.mean(dim=-3).flatten(0, -3)[:, None], divisor) for images in (earlier, later))
    middle, change = (before + after) / 2, after - before
    across = F.pad((middle[..., 2:] - middle[..., :-2]) / 2, (1, 1))
    down = F.pad((middle[..., 2:, :] - middle[..., :-2, :]) / 2, (0, 0, 1, 1))

    def around(products: Tensor) -> Tensor:
        return F.avg_pool2d(products, WINDOW, 1, WINDOW // 2)

    moved = [-around(slope * change) / (around(slope * slope) + FLAT) for slope in (across, down)]
    return torch.cat(moved, dim=1).clamp(-FARTHEST, FARTHEST).mean(dim=(2, 3)).unflatten(0, earlier.shape[:-3])
