"""Pictures of labelled voxels as shaded cubes: rays through the pixels, exact cube faces. numba on the CPU, no display.

The splatting renderers draw voxels as the soft blobs that training compares; a reader wants to see the voxels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.cell.figures import palette

_SAMPLES = 2  # rays a pixel along each axis
_SUN = np.array([0.35, -0.5, 0.8])  # towards the light, in a frame with x forward
_SUN /= np.linalg.norm(_SUN)


@dataclass(frozen=True)
class Viewpoint:
    """A pinhole camera, or a parallel one if ``orthographic``.

    intrinsics  [3, 3] pixels; for a parallel camera, pixels a metre
    pose        [4, 4] reference frame -> camera, OpenCV axes
    """

    intrinsics: NDArray[np.float64]
    pose: NDArray[np.float64]
    width: int
    height: int
    orthographic: bool = False

    def scaled(self, width: int) -> Viewpoint:
        """The same view in a picture ``width`` pixels wide."""
        factor = width / self.width
        intrinsics = self.intrinsics.copy()
        intrinsics[:2] *= factor
        return Viewpoint(intrinsics, self.pose, width, round(self.height * factor), self.orthographic)

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels [n, 2] of points [n, 3] in the reference frame."""
        seen = points @ self.pose[:3, :3].T + self.pose[:3, 3]
        if self.orthographic:
            seen[:, 2] = 1.0
        pixels = seen @ self.intrinsics.T
        return pixels[:, :2] / pixels[:, 2:]


def ahead(grid: OccupancyGrid) -> NDArray[np.float64]:
    """The lidar's y points forward, the other frames' x."""
    return np.array([0.0, 1.0, 0.0] if grid.frame == "lidar" else [1.0, 0.0, 0.0])


def look_at(eye: NDArray[np.float64], target: NDArray[np.float64], upward: NDArray[np.float64]) -> NDArray[np.float64]:
    """[4, 4] reference frame -> camera at ``eye`` that looks at ``target``, ``upward`` being up in the picture."""
    axis = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(axis, upward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(axis, right), axis])
    pose[:3, 3] = -pose[:3, :3] @ eye
    return pose


def from_behind(grid: OccupancyGrid, width: int, height: int) -> Viewpoint:
    """The whole range from behind and above, in perspective."""
    lower, upper, forward = np.array(grid.lower), np.array(grid.upper), ahead(grid)
    centre, reach = (lower + upper) / 2, float((upper - lower)[:2].max())
    eye = centre - forward * 1.02 * reach + np.array([0.0, 0.0, 0.78 * reach])
    target = centre - forward * 0.08 * reach
    focal = 0.98 * min(width, 1.6 * height)
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Viewpoint(intrinsics, look_at(eye, target, np.array([0.0, 0.0, 1.0])), width, height)


def from_above(grid: OccupancyGrid, width: int) -> Viewpoint:
    """The whole range straight from above, to scale; forward is up."""
    lower, upper, forward = np.array(grid.lower), np.array(grid.upper), ahead(grid)
    centre = (lower + upper) / 2
    across, along = (0, 1) if grid.frame == "lidar" else (1, 0)
    size = upper - lower
    scale = width / size[across]
    height = round(scale * size[along])
    intrinsics = np.array([[scale, 0, width / 2], [0, scale, height / 2], [0, 0, 1.0]])
    eye = centre + np.array([0.0, 0.0, size[2]])
    return Viewpoint(intrinsics, look_at(eye, centre, forward), width, height, orthographic=True)


def draw(labels: NDArray[Any], grid: OccupancyGrid, view: Viewpoint) -> NDArray[np.uint8]:
    """RGB [height, width, 3] of the voxels that are neither empty nor ignored, on white; labels [X, Y, Z] class ids.

    Faces are shaded by their direction, by the neighbours that stand around them and by the shadows of a low sun. A
    camera that stands inside a voxel does not see that voxel.
    """
    solid = (labels != grid.empty) & (labels != grid.ignore)
    big = view.scaled(view.width * _SAMPLES)
    columns, rows = np.meshgrid(np.arange(big.width) + 0.5, np.arange(view.height * _SAMPLES) + 0.5)
    k = big.intrinsics
    x, y = (columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1]
    zero, one = np.zeros_like(x), np.ones_like(x)
    origins = np.stack([x, y, zero] if view.orthographic else [zero, zero, zero], axis=-1).reshape(-1, 3)
    directions = np.stack([zero, zero, one] if view.orthographic else [x, y, one], axis=-1).reshape(-1, 3)
    rotation, shift = view.pose[:3, :3], view.pose[:3, 3]
    origins = ((origins - shift) @ rotation - np.array(grid.lower)) / grid.voxel_size
    directions = directions @ rotation
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # Edges are drawn as wide as a pixel, as far as voxels are some pixels large.
    spread = 1 / (k[0, 0] * grid.voxel_size) if view.orthographic else 1 / k[0, 0]
    turn = np.array([-_SUN[1], _SUN[0], _SUN[2]]) if grid.frame == "lidar" else _SUN
    pixels = _shade(
        np.ascontiguousarray(labels, dtype=np.uint8),
        solid,
        palette(grid).astype(np.float64) / 255,
        origins,
        directions,
        turn,
        spread * _SAMPLES,
        not view.orthographic,
    )
    picture = pixels.reshape(view.height, _SAMPLES, view.width, _SAMPLES, 3).mean(axis=(1, 3))
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


