"""A procedural driving scene: streets, what stands and moves on them, and the recording car's way through them.

World frame: x, y horizontal, z up, metres; the roads lie at z = 0. Everything is drawn from one generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from .catalogue import CLASS_ID, MODELS, Model
from .ground import CAR_PARK, GROUND_CLASS, GROUND_HEIGHT, ISLAND, SQUARE, ZEBRA, ground_kinds

Pose = tuple[float, float, float]  # x, y (m), yaw (rad)

ROAD = ("driveable_surface",)
WALKS = ("sidewalk", "other_flat")
GREEN = ("terrain",)
_EGO_HALF = (3.6, 1.8)  # clearance kept around the recording car, m
_EGO_MIDDLE = 1.4  # its middle lies this far before the ego origin (rear axle), m
_STEP = 0.15  # spacing of the times at which moving things are kept apart, s


def advance(pose: Pose, length: float, curvature: float) -> Pose:
    """The pose after ``length`` metres along an arc of constant curvature (1/m, left positive)."""
    x, y, yaw = pose
    turned = yaw + curvature * length
    if abs(curvature) < 1e-6:
        return x + length * math.cos(yaw), y + length * math.sin(yaw), yaw
    return (
        x + (math.sin(turned) - math.sin(yaw)) / curvature,
        y + (math.cos(yaw) - math.cos(turned)) / curvature,
        turned,
    )


def offset(pose: Pose, forward: float, left: float) -> Pose:
    """A pose moved in its own frame, heading kept."""
    x, y, yaw = pose
    cos, sin = math.cos(yaw), math.sin(yaw)
    return x + cos * forward - sin * left, y + sin * forward + cos * left, yaw


@dataclass(frozen=True)
class Street:
    """A street of constant curvature; ``ground.py`` says what the numbers mean."""

    start: Pose
    curvature: float
    half_width: float
    pavement_left: float
    pavement_right: float
    half_median: float
    first: float
    lane: float

    def row(self) -> list[float]:
        return [
            *self.start, self.curvature, self.half_width, self.pavement_left, self.pavement_right, self.half_median,
            self.first, self.lane,
        ]  # fmt: skip

    def pose(self, s: float, d: float) -> Pose:
        """The pose along the street at arc length s and signed distance d to its line."""
        return offset(advance(self.start, s, self.curvature), 0.0, d)


@dataclass(frozen=True)
class Way:
    """The recording car's way: arcs (length m, curvature 1/m) from a first pose, driven at constant speed (m/s)."""

    start: Pose
    arcs: tuple[tuple[float, float], ...]
    speed: float

    def pose(self, seconds: float) -> Pose:
        left = seconds * self.speed
        if left <= 0:
            return advance(self.start, left, self.arcs[0][1])
        pose = self.start
        for length, curvature in self.arcs[:-1]:
            step = min(left, length)
            pose = advance(pose, step, curvature)
            left -= step
            if left <= 0:
                return pose
        return advance(pose, left, self.arcs[-1][1])


@dataclass(frozen=True)
class Thing:
    """An object in its place at time 0: moves along an arc of constant curvature at constant speed (m/s)."""

    model: Model
    pose: Pose
    height: float
    speed: float = 0.0
    curvature: float = 0.0

    def at(self, seconds: float) -> Pose:
        return advance(self.pose, self.speed * seconds, self.curvature) if self.speed else self.pose


@dataclass(frozen=True)
class Light:
    """Sun direction (unit, towards the sun), its and the sky's strength, colours of sky and haze, visibility (m)."""

    sun: tuple[float, float, float]
    direct: float
    ambient: float
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    visibility: float

    def row(self) -> np.ndarray:
        return np.array([*self.sun, self.direct, self.ambient, *self.zenith, *self.horizon, self.visibility])


@dataclass(frozen=True)
class Scene:
    """A scene: the ground (rows as in ``ground.py``), the things on it, the way through it, the light."""

    streets: np.ndarray
    patches: np.ndarray
    things: tuple[Thing, ...]
    way: Way
    light: Light
    sway: tuple[float, float, float, float]  # pitch and roll amplitude (rad), frequency (Hz), phase


