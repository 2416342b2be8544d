"""Every published way to count a data set's voxels and rays, each number under its full name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.metrics import imageclasses
from experiments.metrics.counts import Counts, evaluate, sample_counts
from experiments.metrics.occurring import PromptedClasses
from experiments.metrics.rayiou import THRESHOLDS
from experiments.metrics.voxel import confusion


@dataclass(frozen=True)
class Numbers:
    """What sums of counts say, in percent.

    metrics    key -> number, those of the data set's own mask under the keys of a cell's record; none where nothing counts
    names      key -> the protocol in full
    per_class  key of a mean -> class -> number, without classes that do not occur
    absent     key -> classes that do not occur and count 100 % in it
    """

    metrics: dict[str, float]
    names: dict[str, str]
    per_class: dict[str, dict[str, float]]
    absent: dict[str, list[str]]


def frame_counts(
    predicted: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    own: NDArray[np.bool_],
    others: Mapping[str, NDArray[np.bool_]],
    grid: OccupancyGrid,
    origins: NDArray[Any] | None,
) -> Counts:
    """The counts of a frame: ``sample_counts`` with the data set's own mask, and "voxels <mask>" with each of the ``others``."""
    counts = sample_counts(predicted, labels, own, grid, ray_origins=origins)
    for name, mask in others.items():
        counts[f"voxels {name}"] = confusion(predicted, labels, mask, num_classes=grid.num_classes, ignore=grid.ignore)
    return counts


def numbers(sums: Counts, grid: OccupancyGrid, own_mask: str) -> Numbers:
    """All protocols from the sums of ``frame_counts``. own_mask: what the data set's own mask is called."""
    found = Numbers({}, {}, {}, {})
    others = {key: key.removeprefix("voxels ") for key in sums if key.startswith("voxels ")}
    for key, mask in {"voxels": own_mask, **others}.items():
        _of_voxels({"voxels": sums[key]}, grid, mask, "" if key == "voxels" else f"_{mask.replace(' ', '_')}", found)
    if "rays" in sums:
        _of_rays(sums, grid, found)
    for key in [key for key, value in found.metrics.items() if math.isnan(value)]:
        del found.metrics[key]
    return found


def _of_voxels(sums: Counts, grid: OccupancyGrid, mask: str, suffix: str, found: Numbers) -> None:
    unseen = grid.published.unseen_classes
    every, taught = grid.num_classes - 1, grid.num_classes - 1 - len(unseen)
    scored = evaluate([sums], grid.class_names, grid.empty)

    def add(key: str, name: str, value: float) -> None:
        found.metrics[key + suffix], found.names[key + suffix] = value, name

    nan = float("nan")
    add("mIoU", f"mIoU over {every} classes, {mask}; absent classes count 100 % (GaussRender)", scored.metrics.get("mIoU", nan))
    add("mIoU_occ3d", f"mIoU over {every} classes, {mask}; absent classes are left out", scored.metrics.get("mIoU_occ3d", nan))
    add("IoU", f"IoU, occupied against {grid.class_names[grid.empty]}, {mask}", scored.metrics.get("IoU", nan))
    found.per_class[f"mIoU{suffix}"] = scored.per_class["mIoU"]
    found.absent.update({key + suffix: classes for key, classes in scored.absent.items()})
    if unseen:
        left_out = " and ".join(unseen)
        add(
            "mIoU_15_classes",
            f"mIoU over {taught} classes, {mask} without voxels of {left_out} (GaussianFlowOcc)",
            imageclasses.miou(sums, grid),
        )
        add(
            "mIoU_15_classes_all_voxels",
            f"mIoU over {taught} classes, {mask}, voxels of {left_out} being there (GaussianOcc)",
            PromptedClasses().score(sums["voxels"], grid),
        )
        add(
            "IoU_15_classes",
            f"IoU, {mask} without voxels of {left_out} (GaussianFlowOcc)",
            imageclasses.iou(sums, grid),
        )


def _of_rays(sums: Counts, grid: OccupancyGrid, found: Numbers) -> None:
    scored = evaluate([sums], grid.class_names, grid.empty)
    unseen = grid.published.unseen_classes
    every = f"{grid.num_classes - 1} classes"
    metres = " and ".join(f"{threshold:g}" for threshold in THRESHOLDS).replace(" and ", ", ", len(THRESHOLDS) - 2)
    names = {"RayIoU": f"RayIoU over {every}, mean of {metres} m"}
    names |= {f"RayIoU@{threshold:g}": f"RayIoU over {every} at {threshold:g} m" for threshold in THRESHOLDS}
    values = {key: scored.metrics.get(key, float("nan")) for key in names}
    if unseen:
        names["RayIoU_15_classes"] = f"RayIoU over {grid.num_classes - 1 - len(unseen)} classes, mean of {metres} m"
        values["RayIoU_15_classes"] = imageclasses.rayiou(sums, grid)
    found.names.update(names)
    found.metrics.update(values)
    found.per_class["RayIoU"] = scored.per_class["RayIoU"]
