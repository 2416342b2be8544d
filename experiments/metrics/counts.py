"""From per-sample predictions to counts to scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.metrics.depth import depth_l1, depth_sums
from experiments.metrics.rayiou import ray_counts, ray_scores
from experiments.metrics.voxel import confusion, scores

Counts = dict[str, NDArray[Any]]
"""What one sample, or a sum of samples, contributes: "voxels" [C, C], and where they were measured "rays" [5, C],
"image" [C, C], "depth" [2], "bev" [C, C], and what ``experiments.metrics.lidar`` adds up."""


@dataclass(frozen=True)
class Scores:
    """All metrics of an evaluation.

    metrics    mIoU, IoU (GaussRender's rule for absent classes); mIoU_occ3d (Occ3D's rule); RayIoU, RayIoU@1, @2, @4;
               image_mIoU, image_IoU, bev_mIoU, bev_IoU; depth_l1. Percent, depth_l1 in metres. Without the
               measurements that were not made, the means over no class at all, and those for which no element counts.
    per_class  mIoU, RayIoU, image_mIoU, bev_mIoU -> class name -> percent. Without the empty class, and without
               classes that do not occur in the ground truth (for RayIoU: nor in the prediction). Empty, but there,
               where it was measured and nothing counted.
    absent     metric -> classes that the ground truth does not hold and that count 100 % in the number: of mIoU, image_mIoU
               and bev_mIoU, and, where it holds none at all, of IoU, image_IoU and bev_IoU. Without the empty class, and
               without the metrics where there is none.
    samples    number of samples
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    absent: dict[str, list[str]]
    samples: int


def sample_counts(
    predicted: Any,
    target: Any,
    camera_mask: Any,
    grid: OccupancyGrid,
    *,
    ray_origins: Any = None,
    views: Mapping[str, Any] | None = None,
) -> Counts:
    """The counts of one sample; arguments are numpy arrays or tensors on any device.

    predicted, target  [X, Y, Z] class ids; the target may hold ``grid.ignore``
    camera_mask        [X, Y, Z] bool, voxels that count for mIoU and IoU (not for RayIoU, which has no mask)
    ray_origins        [O, 3] metres in the grid's frame, or None to leave RayIoU out
    views              rendered maps, class ids and metres: pred_semantics, gt_semantics, pred_depth, gt_depth, all
                       [V, H, W], and pred_bev, gt_bev [H, W]; pairs may be missing, other keys are not read

    Raises ValueError for shapes that do not fit the grid and for half a pair of views.
    """
    guess, true, mask = array(predicted), array(target), array(camera_mask)
    for name, given in (("predicted", guess), ("target", true), ("camera_mask", mask)):
        if given.shape != grid.shape:
            raise ValueError(f"{name} is {list(given.shape)}, the grid is {list(grid.shape)}")

    def compared(pair: tuple[NDArray[Any], NDArray[Any]], counted: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        return confusion(*pair, counted, num_classes=grid.num_classes, ignore=grid.ignore)

    counts: Counts = {"voxels": compared((guess, true), mask.astype(bool))}
    if ray_origins is not None:
        counts["rays"] = ray_counts(
            guess.astype(np.uint8),
            np.where(true == grid.ignore, grid.empty, true).astype(np.uint8),
            array(ray_origins),
            lower=grid.lower,
            voxel_size=grid.voxel_size,
            num_classes=grid.num_classes,
            empty=grid.empty,
        )
    views = views or {}
    if (pair := _pair(views, "pred_semantics", "gt_semantics")) is not None:
        counts["image"] = compared(pair)
    if (pair := _pair(views, "pred_depth", "gt_depth")) is not None:
        counts["depth"] = depth_sums(*pair)
    if (pair := _pair(views, "pred_bev", "gt_bev")) is not None:
        counts["bev"] = compared(pair)
    return counts


def total(counts: Iterable[Counts]) -> tuple[Counts, int]:
    """The sum of the counts and their number; raises ValueError if there are none or their keys differ."""
    summed: Counts = {}
    number = 0
    for one in counts:
        if number and one.keys() != summed.keys():
            raise ValueError(f"samples were measured differently: {sorted(summed)} and {sorted(one)}")
        summed = {key: summed[key] + value for key, value in one.items()} if number else dict(one)
        number += 1
    if not number:
        raise ValueError("no samples to evaluate")
    return summed, number


def evaluate(counts: Iterable[Counts], class_names: Sequence[str], empty: int) -> Scores:
    """All scores from the counts of the samples, each sample once."""
    summed, number = total(counts)
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    absent: dict[str, list[str]] = {}

    def without_empty(values: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if name != class_names[empty]}

    for key, prefix in (("voxels", ""), ("image", "image_"), ("bev", "bev_")):
        if key in summed:
            published = scores(summed[key], class_names, empty, absent="one")
            present = scores(summed[key], class_names, empty, absent="drop")
            metrics[f"{prefix}mIoU"], metrics[f"{prefix}IoU"] = published.miou, published.iou
            per_class[f"{prefix}mIoU"] = without_empty(present.per_class)
            if summed[key].any() and published.absent:
                absent[f"{prefix}mIoU"] = published.absent
                if not per_class[f"{prefix}mIoU"]:
                    absent[f"{prefix}IoU"] = published.absent
            if key == "voxels":
                metrics["mIoU_occ3d"] = present.miou
    if "rays" in summed:
        rays = ray_scores(summed["rays"], class_names, empty)
        metrics |= {"RayIoU": rays.rayiou} | {f"RayIoU@{threshold:g}": value for threshold, value in rays.at.items()}
        per_class["RayIoU"] = rays.per_class
    if "depth" in summed and summed["depth"][1] > 0:
        metrics["depth_l1"] = depth_l1(summed["depth"])
    return Scores({name: value for name, value in metrics.items() if not np.isnan(value)}, per_class, absent, number)


def array(value: Any) -> NDArray[Any]:
    """A numpy view or copy of an array or a tensor on any device."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def doubles(value: Any) -> NDArray[np.float64]:
    """``array`` in double precision."""
    return array(value).astype(np.float64, copy=False)


def _pair(views: Mapping[str, Any], predicted: str, target: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    given = [name for name in (predicted, target) if views.get(name) is not None]
    if not given:
        return None
    if len(given) == 1:
        raise ValueError(f"views has '{given[0]}' but not its counterpart of '{predicted}' and '{target}'")
    return array(views[predicted]), array(views[target])
