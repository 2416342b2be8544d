"""The parts of a scene as flat tables at one instant, and rays against them.

``geometry`` rows: centre x, y, z (m, world), cos and sin of the yaw, 1 / half extents (1/m); all parts stand upright
(only the yaw turns). ``shape`` and ``pattern`` hold the codes of ``catalogue.py``, ``colour`` RGB 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .catalogue import BOX, CLASS_ID, CONE, CYLINDER, ELLIPSOID, Model, Part
from .ground import kernel
from .world import Scene

FAR = 1e9


@dataclass(frozen=True)
class Solids:
    """Parts of a scene at one instant: arrays over P parts; ``thing`` is the index of the object each belongs to."""

    geometry: np.ndarray
    shape: np.ndarray
    pattern: np.ndarray
    colour: np.ndarray
    class_id: np.ndarray
    thing: np.ndarray

    def take(self, chosen: np.ndarray) -> Solids:
        """The chosen parts (indices or a mask), in that order."""
        return Solids(*(a[chosen] for a in (self.geometry, self.shape, self.pattern, self.colour, self.class_id, self.thing)))

    def half(self) -> np.ndarray:
        """Half extents [P, 3] in metres."""
        return 1.0 / self.geometry[:, 5:8]

    def near(self, x: float, y: float, reach: float) -> Solids:
        """The parts within ``reach`` metres of a place."""
        radius = np.hypot(*self.half()[:, :2].T)
        distance = np.hypot(self.geometry[:, 0] - x, self.geometry[:, 1] - y)
        return self.take(np.flatnonzero(distance - radius < reach))


def nuscenes_class(model: Model, part: Part) -> int:
    """Occ3D's class id of a part of a model."""
    return CLASS_ID[model.class_name]


class Assembly:
    """A scene's parts, ready to be put in place for any instant; ``class_of`` says what a part of a model is."""

    def __init__(self, scene: Scene, class_of: Callable[[Model, Part], int] = nuscenes_class) -> None:
        parts = [(i, part) for i, thing in enumerate(scene.things) for part in thing.model.parts]
        self._things = scene.things
        self._thing = np.array([i for i, _ in parts], dtype=np.int64)
        self._centre = np.array([part.centre for _, part in parts], dtype=np.float64)
        self._inverse = 1.0 / np.array([part.half for _, part in parts], dtype=np.float64)
        self._shape = np.array([part.shape for _, part in parts], dtype=np.int64)
        self._pattern = np.array([part.pattern for _, part in parts], dtype=np.int64)
        self._colour = np.array([part.colour for _, part in parts], dtype=np.float64)
        self._class = np.array([class_of(scene.things[i].model, part) for i, part in parts], dtype=np.uint8)
        self._height = np.array([thing.height for thing in scene.things])

    def at(self, seconds: float) -> Solids:
        """All parts in the world frame, ``seconds`` after the start of the scene."""
        poses = np.array([thing.at(seconds) for thing in self._things])[self._thing]
        cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
        x, y, z = self._centre.T
        geometry = np.column_stack(
            [
                poses[:, 0] + cos * x - sin * y,
                poses[:, 1] + sin * x + cos * y,
                z + self._height[self._thing],
                cos,
                sin,
                self._inverse,
            ]
        )
        return Solids(geometry, self._shape, self._pattern, self._colour, self._class, self._thing)


@kernel
def intersect(shape: int, g: np.ndarray, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> float:
    """Ray parameter at which the ray from o along d enters a part; FAR where it misses or starts inside."""
    x, y, z = ox - g[0], oy - g[1], oz - g[2]
    lx, ly, lz = (g[3] * x + g[4] * y) * g[5], (g[3] * y - g[4] * x) * g[6], z * g[7]
    ex, ey, ez = (g[3] * dx + g[4] * dy) * g[5], (g[3] * dy - g[4] * dx) * g[6], dz * g[7]
    if shape == BOX:
        a, b = (-1.0 - lx) / ex, (1.0 - lx) / ex
        enter, leave = min(a, b), max(a, b)
        a, b = (-1.0 - ly) / ey, (1.0 - ly) / ey
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        a, b = (-1.0 - lz) / ez, (1.0 - lz) / ez
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        return enter if leave > enter and enter > 0.0 else FAR
    if shape == CONE:
        # x^2 + y^2 = ((1 - z) / 2)^2 between z = -1 and the apex z = 1
        m, n = 0.5 * (1.0 - lz), -0.5 * ez
        a, b, c = ex * ex + ey * ey - n * n, lx * ex + ly * ey - m * n, lx * lx + ly * ly - m * m
        disc = b * b - a * c
        if disc < 0.0:
            return FAR
        root = math.sqrt(disc)
        t0, t1 = (-b - root) / a, (-b + root) / a
        if t1 < t0:
            t0, t1 = t1, t0
        if t0 > 0.0 and abs(lz + t0 * ez) <= 1.0:
            return t0
        return t1 if t1 > 0.0 and abs(lz + t1 * ez) <= 1.0 else FAR
    if shape == ELLIPSOID:
        a, b, c = ex * ex + ey * ey + ez * ez, lx * ex + ly * ey + lz * ez, lx * lx + ly * ly + lz * lz - 1.0
        disc = b * b - a * c
        if disc < 0.0:
            return FAR
        t0 = (-b - math.sqrt(disc)) / a
        return t0 if t0 > 0.0 else FAR
    if shape != CYLINDER:  # a wheel: its axis is y
        ly, lz, ey, ez = lz, ly, ez, ey
    a, b, c = ex * ex + ey * ey, lx * ex + ly * ey, lx * lx + ly * ly - 1.0
    disc = b * b - a * c
    if disc < 0.0:
        return FAR
    root = math.sqrt(disc)
    p, q = (-1.0 - lz) / ez, (1.0 - lz) / ez
    enter, leave = max((-b - root) / a, min(p, q)), min((-b + root) / a, max(p, q))
    return enter if leave > enter and enter > 0.0 else FAR


@kernel
def inside(shape: int, x: float, y: float, z: float) -> bool:
    """Whether a point in units of the half extents, in the part's own axes, lies in the part."""
    if shape == BOX:
        return abs(x) <= 1.0 and abs(y) <= 1.0 and abs(z) <= 1.0
    if shape == ELLIPSOID:
        return x * x + y * y + z * z <= 1.0
    if shape == CYLINDER:
        return x * x + y * y <= 1.0 and abs(z) <= 1.0
    if shape == CONE:
        return abs(z) <= 1.0 and x * x + y * y <= 0.25 * (1.0 - z) * (1.0 - z)
    return x * x + z * z <= 1.0 and abs(y) <= 1.0
