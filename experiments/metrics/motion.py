"""How the rig moved, as a model says it, against its sensors: whether metres are metres.

Of each moment beside a frame: the length of the predicted shift to that of the true one (1 is right, 0 says that nothing moved),
the angle between the two shifts, and that between the rotations. No shift is scaled to fit. These are measures of this project:
GaussianOcc prints none of its pose network, whose metres only show in depth that is not scaled (runner.py:443-447).

Cameras take their images one after the other, so that the sensors have a motion for each: a model's one motion is compared with
the mean of their shifts, and with their rotations. Where the vehicle stood, there is no length to compare with: shifts of less
than ``STANDING`` metres do not count.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import Neighbours, OccupancyGrid
from experiments.metrics.counts import array, doubles

Array = NDArray[np.float64]

MOTION = "motion"
"""Key of sums, [8]: ratios of lengths, their number; metres of predicted shifts, metres of true ones; degrees between them, their
number; degrees between rotations, their number."""

STANDING = 0.05


def motion_sums(predicted: Any, neighbours: Neighbours) -> dict[str, Array]:
    """What a frame contributes.

    predicted   [T, 4, 4] vehicle at the frame's moment -> vehicle at the neighbours', metres
    neighbours  of that frame alone, on any device
    """
    mounted = doubles(neighbours.camera_to_ego)[0]
    own, true = doubles(predicted), mounted @ doubles(neighbours.camera_motion)[0] @ np.linalg.inv(mounted)
    valid = array(neighbours.valid[0])
    if own.shape != (len(true), 4, 4):
        raise ValueError(f"predicted motion must be [{len(true)}, 4, 4], got {list(own.shape)}")
    sums = np.zeros(8)
    for motion, cameras, seen in zip(own, true, valid, strict=True):
        if not seen.any():
            continue
        # Of a small angle the cosine says little: float32 poses would seem a hundredth of a degree apart.
        chord = np.linalg.norm(cameras[seen, :3, :3] - motion[:3, :3], axis=(1, 2)) / math.sqrt(8)
        sums[6:] += np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))).mean(), 1
        said, shift = motion[:3, 3], cameras[seen, :3, 3].mean(axis=0)
        if (length := float(np.linalg.norm(shift))) > STANDING:
            metres = float(np.linalg.norm(said))
            aside = np.degrees(np.arctan2(np.linalg.norm(np.cross(said, shift)), said @ shift))
            sums[:6] += metres / length, 1, metres, length, aside, 1
    return {MOTION: sums}


def scale_by_frame(sums: dict[str, NDArray[Any]], grid: OccupancyGrid) -> float:
    """Mean of the ratios; NaN where nothing moved, or no motion is predicted."""
    return _share(sums, 0)


def scale_over_trajectory(sums: dict[str, NDArray[Any]], grid: OccupancyGrid) -> float:
    """Metres of all predicted shifts together, to those of the true ones; NaN likewise."""
    return _share(sums, 2)


def direction_error(sums: dict[str, NDArray[Any]], grid: OccupancyGrid) -> float:
    """Mean angle between predicted and true shifts in degrees; NaN likewise."""
    return _share(sums, 4)


def rotation_error(sums: dict[str, NDArray[Any]], grid: OccupancyGrid) -> float:
    """Mean angle in degrees; NaN where there is no other moment, or no motion is predicted."""
    return _share(sums, 6)


def _share(sums: dict[str, NDArray[Any]], first: int) -> float:
    total, count = sums.get(MOTION, np.zeros(8))[first : first + 2]
    return float(total / count) if count else float("nan")
