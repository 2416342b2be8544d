"""What renderers are measured on: the renderings that published occupancy systems train with, and two sweeps.

Shapes, scales, opacities and settings are those of the systems; cameras are a six-camera rig and a forward camera with rounded
calibration of the kind that the data sets have. Every draw comes from a generator with a fixed seed. Labels are the official
Occ3D one where its folder is given, else a made-up street of about the same counts; ``Scene.label`` says which.

Systems: GaussRender (``valeoai/GaussRender`` src/model/head/gaussian_render.py:192-200, 369-432), GaussianOcc
(``GANWANSHUI/GaussianOcc`` networks/occupancy_decoder.py:495-612), GaussianFlowOcc (``boschresearch/GaussianFlowOcc``
mmdet3d/models/gaussianflowocc_modules/rasterizer.py:142-175), RenderOcc (see ``renderers.rays.published``).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from renderers.arrays import read_npz
from renderers.cases import Case
from renderers.interface import Cameras, Gaussians, RasterSettings
from renderers.rays.cameras import joined, pixel_rays
from renderers.rays.cases import RayCase
from renderers.rays.interface import GridField, Rays
from renderers.rays.published import RENDEROCC, RENDEROCC_RANGE
from renderers.registry import Kind
from renderers.scenes import pinhole

OFFICIAL_LABEL = "gts/scene-1077/29796060110c4163b07f06eff4af0753/labels.npz"
GAUSSRENDER = ("opacities", "features")  # what its training differentiates
CHANNELS = 19  # that GaussRender renders
FREE, CLASSES = 17, 18  # of Occ3D


class UnknownWorkload(ValueError):
    """The name is neither a workload nor a group of them."""


class LabelError(ValueError):
    """The folder does not hold the official label, or not in its format."""


@dataclass(frozen=True)
class Source:
    """Where a scene comes from. shrink divides image sizes and voxels per axis (tests); label [200, 200, 16] Occ3D or None."""

    shrink: int = 1
    label: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """What one step renders: its renderings in order, and what the labels behind the Gaussians are ("" if there are none)."""

    parts: tuple[Case, ...]
    label: str = ""


@dataclass(frozen=True)
class Workload:
    """A named scene. trained: the fields of ``Gaussians`` that the backward pass differentiates; kind: what it is made of."""

    name: str
    group: str
    title: str
    build: Callable[[Source], Scene]
    trained: tuple[str, ...] = GAUSSRENDER
    kind: ClassVar[Kind] = "splats"


@dataclass(frozen=True)
class RayScene:
    """What one step renders along rays, and what the labels behind the grid are."""

    case: RayCase
    label: str = ""


@dataclass(frozen=True)
class RayWorkload:
    """A named scene of rays; the backward pass differentiates density and features."""

    name: str
    group: str
    title: str
    build: Callable[[Source], RayScene]
    kind: ClassVar[Kind] = "rays"


def select(names: list[str]) -> list[Workload | RayWorkload]:
    """Workloads by name or by group ("occ3d-camera" is a group of two), in the order of ``WORKLOADS``; all for no names."""
    known = list(dict.fromkeys([*WORKLOADS, *(w.group for w in WORKLOADS.values())]))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            groups = ", ".join(dict.fromkeys(w.group for w in WORKLOADS.values()))
            raise UnknownWorkload(f"unknown workload '{name}'{hint} (known: {groups}, and their members)")
    return [w for w in WORKLOADS.values() if not names or w.name in names or w.group in names]


def load_label(folder: Path) -> Tensor:
    """The official Occ3D label [200, 200, 16] int64 below ``folder``; raises LabelError."""
    path = folder / OFFICIAL_LABEL
    try:
        stored = read_npz(path)["semantics"]
        if stored.dtype.kind not in "iu" or stored.min() < 0 or stored.max() > 17:
            raise ValueError(f"it holds {stored.dtype} beyond 0..17")
        label = torch.from_numpy(stored.astype("int64"))
    except Exception as error:  # noqa: BLE001 - whatever a file may hold
        why = error.strerror if isinstance(error, OSError) else error
        raise LabelError(
            f"{path} is not an Occ3D label ({why}); name a folder in the layout of Occ3D-nuScenes that has scene-1077, "
            "or leave it out to measure on a made-up scene"
        ) from error
    if label.shape != (200, 200, 16):
        raise LabelError(f"{path} holds {list(label.shape)} voxels, an Occ3D label has [200, 200, 16]")
    return label


# --- voxels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """A voxel grid; edge and sigma (of the Gaussian in each voxel) in metres."""

    lower: tuple[float, float, float]
    edge: float
    shape: tuple[int, int, int]
    sigma: float

    def over(self, shrink: int) -> Grid:
        """The same space in voxels ``shrink`` times as large."""
        shape = (self.shape[0] // shrink, self.shape[1] // shrink, max(self.shape[2] // shrink, 1))
        return Grid(self.lower, self.edge * shrink, shape, self.sigma * shrink)

    def centres(self) -> Tensor:
        """[N, 3] in metres, z fastest."""
        axes = [(torch.arange(n) + 0.5) * self.edge + low for n, low in zip(self.shape, self.lower, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


OCC3D = Grid((-40.0, -40.0, -1.0), 0.4, (200, 200, 16), 0.27)
SURROUNDOCC = Grid((-50.0, -50.0, -5.0), 0.5, (200, 200, 16), 0.25)
KITTI360 = Grid((0.0, -25.6, -2.0), 0.2, (256, 256, 32), 0.1)


def street(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """[X, Y, Z] int64 Occ3D classes of a made-up street along x: road, pavement, cars, walls, trees; about 6 % occupied."""
    generator = torch.Generator().manual_seed(seed)
    x, y, z = shape
    height = max(z // 16, 1)  # voxels in 0.4 m
    ground = min(2 * height, z - 1)
    label = torch.full(shape, FREE)
    across = (torch.arange(y) + 0.5) / y - 0.5
    surface = torch.where(across.abs() < 0.11, 11, torch.where(across.abs() < 0.16, 13, 14)).expand(x, y)
    # As a lidar sees it, densely near the middle and in patches farther off.
    along = (torch.arange(x) + 0.5) / x - 0.5
    distance = torch.hypot(along[:, None], across[None])
    seen = torch.rand(x, y, generator=generator) < 2.0 * torch.exp(-((distance / 0.17) ** 2))
    label[:, :, ground] = torch.where(seen, surface, FREE)

    def box(cls: int, at: tuple[float, float], size: tuple[float, float, float]) -> None:
        """A solid of parts of the grid's size, standing on the ground, centred at ``at``."""
        first = [int((c - s / 2 + 0.5) * n) for c, s, n in zip(at, size[:2], (x, y), strict=True)]
        count = [max(int(s * n), 1) for s, n in zip(size[:2], (x, y), strict=True)]
        top = ground + max(int(size[2] * z), 1)
        label[max(first[0], 0) : first[0] + count[0], max(first[1], 0) : first[1] + count[1], ground:top] = cls

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    for k in range(10):
        box(4, (draw(-0.4, 0.4), 0.07 if k % 2 else -0.07), (0.056, 0.024, 0.26))
    for side in (-1, 1):
        for _ in range(4):
            box(15, (draw(-0.4, 0.4), side * draw(0.2, 0.3)), (draw(0.1, 0.2), 0.015, 0.75))
        for _ in range(11):
            box(16, (draw(-0.48, 0.48), side * draw(0.19, 0.45)), (0.07, 0.07, draw(0.2, 0.6)))
    return label


