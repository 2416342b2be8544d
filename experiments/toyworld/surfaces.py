"""What the ground and the things of the toy world look like: procedural colours, RGB 0..1, before any light."""

from __future__ import annotations

import math

import numpy as np

from .catalogue import BAND, BODY, CABIN, CARGO, COACH, EARTH, FACADE, FOLIAGE, HAZARD, RIBS, STRIPES
from .ground import ASPHALT, BRICK, LOT, PAINT, PAVING, kernel


@kernel
def _hash(i: int, j: int, k: int) -> float:
    n = i * 374761393 + j * 668265263 + k * 1440662683
    n = (n ^ ((n >> 13) & 0x7FFFF)) * 1274126177
    return ((n ^ ((n >> 16) & 0xFFFF)) & 0xFFFF) / 65535.0


@kernel
def _noise(x: float, y: float) -> float:
    """Smooth value noise in 0..1 with features of size 1."""
    i, j = math.floor(x), math.floor(y)
    u, v = x - i, y - j
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    i, j = int(i), int(j)
    low = _hash(i, j, 0) * (1 - u) + _hash(i + 1, j, 0) * u
    high = _hash(i, j + 1, 0) * (1 - u) + _hash(i + 1, j + 1, 0) * u
    return low * (1 - v) + high * v


@kernel
def ground_colour(kind: int, x: float, y: float, a: float, b: float, far: float) -> tuple[float, float, float]:
    """Colour of the ground; fine detail fades with the distance ``far`` (m) so that it does not flicker."""
    fine = max(0.0, 1.0 - far / 25.0)
    patchy = _noise(x * 0.35, y * 0.35) - 0.5
    grain = (_noise(x * 5.0, y * 5.0) - 0.5) * fine
    if kind == PAINT:
        w = 0.82 + 0.15 * grain
        return w, w, w * 0.97
    if kind == ASPHALT:
        w = 0.34 + 0.07 * patchy + 0.08 * grain
        return w, w, w * 1.04
    if kind == LOT:
        w = 0.4 + 0.08 * patchy + 0.1 * grain
        return w, w, w
    if kind == PAVING:
        w = 0.68 + 0.06 * patchy + 0.05 * grain
        joint = (a / 0.9) % 1.0 < 0.07 or (b / 0.9) % 1.0 < 0.07
        w -= 0.2 * fine if joint else 0.0
        return w, w * 0.97, w * 0.9
    if kind == BRICK:
        check = (int(math.floor(a / 0.8)) + int(math.floor(b / 0.8))) % 2 == 0
        w = 0.9 + 0.15 * patchy + 0.1 * grain + (0.14 if check else -0.14) * max(0.25, fine)
        return 0.62 * w, 0.33 * w, 0.28 * w
    w = 1.0 + 0.5 * patchy + 0.5 * grain
    dry = _noise(x * 0.12 + 7.0, y * 0.12)
    return (0.3 + 0.16 * dry) * w, (0.46 + 0.02 * dry) * w, 0.17 * w


@kernel
def solid_colour(
    pattern: int, colour: np.ndarray, x: float, y: float, z: float, hx: float, hy: float, hz: float,
    up: bool, thing: int, far: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Colour at a point (x, y, z) (m, part axes) of a part with half extents h; ``up`` on its top face."""
    r, g, b = colour[0], colour[1], colour[2]
    front = abs(x) > 0.98 * hx
    h = z + hz
    if pattern == FOLIAGE:
        w = 0.55 + 0.75 * _hash(int(math.floor(x * 5)), int(math.floor(y * 5)), int(math.floor(z * 5)) + thing)
        w *= 0.8 + 0.25 * _hash(int(math.floor(x * 1.7)), int(math.floor(y * 1.7)), int(math.floor(z * 1.7)) + thing)
        w *= 0.7 + 0.3 * min(1.0, h / (2 * hz) + 0.2)
        return r * w, g * w, b * w
    if pattern == EARTH:
        w = 0.75 + 0.5 * _noise(x * 3.0, y * 3.0)
        return r * w, g * w, b * w
    if pattern == FACADE and not up:
        u = y if front else x
        span = hy if front else hx
        cell_u, cell_v = (u + span) / 2.4, h / 2.9
        fu, fv = cell_u % 1.0, cell_v % 1.0
        if 0.25 < fu < 0.75 and 0.3 < fv < 0.78 and abs(u) < span - 0.4:
            lit = _hash(int(cell_u), int(cell_v), thing)
            return 0.18 + 0.25 * lit, 0.22 + 0.25 * lit, 0.3 + 0.22 * lit
        if h < 0.5:
            return r * 0.6, g * 0.6, b * 0.6
        w = 0.92 + 0.16 * _hash(int(math.floor(u * 2.5)), int(math.floor(z * 5)), thing)
        return r * w, g * w, b * w
    if pattern == BODY and front:
        if abs(y) > 0.62 * hy and 0.3 < h / (2 * hz) < 0.75:
            return (0.98, 0.97, 0.85) if x > 0 else (0.85, 0.05, 0.05)
        if h < 0.2:
            return 0.1, 0.1, 0.1
        return r * 0.92, g * 0.92, b * 0.92
    if pattern == BODY and h < 0.16:
        return r * 0.5, g * 0.5, b * 0.5
    if pattern == CABIN and not up:
        pillar = abs(x) < 0.06 or abs(x) > 0.9 * hx
        if 0.18 < h / (2 * hz) < 0.86 and (front or not pillar):
            return 0.14, 0.18, 0.23
    if pattern == COACH and not up:
        if 0.45 < h / (2 * hz) < 0.8 and (front or (x / 1.6) % 1.0 > 0.1):
            return 0.12, 0.15, 0.2
        if h < 0.45:
            return 0.2, 0.2, 0.22
        if 0.3 < h / (2 * hz) < 0.36:
            return 0.75, 0.12, 0.1
        if front and x < 0 and abs(y) > 0.75 * hy and h < 1.2:
            return 0.85, 0.05, 0.05
    if pattern == STRIPES:
        if ((x + y + z) / 0.5) % 1.0 < 0.5:
            return 0.93, 0.92, 0.9
    if pattern == HAZARD:
        if h < 0.3 and ((x + y + z) / 0.6) % 1.0 < 0.5:
            return 0.08, 0.08, 0.08
    if pattern == RIBS:
        w = 1.0 if ((y if front else x) / 0.6) % 1.0 < 0.65 else 0.72
        return r * w, g * w, b * w
    if pattern == BAND and 0.35 < h / (2 * hz) < 0.62:
        return 0.95, 0.95, 0.93
    if pattern == CARGO and not up:
        if 0.55 < h / (2 * hz) < 0.72:
            return 0.1, 0.4, 0.2
        if front and x < 0 and abs(y) < 0.04:
            return 0.2, 0.2, 0.2
    if far > 40.0:
        return r, g, b
    w = 0.95 + 0.1 * _hash(int(math.floor(x * 4)), int(math.floor(y * 4)), int(math.floor(z * 4)))
    return r * w, g * w, b * w
