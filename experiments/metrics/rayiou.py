"""RayIoU (SparseOcc, ECCV 2024): semantic occupancy scored along simulated lidar rays, on the CPU.

Ray set, casting and score follow MCG-NJU/SparseOcc loaders/ray_metrics.py, loaders/ego_pose_dataset.py and
lib/dvr/dvr.cu to the digit, rounding to float32 included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

THRESHOLDS = (1.0, 2.0, 4.0)
_MAX_STEPS = 1000

Float32 = NDArray[np.float32]


@cache
def ray_directions() -> Float32:
    """[14040, 3] float32 unit vectors: 39 pitches from -45 to 12.5 degrees, one azimuth a degree.

    The first ten pitches point at the ground at multiples of the sensor's height, from there on they are evenly
    spaced up to the top of the nuScenes lidar.
    """
    pitches = [-(math.pi / 2 - math.atan(k)) for k in range(1, 11)]
    while pitches[-1] < 0.21:
        pitches.append(pitches[-1] + (pitches[-1] - pitches[-2]))
    pitch = np.repeat(np.array(pitches), 360)
    azimuth = np.tile(np.deg2rad(np.arange(360)), len(pitches))
    rays = np.stack([np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)], axis=1)
    directions = rays.astype(np.float32)
    directions.setflags(write=False)
    return directions


@njit(inline="always")
def _start(origin: Any, end: Any, length: Any) -> Any:
    """Voxel, step, parameter of the first border and parameter between borders along one axis; of doubles."""
    direction = (end - origin) / length
    voxel = int(origin)  # towards zero, as the C++ cast
    step = 1 if direction >= 0 else -1
    if direction == 0:
        return voxel, step, np.inf, np.inf
    border = voxel + (1 if step > 0 else 0)
    return voxel, step, (border - origin) / direction, step / direction


@njit(parallel=True, cache=True)
def _cast(grids: NDArray[np.uint8], empty: int, origins: Float32, ends: Float32):  # type: ignore[no-untyped-def]
    """First occupied voxel along each ray in each of G grids [G, X, Y, Z]; one walk serves all grids.

    origins [O, 3] and ends [O, R, 3] in voxel units. Returns classes uint8 [G, O, R] and distances float32 [G, O, R]
    in voxel units, at which the ray LEAVES the voxel (dvr.cu:70-318).
    """
    count, nx, ny, nz = grids.shape
    rays = ends.shape[1]
    classes = np.empty((count, origins.shape[0], rays), np.uint8)
    distances = np.empty((count, origins.shape[0], rays), np.float32)
    for job in prange(origins.shape[0] * rays):
        o, r = job // rays, job % rays
        # Upstream walks in doubles from float32 points; numba's float() of a float32 would stay one.
        xo, yo, zo = np.float64(origins[o, 0]), np.float64(origins[o, 1]), np.float64(origins[o, 2])
        xe, ye, ze = np.float64(ends[o, r, 0]), np.float64(ends[o, r, 1]), np.float64(ends[o, r, 2])
        length = math.sqrt((xe - xo) ** 2 + (ye - yo) ** 2 + (ze - zo) ** 2)
        x, step_x, next_x, delta_x = _start(xo, xe, length)
        y, step_y, next_y, delta_y = _start(yo, ye, length)
        z, step_z, next_z, delta_z = _start(zo, ze, length)
        # Without any voxel inside: distance -1 and voxel (0, 0, 0), the buffers' initial values upstream.
        last_x, last_y, last_z, last = 0, 0, 0, -1.0
        open_grids = count
        hit = np.zeros(count, np.bool_)
        was_inside = False
        for _ in range(_MAX_STEPS + 1):
            inside = 0 <= x < nx and 0 <= y < ny and 0 <= z < nz
            if was_inside and not inside:
                break
            here_x, here_y, here_z = x, y, z
            # The order of the comparisons decides ties as upstream: z before y before x.
            if next_x < next_y and next_x < next_z:
                leave = next_x
                x += step_x
                next_x += delta_x
            elif next_x >= next_y and next_y < next_z:
                leave = next_y
                y += step_y
                next_y += delta_y
            else:
                leave = next_z
                z += step_z
                next_z += delta_z
            if inside:
                was_inside = True
                last_x, last_y, last_z, last = here_x, here_y, here_z, leave
                for g in range(count):
                    if not hit[g] and grids[g, here_x, here_y, here_z] != empty:
                        hit[g] = True
                        open_grids -= 1
                        classes[g, o, r] = grids[g, here_x, here_y, here_z]
                        distances[g, o, r] = leave
                if open_grids == 0:
                    break
        for g in range(count):
            if not hit[g]:
                classes[g, o, r] = grids[g, last_x, last_y, last_z]
                distances[g, o, r] = last
    return classes, distances


def cast(
    grids: NDArray[np.uint8],
    origins: NDArray[np.floating[Any]],
    *,
    lower: Sequence[float],
    voxel_size: float,
    empty: int,
    directions: Float32 | None = None,
) -> tuple[NDArray[np.uint8], Float32]:
    """Cast the lidar rays from every origin through G label grids [G, X, Y, Z].

    origins     [O, 3] metres, in the grids' frame
    lower       lower corner of the grids in metres
    voxel_size  metres
    empty       class id of free space; every other class stops a ray
    directions  [R, 3] unit vectors, by default ``ray_directions()``

    Returns class ids uint8 and distances float32 in metres, both [G, O, R]: of the first occupied voxel, up to its
    far side, or where there is none, of the last voxel inside the grid. The origin's own voxel counts.
    """
    if grids.ndim != 4:
        raise ValueError(f"grids must be [G, X, Y, Z], got {list(grids.shape)}")
    points = np.asarray(origins, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"origins must be finite [O, 3], got {list(points.shape)}")
    directions = ray_directions() if directions is None else directions
    # Upstream divides float64 points by a float32 voxel size, then rounds the result to float32.
    scale, offset = np.float64(np.float32(voxel_size)), np.asarray(lower, np.float32).astype(np.float64)
    ends = points[:, None] + directions[None]
    classes, distances = _cast(
        np.ascontiguousarray(grids, dtype=np.uint8),
        empty,
        ((points - offset) / scale).astype(np.float32),
        ((ends - offset) / scale).astype(np.float32),
    )
    return classes, distances * np.float32(voxel_size)


def ray_counts(
    predicted: NDArray[np.uint8],
    target: NDArray[np.uint8],
    origins: NDArray[np.floating[Any]],
    *,
    lower: Sequence[float],
    voxel_size: float,
    num_classes: int,
    empty: int,
) -> NDArray[np.int64]:
    """[5, C] int64 ray counts of one sample; those of several samples add up.

    Rows 0..2: rays with the right class and |distance error| below 1, 2, 4 m; row 3: rays by true class; row 4: rays
    by predicted class. Rays that hit nothing in the target are left out. No camera or lidar mask is applied.

    predicted, target  class ids [X, Y, Z]; origins [O, 3] metres in the grids' frame
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted {list(predicted.shape)} and target {list(target.shape)} differ in shape")
    classes, distances = cast(np.stack([predicted, target]), origins, lower=lower, voxel_size=voxel_size, empty=empty)
    kept = classes[1] != empty
    guess, true = classes[0][kept], classes[1][kept]
    error = np.abs(distances[0][kept] - distances[1][kept])
    counts = [np.bincount(true[(guess == true) & (error < t)], minlength=num_classes) for t in THRESHOLDS]
    counts += [np.bincount(true, minlength=num_classes), np.bincount(guess, minlength=num_classes)]
    return np.stack(counts).astype(np.int64)


