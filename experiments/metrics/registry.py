"""All metrics that a table's column may show, by name. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from numpy.typing import NDArray

from renderers.registry import Registry


@dataclass(frozen=True)
class Metric:
    """How a number of a record is called and read.

    title, unit, digits, higher_is_better  of a column
    over_classes   it is a mean over classes, by the published rule with 100 % for one that does not occur
    measured_with  the metric with numbers per class that is measured whenever this one is
    counted        "module:Class" of what computes it (``Counted``), where it is none of those that every evaluation computes
    of_sums        "module:function" (sums of ``Counts`` over all frames, OccupancyGrid) -> number, NaN where nothing
                   counts; of one that follows from what every evaluation counts, and that not every one prints
    number         which one, of a function that gives several: its further argument
    mask           whose voxels ``counted`` gets, one of ``OccupancyFrames.other_masks``; "": the data set's own
    reads          parts of evaluated frames that it needs, of models that render depth (``Recipe.renders_depth``); others do not
                   have it
    """

    title: str
    unit: str = "%"
    digits: int = 2
    higher_is_better: bool = True
    over_classes: bool = False
    measured_with: str = ""
    counted: str = ""
    of_sums: str = ""
    number: str = ""
    mask: str = ""
    reads: tuple[str, ...] = ()


class Counted(Protocol):
    """A metric of voxels that is a function of sums over frames, so that it is exact on any number of processes."""

    def count(self, predicted: NDArray[Any], true: NDArray[Any], counted: NDArray[Any], grid: Any) -> NDArray[Any]:
        """What a frame contributes: class ids [X, Y, Z] twice, the mask of the voxels that count, the OccupancyGrid."""

    def score(self, total: NDArray[Any], grid: Any) -> float:
        """The number of the sum over all frames; NaN where nothing counts."""


MIOU = Metric("mIoU", over_classes=True)
IOU = Metric("IoU", measured_with="mIoU")
MIOU_OCC3D = Metric("mIoU, Occ3D's rule", measured_with="mIoU")
RAYIOU = Metric("RayIoU")
RAYIOU_1, RAYIOU_2, RAYIOU_4 = (Metric(f"RayIoU@{metres}", measured_with="RayIoU") for metres in (1, 2, 4))
MIOU_MOVING = Metric("mIoU of classes that move", measured_with="mIoU", of_sums="experiments.metrics.imageclasses:moving")
MIOU_15 = Metric("mIoU over 15 classes", measured_with="mIoU", of_sums="experiments.metrics.imageclasses:miou")
IOU_15 = Metric("IoU where these 15 are true", measured_with="mIoU", of_sums="experiments.metrics.imageclasses:iou")
_BOTH = "camera and lidar mask"
MIOU_OCC3D_BOTH = Metric(f"mIoU over 17 classes, {_BOTH}", counted="experiments.metrics.occurring:AllClasses", mask=_BOTH)
MIOU_15_BOTH = Metric(f"mIoU over 15 classes, {_BOTH}", counted="experiments.metrics.occurring:PromptedClasses", mask=_BOTH)
RAYIOU_15 = Metric("RayIoU over 15 classes", measured_with="RayIoU", of_sums="experiments.metrics.imageclasses:rayiou")
IMAGE_MIOU = Metric("image mIoU", over_classes=True)
IMAGE_IOU = Metric("image IoU", measured_with="image_mIoU")
BEV_MIOU = Metric("BEV mIoU", over_classes=True)
BEV_IOU = Metric("BEV IoU", measured_with="bev_mIoU")
DEPTH = Metric("depth L1", "m", digits=3, higher_is_better=False, measured_with="image_mIoU")
_MOTION = "experiments.metrics.motion"
MOTION_BY_FRAME = Metric("learned metres to true ones, by frame", "", of_sums=f"{_MOTION}:scale_by_frame")
MOTION_OVERALL = Metric("learned metres to true ones", "", of_sums=f"{_MOTION}:scale_over_trajectory")
MOTION_DIRECTION = Metric("direction error", "°", higher_is_better=False, of_sums=f"{_MOTION}:direction_error")
ROTATION = Metric("rotation error", "°", digits=3, higher_is_better=False, of_sums=f"{_MOTION}:rotation_error")
SECONDS_PER_ITERATION = Metric("time of an iteration", "s", digits=3, higher_is_better=False)
# Printed by others and measured of no cell here: how long a rendering takes is measured by ``renderers.compare``.
EPOCH_HOURS = Metric("time of an epoch", "h", higher_is_better=False)
RENDER_SECONDS = Metric("time of a rendering", "s", higher_is_better=False)
FRAMES_PER_SECOND = Metric("predictions a second", "")
TRAIN_PEAK = Metric("peak memory of training", "MiB", digits=0, higher_is_better=False)
PEAK = Metric("peak memory", "MiB", digits=0, higher_is_better=False)
TRAIN_SECONDS = Metric("time of training", "s", digits=0, higher_is_better=False)
EVAL_SECONDS = Metric("time of evaluation", "s", digits=0, higher_is_better=False)
PARAMETERS = Metric("trained parameters", "", digits=0, higher_is_better=False)

LIDAR_NUMBERS = {
    "abs_rel": ("Abs Rel", "", False),
    "sq_rel": ("Sq Rel", "m", False),
    "rmse": ("RMSE", "m", False),
    "rmse_log": ("RMSE log", "", False),
    "within_1": ("δ < 1.25", "", True),
    "within_2": ("δ < 1.25²", "", True),
    "within_3": ("δ < 1.25³", "", True),
}
"""Of rendered depth against lidar, see ``experiments.metrics.lidar``: name -> title, unit, whether higher is better."""
LIDAR_WAYS = {
    "cameras": ("by camera", "experiments.metrics.lidar:by_camera"),
    "frames": ("to 40 m, by frame", "experiments.metrics.lidar:by_frame"),
    "points": ("to 40 m, all points", "experiments.metrics.lidar:by_point"),
}
"""How they were published: GaussianOcc's way, and both of GaussianFlowOcc's."""
BEST_CONSTANT = Metric(
    "Abs Rel of the best single depth, by camera",
    "",
    digits=3,
    higher_is_better=False,
    of_sums="experiments.metrics.lidar:best_constant",
    reads=("lidar",),
)
LIDAR = SimpleNamespace(
    **{
        f"{number}_{way}": Metric(
            f"{title}, {how}", unit, digits=3, higher_is_better=higher, of_sums=target, number=number, reads=("lidar",)
        )
        for way, (how, target) in LIDAR_WAYS.items()
        for number, (title, unit, higher) in LIDAR_NUMBERS.items()
    }
)

_HERE = "experiments.metrics.registry"

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "mIoU": f"{_HERE}:MIOU",
        "IoU": f"{_HERE}:IOU",
        "mIoU_occ3d": f"{_HERE}:MIOU_OCC3D",
        "mIoU_15_classes": f"{_HERE}:MIOU_15",
        "mIoU_moving_classes": f"{_HERE}:MIOU_MOVING",
        "IoU_15_classes": f"{_HERE}:IOU_15",
        "mIoU_occ3d_camera_and_lidar_mask": f"{_HERE}:MIOU_OCC3D_BOTH",
        "mIoU_15_classes_all_voxels_camera_and_lidar_mask": f"{_HERE}:MIOU_15_BOTH",
        "RayIoU": f"{_HERE}:RAYIOU",
        "RayIoU_15_classes": f"{_HERE}:RAYIOU_15",
        "RayIoU@1": f"{_HERE}:RAYIOU_1",
        "RayIoU@2": f"{_HERE}:RAYIOU_2",
        "RayIoU@4": f"{_HERE}:RAYIOU_4",
        "image_mIoU": f"{_HERE}:IMAGE_MIOU",
        "image_IoU": f"{_HERE}:IMAGE_IOU",
        "bev_mIoU": f"{_HERE}:BEV_MIOU",
        "bev_IoU": f"{_HERE}:BEV_IOU",
        "depth_l1": f"{_HERE}:DEPTH",
        **{f"lidar_{name}": f"{_HERE}:LIDAR.{name}" for name in vars(LIDAR)},
        "lidar_abs_rel_best_constant": f"{_HERE}:BEST_CONSTANT",
        "motion_scale_by_frame": f"{_HERE}:MOTION_BY_FRAME",
        "motion_scale": f"{_HERE}:MOTION_OVERALL",
        "motion_direction": f"{_HERE}:MOTION_DIRECTION",
        "motion_rotation": f"{_HERE}:ROTATION",
        "seconds_per_iteration": f"{_HERE}:SECONDS_PER_ITERATION",
        "epoch_hours": f"{_HERE}:EPOCH_HOURS",
        "render_seconds": f"{_HERE}:RENDER_SECONDS",
        "frames_per_second": f"{_HERE}:FRAMES_PER_SECOND",
        "train_peak_memory_mb": f"{_HERE}:TRAIN_PEAK",
        "peak_memory_mb": f"{_HERE}:PEAK",
        "train_seconds": f"{_HERE}:TRAIN_SECONDS",
        "eval_seconds": f"{_HERE}:EVAL_SECONDS",
        "parameters": f"{_HERE}:PARAMETERS",
    },
    "metrics",
)


def lidar(way: str) -> tuple[str, ...]:
    """Names of the metrics of rendered depth in one of ``LIDAR_WAYS``."""
    return tuple(f"lidar_{number}_{way}" for number in LIDAR_NUMBERS)


def own() -> Mapping[str, Metric]:
    """The project's metrics by name."""
    return {name: METRICS.load(name) for name in METRICS.own}
