"""Semantic voxels of the toy world, and which of them cameras and lidars see.

Grid and frame are Occ3D-nuScenes': 200 x 200 x 16 voxels of 0.4 m from (-40, -40, -1) m in the ego frame, 17 = free.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from .catalogue import CLASS_NAMES, FREE
from .ground import GROUND_CLASS, GROUND_HEIGHT, OPTIONS, ground_at
from .solids import Solids, inside

GRID = (200, 200, 16)
LOWER = np.array([-40.0, -40.0, -1.0])
VOXEL = 0.4
_SAMPLES = 3  # a voxel is sampled at 3 x 3 x 3 points
_THINNEST = 0.1  # half extent (m) below which 0.133 m apart samples could miss a part

# A voxel shared by several parts goes to the one with the most samples in it times this: people, cycles, cones,
# barriers and litter would otherwise disappear beside walls and vegetation.
_FAVOURED = ("others", "barrier", "bicycle", "motorcycle", "pedestrian", "traffic_cone")
_WEIGHT = np.array([3 if name in _FAVOURED else 1 for name in CLASS_NAMES], dtype=np.int64)


@njit(**OPTIONS)
def _fill(
    labels: np.ndarray, score: np.ndarray, rotation: np.ndarray, origin: np.ndarray, geometry: np.ndarray,
    shape: np.ndarray, class_id: np.ndarray, weight: np.ndarray,
) -> None:  # fmt: skip
    margin = 0.5 * VOXEL * math.sqrt(3.0)
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for p in range(geometry.shape[0]):
        g = geometry[p]
        hx, hy, hz = max(1 / g[5], _THINNEST), max(1 / g[6], _THINNEST), max(1 / g[7], _THINNEST)
        wx = abs(g[3]) * hx + abs(g[4]) * hy  # half extents of the box around the part, along the world's axes
        wy = abs(g[4]) * hx + abs(g[3]) * hy
        for axis in range(3):
            r0, r1, r2 = rotation[0, axis], rotation[1, axis], rotation[2, axis]
            centre = r0 * (g[0] - origin[0]) + r1 * (g[1] - origin[1]) + r2 * (g[2] - origin[2])
            half = abs(r0) * wx + abs(r1) * wy + abs(r2) * hz
            low[axis] = max(0, int(math.floor((centre - half - LOWER[axis]) / VOXEL)))
            high[axis] = min(GRID[axis] - 1, int(math.floor((centre + half - LOWER[axis]) / VOXEL)))
        for i in range(low[0], high[0] + 1):
            for j in range(low[1], high[1] + 1):
                for k in range(low[2], high[2] + 1):
                    count = 0
                    for part in range(-1, _SAMPLES**3):
                        # part -1 is the voxel's middle, to settle voxels well inside or outside at once
                        a, b, c = 0.5, 0.5, 0.5
                        if part >= 0:
                            a = (part // (_SAMPLES * _SAMPLES) + 0.5) / _SAMPLES
                            b = (part // _SAMPLES % _SAMPLES + 0.5) / _SAMPLES
                            c = (part % _SAMPLES + 0.5) / _SAMPLES
                        ex = LOWER[0] + (i + a) * VOXEL
                        ey = LOWER[1] + (j + b) * VOXEL
                        ez = LOWER[2] + (k + c) * VOXEL
                        dx = rotation[0, 0] * ex + rotation[0, 1] * ey + rotation[0, 2] * ez + origin[0] - g[0]
                        dy = rotation[1, 0] * ex + rotation[1, 1] * ey + rotation[1, 2] * ez + origin[1] - g[1]
                        dz = rotation[2, 0] * ex + rotation[2, 1] * ey + rotation[2, 2] * ez + origin[2] - g[2]
                        x, y = g[3] * dx + g[4] * dy, g[3] * dy - g[4] * dx
                        if part >= 0:
                            count += inside(shape[p], x / hx, y / hy, dz / hz)
                        elif abs(x) > hx + margin or abs(y) > hy + margin or abs(dz) > hz + margin:
                            break
                        elif shape[p] == 0 and abs(x) < hx - margin and abs(y) < hy - margin and abs(dz) < hz - margin:
                            count = _SAMPLES**3
                            break
                    if count * weight[class_id[p]] > score[i, j, k]:
                        score[i, j, k] = count * weight[class_id[p]]
                        labels[i, j, k] = class_id[p]


@njit(**OPTIONS)
def _lay_ground(
    labels: np.ndarray, rotation: np.ndarray, origin: np.ndarray, streets: np.ndarray, patches: np.ndarray
) -> None:
    count = np.zeros(18, np.int64)
    for i in range(GRID[0]):
        for j in range(GRID[1]):
            count[:] = 0
            height = 0.0
            for part in range(_SAMPLES * _SAMPLES):
                ex = LOWER[0] + (i + (part // _SAMPLES + 0.5) / _SAMPLES) * VOXEL
                ey = LOWER[1] + (j + (part % _SAMPLES + 0.5) / _SAMPLES) * VOXEL
                ez = -(origin[2] + rotation[2, 0] * ex + rotation[2, 1] * ey) / rotation[2, 2]
                x = rotation[0, 0] * ex + rotation[0, 1] * ey + rotation[0, 2] * ez + origin[0]
                y = rotation[1, 0] * ex + rotation[1, 1] * ey + rotation[1, 2] * ez + origin[1]
                kind = ground_at(streets, patches, x, y)[0]
                count[GROUND_CLASS[kind]] += 1
                height += ez + GROUND_HEIGHT[kind]
            k = int(math.floor((height / (_SAMPLES * _SAMPLES) - LOWER[2]) / VOXEL))
            if 0 <= k < GRID[2] and labels[i, j, k] == FREE:
                labels[i, j, k] = np.argmax(count)


@njit(**OPTIONS)
def _mark(mask: np.ndarray, labels: np.ndarray, start: np.ndarray, directions: np.ndarray) -> None:
    position, step = np.empty(3), np.empty(3)
    index, sign = np.empty(3, np.int64), np.empty(3, np.int64)
    for ray in range(directions.shape[0]):
        enter = 0.0
        leave = 1e9
        for axis in range(3):
            o = (start[axis] - LOWER[axis]) / VOXEL
            d = directions[ray, axis] / VOXEL
            a, b = -o / d, (GRID[axis] - o) / d
            enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        if leave <= enter:
            continue
        for axis in range(3):
            o = (start[axis] - LOWER[axis]) / VOXEL
            d = directions[ray, axis] / VOXEL
            index[axis] = min(GRID[axis] - 1, max(0, int(math.floor(o + (enter + 1e-9) * d))))
            sign[axis] = 1 if d > 0 else -1
            step[axis] = abs(1.0 / d)
            position[axis] = (index[axis] + (1 if d > 0 else 0) - o) / d
        while True:
            i, j, k = index[0], index[1], index[2]
            mask[i, j, k] = 1
            if labels[i, j, k] != FREE:
                break
            axis = 0
            if position[1] < position[0]:
                axis = 1
            if position[2] < position[axis]:
                axis = 2
            index[axis] += sign[axis]
            if index[axis] < 0 or index[axis] >= GRID[axis]:
                break
            position[axis] += step[axis]


def voxelise(
    solids: Solids, streets: np.ndarray, patches: np.ndarray, rotation: np.ndarray, origin: np.ndarray
) -> np.ndarray:
    """Labels [200, 200, 16] uint8 (Occ3D ids) of the ego frame placed in the world by rotation [3, 3], origin [3] m.

    A voxel that any of its samples finds in a part is occupied by the part with most (weighted) samples; the ground
    is one voxel thick and gives way to parts.
    """
    labels = np.full(GRID, FREE, np.uint8)
    score = np.zeros(GRID, np.int64)
    _fill(labels, score, rotation, origin, solids.geometry, solids.shape, solids.class_id, _WEIGHT)
    _lay_ground(labels, rotation, origin, streets, patches)
    return labels


def mark_visible(mask: np.ndarray, labels: np.ndarray, start: np.ndarray, directions: np.ndarray) -> None:
    """Set the voxels of ``mask`` [200, 200, 16] uint8 that rays cross, up to and including the first occupied one.

    start [3] and directions [N, 3] in the ego frame, m; the start may lie outside the grid.
    """
    nudged = np.where(np.abs(directions) < 1e-9, 1e-9, directions)  # no division by zero in the traversal
    _mark(mask, labels, np.asarray(start, np.float64), np.ascontiguousarray(nudged))