@dataclass(frozen=True)
class RayScores:
    """Percentages: the mean over classes and thresholds, the mean a threshold (metres), the mean a class."""

    rayiou: float
    at: dict[float, float]
    per_class: dict[str, float]


def ray_scores(counts: NDArray[np.int64], class_names: Sequence[str], empty: int) -> RayScores:
    """RayIoU in percent from ``ray_counts``: IoU_c = tp / (true + predicted - tp), the empty class left out.

    Classes that neither the target nor the prediction has are left out of the means (NaN if none is left).
    """
    if counts.shape != (len(THRESHOLDS) + 2, len(class_names)):
        raise ValueError(f"ray counts {list(counts.shape)} do not fit {len(class_names)} classes")
    hits, true, guess = counts[: len(THRESHOLDS)], counts[-2], counts[-1]
    union = (true + guess - hits).astype(np.float64)
    iou = np.where(union > 0, 100.0 * hits / np.where(union > 0, union, 1.0), np.nan)
    occupied = np.arange(len(class_names)) != empty
    return RayScores(
        rayiou=_mean(iou[:, occupied]),
        at={t: _mean(row[occupied]) for t, row in zip(THRESHOLDS, iou, strict=True)},
        per_class={
            name: float(column.mean())
            for name, column, keep in zip(class_names, iou.T, occupied, strict=True)
            if keep and not np.isnan(column).any()
        },
    )


def _mean(values: NDArray[np.float64]) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
