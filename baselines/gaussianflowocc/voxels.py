"""From what Gaussians add to voxels to classes.

Reproduces boschresearch/GaussianFlowOcc mmdet3d/models/detectors/gaussianflowocc.py:303-319.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid

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
