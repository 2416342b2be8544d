"""The splat: sums in voxels of what lies in them (BEVDet's bev_pool_v2, without CUDA)."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid


def voxel_numbers(points: Tensor, grid: OccupancyGrid, published_rounding: bool) -> tuple[Tensor, Tensor]:
    """Number (z * Y + y) * X + x of the voxel that each point [..., 3] (metres) is in, int64, and whether it is in the grid.

    published_rounding  coordinates are rounded towards zero before it is asked whether they are in the grid, so that what is up
                        to a voxel short of its lower faces counts in the first voxels (view_transformer.py:226-236)
    """
    lower = points.new_tensor(grid.lower)
    cells = (points - lower) / grid.voxel_size
    cells = cells.trunc() if published_rounding else cells.floor()
    sizes = cells.new_tensor(grid.shape)
    inside = ((cells >= 0) & (cells < sizes)).all(dim=-1)
    x, y, z = cells.where(inside[..., None], cells.new_zeros(())).long().unbind(-1)
    return (z * grid.shape[1] + y) * grid.shape[0] + x, inside


def sums(values: Tensor, numbers: Tensor, count: int) -> Tensor:
    """values [N, C] summed up by their numbers [N] in 0..count-1 -> [count, C]; 0 where there are none.

    The same bits every time, on a GPU too, where ``index_add`` adds in no fixed order and accumulation by index sorts first.
    """
    out = values.new_zeros(count, values.shape[1])
    if values.is_cuda:
        return out.index_put((numbers,), values, accumulate=True)
    return out.index_add(0, numbers, values)


def splat(context: Tensor, depth: Tensor, points: Tensor, grid: OccupancyGrid, published_rounding: bool = False) -> Tensor:
    """Volume [B, C, Z, Y, X]: in each voxel the sum of context times depth over the points that lie in it.

    context  [B, V, C, h, w] features of the pixels
    depth    [B, V, D, h, w] share of each depth
    points   [B, V, D, h, w, 3] metres, reference frame

    Differentiable in context and depth.
    """
    b, c = context.shape[0], context.shape[2]
    x, y, z = grid.shape
    voxels = b * x * y * z
    numbers, inside = voxel_numbers(points, grid, published_rounding)
    numbers = numbers + x * y * z * torch.arange(b, device=numbers.device)[:, None, None, None, None]
    # What is outside has a place of its own, which is dropped: to pick out the rest would be undone in the backward pass by an
    # addition in no fixed order.
    numbers = numbers.where(inside, numbers.new_tensor(voxels))
    lifted = context.movedim(2, -1)[:, :, None] * depth[..., None]
    volume = sums(lifted.flatten(0, -2), numbers.flatten(), voxels + 1)[:voxels]
    return volume.view(b, z, y, x, c).permute(0, 4, 1, 2, 3)