def _labels(grid: Grid, source: Source) -> tuple[Tensor, str]:
    """[N] classes of a grid's voxels, and what they are."""
    official = source.label
    if official is not None and grid == OCC3D.over(source.shrink):
        return official[:: source.shrink, :: source.shrink, :: source.shrink].reshape(-1), "official Occ3D label, scene-1077"
    return street(grid.shape).reshape(-1), "made-up street"


def _one_hot(labels: Tensor, channels: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, channels).float()


def in_image(means: Tensor, cameras: Cameras) -> Tensor:
    """[1, V, N] bool: points [N, 3] before each camera whose projection lies half a pixel or more inside the image."""
    pose, k = cameras.world_to_camera[0], cameras.intrinsics[0]
    x, y, z = (torch.einsum("vij,nj->ivn", pose[:, :3, :3], means) + pose[:, :3, 3].T[..., None]).unbind(0)
    u = k[:, 0, 0, None] * x / z + k[:, 0, 2, None]
    v = k[:, 1, 1, None] * y / z + k[:, 1, 2, None]
    return ((z > 0) & (u > 0.5) & (u < cameras.width - 0.5) & (v > 0.5) & (v < cameras.height - 0.5))[None]


def _predicted(name: str, grid: Grid, labels: Tensor, cameras: Cameras, empty: int, from_above: bool = False) -> Case:
    """Every voxel, as GaussRender draws a prediction at the start of training: opacity sigmoid(-1), soft classes."""
    means = grid.centres()
    logits = 3 * _one_hot(labels, CHANNELS)
    logits += torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    count = len(means)
    gaussians = Gaussians(
        means=means[None],
        scales=torch.full((1, count, 1), grid.sigma),
        opacities=torch.full((1, count), float(torch.sigmoid(torch.tensor(-1.0)))),
        features=logits.softmax(-1)[None],
    )
    settings = RasterSettings(background=_one_hot(torch.tensor(empty), CHANNELS))
    return Case(name, gaussians, cameras, settings, None if from_above else in_image(means, cameras))


