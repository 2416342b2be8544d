"""The photometric loss of smaller images.

Warped images tell only up to a pixel or two of where they should have come from what is wrong with a depth; of smaller images
that is further. Monodepth2 (Godard et al., ICCV 2019) compares at the images' own size and has four sizes of depth instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.interface import Neighbours
from baselines.photometric.losses import Photometric, neighbour_loss


def check_scales(scales: Sequence[int]) -> None:
    """Raise ValueError for what images cannot be divided by."""
    if not scales or any(not isinstance(scale, int) or scale < 1 for scale in scales):
        raise ValueError(f"scales must be whole numbers of at least 1, got {scales}")


def scaled_loss(
    depth: Tensor,
    neighbours: Neighbours,
    motion: Tensor,
    options: Photometric,
    scales: Sequence[int],
    generator: torch.Generator,
) -> Tensor:
    """Mean of ``neighbour_loss`` over images, and depth, whose pixels are means over ``scale`` x ``scale``, for each of the
    ``scales``; (1,) is ``neighbour_loss`` itself. What is left over on the right and below is not seen; a pixel of
    which the mask leaves a part out is left out.

    Raises ValueError for a scale that leaves less than two pixels across or down.
    """
    height, width = depth.shape[-2:]
    if min(height, width) < 2 * max(scales):
        raise ValueError(f"images of {width}x{height} pixels are too small to be compared at 1/{max(scales)} of their size")
    losses = []
    for scale in scales:
        small = neighbours if scale == 1 else smaller(neighbours, scale)
        losses.append(neighbour_loss(_means(depth, scale), small, motion, options, generator))
    return torch.stack(losses).mean()


def smaller(neighbours: Neighbours, scale: int) -> Neighbours:
    """``neighbours`` whose pixels are means over ``scale`` x ``scale``, without what is left over on the right and below; a pixel
    of which the mask leaves a part out is left out."""
    mask = neighbours.mask
    return replace(
        neighbours,
        images=_means(neighbours.images, scale),
        current=_means(neighbours.current, scale),
        intrinsics=neighbours.intrinsics / neighbours.intrinsics.new_tensor([scale, scale, 1])[:, None],
        mask=None if mask is None else _means(mask.to(neighbours.current), scale) == 1,
    )


def _means(maps: Tensor, scale: int) -> Tensor:
    """[..., h, w] -> [..., h // scale, w // scale]."""
    if scale == 1:
        return maps
    return F.avg_pool2d(maps.flatten(0, -3)[:, None], scale)[:, 0].unflatten(0, maps.shape[:-2])
