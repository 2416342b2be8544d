"""Features along lines of sight: each voxel takes those of the pixel that its centre falls on (arXiv:2112.00726, section 3.1).

Reproduces hustvl/Symphonies ssc_pl/models/projections/flosp.py. A pixel's number at a coarser scale is its number in the image
divided without remainder.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid
from baselines.symphonies.geometry import inside, project


def lines_of_sight(
    maps: Sequence[Tensor], scales: Sequence[int], grid: OccupancyGrid, projection: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """[B, F, X, Y, Z]: the sum over ``scales`` of the features that voxels of ``grid`` see; zero out of the image.

    maps        one [B, F, h, w] a scale, which may be a row or a column short of ``image_size`` / scale
    projection  [B, 4, 4] reference frame -> (u*z, v*z, z, 1)
    image_size  (width, height)
    """
    pixels, depth = project(grid.centres(projection.device).flatten(0, 2), projection)
    seen, pixels = inside(pixels, depth, image_size), pixels.long()
    sample = torch.arange(len(projection), device=projection.device)[:, None]
    total = maps[0].new_zeros(())
    for level, scale in zip(maps, scales, strict=True):
        height, width = level.shape[2:]
        column, row = torch.div(pixels, scale, rounding_mode="floor").unbind(dim=-1)
        # Indexing by rows of features, of which the gradient is summed in one order on every device.
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        total = total + level.flatten(2).transpose(1, 2)[sample, index]
    found = torch.where(seen[..., None], total, 0)
    # Features last in memory is what PyTorch calls channels last, which CPU convolutions are faster with.
    return found.unflatten(1, grid.shape).movedim(-1, 1)