def _true(name: str, grid: Grid, labels: Tensor, cameras: Cameras) -> Case:
    """The occupied voxels, as GaussRender draws the ground truth: opaque, one-hot."""
    occupied = labels != FREE
    means, count = grid.centres()[occupied], int(occupied.sum())
    gaussians = Gaussians(
        means=means[None],
        scales=torch.full((1, count, 1), grid.sigma),
        opacities=torch.ones(1, count),
        features=_one_hot(labels[occupied], CHANNELS)[None],
    )
    return Case(
        name, gaussians, cameras, RasterSettings(background=_one_hot(torch.tensor(FREE), CHANNELS)), in_image(means, cameras)
    )


# --- cameras ---------------------------------------------------------------------------------------------------------

# Six cameras in the order FRONT, FRONT_LEFT, BACK_LEFT, BACK, BACK_RIGHT, FRONT_RIGHT: heading (degrees, left positive),
# focal length (pixels at 1600x900), place on the vehicle (m).
RIG = (
    (0.3, 1266.0, (1.70, 0.02, 1.51)),
    (55.2, 1273.0, (1.52, 0.49, 1.51)),
    (108.6, 1257.0, (1.04, 0.48, 1.59)),
    (179.9, 809.0, (0.03, 0.00, 1.58)),
    (-110.8, 1260.0, (1.01, -0.48, 1.56)),
    (-56.4, 1261.0, (1.55, -0.49, 1.50)),
)
PRINCIPAL = (816.0, 491.0)


def looking(heading: float, place: tuple[float, float, float], down: float = 0.41) -> Tensor:
    """[4, 4] reference frame (x ahead, y left, z up) -> camera at ``place``, turned left and down by degrees.

    The angles are such that no two voxels of a grid are almost equally far: which one comes first would be chance.
    """
    a, b = math.radians(heading), math.radians(down)
    ahead = torch.tensor([math.cos(a) * math.cos(b), math.sin(a) * math.cos(b), -math.sin(b)])
    right = torch.tensor([math.sin(a), -math.cos(a), 0.0])
    rotation = torch.stack([right, torch.linalg.cross(ahead, right), ahead])
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ torch.tensor(place)
    return pose


def _rig(chosen: tuple[int, ...], width: int, height: int, crop: float = 0.0, shrink: int = 1) -> Cameras:
    """Cameras of the rig with images scaled to ``width``, of which ``crop`` rows above are cut off and ``height`` kept."""
    scale = width / 1600
    intrinsics = [
        pinhole(width, height, RIG[i][1] * scale, cx=PRINCIPAL[0] * scale, cy=PRINCIPAL[1] * scale - crop) for i in chosen
    ]
    poses = [looking(RIG[i][0], RIG[i][2]) for i in chosen]
    return _shrunk(Cameras(torch.stack(intrinsics)[None], torch.stack(poses)[None], width, height), shrink)


