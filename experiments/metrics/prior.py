"""The per-voxel prior: what can be said of a frame without looking at its images."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid


class LabelledFrames(Protocol):
    """A data set that gives its labels without decoding images (``Occ3DNuScenes``)."""

    grid: OccupancyGrid

    def __len__(self) -> int: ...

    def labels(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]: ...


@njit(cache=True)
def _count(histogram: NDArray[np.int32], labels: NDArray[np.uint8]) -> None:
    for voxel in range(labels.size):
        if labels[voxel] < histogram.shape[1]:
            histogram[voxel, labels[voxel]] += 1


def fit_prior(frames: LabelledFrames) -> NDArray[np.uint8]:
    """Each voxel's most frequent label over all frames, [X, Y, Z] uint8 (the lowest id of equals).

    Like the models' training loss it takes every label, seen by a camera or not; only ``grid.ignore`` is left out. A
    voxel without any label is empty. Raises ValueError without frames.
    """
    if len(frames) == 0:
        raise ValueError("a prior needs at least one labelled frame")
    grid = frames.grid
    histogram = np.zeros((int(np.prod(grid.shape)), grid.num_classes), np.int32)
    for index in range(len(frames)):
        _count(histogram, np.ascontiguousarray(frames.labels(index)[0]).ravel())
    prior = histogram.argmax(axis=1)
    prior[histogram.sum(axis=1) == 0] = grid.empty
    return prior.reshape(grid.shape).astype(np.uint8)
