"""Semantic voxels of the toy world, and which of them cameras and lidars see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .catalogue import CLASS_NAMES, FREE
from .ground import GROUND_CLASS, GROUND_HEIGHT, ground_at, kernel
from .solids import Solids, inside


@dataclass(frozen=True)
class Lattice:
    """Voxels of ``edge`` metres from the corner ``lower`` (m) on, in the frame that the caller places in the world."""

    shape: tuple[int, int, int]
    lower: tuple[float, float, float]
    edge: float


OCC3D = Lattice((200, 200, 16), (-40.0, -40.0, -1.0), 0.4)  # in the ego frame


@dataclass(frozen=True)
class Labelling:
    """The classes that voxels get: those of ``ground`` [kinds of ground] uint8, and of parts as their ``class_id`` says.

    ``weight`` [classes] int64: a voxel shared by several parts goes to the one with the most samples in it times this.
    ``free`` is the class of empty voxels.
    """

    ground: np.ndarray
    weight: np.ndarray
    free: int


# People, cycles, cones, barriers and litter would otherwise disappear beside walls and vegetation.
_FAVOURED = ("others", "barrier", "bicycle", "motorcycle", "pedestrian", "traffic_cone")
NUSCENES = Labelling(GROUND_CLASS, np.array([3 if name in _FAVOURED else 1 for name in CLASS_NAMES], dtype=np.int64), FREE)

_SAMPLES = 3  # a voxel is sampled at 3 x 3 x 3 points
_TINY = 1e-9  # keeps rays along an axis from dividing by zero
_THINNEST = 0.1  # half extent (m) below which 0.133 m apart samples could miss a part
_CLASSES = 32  # more than any labelling has


@kernel
def _fill(
    labels: np.ndarray, score: np.ndarray, rotation: np.ndarray, origin: np.ndarray, geometry: np.ndarray,
    shape: np.ndarray, class_id: np.ndarray, weight: np.ndarray, lower: np.ndarray, edge: float,
) -> None:  # fmt: skip
    size = labels.shape
    margin = 0.5 * edge * math.sqrt(3.0)
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
            low[axis] = max(0, int(math.floor((centre - half - lower[axis]) / edge)))
            high[axis] = min(size[axis] - 1, int(math.floor((centre + half - lower[axis]) / edge)))
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
                        ex = lower[0] + (i + a) * edge
                        ey = lower[1] + (j + b) * edge
                        ez = lower[2] + (k + c) * edge
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


@kernel
def _lay_ground(
    labels: np.ndarray, rotation: np.ndarray, origin: np.ndarray, streets: np.ndarray, patches: np.ndarray,
    ground: np.ndarray, free: int, lower: np.ndarray, edge: float,
) -> None:  # fmt: skip
    size = labels.shape
    count = np.zeros(_CLASSES, np.int64)
    for i in range(size[0]):
        for j in range(size[1]):
            count[:] = 0
            height = 0.0
            for part in range(_SAMPLES * _SAMPLES):
                ex = lower[0] + (i + (part // _SAMPLES + 0.5) / _SAMPLES) * edge
                ey = lower[1] + (j + (part % _SAMPLES + 0.5) / _SAMPLES) * edge
                ez = -(origin[2] + rotation[2, 0] * ex + rotation[2, 1] * ey) / rotation[2, 2]
                x = rotation[0, 0] * ex + rotation[0, 1] * ey + rotation[0, 2] * ez + origin[0]
                y = rotation[1, 0] * ex + rotation[1, 1] * ey + rotation[1, 2] * ez + origin[1]
                kind = ground_at(streets, patches, x, y)[0]
                count[ground[kind]] += 1
                height += ez + GROUND_HEIGHT[kind]
            k = int(math.floor((height / (_SAMPLES * _SAMPLES) - lower[2]) / edge))
            if 0 <= k < size[2] and labels[i, j, k] == free:
                labels[i, j, k] = np.argmax(count)


@kernel
def _march(
    mask: np.ndarray, labels: np.ndarray, start: np.ndarray, rotation: np.ndarray, rays: np.ndarray, free: int,
    lower: np.ndarray, edge: float,
) -> None:  # fmt: skip
    # Amanatides and Woo's traversal in voxel units, spelled out by axis: twice as fast as with arrays of three
    size = labels.shape
    x, y, z = (start[0] - lower[0]) / edge, (start[1] - lower[1]) / edge, (start[2] - lower[2]) / edge
    for ray in range(rays.shape[0]):
        a, b, c = rays[ray, 0], rays[ray, 1], rays[ray, 2]
        dx = rotation[0, 0] * a + rotation[0, 1] * b + rotation[0, 2] * c + _TINY
        dy = rotation[1, 0] * a + rotation[1, 1] * b + rotation[1, 2] * c + _TINY
        dz = rotation[2, 0] * a + rotation[2, 1] * b + rotation[2, 2] * c + _TINY
        ix, iy, iz = 1.0 / dx, 1.0 / dy, 1.0 / dz
        enter = max(0.0, min(-x * ix, (size[0] - x) * ix))
        enter = max(enter, min(-y * iy, (size[1] - y) * iy))
        enter = max(enter, min(-z * iz, (size[2] - z) * iz))
        leave = min(max(-x * ix, (size[0] - x) * ix), max(-y * iy, (size[1] - y) * iy))
        leave = min(leave, max(-z * iz, (size[2] - z) * iz))
        if leave <= enter:
            continue
        i = min(size[0] - 1, max(0, int(math.floor(x + (enter + _TINY) * dx))))
        j = min(size[1] - 1, max(0, int(math.floor(y + (enter + _TINY) * dy))))
        k = min(size[2] - 1, max(0, int(math.floor(z + (enter + _TINY) * dz))))
        step_i, step_j, step_k = 1 if dx > 0 else -1, 1 if dy > 0 else -1, 1 if dz > 0 else -1
        next_x, next_y, next_z = (i + (dx > 0) - x) * ix, (j + (dy > 0) - y) * iy, (k + (dz > 0) - z) * iz
        ix, iy, iz = abs(ix), abs(iy), abs(iz)
        while True:
            mask[i, j, k] = 1
            if labels[i, j, k] != free:
                break
            if next_x <= next_y and next_x <= next_z:
                i += step_i
                next_x += ix
                if i < 0 or i >= size[0]:
                    break
            elif next_y <= next_z:
                j += step_j
                next_y += iy
                if j < 0 or j >= size[1]:
                    break
            else:
                k += step_k
                next_z += iz
                if k < 0 or k >= size[2]:
                    break


def mark_visible(
    mask: np.ndarray,
    labels: np.ndarray,
    start: np.ndarray,
    rotation: np.ndarray,
    rays: np.ndarray,
    lattice: Lattice = OCC3D,
    free: int = FREE,
) -> None:
    """Set the voxels of ``mask`` [X, Y, Z] uint8 that rays cross, up to and including the first occupied one.

    start [3] in the lattice's frame, m; rays [N, 3] are turned into that frame by ``rotation`` [3, 3]. The start may lie
    outside the lattice. ``labels`` [X, Y, Z] are ``free`` where nothing stops a ray.
    """
    _march(mask, labels, start, rotation, rays, free, np.array(lattice.lower), lattice.edge)


def voxelise(
    solids: Solids,
    streets: np.ndarray,
    patches: np.ndarray,
    rotation: np.ndarray,
    origin: np.ndarray,
    lattice: Lattice = OCC3D,
    labelling: Labelling = NUSCENES,
) -> np.ndarray:
    """Labels [X, Y, Z] uint8 of a lattice whose frame is placed in the world by rotation [3, 3], origin [3] m.

    A voxel that any of its samples finds in a part is occupied by the part with most (weighted) samples; the ground
    is one voxel thick and gives way to parts.
    """
    labels = np.full(lattice.shape, labelling.free, np.uint8)
    score = np.zeros(lattice.shape, np.int16)
    lower = np.array(lattice.lower)
    _fill(
        labels, score, rotation, origin, solids.geometry, solids.shape, solids.class_id, labelling.weight, lower,
        lattice.edge,
    )  # fmt: skip
    _lay_ground(labels, rotation, origin, streets, patches, labelling.ground, labelling.free, lower, lattice.edge)
    return labels
