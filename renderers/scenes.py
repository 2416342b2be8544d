"""Gaussians and cameras for tests and comparisons: a few spheres, random ones, voxels seen by cameras or from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from renderers.interface import Cameras, Gaussians


def pinhole(
    width: int, height: int, fx: float, fy: float | None = None, cx: float | None = None, cy: float | None = None
) -> Tensor:
    """Intrinsics [3, 3] in pixels; the principal point defaults to the image centre."""
    cx, cy = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    return torch.tensor([[fx, 0.0, cx], [0.0, fx if fy is None else fy, cy], [0.0, 0.0, 1.0]])


def one_view(intrinsics: Tensor, width: int, height: int, pose: Tensor | None = None) -> Cameras:
    """One camera [3, 3] of one scene, at the origin unless ``pose`` [4, 4] (world to camera) says otherwise."""
    pose = torch.eye(4) if pose is None else pose
    return Cameras(intrinsics[None, None], pose[None, None], width, height)


Sphere = tuple[tuple[float, float, float], float, float, int]
"""Centre (m), sigma (m), opacity, class."""


def spheres(*items: Sphere, classes: int = 2) -> Gaussians:
    """One scene of isotropic Gaussians, one-hot in their class."""
    return Gaussians(
        means=torch.tensor([[item[0] for item in items]]),
        scales=torch.tensor([[[item[1]] for item in items]]),
        opacities=torch.tensor([[item[2] for item in items]]),
        features=torch.nn.functional.one_hot(torch.tensor([[item[3] for item in items]]), classes).float(),
    )


def random_scene(
    seed: int = 0,
    count: int = 150,
    channels: int = 5,
    batch: int = 1,
    views: int = 1,
    width: int = 61,
    height: int = 43,
    isotropic: bool = False,
    opacity: tuple[float, float] = (0.05, 0.95),
    spread: float = 1.0,
) -> tuple[Gaussians, Cameras]:
    """Gaussians in front of cameras that look about the same way from about the same place, in a turned world frame.

    Intrinsics differ by view, with fx != fy and the principal point off the centre. spread > 1 puts Gaussians beside
    the image too.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    depth = uniform(1.5, 12.0, batch, count)
    lateral = uniform(-0.6 * spread, 0.6 * spread, batch, count, 2) * depth[..., None]
    in_camera = torch.cat([lateral, depth[..., None]], -1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    turn = turn * torch.linalg.det(turn)  # a rotation, not a reflection
    shift = uniform(-5.0, 5.0, 3)
    poses = torch.eye(4).repeat(batch, views, 1, 1)
    intrinsics = torch.zeros(batch, views, 3, 3)
    for scene in range(batch):
        for view in range(views):
            wobble = torch.linalg.matrix_exp(_skew(uniform(-0.15, 0.15, 3)))
            poses[scene, view, :3, :3] = wobble @ turn.T
            poses[scene, view, :3, 3] = uniform(-0.2, 0.2, 3) - wobble @ turn.T @ shift
            fx, fy = (float(uniform(0.7, 1.1, 1)) * width for _ in range(2))
            cx, cy = float(uniform(0.35, 0.65, 1)) * width, float(uniform(0.35, 0.65, 1)) * height
            intrinsics[scene, view] = pinhole(width, height, fx, fy, cx, cy)
    gaussians = Gaussians(
        means=in_camera @ turn.T + shift,
        scales=uniform(0.03, 0.4, batch, count, 1 if isotropic else 3),
        opacities=uniform(*opacity, batch, count),
        features=torch.randn(batch, count, channels, generator=generator),
        quaternions=None if isotropic else torch.randn(batch, count, 4, generator=generator),
    )
    return gaussians, Cameras(intrinsics, poses, width, height)


def _skew(v: Tensor) -> Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def bird_eye(dataset: str, size: int = 80) -> tuple[Gaussians, Cameras]:
    """The straight-down camera of GaussRender over a coarse voxel layer cake: within a layer all depths are equal.

    As published but for the image, 400 px there (GaussRender src/model/head/camera.py; KITTI-360 has its principal
    point on the left edge, as its range begins at the vehicle).
    """
    lower, upper = {
        "occ3d": ((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4)),
        "surroundocc": ((-50.0, -50.0, -5.0), (50.0, 50.0, 3.0)),
        "kitti360": ((0.0, -25.6, -2.0), (51.2, 25.6, 4.4)),
    }[dataset]
    cells = (10, 10, 3)
    axes = [(torch.arange(n) + 0.5) * (hi - lo) / n + lo for n, lo, hi in zip(cells, lower, upper, strict=True)]
    means = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)
    generator = torch.Generator().manual_seed(len(dataset))
    count, edge = means.shape[1], (upper[0] - lower[0]) / cells[0]
    gaussians = Gaussians(
        means=means,
        scales=torch.full((1, count, 1), edge / 3),
        opacities=torch.rand(1, count, generator=generator),
        features=torch.softmax(torch.randn(1, count, 4, generator=generator), -1),
    )
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[2, 3] = upper[0] - lower[0]
    intrinsics = pinhole(size, size, float(size), cx=0.0 if lower[0] == 0 else None)
    return gaussians, one_view(intrinsics, size, size, pose)


def voxels(
    classes: Tensor, empty: int, lower: Sequence[float], edge: float, sigma: float, opacity: float = 1.0, count: int | None = None
) -> Gaussians:
    """The filled voxels of a grid as isotropic Gaussians at their centres, one-hot in their class.

    classes [X, Y, Z] int, ``empty`` where there is nothing; lower: the grid's least corner (m); edge: of a voxel (m);
    sigma: standard deviation (m); count: number of classes, that of the highest id if None. ValueError for a grid without
    a filled voxel.
    """
    filled = (classes != empty).nonzero()
    if len(filled) == 0:
        raise ValueError(f"all {classes.numel()} voxels are of the empty class {empty}: nothing to render")
    channels = int(classes.max()) + 1 if count is None else count
    ids = classes[filled.unbind(1)].long()
    return Gaussians(
        means=((filled + 0.5) * edge + torch.tensor(lower, dtype=torch.float32))[None],
        scales=torch.full((1, len(filled), 1), sigma),
        opacities=torch.full((1, len(filled)), opacity),
        features=torch.nn.functional.one_hot(ids, channels).float()[None],
    )


def window(cameras: Cameras, reduction: float, left: int, top: int, width: int, height: int) -> Cameras:
    """The cameras at 1/reduction of their resolution, cut to width x height pixels whose first is (left, top)."""
    intrinsics = cameras.intrinsics.clone()
    intrinsics[..., :2, :] /= reduction
    intrinsics[..., 0, 2] -= left
    intrinsics[..., 1, 2] -= top
    return replace(cameras, intrinsics=intrinsics, width=width, height=height)
