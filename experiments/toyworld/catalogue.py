"""What stands in the toy world: objects as lists of simple solids, one function a kind.

Object frame: x forward, y left, z up, origin on the ground below the object's middle; metres. Every function draws
its sizes and colours from the generator it is given, so that one class looks varied but recognisable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

CLASS_NAMES = (
    "others", "barrier", "bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "traffic_cone",
    "trailer", "truck", "driveable_surface", "other_flat", "sidewalk", "terrain", "manmade", "vegetation", "free",
)  # fmt: skip
CLASS_ID = {name: index for index, name in enumerate(CLASS_NAMES)}
FREE = CLASS_ID["free"]

# Shapes, all aligned with the part's own axes. CYLINDER stands upright, WHEEL lies along y, CONE has its apex on top.
BOX, CYLINDER, WHEEL, ELLIPSOID, CONE = range(5)

# Surface patterns; raycast.py paints them.
(PLAIN, FACADE, FOLIAGE, BODY, CABIN, STRIPES, RIBS, BAND, COACH, HAZARD, CARGO, EARTH) = range(12)

Colour = tuple[float, float, float]
Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One solid of an object: shape, centre and half extents in the object frame (m), RGB colour 0..1, pattern."""

    shape: int
    centre: Vector
    half: Vector
    colour: Colour
    pattern: int = PLAIN


@dataclass(frozen=True)
class Model:
    """An object without a place: class name, bounding size (length, width, height) in metres, parts.

    ``kind`` tells things of one class apart; it is empty where the class says what a thing is.
    """

    class_name: str
    size: Vector
    parts: tuple[Part, ...]
    kind: str = ""


DARK: Colour = (0.07, 0.07, 0.08)
GLASS: Colour = (0.16, 0.2, 0.25)
SKIN: Colour = (0.78, 0.58, 0.46)


def _vary(rng: Generator, colour: Colour, amount: float = 0.06) -> Colour:
    r, g, b = np.clip(np.asarray(colour) * rng.uniform(0.85, 1.15) + rng.uniform(-amount, amount, 3), 0.02, 1.0)
    return float(r), float(g), float(b)


def _pick(rng: Generator, colours: list[Colour], amount: float = 0.06) -> Colour:
    return _vary(rng, colours[int(rng.integers(len(colours)))], amount)


def _box(x: float, y: float, z0: float, z1: float, length: float, width: float, colour: Colour, pattern: int) -> Part:
    """A box by its middle (x, y), its vertical range and its full length and width."""
    return Part(BOX, (x, y, (z0 + z1) / 2), (length / 2, width / 2, (z1 - z0) / 2), colour, pattern)


def _wheels(xs: list[float], half_track: float, radius: float) -> list[Part]:
    return [
        Part(WHEEL, (x, side * half_track, radius), (radius, 0.13, radius), DARK)
        for x in xs for side in (-1.0, 1.0)
    ]  # fmt: skip


def car(rng: Generator) -> Model:
    length, width, height = rng.uniform(3.9, 4.9), rng.uniform(1.75, 1.95), rng.uniform(1.42, 1.75)
    paints = [(0.85, 0.86, 0.88), (0.12, 0.12, 0.14), (0.5, 0.52, 0.55), (0.62, 0.08, 0.1), (0.1, 0.22, 0.55)]
    paint = _pick(rng, paints, 0.04)
    belt = 0.55 * height + 0.1
    cabin = length * rng.uniform(0.48, 0.66)
    shift = -0.08 * length if cabin < 0.58 * length else -0.14 * length
    parts = [
        _box(0, 0, 0.28, belt, length, width, paint, BODY),
        _box(shift, 0, belt, height, cabin, width * 0.86, paint, CABIN),
        *_wheels([0.31 * length, -0.31 * length], width / 2 - 0.1, 0.33),
    ]
    return Model("car", (length, width, height), tuple(parts))


