"""Which voxels the label cameras see, for data sets whose labels do not say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def _march(  # type: ignore[no-untyped-def]
    occupied: NDArray[np.bool_],
    rays: NDArray[np.float64],
    camera_to_grid: NDArray[np.float64],
    step: float,
    count: int,
    seen: NDArray[np.bool_],
) -> None:
    """Mark what the rays [V, R, 3] (unit vectors in camera axes) pass until the first occupied voxel, that one included."""
    nx, ny, nz = occupied.shape
    for view in range(rays.shape[0]):
        m = camera_to_grid[view]
        for ray in range(rays.shape[1]):
            a, b, c = rays[view, ray, 0], rays[view, ray, 1], rays[view, ray, 2]
            dx = m[0, 0] * a + m[0, 1] * b + m[0, 2] * c
            dy = m[1, 0] * a + m[1, 1] * b + m[1, 2] * c
            dz = m[2, 0] * a + m[2, 1] * b + m[2, 2] * c
            for index in range(1, count):
                t = step * index
                x = int(np.floor(m[0, 3] + t * dx))
                y = int(np.floor(m[1, 3] + t * dy))
                z = int(np.floor(m[2, 3] + t * dz))
                if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz:
                    seen[x, y, z] = True
                    if occupied[x, y, z]:
                        break


def in_sight(
    occupied: NDArray[np.bool_],
    intrinsics: NDArray[np.float64],
    to_camera: NDArray[np.float64],
    size: tuple[int, int],
    lower: Sequence[float],
    voxel_size: float,
) -> NDArray[np.bool_]:
    """[X, Y, Z] bool: voxels that a camera sees, and their neighbours along the axes.

    A ray goes through every pixel centre, up to the first occupied voxel. The neighbours let a surface teach what lies just
    behind it: the second layer of an object's voxels, the ground at the foot of a wall.

    occupied    [X, Y, Z] bool
    intrinsics  [V, 3, 3] pixels, and to_camera [V, 4, 4] grid's frame -> camera (+z forward)
    size        (width, height) of the cameras' images in pixels
    lower       lower corner of the grid in metres; voxel_size in metres
    """
    u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    rays = (np.linalg.inv(intrinsics) @ pixels).transpose(0, 2, 1)
    rays = np.ascontiguousarray(rays / np.linalg.norm(rays, axis=2, keepdims=True))
    metres_to_voxels: NDArray[Any] = np.diag([*[1 / voxel_size] * 3, 1.0])
    metres_to_voxels[:3, 3] = -np.asarray(lower) / voxel_size
    camera_to_grid = np.ascontiguousarray(metres_to_voxels @ np.linalg.inv(to_camera))
    seen = np.zeros(occupied.shape, np.bool_)
    # Three steps a voxel; the longest way through the grid and, for cameras beside it, as much again.
    count = int(6 * np.linalg.norm(occupied.shape))
    _march(np.ascontiguousarray(occupied), rays, camera_to_grid, voxel_size / 3, count, seen)
    wide = np.pad(seen, 1)
    for axis in range(3):
        for side in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(side, side + seen.shape[axis])
            seen = seen | wide[tuple(window)]
    return seen
