"""How the rig moved, as a model says it, against its sensors: whether metres are metres.

Of each moment beside a frame: the share that the predicted shift has of the true one, along the true one's direction (1 is
right, 0 says that nothing moved), and the angle between the rotations. No shift is scaled to fit. These are measures of this
project: GaussianOcc prints none of its pose network, whose metres only show in depth that is not scaled (runner.py:443-447).

Cameras take their images one after the other, so that the sensors have a motion for each: a model's one motion is compared with
the mean of their shifts, and with their rotations. Where the vehicle stood, there is no share to speak of: shifts of less than
``STANDING`` metres do not count.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import Neighbours, OccupancyGrid

Array = NDArray[np.float64]

MOTION = "motion"
"""Key of sums, [6]: shares, their number; metres along the true shifts, metres of those; degrees, their number."""

STANDING = 0.05


def motion_sums(predicted: Any, neighbours: Neighbours) -> dict[str, Array]:
    """What a frame contributes.

    predicted   [T, 4, 4] vehicle at the frame's moment -> vehicle at the neighbours', metres
    neighbours  of that frame alone, on any device
    """
    mounted = _array(neighbours.camera_to_ego)[0]
    own, true = _array(predicted), mounted @ _array(neighbours.camera_motion)[0] @ np.linalg.inv(mounted)
    valid = np.asarray(neighbours.valid[0].cpu())
    if own.shape != (len(true), 4, 4):
        raise ValueError(f"predicted motion must be [{len(true)}, 4, 4], got {list(own.shape)}")
    sums = np.zeros(6)
    for motion, cameras, seen in zip(own, true, valid, strict=True):
        if not seen.any():
            continue
        # Of a small angle the cosine says little: float32 poses would seem a hundredth of a degree apart.
        chord = np.linalg.norm(cameras[seen, :3, :3] - motion[:3, :3], axis=(1, 2)) / math.sqrt(8)
        sums[4:] += np.degrees(2 * np.arcsin(np.clip(chord, 0, 1))).mean(), 1
        shift = cameras[seen, :3, 3].mean(axis=0)
        if (length := float(np.linalg.norm(shift))) > STANDING:
            along = float(motion[:3, 3] @ shift) / length
            sums[:4] += along / length, 1, along, length
    return {MOTION: sums}


def scale_by_frame(sums: dict[str, NDArray[Any]], grid: OccupancyGrid) -> float:
    """Mean of the shares; NaN where nothing moved, or no motion is predicted."""
    return _share(sums, 0)


def scale_over_trajectory(sums: dict[str, NDArray[Any]], grid: OccupancyGrid) -> float:
    """Metres along all true shifts together, to those; NaN likewise."""
    return _share(sums, 2)


def rotation_error(sums: dict[str, NDArray[Any]], grid: OccupancyGrid) -> float:
    """Mean angle in degrees; NaN where there is no other moment, or no motion is predicted."""
    return _share(sums, 4)


def _share(sums: dict[str, NDArray[Any]], first: int) -> float:
    total, count = sums.get(MOTION, np.zeros(6))[first : first + 2]
    return float(total / count) if count else float("nan")


def _array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().cpu(), dtype=np.float64)
