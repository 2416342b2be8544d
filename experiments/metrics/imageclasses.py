"""Scores of systems that images alone have taught, over the classes that models of images have prompts for.

Voxels whose true class is one of ``Published.unseen_classes`` do not count; predicted elsewhere, such a class is as wrong as any
other (boschresearch/GaussianFlowOcc mmdet3d/datasets/nuscenes_dataset_occ.py:60-110). NaN for a data set without such classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.metrics.counts import Counts
from experiments.metrics.rayiou import ray_scores
from experiments.metrics.voxel import IoUScores, scores


def miou(sums: Counts, grid: OccupancyGrid) -> float:
    """Mean over those classes that occur, in percent, on the voxels of the cameras' mask; NaN where no voxels were counted."""
    return _mean(_scores(sums, grid).per_class, grid) if "voxels" in sums else float("nan")


def moving(sums: Counts, grid: OccupancyGrid) -> float:
    """Mean over those classes alone that move by themselves (``Published.moving``) and occur, in percent, on the same voxels; NaN
    for a data set of which none are published."""
    if "voxels" not in sums:
        return float("nan")
    per_class = _scores(sums, grid).per_class
    kept = [per_class[name] for name in grid.published.moving or () if name in per_class]
    return float(np.mean(kept)) if kept else float("nan")


def iou(sums: Counts, grid: OccupancyGrid) -> float:
    """Occupied against empty on the same voxels, in percent."""
    return _scores(sums, grid).iou if grid.published.unseen_classes and "voxels" in sums else float("nan")


def rayiou(sums: Counts, grid: OccupancyGrid) -> float:
    """Mean over those classes and the thresholds, in percent; the rays are those of RayIoU, whatever they hit (SparseOcc's code,
    which both systems copied, leaves none out)."""
    return _mean(ray_scores(sums["rays"], grid.class_names, grid.empty).per_class, grid) if "rays" in sums else float("nan")


def _scores(sums: Counts, grid: OccupancyGrid) -> IoUScores:
    matrix: NDArray[np.int64] = sums["voxels"].copy()
    matrix[[grid.class_names.index(name) for name in grid.published.unseen_classes]] = 0
    return scores(matrix, grid.class_names, grid.empty, absent="drop")


def _mean(per_class: dict[str, float], grid: OccupancyGrid) -> float:
    left_out = {*grid.published.unseen_classes, grid.class_names[grid.empty]}
    kept = [value for name, value in per_class.items() if name not in left_out]
    return float(np.mean(kept)) if kept and grid.published.unseen_classes else float("nan")