def _light(rng: Generator) -> Light:
    azimuth, elevation = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(32, 62))
    cloudy = rng.random()
    warm = rng.uniform(-0.04, 0.04)
    return Light(
        sun=(math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)),
        direct=0.75 - 0.4 * cloudy,
        ambient=0.52 + 0.2 * cloudy,
        zenith=(0.3 + 0.35 * cloudy, 0.5 + 0.17 * cloudy, 0.82 - 0.1 * cloudy),
        horizon=(0.78 + warm, 0.82, 0.86 - warm),
        visibility=rng.uniform(140, 320),
    )


def _street(rng: Generator, start: Pose, curvature: float, first: float = -math.inf) -> Street:
    lane = rng.uniform(3.0, 3.7)
    lanes = int(rng.choice([1, 1, 2, 2, 3]))
    median = float(rng.uniform(0.6, 1.6)) if lanes > 1 and rng.random() < 0.5 else 0.0
    left, right = (float(rng.uniform(1.6, 4.5)) if rng.random() < 0.85 else 0.0 for _ in range(2))
    kerb_strip = rng.uniform(0.6, 2.6)
    return Street(start, curvature, median + lanes * lane + kerb_strip, left, right, median, first, lane)


def _turn(main: Street, cross: Street, left: bool, rng: Generator, speed: float) -> Way:
    """A way that turns from the main street into the crossing one (both straight), through a tangent arc."""
    d_main, d_cross = (-(s.half_median + 0.5 * s.lane + rng.uniform(-0.3, 0.6)) for s in (main, cross))
    towards = cross.start[2] if left else cross.start[2] + math.pi
    here = main.pose(0.0, d_main)
    there = offset((cross.start[0], cross.start[1], towards), 0.0, d_cross)
    swing = (towards - here[2] + math.pi) % (2 * math.pi) - math.pi
    sin, cos = math.sin(here[2]), math.cos(here[2])
    along = ((there[0] - here[0]) * math.sin(towards) - (there[1] - here[1]) * math.cos(towards)) / (
        cos * math.sin(towards) - sin * math.cos(towards)
    )
    radius = rng.uniform(9, 13) if left else rng.uniform(6.5, 9)
    tangent = radius * math.tan(abs(swing) / 2)
    before = float(rng.uniform(0.0, 5.0))
    start = offset(here, along - tangent - before, 0.0)
    arcs = ((before, 0.0), (radius * abs(swing), math.copysign(1 / radius, swing)), (1.0, 0.0))
    return Way(start, arcs, min(speed, 6.0))


def _follow(main: Street, rng: Generator, speed: float, seconds: float) -> Way:
    """A way along the street in some lane, half the time changing lanes on the way."""
    lanes = max(1, int((main.half_width - main.half_median) / main.lane))
    d = -(main.half_median + (int(rng.integers(lanes)) + 0.5) * main.lane + rng.uniform(-0.5, 0.5))
    begin = main.pose(-speed * seconds / 2 + rng.uniform(-6, 6), d)
    curvature = main.curvature / (1 - main.curvature * d)
    if rng.random() < 0.5:
        return Way(begin, ((1.0, curvature),), speed)
    bend = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.015, 0.035))
    if d < -main.half_width + 3.0:
        bend = abs(bend)
    length = rng.uniform(5, 8)
    arcs = ((length, curvature + bend), (length, curvature - bend), (1.0, curvature))
    return Way(begin, arcs, speed)


