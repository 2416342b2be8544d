"""From Gaussians to voxels, and from those to classes.

Reproduces boschresearch/GaussianFlowOcc mmdet3d/models/detectors/gaussianflowocc.py:203-231, 303-319.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid

LEAST_SCALE = 1e-4  # metres; below it the precision leaves what float32 can hold, and 0 has none
OFFSETS_AT_ONCE = 27  # neighbours whose contributions are in memory together
NEVER = -1e4  # logit of a class that is never predicted
RISE = 100.0  # by which what the occupancy is from the threshold is multiplied; any positive number gives the same classes
BARELY = 1e-6  # of a voxel that is exactly at the threshold, which counts as occupied


@dataclass(frozen=True)
class ReadOut:
    """When a voxel is of which class.

    threshold      occupancy below which it is empty
    faint          occupancy below which it is none at all
    ceiling        metres in the reference frame; voxels whose middle is higher are empty, None: none are (quirk Q6)
    """

    threshold: float = 0.05
    faint: float = 1e-3
    ceiling: float | None = 3.4

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {self.threshold}: occupancy is at most 1")
        if not 0 <= self.faint <= 1:
            raise ValueError(f"faint must lie in 0..1, got {self.faint}")


def rotations(quaternions: Tensor) -> Tensor:
    """[..., 4] (w, x, y, z) of length 1 -> [..., 3, 3]."""
    w, x, y, z = quaternions.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def splat_to_voxels(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    logits: Tensor,
    grid: OccupancyGrid,
    neighbourhood: int,
) -> tuple[Tensor, Tensor]:
    """What N Gaussians add to the voxels up to ``neighbourhood`` from the one that a mean is in, along each axis.

    means [N, 3] metres, quaternions [N, 4] (w, x, y, z), scales [N, 3] metres, opacities [N], logits [N, K]

    With g = exp(-d' S^-1 d / 2) of the distance d from a mean to a voxel's middle, returns occupancy [X, Y, Z], the sum of
    opacity * g cut to 0..1, and semantics [X, Y, Z, K], the sum of logits * g, which opacity has no part in (quirk Q7). Both are
    differentiable. Scales below ``LEAST_SCALE`` count as that.
    """
    shape, channels = grid.shape, logits.shape[-1]
    lower = means.new_tensor(grid.lower)
    home = ((means.detach() - lower) / grid.voxel_size).floor()
    # A mean far outside would not fit an index; it reaches no voxel anyway.
    limit = max(shape) + neighbourhood + 1
    home = home.clamp(-limit, limit).long()
    axes = rotations(quaternions) / scales.clamp(min=LEAST_SCALE)[:, None]  # columns: own axes over standard deviations
    occupancy = means.new_zeros(shape[0] * shape[1] * shape[2])
    semantics = means.new_zeros(occupancy.shape[0], channels)
    steps = list(itertools.product(range(-neighbourhood, neighbourhood + 1), repeat=3))
    size = torch.tensor(shape, device=means.device)
    for first in range(0, len(steps), OFFSETS_AT_ONCE):
        offsets = torch.tensor(steps[first : first + OFFSETS_AT_ONCE], device=means.device)
        voxel = home[:, None] + offsets
        number, offset = ((voxel >= 0) & (voxel < size)).all(dim=-1).nonzero().unbind(-1)
        reached = voxel[number, offset]
        away = lower + (reached + 0.5) * grid.voxel_size - means.index_select(0, number)
        scaled = (away[:, None] @ axes.index_select(0, number))[:, 0]
        share = torch.exp(-0.5 * scaled.square().sum(dim=-1))
        flat = (reached[:, 0] * shape[1] + reached[:, 1]) * shape[2] + reached[:, 2]
        occupancy = occupancy.index_add(0, flat, opacities.index_select(0, number) * share)
        semantics = semantics.index_add(0, flat, logits.index_select(0, number) * share[:, None])
    return occupancy.clamp(0, 1).view(shape), semantics.view(*shape, channels)


def voxel_logits(
    occupancy: Tensor, semantics: Tensor, grid: OccupancyGrid, classes: tuple[int, ...], read_out: ReadOut
) -> Tensor:
    """Logits [C, X, Y, Z] of all classes of the grid whose largest one is what ``read_out`` says: empty, or the largest of the
    semantics (the first of several). Classes that are not among ``classes`` are never the largest.

    occupancy  [X, Y, Z] in 0..1
    semantics  [X, Y, Z, K] of ``classes``, class ids of the grid
    """
    occupancy = torch.where(occupancy < read_out.faint, 0.0, occupancy)
    if read_out.ceiling is not None:
        height = grid.centres(occupancy.device, occupancy.dtype)[..., 2]
        occupancy = torch.where(height > read_out.ceiling + 1e-3 * grid.voxel_size, 0.0, occupancy)
    lacking = read_out.threshold - occupancy
    out = semantics.new_full((grid.num_classes, *occupancy.shape), NEVER)
    # Against the largest one, so that no size of theirs swallows what the occupancy lacks to the threshold.
    out[list(classes)] = (semantics - semantics.amax(dim=-1, keepdim=True)).movedim(-1, 0)
    out[grid.empty] = RISE * torch.where(lacking > 0, lacking, lacking - BARELY)
    return out