def truck(rng: Generator) -> Model:
    length, width, height = rng.uniform(6.5, 8.5), rng.uniform(2.3, 2.5), rng.uniform(2.9, 3.5)
    cab = 2.1
    paint = _pick(rng, [(0.08, 0.42, 0.2), (0.12, 0.45, 0.3), (0.3, 0.5, 0.12)])
    load = _pick(rng, [(0.75, 0.82, 0.72), (0.55, 0.72, 0.5)], 0.05)
    parts = [
        _box(length / 2 - cab / 2, 0, 0.5, 2.5, cab, width * 0.96, paint, CABIN),
        _box(length / 2 - cab / 2, 0, 0.35, 1.4, cab + 0.1, width * 0.97, paint, BODY),
        _box(-cab / 2, 0, 0.95, height, length - cab - 0.25, width, load, CARGO),
        _box(-cab / 2, 0, 0.55, 0.95, length - cab, 1.2, DARK, PLAIN),
        *_wheels([length / 2 - 1.2, -length / 2 + 1.2, -length / 2 + 2.3], width / 2 - 0.15, 0.48),
    ]
    return Model("truck", (length, width, height), tuple(parts))


def bus(rng: Generator) -> Model:
    length, width, height = rng.uniform(9.5, 12.0), rng.uniform(2.5, 2.7), rng.uniform(3.0, 3.4)
    paint = _pick(rng, [(0.9, 0.72, 0.1), (0.88, 0.62, 0.08), (0.93, 0.8, 0.3)], 0.03)
    parts = [
        _box(0, 0, 0.35, height, length, width, paint, COACH),
        *_wheels([length / 2 - 2.4, -length / 2 + 2.6], width / 2 - 0.1, 0.5),
    ]
    return Model("bus", (length, width, height), tuple(parts))


def trailer(rng: Generator) -> Model:
    length, width, height = rng.uniform(7.5, 10.5), rng.uniform(2.4, 2.6), rng.uniform(3.2, 3.7)
    paint = _pick(rng, [(0.32, 0.3, 0.5), (0.42, 0.36, 0.58), (0.36, 0.26, 0.44)], 0.04)
    parts = [
        _box(0, 0, 1.05, height, length, width, paint, RIBS),
        _box(0, 0, 0.75, 1.05, length * 0.96, 1.1, DARK, PLAIN),
        _box(length / 2 - 1.6, 0, 0.0, 0.75, 0.3, 1.3, (0.3, 0.3, 0.32), PLAIN),
        *_wheels([-length / 2 + 0.9, -length / 2 + 1.9, -length / 2 + 2.9], width / 2 - 0.15, 0.48),
    ]
    return Model("trailer", (length, width, height), tuple(parts))


def construction_vehicle(rng: Generator) -> Model:
    length, width = rng.uniform(5.6, 6.8), rng.uniform(2.3, 2.6)
    paint = _vary(rng, (0.93, 0.45, 0.05), 0.03)
    reach, lift = length / 2, rng.uniform(2.4, 3.4)
    parts = [
        _box(-0.9, width * 0.36, 0.0, 0.85, length * 0.6, width * 0.28, (0.13, 0.12, 0.11), RIBS),
        _box(-0.9, -width * 0.36, 0.0, 0.85, length * 0.6, width * 0.28, (0.13, 0.12, 0.11), RIBS),
        _box(-1.2, 0, 0.85, 1.9, length * 0.52, width, paint, HAZARD),
        _box(-0.6, width * 0.22, 1.9, 2.9, 1.5, width * 0.5, paint, CABIN),
        _box(reach * 0.35, -0.3, 1.5, lift, 0.5, 0.4, paint, PLAIN),
        _box(reach * 0.62, -0.3, lift - 0.5, lift, reach * 0.62, 0.4, paint, PLAIN),
        _box(reach * 0.9, -0.3, 0.7, lift - 0.3, 0.4, 0.35, paint, PLAIN),
        _box(reach * 0.86, -0.3, 0.05, 0.9, 1.0, 1.3, (0.28, 0.26, 0.24), PLAIN),
    ]
    return Model("construction_vehicle", (length, width, max(lift, 2.9)), tuple(parts))