class _Builder:
    """Places things one by one where the ground allows it and nothing else stands or passes."""

    def __init__(self, rng: Generator, streets: list[Street], way: Way, seconds: float) -> None:
        self.rng, self.streets, self.way, self.seconds = rng, streets, way, seconds
        self.street_rows = np.array([street.row() for street in streets])
        self.patches: list[list[float]] = []
        self.patch_rows = np.empty((0, 7))
        self.times = np.arange(-_STEP, seconds + _STEP, _STEP)
        ego = [offset(way.pose(float(t)), _EGO_MIDDLE, 0.0) for t in self.times]
        self.things: list[Thing] = []
        self._poses = [np.array(ego)]
        self._halves = [_EGO_HALF]

    def add_patch(self, kind: int, pose: Pose, half_length: float, half_width: float) -> None:
        self.patches.append([pose[0], pose[1], math.cos(pose[2]), math.sin(pose[2]), half_length, half_width, kind])
        self.patch_rows = np.array(self.patches)

    def _kinds(self, pose: Pose, size: tuple[float, ...]) -> np.ndarray:
        steps = [(u, v) for u in (-0.5, 0.0, 0.5) for v in (-0.5, 0.0, 0.5)]
        points = np.array([offset(pose, u * size[0], v * size[1])[:2] for u, v in steps])
        return ground_kinds(self.street_rows, self.patch_rows, points)

    def add(
        self, model: Model, pose: Pose, surfaces: tuple[str, ...], speed: float = 0.0, curvature: float = 0.0,
        margin: float = 0.25,
    ) -> bool:  # fmt: skip
        """Place a model if the ground below it is of the given classes and its way is free; says whether it was."""
        allowed = {CLASS_ID[name] for name in surfaces}
        kinds = self._kinds(pose, model.size)
        if not allowed.issuperset(GROUND_CLASS[kinds].tolist()):
            return False
        thing = Thing(model, pose, float(GROUND_HEIGHT[kinds].max()), speed, curvature)
        poses = np.array([thing.at(float(t)) for t in self.times])
        half = (model.size[0] / 2 + margin, model.size[1] / 2 + margin)
        if _overlaps(poses, np.array(half), np.stack(self._poses), np.array(self._halves)):
            return False
        self.things.append(thing)
        self._poses.append(poses)
        self._halves.append((model.size[0] / 2, model.size[1] / 2))
        return True

    def near(self, least: float, most: float) -> Pose:
        """A random pose ``least`` to ``most`` metres beside a random point of the way, heading along a street or not."""
        rng = self.rng
        x, y, yaw = self.way.pose(float(rng.uniform(0, self.seconds)))
        angle, radius = rng.uniform(0, 2 * math.pi), rng.uniform(least, most)
        street = self.streets[int(rng.integers(len(self.streets)))]
        heading = street.start[2] + float(rng.integers(4)) * math.pi / 2
        if rng.random() < 0.35:
            heading = rng.uniform(0, 2 * math.pi)
        return x + radius * math.cos(angle), y + radius * math.sin(angle), heading

    def scatter(
        self, kind: str, count: int, surfaces: tuple[str, ...], least: float, most: float, speed: float = 0.0,
        margin: float = 0.25, tries: int = 40,
    ) -> None:  # fmt: skip
        """Up to ``count`` things of a kind around the way; ``speed`` is the largest, drawn for 60 % of them."""
        for _ in range(count):
            model = MODELS[kind](self.rng)
            for _ in range(tries):
                moving = self.rng.uniform(0.5, 1.0) * speed if speed and self.rng.random() < 0.6 else 0.0
                if self.add(model, self.near(least, most), surfaces, moving, margin=margin):
                    break

    def drive(self, kind: str, count: int, reach: float, parked: float, tries: int = 25) -> None:
        """Up to ``count`` vehicles on the streets within ``reach`` metres: at the kerb with chance ``parked``."""
        rng = self.rng
        for _ in range(count):
            model = MODELS[kind](rng)
            for _ in range(tries):
                street = self.streets[int(rng.integers(len(self.streets)))]
                s = max(street.first, -reach) if math.isinf(street.first) else street.first
                s = rng.uniform(s, s + reach + min(reach, max(0.0, -s)))
                side = -1.0 if rng.random() < 0.5 else 1.0
                lanes = max(1, int((street.half_width - street.half_median) / street.lane))
                d = street.half_median + (int(rng.integers(lanes)) + 0.5) * street.lane + rng.uniform(-0.3, 0.3)
                speed = float(rng.uniform(2, 9)) if rng.random() < 0.6 else 0.0
                if rng.random() < parked:
                    d, speed = street.half_width - model.size[1] / 2 - rng.uniform(0.15, 0.5), 0.0
                x, y, yaw = street.pose(s, side * d)
                curvature = street.curvature / (1 - street.curvature * side * d)
                if side > 0:
                    yaw, curvature = yaw + math.pi, -curvature
                yaw += rng.normal(0, 0.02)
                if self.add(model, (x, y, yaw), ROAD, speed, curvature, margin=0.4):
                    break

    def row_of(self, kind: str, count: int, surfaces: tuple[str, ...], gap: float, most: float) -> None:
        """A row of things one behind the other."""
        pose = self.near(4.0, most)
        sideways = kind == "barrier" and self.rng.random() < 0.3
        for _ in range(count):
            model = MODELS[kind](self.rng)
            turned = (pose[0], pose[1], pose[2] + (math.pi / 2 if sideways else 0.0) + self.rng.normal(0, 0.05))
            self.add(model, turned, surfaces, margin=0.05)
            pose = offset(pose, model.size[0] + gap, self.rng.normal(0, 0.1))

    def frontage(self, kind: str, chance: float, setback: tuple[float, float], reach: float) -> None:
        """Things along both sides of all streets behind the pavements, each place taken with the given chance."""
        rng = self.rng
        for street in self.streets:
            for side in (-1.0, 1.0):
                s = -reach if math.isinf(street.first) else street.first
                while s < reach:
                    model = MODELS[kind](rng)
                    s += model.size[0] / 2
                    edge = street.half_width + (street.pavement_left if side > 0 else street.pavement_right)
                    d = side * (edge + rng.uniform(*setback) + model.size[1] / 2)
                    x, y, yaw = street.pose(s, d)
                    if rng.random() < chance:
                        turned = (x, y, yaw + (math.pi if side > 0 else 0.0))
                        self.add(model, turned, ("terrain", "other_flat"), margin=0.1)
                    s += model.size[0] / 2 + rng.uniform(0.3, 5.0)


