"""RayIoU's rays against another walk in float64, bit for bit: random grids, borders, origins outside, real frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.metrics.rayiou import _cast, cast, ray_directions

FREE = 17
OCC3D = {"lower": (-40.0, -40.0, -1.0), "voxel_size": 0.4, "empty": FREE}


def walk(
    grid: np.ndarray, origin: np.ndarray, ends: np.ndarray, empty: int, dtype: Any = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and distances of rays from origin [3] to ends [R, 3], voxel units: dvr.cu:70-318, all rays a step at a time.

    Every number on the way is ``dtype``, upstream a double.
    """
    start, towards = origin.astype(dtype), ends.astype(dtype) - origin.astype(dtype)
    squares = towards * towards
    direction = towards / np.sqrt(squares[:, 0] + squares[:, 1] + squares[:, 2])[:, None]
    voxel = np.trunc(np.broadcast_to(start, direction.shape)).astype(int)
    step = np.where(direction >= 0, 1, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        border = (voxel + (step > 0)).astype(dtype) - start
        leaves = np.where(direction != 0, border / direction, dtype(np.inf))
        apart = np.where(direction != 0, step.astype(dtype) / direction, dtype(np.inf))
    rays = np.arange(len(ends))
    classes, distances = np.full(len(ends), grid[0, 0, 0]), np.full(len(ends), -1.0, dtype)
    walking, entered = np.ones(len(ends), bool), np.zeros(len(ends), bool)
    for _ in range(1001):
        inside = ((voxel >= 0) & (voxel < grid.shape)).all(axis=1)
        walking &= inside | ~entered
        x, y, z = leaves.T
        axis = np.where(x < y, np.where(x < z, 0, 2), np.where(y < z, 1, 2))
        seen = walking & inside
        classes[seen] = grid[tuple(voxel[seen].T)]
        distances[seen] = leaves[rays, axis][seen]
        entered |= seen
        walking &= ~seen | (classes == empty)
        if not walking.any():
            break
        voxel[rays, axis] += step[rays, axis]
        leaves[rays, axis] += apart[rays, axis]
    return classes, distances.astype(np.float32)


def differing(grid: np.ndarray, origins: np.ndarray, frame: dict[str, Any], dtype: Any = np.float64) -> int:
    """Rays of the published set whose class or float32 distance in ``cast`` is not that of ``walk``."""
    classes, distances = cast(grid[None], origins, **frame)
    scale, lower = np.float64(np.float32(frame["voxel_size"])), np.asarray(frame["lower"], np.float32).astype(np.float64)
    different = 0
    for index, origin in enumerate(origins.astype(np.float64)):
        start = ((origin - lower) / scale).astype(np.float32)
        ends = ((origin + ray_directions() - lower) / scale).astype(np.float32)
        expected, distance = walk(grid, start, ends, frame["empty"], dtype)
        metres = distance * np.float32(frame["voxel_size"])
        different += int(((classes[0, index] != expected) | (distances[0, index] != metres)).sum())
    return different


def test_the_walk_is_in_float64() -> None:
    """Bit for bit, origins outside the grid and on borders of voxels included; in float32 it would be another walk."""
    random = np.random.default_rng(11)
    rays_of_float32 = 0
    for density in (0.002, 0.3):
        grid = np.where(random.random((200, 200, 16)) < density, random.integers(0, 17, (200, 200, 16)), FREE).astype(np.uint8)
        origins = np.array([*random.uniform((-39, -39, -1), (39, 39, 5.4), (2, 3)), (0.4, -0.4, 1.8), (-41.3, 3.0, 1.8)])
        assert differing(grid, origins, OCC3D) == 0
        rays_of_float32 += differing(grid, origins, OCC3D, np.float32)
    assert rays_of_float32 > 50


def test_a_ray_at_which_float32_takes_another_way() -> None:
    """Its x and y borders are apart by less than float32 holds: x is the nearer one, and is what the ray crosses first."""
    origin, end = np.full(3, 0.5, np.float32), np.array([7.75, 7.75, 0.5], np.float32)
    end[0] = np.nextafter(end[0], np.float32(8))
    grid = np.full((2, 2, 1), FREE, np.uint8)
    grid[1, 0, 0], grid[0, 1, 0] = 4, 9
    classes, _ = _cast(grid[None], FREE, origin[None], end[None, None])
    assert classes[0, 0, 0] == walk(grid, origin, end[None], FREE)[0][0] == 4
    assert walk(grid, origin, end[None], FREE, np.float32)[0][0] == 9  # a tie there, which y wins


def test_no_ray_of_real_frames_differs(real_frames: Path) -> None:
    frames, rays = Occ3DNuScenes(real_frames, "val"), 0
    for index in range(len(frames)):
        labels, origins = frames.labels(index)[0], frames[index].meta[0]["ray_origins"]
        assert differing(labels, origins, OCC3D) == 0
        rays += len(origins) * len(ray_directions())
    assert rays > 50_000