def _rider(rng: Generator, colour: Colour, seat: float) -> list[Part]:
    return [
        Part(ELLIPSOID, (-0.1, 0, seat + 0.35), (0.2, 0.25, 0.4), colour),
        Part(ELLIPSOID, (0.0, 0, seat + 0.88), (0.15, 0.14, 0.17), _vary(rng, (0.95, 0.95, 0.9))),
        Part(BOX, (0.08, 0.17, seat - 0.25), (0.12, 0.09, 0.32), (0.15, 0.16, 0.22)),
        Part(BOX, (0.08, -0.17, seat - 0.25), (0.12, 0.09, 0.32), (0.15, 0.16, 0.22)),
    ]


def bicycle(rng: Generator) -> Model:
    paint = _pick(rng, [(0.05, 0.72, 0.75), (0.1, 0.82, 0.65)], 0.05)
    ridden = bool(rng.random() < 0.6)
    parts = [
        Part(WHEEL, (0.55, 0, 0.36), (0.36, 0.06, 0.36), DARK),
        Part(WHEEL, (-0.55, 0, 0.36), (0.36, 0.06, 0.36), DARK),
        _box(0, 0, 0.4, 0.75, 1.0, 0.14, paint, PLAIN),
        _box(-0.3, 0, 0.7, 0.98, 0.3, 0.2, paint, PLAIN),
        _box(0.45, 0, 0.7, 1.1, 0.12, 0.5, paint, PLAIN),
        *(_rider(rng, _vary(rng, (0.1, 0.75, 0.7), 0.08), 0.95) if ridden else []),
    ]
    return Model("bicycle", (1.82, 0.6, 2.0 if ridden else 1.1), tuple(parts))


def motorcycle(rng: Generator) -> Model:
    paint = _pick(rng, [(0.72, 0.1, 0.42), (0.6, 0.06, 0.5)], 0.05)
    ridden = bool(rng.random() < 0.5)
    parts = [
        Part(WHEEL, (0.72, 0, 0.34), (0.34, 0.12, 0.34), DARK),
        Part(WHEEL, (-0.72, 0, 0.34), (0.34, 0.12, 0.34), DARK),
        _box(0, 0, 0.3, 0.72, 1.2, 0.42, paint, PLAIN),
        Part(ELLIPSOID, (0.2, 0, 0.85), (0.5, 0.26, 0.25), paint),
        _box(-0.5, 0, 0.7, 0.95, 0.8, 0.36, DARK, PLAIN),
        _box(0.62, 0, 0.8, 1.25, 0.16, 0.75, paint, PLAIN),
        *(_rider(rng, _vary(rng, (0.5, 0.08, 0.35), 0.08), 0.9) if ridden else []),
    ]
    return Model("motorcycle", (2.15, 0.8, 1.95 if ridden else 1.25), tuple(parts))


def pedestrian(rng: Generator) -> Model:
    tall = rng.uniform(1.55, 1.9)
    coat = _pick(rng, [(0.85, 0.2, 0.15), (0.2, 0.3, 0.8), (0.85, 0.8, 0.3), (0.9, 0.9, 0.9), (0.35, 0.2, 0.45)], 0.1)
    legs = _pick(rng, [(0.12, 0.14, 0.25), (0.2, 0.17, 0.14)], 0.04)
    parts = [
        Part(CYLINDER, (0.08, 0.1, tall * 0.23), (0.1, 0.1, tall * 0.23), legs),
        Part(CYLINDER, (-0.08, -0.1, tall * 0.23), (0.1, 0.1, tall * 0.23), legs),
        Part(ELLIPSOID, (0, 0, tall * 0.64), (0.19, 0.28, tall * 0.22), coat),
        Part(ELLIPSOID, (0.02, 0, tall * 0.92), (0.13, 0.12, tall * 0.08), _vary(rng, SKIN)),
    ]
    return Model("pedestrian", (0.5, 0.6, tall), tuple(parts))