def _overlaps(poses: np.ndarray, half: np.ndarray, other: np.ndarray, halves: np.ndarray) -> bool:
    """Whether a rectangle with poses [T, 3] meets any of N others [N, T, 3] at the same time (separating axes)."""
    delta = other[..., :2] - poses[:, :2]
    near = (np.abs(delta) < half.sum() + halves.sum(axis=1)[:, None, None]).all(axis=2).any(axis=1)
    if not near.any():
        return False
    delta, halves = delta[near], halves[near][:, None]
    yaw, yaws = poses[:, 2], other[near][..., 2]
    cos, sin = np.abs(np.cos(yaws - yaw)), np.abs(np.sin(yaws - yaw))
    own = np.abs(np.cos(yaw) * delta[..., 0] + np.sin(yaw) * delta[..., 1])
    own_side = np.abs(np.cos(yaw) * delta[..., 1] - np.sin(yaw) * delta[..., 0])
    their = np.abs(np.cos(yaws) * delta[..., 0] + np.sin(yaws) * delta[..., 1])
    their_side = np.abs(np.cos(yaws) * delta[..., 1] - np.sin(yaws) * delta[..., 0])
    a, b = halves[..., 0], halves[..., 1]
    apart = (own > half[0] + a * cos + b * sin) | (own_side > half[1] + a * sin + b * cos)
    apart |= (their > a + half[0] * cos + half[1] * sin) | (their_side > b + half[0] * sin + half[1] * cos)
    return bool((~apart).any())


def generate(rng: Generator, seconds: float) -> Scene:
    """A scene to be driven through for ``seconds``; all of it drawn from ``rng``."""
    heading = rng.uniform(0, 2 * math.pi)
    layout = str(rng.choice(["straight", "curved", "crossing", "crossing", "tee"]))
    bend = float(rng.choice([-1.0, 1.0]) / rng.uniform(28, 90)) if layout == "curved" else 0.0
    main = _street(rng, (0.0, 0.0, heading), bend)
    streets = [main]
    speed = float(rng.uniform(3, 8))
    if layout in ("crossing", "tee"):
        swing = math.radians(rng.uniform(65, 115))
        at = 0.0 if rng.random() < 0.6 else rng.uniform(-18, 18)
        first = 0.0 if layout == "tee" else -math.inf
        streets.append(_street(rng, (*main.pose(at, 0.0)[:2], heading + swing), 0.0, first))
    elif rng.random() < 0.6:
        side = float(rng.choice([-1.0, 1.0]))
        corner = main.pose(rng.uniform(-25, 25), 0.0)
        streets.append(_street(rng, (*corner[:2], corner[2] + side * rng.uniform(1.2, 1.9)), 0.0, 0.0))
    if layout in ("crossing", "tee") and rng.random() < 0.6:
        way = _turn(main, streets[1], layout == "tee" or bool(rng.random() < 0.5), rng, speed)
    else:
        way = _follow(main, rng, speed, seconds)
    build = _Builder(rng, streets, way, seconds)
    _lay_patches(build)
    _populate(build)
    sway = (rng.uniform(0.001, 0.006), rng.uniform(0.001, 0.004), rng.uniform(0.3, 0.9), rng.uniform(0, 6.28))
    return Scene(build.street_rows, build.patch_rows, tuple(build.things), way, _light(rng), sway)


