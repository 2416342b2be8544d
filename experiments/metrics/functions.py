"""mIoU and RayIoU of anybody's voxels in one call: numpy arrays or torch tensors on any device, nothing of the mm stack.

    >>> import numpy as np
    >>> from experiments.metrics.functions import mean_iou, ray_iou
    >>> true = np.full((200, 200, 16), 17)  # Occ3D's grid, all free,
    >>> true[:, :, 1] = 11                  # but for a road
    >>> true[120:130, 95:105, 2:6] = 4      # with a car on it
    >>> predicted = np.roll(true, 3, axis=0)  # 1.2 m too far
    >>> mean_iou(predicted, true, mask=true != 17).per_class
    {'car': 70.0, 'driveable_surface': 100.0}
    >>> rays = ray_iou(predicted, true, origins=[[0.986, 0.0, 1.84]])  # where the lidar stands, metres
    >>> round(rays.rayiou, 2), {metres: round(value, 2) for metres, value in rays.at.items()}
    (78.97, {1.0: 57.36, 2.0: 89.77, 4.0: 89.77})

Several frames are one call with arrays [B, X, Y, Z], or, where they do not fit into memory, sums of the counts behind these
scores (``voxel_counts``, ``ray_counts``), which ``experiments.metrics.torchmetrics_classes`` keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.datasets.dataset_occ3d import DATASET
from experiments.metrics import rayiou
from experiments.metrics.counts import array
from experiments.metrics.rayiou import RayScores, ray_scores
from experiments.metrics.voxel import Absent, IoUScores, confusion, scores


def mean_iou(
    predicted: Any, target: Any, mask: Any = None, grid: OccupancyGrid | None = None, absent: Absent = "drop"
) -> IoUScores:
    """IoU over voxels, in percent.

    predicted, target  [X, Y, Z] or [B, X, Y, Z] class ids; where the target is ``grid.ignore`` nothing counts
    mask               of the same shape, the voxels that count; None for all
    grid               by default Occ3D-nuScenes'
    absent             what a class is worth that the target does not hold: by default nothing, as Occ3D counts, see ``scores``

    Raises ValueError for shapes that are not the grid's and ids that are no classes.
    """
    grid = grid or DATASET.grid()
    return scores(voxel_counts(predicted, target, mask, grid), grid.class_names, grid.empty, absent)


def ray_iou(predicted: Any, target: Any, origins: Any, grid: OccupancyGrid | None = None) -> RayScores:
    """RayIoU, in percent: of every class, at every threshold, and their means.

    predicted, target  [X, Y, Z] or [B, X, Y, Z] class ids; where the target is ``grid.ignore`` it counts as empty
    origins            [O, 3] metres in the grid's frame, of a batch one such array each; they may differ in number. The published
                       ones are those of ``experiments.datasets.geometry.ray_origins``
    grid               by default Occ3D-nuScenes'

    Raises ValueError for shapes that are not the grid's, ids that are no classes and origins that are no points.
    """
    grid = grid or DATASET.grid()
    return ray_scores(ray_counts(predicted, target, origins, grid), grid.class_names, grid.empty)


def voxel_counts(predicted: Any, target: Any, mask: Any, grid: OccupancyGrid) -> NDArray[np.int64]:
    """[C, C] counts behind ``mean_iou``, rows by true class; those of several calls add up."""
    guess, true = _checked(predicted, target, grid)
    counted = None if mask is None else array(mask).astype(bool).reshape(true.shape)
    return confusion(guess, true, counted, num_classes=grid.num_classes, ignore=grid.ignore)


def ray_counts(predicted: Any, target: Any, origins: Any, grid: OccupancyGrid) -> NDArray[np.int64]:
    """[5, C] counts behind ``ray_iou``, see ``rayiou.ray_counts``; those of several calls add up."""
    guess, true = _checked(predicted, target, grid)
    many: Sequence[Any] = [origins] if array(predicted).ndim == 3 else origins
    if len(many) != len(true):
        raise ValueError(f"origins are of {len(many)} frames, there are {len(true)}")
    total = np.zeros((len(rayiou.THRESHOLDS) + 2, grid.num_classes), np.int64)
    for one, other, points in zip(guess, true, many, strict=True):
        known = np.where(other == grid.ignore, grid.empty, other)
        total += rayiou.ray_counts(
            one.astype(np.uint8),
            known.astype(np.uint8),
            array(points),
            lower=grid.lower,
            voxel_size=grid.voxel_size,
            num_classes=grid.num_classes,
            empty=grid.empty,
        )
    return total


def _checked(predicted: Any, target: Any, grid: OccupancyGrid) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as [B, X, Y, Z]."""
    found = []
    for name, given, others in (("predicted", array(predicted), ()), ("target", array(target), (grid.ignore,))):
        if given.shape[-3:] != grid.shape or given.ndim not in (3, 4):
            raise ValueError(f"{name} is {list(given.shape)}, expected {list(grid.shape)} or a batch of them")
        if given.dtype.kind not in "iu":
            raise ValueError(f"{name} holds {given.dtype}, no class ids")
        wrong = (given < 0) | (given >= grid.num_classes)
        for other in others:
            wrong &= given != other
        if wrong.any():
            raise ValueError(f"{name} holds class {given[wrong][0]}, the classes are 0..{grid.num_classes - 1}")
        found.append(given.reshape(-1, *grid.shape))
    if found[0].shape != found[1].shape:
        raise ValueError(f"predicted {list(found[0].shape)} and target {list(found[1].shape)} differ in shape")
    return found[0], found[1]
