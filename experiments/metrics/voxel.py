"""IoU over class maps of any shape: voxels, rendered images, bird's-eye views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Absent = Literal["one", "drop"]


def confusion(
    predicted: NDArray[Any],
    target: NDArray[Any],
    mask: NDArray[np.bool_] | None = None,
    *,
    num_classes: int,
    ignore: int = 255,
) -> Counts:
    """[C, C] int64 counts, rows = true class, columns = predicted class; the matrices of several samples add up.

    predicted, target  class ids of one shape
    mask               elements that count, or None for all; elements whose target is ``ignore`` never do

    Raises ValueError for different shapes and for ids outside 0..C-1 among the elements that count.
    """
    if predicted.shape != target.shape or (mask is not None and mask.shape != target.shape):
        shapes = [list(a.shape) for a in (predicted, target, mask) if a is not None]
        raise ValueError(f"predicted, target and mask differ in shape: {shapes}")
    counted = target != ignore if mask is None else mask.astype(bool) & (target != ignore)
    true, guess = target[counted].astype(np.int64), predicted[counted].astype(np.int64)
    for name, ids in (("target", true), ("predicted", guess)):
        if ids.size and (ids.min() < 0 or ids.max() >= num_classes):
            raise ValueError(f"{name} holds class {ids.min()}..{ids.max()}, the classes are 0..{num_classes - 1}")
    flat = np.bincount(true * num_classes + guess, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True)
class IoUScores:
    """Percentages.

    miou             mean over the classes except the empty one
    iou              occupied against empty, regardless of the class
    miou_with_empty  mean over all classes
    per_class        IoU by class name, the empty class included; without absent classes under the "drop" rule
    absent           classes without a single true element, the empty one left out
    """

    miou: float
    iou: float
    miou_with_empty: float
    per_class: dict[str, float]
    absent: list[str]


def scores(matrix: Counts, class_names: Sequence[str], empty: int, absent: Absent = "one") -> IoUScores:
    """IoU_c = tp / (seen + predicted - tp) from a confusion matrix [C, C], in percent.

    absent says what a class without a single true element is worth:
    - "one": 100 %, even if it was predicted (GaussRender src/evaluation/metrics.py:8-97);
    - "drop": nothing, the mean leaves it out (Occ3D's official ``Metric_mIoU`` with SparseOcc's addition,
      loaders/old_metrics.py:44-153). If no class is left, the mean is NaN.

    On a set where every class occurs both rules agree. Where no element counts at all, nothing was measured: NaN by both.
    """
    if matrix.shape != (len(class_names), len(class_names)):
        raise ValueError(f"confusion matrix {list(matrix.shape)} does not fit {len(class_names)} classes")
    occupied = np.arange(len(class_names)) != empty
    seen, predicted, hit = matrix.sum(axis=1), matrix.sum(axis=0), np.diagonal(matrix)
    per_class = _iou(hit, seen, predicted, absent)
    if not matrix.any():
        per_class, absent = np.full(len(class_names), np.nan), "drop"
    binary = _iou(matrix[occupied][:, occupied].sum(), seen[occupied].sum(), predicted[occupied].sum(), absent)
    return IoUScores(
        miou=_mean(per_class[occupied]),
        iou=float(binary),
        miou_with_empty=_mean(per_class),
        per_class={name: float(v) for name, v in zip(class_names, per_class, strict=True) if not np.isnan(v)},
        absent=[name for name, true, keep in zip(class_names, seen, occupied, strict=True) if keep and not true],
    )


def _iou(hit: Any, seen: Any, predicted: Any, absent: Absent) -> NDArray[np.float64]:
    union = np.asarray(seen + predicted - hit, dtype=np.float64)
    ratio = 100.0 * np.asarray(hit, dtype=np.float64) / np.where(union > 0, union, 1.0)
    return np.where(np.asarray(seen) > 0, ratio, 100.0 if absent == "one" else np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