def _lay_patches(build: _Builder) -> None:
    """Squares and car parks beside the streets, islands and zebra crossings on them."""
    rng = build.rng
    for kind, count in ((SQUARE, int(rng.integers(2, 5))), (CAR_PARK, int(rng.integers(0, 3)))):
        for _ in range(count):
            street = build.streets[int(rng.integers(len(build.streets)))]
            side = float(rng.choice([-1.0, 1.0]))
            half_length, half_width = rng.uniform(4, 13), rng.uniform(3, 8)
            edge = street.half_width + (street.pavement_left if side > 0 else street.pavement_right)
            s = rng.uniform(0 if street.first == 0 else -30, 30)
            build.add_patch(kind, street.pose(s, side * (edge + half_width - 0.5)), half_length, half_width)
    for street in build.streets:
        s = rng.uniform(-20, 20)
        if rng.random() < 0.7:
            build.add_patch(ZEBRA, street.pose(abs(s) + street.half_width, 0.0), 1.6, street.half_width - 0.4)
        if street.half_width > 6 and rng.random() < 0.6:
            build.add_patch(ISLAND, street.pose(-abs(s), rng.uniform(-1, 1)), rng.uniform(1.5, 4), rng.uniform(0.7, 1.4))


def _populate(build: _Builder) -> None:
    """All the things, large and rare ones first; every class gets several tries within 25 m of the way."""
    rng = build.rng
    anywhere = ("driveable_surface", "sidewalk", "other_flat", "terrain")
    off_road = ("sidewalk", "other_flat", "terrain")
    for kind in ("bus", "trailer", "truck"):
        build.drive(kind, int(rng.integers(1, 3)), 26, 0.5)
        build.scatter(kind, int(rng.integers(0, 2)), ("driveable_surface", "terrain", "other_flat"), 6, 22)
    build.scatter("construction_vehicle", int(rng.integers(1, 4)), anywhere, 6, 20)
    build.frontage("building", rng.uniform(0.15, 0.85), (0.3, 7.0), 55)
    build.drive("car", int(rng.integers(6, 13)), 38, 0.45)
    build.scatter("car", int(rng.integers(1, 5)), ("driveable_surface",), 4, 30)
    for _ in range(int(rng.integers(2, 5))):
        build.row_of("barrier", int(rng.integers(2, 6)), anywhere, 0.15, 18)
    for _ in range(int(rng.integers(2, 5))):
        build.row_of("traffic_cone", int(rng.integers(3, 7)), anywhere, rng.uniform(0.8, 2.2), 15)
    build.drive("motorcycle", int(rng.integers(1, 3)), 22, 0.3)
    build.scatter("motorcycle", int(rng.integers(2, 5)), anywhere, 4, 16)
    build.drive("bicycle", int(rng.integers(1, 3)), 22, 0.3)
    build.scatter("bicycle", int(rng.integers(3, 6)), anywhere, 4, 16, speed=3.0)
    build.scatter("others", int(rng.integers(5, 9)), anywhere, 4, 18)
    build.scatter("pedestrian", int(rng.integers(6, 13)), WALKS + ROAD, 3.5, 20, speed=1.6)
    build.scatter("pedestrian", int(rng.integers(2, 5)), anywhere, 3.5, 14, speed=1.2)
    build.scatter("mound", int(rng.integers(0, 4)), GREEN, 8, 34)
    build.scatter("tree", int(rng.integers(8, 24)), off_road, 6, 38, margin=1.0)
    build.scatter("hedge", int(rng.integers(2, 8)), off_road, 6, 30)
    build.scatter("bush", int(rng.integers(3, 9)), GREEN, 6, 30)
    build.scatter("wall", int(rng.integers(1, 5)), off_road, 7, 32)
    build.scatter("lamp", int(rng.integers(3, 9)), WALKS, 4, 30)
    build.scatter("sign", int(rng.integers(2, 7)), WALKS, 4, 22)
