"""The ground of the toy world as a function of the place: arc-shaped streets and rectangular patches.

A street is a line of constant curvature with a width, pavements and perhaps a median; rows of ``streets`` are
x0, y0, yaw0, curvature (1/m, left positive), half width, left pavement, right pavement, half median, first s, lane
width (m). A patch is an oriented rectangle; rows of ``patches`` are x, y, cos, sin, half length, half width, kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

from .catalogue import CLASS_ID

# Kinds of ground, and the class and height (m) of each.
ASPHALT, PAINT, PAVING, BRICK, GRASS, LOT = range(6)
GROUND_CLASS = np.array(
    [
        CLASS_ID[name]
        for name in ("driveable_surface", "driveable_surface", "sidewalk", "other_flat", "terrain", "driveable_surface")
    ],
    dtype=np.uint8,
)
KERB = 0.15
GROUND_HEIGHT = np.array([0.0, 0.0, KERB, KERB, KERB, 0.0])

# Kinds of patches: a square and a car park take the place of grass, an island that of the road, a zebra is paint.
SQUARE, CAR_PARK, ISLAND, ZEBRA = range(4)

_STRAIGHT = 1e-6
_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(function: _Function) -> _Function:
    """Compile a function so that threads run it side by side; division by zero gives infinity."""
    return cast(_Function, njit(nogil=True, cache=True, error_model="numpy")(function))


@kernel
def street_lateral(street: np.ndarray, x: float, y: float) -> float:
    """Signed distance (m) of a place to the street's line, left positive."""
    cos, sin, curvature = math.cos(street[2]), math.sin(street[2]), street[3]
    dx, dy = x - street[0], y - street[1]
    if abs(curvature) < _STRAIGHT:
        return cos * dy - sin * dx
    cx, cy = dx + sin / curvature, dy - cos / curvature
    return (1.0 - abs(curvature) * math.sqrt(cx * cx + cy * cy)) / curvature


@kernel
def street_along(street: np.ndarray, x: float, y: float) -> float:
    """Arc length (m) of the foot of a place on the street's line."""
    cos, sin, curvature = math.cos(street[2]), math.sin(street[2]), street[3]
    dx, dy = x - street[0], y - street[1]
    if abs(curvature) < _STRAIGHT:
        return cos * dx + sin * dy
    return math.atan2(curvature * (cos * dx + sin * dy), 1.0 - curvature * (cos * dy - sin * dx)) / curvature


@kernel
def _markings(street: np.ndarray, s: float, d: float) -> bool:
    ad = abs(d)
    if abs(ad - (street[4] - 0.3)) < 0.1:
        return True
    dash = (s / 6.0) % 1.0 < 0.5
    if street[7] == 0.0 and ad < 0.12:
        return dash or street[9] > 3.4
    return dash and street[4] > 1.8 * street[9] and abs(ad - street[7] - street[9]) < 0.1


@kernel
def ground_at(streets: np.ndarray, patches: np.ndarray, x: float, y: float) -> tuple[int, float, float]:
    """Kind of ground at a place, and its texture coordinates (m).

    Where streets meet, the road of any wins over the median of another, that over a pavement, that over grass.
    """
    rank, kind, a, b = 0, GRASS, x, y
    roads, road = 0, -1
    for i in range(streets.shape[0]):
        street = streets[i]
        d = street_lateral(street, x, y)
        pavement = street[5] if d > 0 else street[6]
        if abs(d) > street[4] + pavement:
            continue
        s = street_along(street, x, y)
        if s < street[8]:
            continue
        if abs(d) > street[4]:
            if rank < 1:
                rank, kind, a, b = 1, PAVING, s, d
        elif abs(d) <= street[7]:
            if rank < 2:
                rank, kind, a, b = 2, BRICK, s, d
        else:
            roads, road = roads + 1, i
            rank, kind, a, b = 3, ASPHALT, s, d
    if roads == 1 and rank == 3 and _markings(streets[road], a, b):
        kind = PAINT
    for i in range(patches.shape[0]):
        patch = patches[i]
        dx, dy = x - patch[0], y - patch[1]
        u = patch[2] * dx + patch[3] * dy
        v = patch[2] * dy - patch[3] * dx
        if abs(u) > patch[4] or abs(v) > patch[5]:
            continue
        what = int(patch[6])
        if what == SQUARE and rank == 0:
            kind, a, b = BRICK, u, v
        elif what == CAR_PARK and rank == 0:
            kind, a, b = LOT, u, v
            if abs(v) > 2.5 and abs((u / 2.6) % 1.0 - 0.5) < 0.04:
                kind = PAINT
        elif what == ISLAND and rank == 3:
            kind, a, b = BRICK, u, v
        elif what == ZEBRA and rank == 3:
            kind = PAINT if (v / 1.1) % 1.0 < 0.5 else ASPHALT
    return kind, a, b


@kernel
def ground_kinds(streets: np.ndarray, patches: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Kind of ground [N] at places [N, 2] (m, world)."""
    kinds = np.empty(points.shape[0], np.int64)
    for i in range(points.shape[0]):
        kinds[i] = ground_at(streets, patches, points[i, 0], points[i, 1])[0]
    return kinds