def barrier(rng: Generator) -> Model:
    length = rng.uniform(1.9, 2.5)
    paint = _vary(rng, (0.85, 0.12, 0.08), 0.04)
    parts = [
        _box(0, 0, 0.0, 0.35, length, 0.6, (0.75, 0.73, 0.7), PLAIN),
        _box(0, 0, 0.35, 1.05, length, 0.3, paint, STRIPES),
    ]
    return Model("barrier", (length, 0.6, 1.05), tuple(parts))


def traffic_cone(rng: Generator) -> Model:
    tall = rng.uniform(0.75, 0.95)
    paint = _vary(rng, (1.0, 0.36, 0.03), 0.03)
    parts = [
        Part(BOX, (0, 0, 0.05), (0.24, 0.24, 0.05), paint),
        Part(CONE, (0, 0, 0.06 + tall / 2), (0.22, 0.22, tall / 2), paint, BAND),
    ]
    return Model("traffic_cone", (0.5, 0.5, tall + 0.06), tuple(parts))


def others(rng: Generator) -> Model:
    """Waste containers, heaps of debris and animals."""
    which = int(rng.integers(3))
    if which == 0:
        paint = _vary(rng, (0.2, 0.1, 0.6), 0.04)
        parts = [
            _box(0, 0, 0.1, 1.15, 1.4, 0.9, paint, PLAIN),
            _box(0, 0, 1.15, 1.3, 1.5, 1.0, _vary(rng, (0.95, 0.85, 0.1), 0.03), PLAIN),
        ]
        return Model("others", (1.5, 1.0, 1.3), tuple(parts))
    if which == 1:
        paint = _vary(rng, (0.35, 0.15, 0.65), 0.05)
        parts = [
            Part(ELLIPSOID, (0.1, 0.1, 0.3), (0.7, 0.55, 0.5), paint),
            Part(BOX, (-0.4, -0.2, 0.25), (0.35, 0.3, 0.25), _vary(rng, (0.9, 0.8, 0.15), 0.05)),
            Part(BOX, (0.5, -0.3, 0.2), (0.25, 0.25, 0.2), paint),
        ]
        return Model("others", (1.6, 1.3, 0.8), tuple(parts))
    fur = _vary(rng, (0.45, 0.25, 0.68), 0.05)
    parts = [
        Part(ELLIPSOID, (0, 0, 0.62), (0.55, 0.22, 0.26), fur),
        Part(ELLIPSOID, (0.62, 0, 0.9), (0.24, 0.16, 0.2), _vary(rng, (0.92, 0.82, 0.2), 0.05)),
        *[Part(BOX, (x, y, 0.22), (0.1, 0.08, 0.22), fur) for x in (-0.36, 0.36) for y in (-0.13, 0.13)],
    ]
    return Model("others", (1.5, 0.5, 1.1), tuple(parts))


def building(rng: Generator) -> Model:
    length, depth, tall = rng.uniform(8, 20), rng.uniform(7, 13), rng.uniform(4.5, 16)
    walls = [(0.62, 0.42, 0.33), (0.72, 0.66, 0.56), (0.56, 0.56, 0.58), (0.7, 0.58, 0.42), (0.5, 0.36, 0.32)]
    wall = _pick(rng, walls)
    parts = [_box(0, 0, 0, tall, length, depth, wall, FACADE)]
    if rng.random() < 0.5:
        parts.append(_box(0, 0, tall, tall + 0.5, length + 0.6, depth + 0.6, _vary(rng, (0.35, 0.25, 0.22)), PLAIN))
    if rng.random() < 0.4:
        parts.append(_box(0, depth / 2 + 0.7, 2.6, 2.9, length * 0.6, 1.4, _vary(rng, (0.5, 0.2, 0.15)), PLAIN))
    return Model("manmade", (length, depth, tall), tuple(parts), "building")


def wall(rng: Generator) -> Model:
    length, tall = rng.uniform(5, 11), rng.uniform(1.1, 2.3)
    paint = _pick(rng, [(0.66, 0.62, 0.56), (0.55, 0.4, 0.33)])
    return Model("manmade", (length, 0.4, tall), (_box(0, 0, 0, tall, length, 0.35, paint, RIBS),), "wall")


