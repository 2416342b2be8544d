"""Depth error of views rendered of voxels. What a model itself renders is measured by lidar: ``experiments.metrics.lidar``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_DEPTH = 0.1


def depth_sums(predicted: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """[2] float64: sum of |predicted - target| in metres and number of pixels, over pixels with target > 0.1 m.

    predicted, target  depth maps of one shape, metres; the sums of several images add up
    """
    if predicted.shape != target.shape:
        raise ValueError(f"depth maps differ in shape: {list(predicted.shape)}, {list(target.shape)}")
    counted = target > MIN_DEPTH
    error = np.abs(predicted[counted].astype(np.float64) - target[counted].astype(np.float64))
    return np.array([error.sum(), counted.sum()], dtype=np.float64)


def depth_l1(sums: NDArray[np.float64], published_denominator: bool = True) -> float:
    """Mean absolute depth error in metres, pooled over all pixels.

    published_denominator  True: divide by count + 1 (GaussRender src/evaluation/metrics.py:133-154);
                           False: by count. Without any pixel the result is 0 or NaN, respectively.
    """
    total, count = float(sums[0]), float(sums[1])
    if published_denominator:
        return total / (count + 1.0)
    return total / count if count else float("nan")
