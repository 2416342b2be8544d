"""From per-sample predictions to counts to scores, alone or inside mmengine's evaluation loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray

from baselines.interface import OccupancyBatch, OccupancyGrid
from experiments.metrics.depth import depth_l1, depth_sums
from experiments.metrics.rayiou import ray_counts, ray_scores
from experiments.metrics.registry import METRICS, Counted
from experiments.metrics.voxel import confusion, scores
from renderers.registry import Registry

Counts = dict[str, NDArray[Any]]
"""What one sample, or a sum of samples, contributes: "voxels" [C, C], and where they were measured "rays" [5, C],
"image" [C, C], "depth" [2], "bev" [C, C]."""


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
    guess, true, mask = _array(predicted), _array(target), _array(camera_mask)
    for name, array in (("predicted", guess), ("target", true), ("camera_mask", mask)):
        if array.shape != grid.shape:
            raise ValueError(f"{name} is {list(array.shape)}, the grid is {list(grid.shape)}")

    def compared(pair: tuple[NDArray[Any], NDArray[Any]], counted: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        return confusion(*pair, counted, num_classes=grid.num_classes, ignore=grid.ignore)

    counts: Counts = {"voxels": compared((guess, true), mask.astype(bool))}
    if ray_origins is not None:
        counts["rays"] = ray_counts(
            guess.astype(np.uint8),
            np.where(true == grid.ignore, grid.empty, true).astype(np.uint8),
            _array(ray_origins),
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


_OTHER = "metric "  # before its name, the counts of a metric that not every evaluation computes


def counted(names: Iterable[str]) -> dict[str, Counted]:
    """Of these metrics those that not every evaluation computes, ready to count."""
    targets = {name: METRICS.load(name).counted for name in names}
    return {name: _PARTS.load(target)() for name, target in targets.items() if target}


_PARTS: Registry[type[Counted]] = Registry("part of a metric", {}, "")


class OccupancyMetric(BaseMetric):
    """mmengine metric over ``Scores.metrics``; sums are exact under any launcher.

    Each process keeps the counts of its own samples. mmengine gathers them, puts them back into the order of the data
    set and cuts off the samples with which a distributed sampler filled up the last round, so every sample counts
    once (upstream counts the duplicates, and leaves depth to rank 0 alone).

    grid  grid of labels and predictions
    rays  compute RayIoU; needs ``meta["ray_origins"]`` in every sample
    others  further metrics by name, see ``counted``

    ``process`` takes ``{"batch": OccupancyBatch}`` and one dict a sample of it, in order: "labels" [X, Y, Z], the
    predicted class ids, and optionally "views", see ``sample_counts``. Other keys are not read. After ``evaluate``
    the main process finds everything, per class included, in ``last`` (None elsewhere).
    """

    default_prefix = None

    def __init__(
        self,
        grid: OccupancyGrid,
        rays: bool = True,
        collect_device: str = "cpu",
        others: Mapping[str, Counted] | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device)
        self.grid = grid
        self.others = dict(others or {})
        self.rays = rays
        self.last: Scores | None = None

    def process(self, data_batch: Mapping[str, OccupancyBatch], data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Add the counts of one batch; raises ValueError if predictions and batch do not fit."""
        batch = data_batch["batch"]
        if len(data_samples) != batch.batch_size:
            raise ValueError(f"{len(data_samples)} prediction(s) for a batch of {batch.batch_size}")
        for index, sample in enumerate(data_samples):
            origins = None
            if self.rays:
                meta = batch.meta[index] if index < len(batch.meta) else {}
                if "ray_origins" not in meta:
                    raise ValueError(f"sample {meta.get('token', index)} has no meta['ray_origins'], RayIoU needs it")
                origins = meta["ray_origins"]
            self.results.append(
                sample_counts(
                    sample["labels"],
                    batch.labels[index],
                    batch.camera_mask[index],
                    self.grid,
                    ray_origins=origins,
                    views=sample.get("views"),
                )
            )
            voxels = (_array(sample["labels"]), _array(batch.labels[index]), _array(batch.camera_mask[index]).astype(bool))
            self.results[-1] |= {_OTHER + name: other.count(*voxels, self.grid) for name, other in self.others.items()}

    def compute_metrics(self, results: list[Counts]) -> dict[str, float]:
        """Called by mmengine on the main process with the counts of all samples."""
        self.last = evaluate(results, self.grid.class_names, self.grid.empty)
        summed, _ = total(results)
        scores = {name: float(other.score(summed[_OTHER + name], self.grid)) for name, other in self.others.items()}
        self.last.metrics.update({name: score for name, score in scores.items() if not np.isnan(score)})
        return self.last.metrics


def _array(value: Any) -> NDArray[Any]:
    """A numpy view or copy of an array or a tensor on any device."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _pair(views: Mapping[str, Any], predicted: str, target: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    given = [name for name in (predicted, target) if views.get(name) is not None]
    if not given:
        return None
    if len(given) == 1:
        raise ValueError(f"views has '{given[0]}' but not its counterpart of '{predicted}' and '{target}'")
    return _array(views[predicted]), _array(views[target])