@njit(cache=True)
def _march(solid, px, py, pz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """First solid voxel along a ray, in voxel units -> (hit, x, y, z, axis of the face, distance).

    The voxel in which the ray starts does not count.
    """
    nx, ny, nz = solid.shape
    near, far, axis = 0.0, np.inf, -1
    for a in range(3):
        p, d, n = (px, dx, nx) if a == 0 else ((py, dy, ny) if a == 1 else (pz, dz, nz))
        if abs(d) < 1e-12:
            if p < 0 or p > n:
                return False, 0, 0, 0, 0, 0.0
            continue
        first, last = (0 - p) / d, (n - p) / d
        if first > last:
            first, last = last, first
        if first > near:
            near, axis = first, a
        far = min(far, last)
    if near >= far:
        return False, 0, 0, 0, 0, 0.0
    x = min(max(int(math.floor(px + near * dx + (1e-9 if dx > 0 else -1e-9))), 0), nx - 1)
    y = min(max(int(math.floor(py + near * dy + (1e-9 if dy > 0 else -1e-9))), 0), ny - 1)
    z = min(max(int(math.floor(pz + near * dz + (1e-9 if dz > 0 else -1e-9))), 0), nz - 1)
    sx, sy, sz = (1 if dx > 0 else -1), (1 if dy > 0 else -1), (1 if dz > 0 else -1)
    tx = (x + (1 if sx > 0 else 0) - px) / dx if abs(dx) > 1e-12 else np.inf
    ty = (y + (1 if sy > 0 else 0) - py) / dy if abs(dy) > 1e-12 else np.inf
    tz = (z + (1 if sz > 0 else 0) - pz) / dz if abs(dz) > 1e-12 else np.inf
    distance = near
    while True:
        if axis >= 0 and solid[x, y, z]:
            return True, x, y, z, axis, distance
        if tx <= ty and tx <= tz:
            distance, axis = tx, 0
            x += sx
            tx += sx / dx
        elif ty <= tz:
            distance, axis = ty, 1
            y += sy
            ty += sy / dy
        else:
            distance, axis = tz, 2
            z += sz
            tz += sz / dz
        if not (0 <= x < nx and 0 <= y < ny and 0 <= z < nz):
            return False, 0, 0, 0, 0, 0.0


@njit(cache=True)
def _at(solid, axis, layer, u, v):  # type: ignore[no-untyped-def]
    """Whether the voxel in a layer across ``axis`` at (u, v) of the other two axes is solid; outside nothing is."""
    x, y, z = (layer, u, v) if axis == 0 else ((u, layer, v) if axis == 1 else (u, v, layer))
    nx, ny, nz = solid.shape
    return 1.0 if 0 <= x < nx and 0 <= y < ny and 0 <= z < nz and solid[x, y, z] else 0.0


@njit(cache=True)
def _openness(solid, axis, layer, u, v, fu, fv):  # type: ignore[no-untyped-def]
    """How little the neighbours in front of a face darken the point (fu, fv) in it: 1 in the open, less in corners."""
    total = 0.0
    for i in range(2):
        for j in range(2):
            du, dv = 2 * i - 1, 2 * j - 1
            side, other = _at(solid, axis, layer, u + du, v), _at(solid, axis, layer, u, v + dv)
            corner = _at(solid, axis, layer, u + du, v + dv)
            closed = 3.0 if side + other == 2.0 else side + other + corner
            weight = (fu if i else 1 - fu) * (fv if j else 1 - fv)
            total += weight * (1 - 0.17 * closed)
    return total


@njit(cache=True)
def _shade(labels, solid, colours, origins, directions, sun, spread, perspective):  # type: ignore[no-untyped-def]
    """Colours [n, 3] in 0..1 of rays in voxel units; white where nothing is hit.

    spread  width of a picture's pixel at distance 1 (perspective) or anywhere (parallel), in voxels
    """
    count = origins.shape[0]
    out = np.ones((count, 3))
    for ray in range(count):
        px, py, pz = origins[ray]
        dx, dy, dz = directions[ray]
        hit, x, y, z, axis, distance = _march(solid, px, py, pz, dx, dy, dz)
        if not hit:
            continue
        hx, hy, hz = px + distance * dx, py + distance * dy, pz + distance * dz
        if axis == 0:
            towards, layer, u, v, fu, fv, facing = (-1 if dx > 0 else 1), x, y, z, hy - y, hz - z, sun[0]
        elif axis == 1:
            towards, layer, u, v, fu, fv, facing = (-1 if dy > 0 else 1), y, x, z, hx - x, hz - z, sun[1]
        else:
            towards, layer, u, v, fu, fv, facing = (-1 if dz > 0 else 1), z, x, y, hx - x, hy - y, sun[2]
        lit = max(0.0, facing * towards)
        if lit > 0:
            # From just in front of the face, so that the march's first voxel is the free one.
            ox = hx + (1e-4 * towards if axis == 0 else 0.0)
            oy = hy + (1e-4 * towards if axis == 1 else 0.0)
            oz = hz + (1e-4 * towards if axis == 2 else 0.0)
            if _march(solid, ox, oy, oz, sun[0], sun[1], sun[2])[0]:
                lit *= 0.35
        sky = 0.72 if axis < 2 else (0.70 if towards > 0 else 0.45)
        light = (sky + 0.42 * lit) * _openness(solid, axis, layer + towards, u, v, fu, fv)
        width = spread * (distance if perspective else 1.0)
        edge = min(min(fu, 1 - fu), min(fv, 1 - fv))
        if width < 0.25 and edge < max(0.03, width):
            light *= 1 - 0.28 * (1 - width / 0.25)
        for c in range(3):
            out[ray, c] = min(1.0, colours[labels[x, y, z], c] * light)
    return out