def _shrunk(cameras: Cameras, shrink: int) -> Cameras:
    scale = torch.tensor([1 / shrink, 1 / shrink, 1.0])[:, None]
    size = (max(cameras.width // shrink, 1), max(cameras.height // shrink, 1))
    return Cameras(cameras.intrinsics * scale, cameras.world_to_camera, *size, cameras.time_index)


def _above(grid: Grid, size: int, shrink: int) -> Cameras:
    """GaussRender's view from above: as far over z = 0 as the grid is long, ``size`` pixels over that length."""
    length = grid.edge * grid.shape[0]
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[2, 3] = length
    k = pinhole(size, size, float(size), cx=-grid.lower[0] * size / length, cy=(grid.lower[1] + length) * size / length)
    return _shrunk(Cameras(k[None, None], pose[None, None], size, size), shrink)


# --- scenes ----------------------------------------------------------------------------------------------------------


def _toy(source: Source) -> Scene:
    grid = OCC3D.over(2 * source.shrink)
    labels = street(grid.shape).reshape(-1)
    views = (_rig((0,), 200, 112, shrink=source.shrink), _above(grid, 200, source.shrink))
    parts = [_predicted("toy", grid, labels, cameras, FREE, from_above=i == 1) for i, cameras in enumerate(views)]
    return Scene(tuple(parts), "made-up street")


def _occ3d(from_above: bool, truth: bool = False) -> Callable[[Source], Scene]:
    def build(source: Source) -> Scene:
        grid = OCC3D.over(source.shrink)
        labels, what = _labels(grid, source)
        cameras = _above(grid, 400, source.shrink) if from_above else _rig((0,), 1600, 900, shrink=source.shrink)
        if truth:
            return Scene((_true("occ3d", grid, labels, cameras),), what)
        return Scene((_predicted("occ3d", grid, labels, cameras, FREE, from_above),), what)

    return build


def _surroundocc(source: Source) -> Scene:
    grid = SURROUNDOCC.over(source.shrink)
    labels, what = _labels(grid, source)
    cameras = _rig((0,), 1600, 900, shrink=source.shrink)
    # Points are in the lidar's frame (x right, y ahead), and the published camera stands 2 m above the real one.
    lidar_to_ego = torch.tensor([[0.0, 1.0, 0.0, 0.94], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.84], [0.0, 0.0, 0.0, 1.0]])
    poses = cameras.world_to_camera @ lidar_to_ego
    poses[..., 1, 3] += 2.0
    raised = Cameras(cameras.intrinsics, poses, cameras.width, cameras.height)
    return Scene((_predicted("surroundocc", grid, labels, raised, 0),), what)


def _kitti360(source: Source) -> Scene:
    grid = KITTI360.over(source.shrink)
    labels, what = _labels(grid, source)
    k = pinhole(1408, 376, 552.6, cx=682.0, cy=238.8)
    pose = looking(2.5, (0.8, 0.3, -0.18), down=5.0)
    cameras = _shrunk(Cameras(k[None, None], pose[None, None], 1408, 376), source.shrink)
    return Scene((_predicted("kitti360", grid, labels, cameras, 0),), what)


def _uncontracted(cells: int, low: float, high: float, margin: float) -> Tensor:
    """[cells] metres: vertices of GaussianOcc's contracted axis, linear within low..high and going far beyond.

    With r = 2/3 of the cells inside, t = r / (1 - r) = 2: v in -1..1 -> w = 3 v; |w| <= 2 is linear, beyond it
    |tau u| = 1 / (3 - |w|) + 1 (its lib/networks voxel grid, VX 13-59, 132-150).
    """
    index = torch.arange(cells).float().clamp(margin, cells - 1 - margin)
    w = 3 * (2 * index / (cells - 1) - 1)
    stretched = torch.where(w.abs() <= 2, w, w.sign() * (1 / (3 - w.abs()) + 1)) / 2
    return (stretched + 1) / 2 * (high - low) + low


def _gaussianocc(source: Source) -> Scene:
    cells = (300 // source.shrink, 300 // source.shrink, 24 // min(source.shrink, 8))
    x, y = (_uncontracted(n, -40.0, 40.0, 0.5) for n in cells[:2])
    z = _uncontracted(cells[2], -1.0, 5.4, 0.05)
    means = torch.stack(torch.meshgrid(x, y, z, indexing="ij"), -1).reshape(-1, 3)
    distance = means.norm(dim=-1)
    scales = torch.where(distance > 80, 8.0, torch.where(distance > 60, 4.0, 1.0)) * 0.2
    # Classes: the label's inside its range; outside, one vertex in twenty is occupied.
    generator = torch.Generator().manual_seed(2)
    label, what = _labels(OCC3D, Source(1, source.label))
    voxel = ((means - torch.tensor(OCC3D.lower)) / OCC3D.edge).floor().long()
    inside = ((voxel >= 0) & (voxel < torch.tensor(OCC3D.shape))).all(-1)
    flat = (voxel[:, 0] * OCC3D.shape[1] + voxel[:, 1]) * OCC3D.shape[2] + voxel[:, 2]
    classes = torch.where(torch.rand(len(means), generator=generator) < 0.05, 15, FREE)
    classes = torch.where(inside, label[flat.where(inside, 0)], classes)
    noise = torch.randn(len(means), CLASSES, generator=generator)
    opacity = torch.sigmoid(torch.where(classes == FREE, -4.0, 2.0) + noise[:, 0])
    cameras = _rig(tuple(range(6)), 320, 180, shrink=source.shrink)
    # Each camera draws the half space before, left of, behind or right of it.
    place = torch.tensor([p for _, _, p in RIG])
    halves = [means[:, 0] > place[0, 0], means[:, 1] > place[1, 1], means[:, 1] > place[2, 1]]
    halves += [means[:, 0] < place[3, 0], means[:, 1] < place[4, 1], means[:, 1] < place[5, 1]]
    gaussians = Gaussians(means[None], scales[None, :, None], opacity[None], (3 * _one_hot(classes, CLASSES) + noise)[None])
    return Scene((Case("gaussianocc", gaussians, cameras, RasterSettings(), torch.stack(halves)[None]),), what)


def _gaussianflowocc(source: Source) -> Scene:
    generator = torch.Generator().manual_seed(3)
    count, times = 10_000 // source.shrink**2, 7

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    low, high = torch.tensor([-40.0, -40.0, -1.0]), torch.tensor([40.0, 40.0, 5.4])
    means = low + (high - low) * torch.rand(count, 3, generator=generator)
    moving = (torch.rand(count, 1, generator=generator) < 0.1).float()
    offsets = normal(times, count, 3) * moving * 0.5
    offsets[times // 2] = 0  # the current frame
    rig = _rig(tuple(range(6)), 704, 256, crop=140.0, shrink=source.shrink)
    poses = rig.world_to_camera.repeat(1, times, 1, 1)
    for view in range(6 * times):  # the vehicle drives 2 m ahead a frame, points stay in the current frame's coordinates
        poses[0, view, :3, 3] -= poses[0, view, :3, 0] * 2.0 * (view // 6 - times // 2)
    cameras = Cameras(
        rig.intrinsics.repeat(1, times, 1, 1), poses, rig.width, rig.height, torch.arange(times).repeat_interleave(6)
    )
    gaussians = Gaussians(
        means=(means + offsets)[None],
        scales=torch.sigmoid(normal(1, count, 3) - 1),
        opacities=torch.sigmoid(normal(1, count)),
        features=normal(1, count, 16),
        quaternions=normal(1, count, 4),
    )
    settings = RasterSettings(near=0.01, alpha_max=0.999, clamp="principal", clamp_gradient=False)
    return Scene((Case("gaussianflowocc", gaussians, cameras, settings),))


def _cloud(count: int, channels: int) -> Callable[[Source], Scene]:
    """Small Gaussians all over an 800x450 image, so transparent that no pixel is full: work grows with their number."""

    def build(source: Source) -> Scene:
        generator = torch.Generator().manual_seed(4)
        number = count // source.shrink**2
        depth = 5 + 35 * torch.rand(number, generator=generator)
        across = 2 * torch.rand(number, 2, generator=generator) - 1
        means = torch.cat([across * torch.tensor([0.63, 0.36]) * depth[:, None], depth[:, None]], -1)
        gaussians = Gaussians(
            means=means[None],
            scales=(depth * (1.0 + torch.rand(number, generator=generator)) / 633.0)[None, :, None],  # 1 to 2 pixels
            opacities=torch.full((1, number), 0.05),
            features=torch.randn(1, number, channels, generator=generator),
        )
        camera = Cameras(pinhole(800, 450, 633.0)[None, None], torch.eye(4)[None, None], 800, 450)
        return Scene((Case("cloud", gaussians, _shrunk(camera, source.shrink)),))

    return build


RAYS = 38_400  # that RenderOcc draws a sample
FRAMES = 7  # key frames around the current one that they come from, half a second apart


def _renderocc(source: Source) -> RayScene:
    """Rays of pixels below the horizon of 42 images; a grid as after some training, dense where something is, noisy elsewhere."""
    generator = torch.Generator().manual_seed(5)
    grid = OCC3D.over(source.shrink)
    labels, what = _labels(grid, source)
    rig = _rig(tuple(range(6)), 1600, 900)
    count, parts = RAYS // source.shrink**2, []
    views = [(frame, view) for frame in range(FRAMES) for view in range(6)]
    for number, (frame, view) in enumerate(views):
        drawn = count * (number + 1) // len(views) - count * number // len(views)
        columns = torch.randint(0, 1600, (drawn,), generator=generator)
        rows = torch.randint(430, 900, (drawn,), generator=generator)
        rays = pixel_rays(rig, 0, view, torch.stack([columns, rows], -1))
        ahead = 4.0 * (frame - FRAMES // 2)  # m, at 8 m/s
        parts.append(replace(rays, origins=rays.origins + torch.tensor([ahead, 0.0, 0.0])))
    rays = joined(parts)
    shuffled = torch.randperm(count, generator=generator)
    rays = Rays(rays.origins[shuffled], rays.directions[shuffled], rays.scene[shuffled])
    there = (labels != FREE).float()
    density = torch.nn.functional.softplus(12 * there - 2 * (1 - there) + 2 * torch.randn(len(labels), generator=generator))
    features = 3 * _one_hot(labels.clamp_max(16), 17) * there[:, None] + torch.randn(len(labels), 17, generator=generator)
    field = GridField(density.reshape(1, *grid.shape), features.reshape(1, *grid.shape, 17), *RENDEROCC_RANGE, "corners")
    return RayScene(RayCase("renderocc", rays, field, RENDEROCC), what)


SWEPT_CHANNELS = (3, 8, 16, 19, 32, 48, 64)
SWEPT_GAUSSIANS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000)


def _listed(*workloads: Workload | RayWorkload) -> tuple[Workload | RayWorkload, ...]:
    return workloads


WORKLOADS: dict[str, Workload | RayWorkload] = {
    w.name: w
    for w in _listed(
        Workload("toy", "toy", "GaussRender, toy preset: a 200x112 camera and a 200x200 view from above", _toy),
        Workload("occ3d-camera", "occ3d-camera", "GaussRender on Occ3D, prediction, one 1600x900 camera", _occ3d(False)),
        Workload(
            "occ3d-camera-gt",
            "occ3d-camera",
            "GaussRender on Occ3D, ground truth, one 1600x900 camera",
            _occ3d(False, truth=True),
        ),
        Workload("occ3d-bev", "occ3d-bev", "GaussRender on Occ3D, prediction from above, 400x400", _occ3d(True)),
        Workload(
            "surroundocc-camera",
            "surroundocc-camera",
            "GaussRender on SurroundOcc, prediction, one 1600x900 camera",
            _surroundocc,
        ),
        Workload("kitti360-camera", "kitti360-camera", "GaussRender on KITTI-360, prediction, one 1408x376 camera", _kitti360),
        Workload("gaussianocc", "gaussianocc", "GaussianOcc: six 320x180 cameras", _gaussianocc),
        Workload(
            "gaussianflowocc",
            "gaussianflowocc",
            "GaussianFlowOcc: 42 views of 704x256, seven times",
            _gaussianflowocc,
            trained=("means", "scales", "quaternions", "opacities", "features"),
        ),
        RayWorkload("renderocc", "renderocc", "RenderOcc: 38,400 rays of 417 samples through 200x200x16 voxels", _renderocc),
        *(
            Workload(f"channels-{c}", "channels", f"sweep: 200,000 Gaussians, {c} channels, 800x450", _cloud(200_000, c))
            for c in SWEPT_CHANNELS
        ),
        *(
            Workload(f"gaussians-{n}", "gaussians", f"sweep: {n:,} Gaussians, {CHANNELS} channels, 800x450", _cloud(n, CHANNELS))
            for n in SWEPT_GAUSSIANS
        ),
    )
}
