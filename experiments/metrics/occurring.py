"""Means over those classes that occur, of whatever voxels count, as GaussianOcc prints them.

It counts voxels that cameras and lidar both see (GANWANSHUI/GaussianOcc datasets/nusc_dataset.py:171), and means over all classes
but the empty one, or without those that its images' models have no prompt for, whose voxels are there all the same: what is
predicted in them is wrong (runner.py:488-501). Upstream a class that no process has met makes a mean NaN; here it is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.metrics.voxel import confusion, scores


class AllClasses:
    """mIoU over all classes but the empty one, a ``Counted`` metric."""

    def count(self, predicted: NDArray[Any], true: NDArray[Any], counted: NDArray[Any], grid: OccupancyGrid) -> NDArray[np.int64]:
        """[C, C] of a frame: class ids [X, Y, Z] twice, mask of the voxels that count."""
        return confusion(predicted, true, counted, num_classes=grid.num_classes, ignore=grid.ignore)

    def score(self, total: NDArray[np.int64], grid: OccupancyGrid) -> float:
        """Percent; NaN where none of the classes occurs."""
        per_class = scores(total, grid.class_names, grid.empty, absent="drop").per_class
        kept = [value for name, value in per_class.items() if name not in self.left_out(grid)]
        return float(np.mean(kept)) if kept else float("nan")

    def left_out(self, grid: OccupancyGrid) -> set[str]:
        """Classes that the mean is not over."""
        return {grid.class_names[grid.empty]}


class PromptedClasses(AllClasses):
    """The same over classes that models of images have prompts for (all but ``Published.unseen_classes``)."""

    def left_out(self, grid: OccupancyGrid) -> set[str]:
        """Classes that the mean is not over."""
        return {grid.class_names[grid.empty], *grid.published.unseen_classes}
