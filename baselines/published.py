"""What papers fixed for a data set besides its grid. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["sensor", "elevated", "random", "stereo", "trajectory"]
"""Where supervising cameras stand (``baselines.gaussrender.views``)."""


@dataclass(frozen=True)
class Published:
    """What papers fixed for a data set besides its grid; a field is None where nothing is published.

    class_weights    of the cross entropy, one a class
    gaussian_scale   (voxel edge, standard deviation of the Gaussian that stands for such a voxel) in metres
    camera_strategy  where the supervising cameras stand
    unseen_classes   names of classes that models of images have no prompt for; systems taught by such models alone are scored
                     without them (GaussianOcc, GaussianFlowOcc)
    camera_draw      weights with which a camera is drawn, one a camera in the order of the batches; a single one: the first
                     camera, whatever there are
    catch_all        names of classes that stand for whatever is none of the others: no image shows them by name
    moving           names of classes of things that can move by themselves
    lidar_limit      metres of lidar depth from which on GaussianOcc does not measure rendered depth
    """

    class_weights: tuple[float, ...] | None = None
    gaussian_scale: tuple[float, float] | None = None
    camera_strategy: Strategy | None = None
    camera_draw: tuple[float, ...] | None = None
    unseen_classes: tuple[str, ...] = ()
    catch_all: tuple[str, ...] | None = None
    moving: tuple[str, ...] | None = None
    lidar_limit: float | None = None