def lamp(rng: Generator) -> Model:
    tall = rng.uniform(5.5, 8.0)
    metal = _vary(rng, (0.45, 0.46, 0.48), 0.03)
    parts = [
        Part(CYLINDER, (0, 0, tall / 2), (0.14, 0.14, tall / 2), metal),
        _box(0.6, 0, tall - 0.15, tall, 1.5, 0.25, metal, PLAIN),
    ]
    return Model("manmade", (0.4, 0.4, tall), tuple(parts), "lamp")


def sign(rng: Generator) -> Model:
    tall = rng.uniform(2.3, 3.2)
    face = _pick(rng, [(0.1, 0.25, 0.65), (0.75, 0.75, 0.78)], 0.03)
    parts = [
        Part(CYLINDER, (0, 0, tall / 2), (0.1, 0.1, tall / 2), (0.5, 0.5, 0.52)),
        _box(0.12, 0, tall - 0.9, tall, 0.1, 0.9, face, PLAIN),
    ]
    return Model("manmade", (0.4, 0.9, tall), tuple(parts), "sign")


def tree(rng: Generator) -> Model:
    trunk, radius = rng.uniform(1.6, 2.8), rng.uniform(1.2, 2.2)
    leaf = _pick(rng, [(0.16, 0.36, 0.1), (0.22, 0.42, 0.12), (0.12, 0.3, 0.12)], 0.03)
    crown = radius * rng.uniform(0.9, 1.4)
    parts = [
        Part(CYLINDER, (0, 0, trunk / 2 + 0.3), (0.2, 0.2, trunk / 2 + 0.3), _vary(rng, (0.3, 0.22, 0.15), 0.03)),
        Part(ELLIPSOID, (0, 0, trunk + crown * 0.8), (radius, radius, crown), leaf, FOLIAGE),
        Part(ELLIPSOID, (0.5 * radius, 0.3 * radius, trunk + crown * 0.5), (0.7 * radius,) * 2 + (0.6 * crown,), leaf,
             FOLIAGE),
    ]  # fmt: skip
    return Model("vegetation", (0.8, 0.8, trunk + 2 * crown), tuple(parts))


def hedge(rng: Generator) -> Model:
    length, tall, width = rng.uniform(3, 9), rng.uniform(0.8, 1.9), rng.uniform(0.8, 1.3)
    leaf = _vary(rng, (0.18, 0.35, 0.12), 0.03)
    return Model("vegetation", (length, width, tall), (_box(0, 0, 0, tall, length, width, leaf, FOLIAGE),))


def bush(rng: Generator) -> Model:
    radius, tall = rng.uniform(0.7, 1.5), rng.uniform(0.8, 1.6)
    leaf = _pick(rng, [(0.2, 0.4, 0.14), (0.3, 0.4, 0.12)], 0.03)
    part = Part(ELLIPSOID, (0, 0, tall * 0.35), (radius, radius * 0.9, tall * 0.65), leaf, FOLIAGE)
    return Model("vegetation", (2 * radius, 1.8 * radius, tall), (part,))


def mound(rng: Generator) -> Model:
    """A grassy rise: terrain that is not flat."""
    long, wide, tall = rng.uniform(3, 7), rng.uniform(2.5, 5), rng.uniform(0.5, 1.5)
    part = Part(ELLIPSOID, (0, 0, -0.2), (long, wide, tall + 0.2), _vary(rng, (0.42, 0.5, 0.2), 0.03), EARTH)
    return Model("terrain", (2 * long, 2 * wide, tall), (part,))


MODELS: dict[str, Callable[[Generator], Model]] = {
    f.__name__: f
    for f in (
        car, truck, bus, trailer, construction_vehicle, bicycle, motorcycle, pedestrian, barrier, traffic_cone,
        others, building, wall, lamp, sign, tree, hedge, bush, mound,
    )
}  # fmt: skip
