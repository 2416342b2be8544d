"""What the plug-in notices of grids and cameras before it teaches anything wrong."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from grids import published

from baselines.gaussrender import GaussRender, GaussRenderConfig, check_cameras, render_views
from baselines.interface import OccupancyGrid
from renderers import Cameras
from renderers.reference import ReferenceRenderer

NAMES = ("empty", "car", "road")
GRID = OccupancyGrid((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), 1.0, NAMES, empty=0, dataset="occ3d", published=published("occ3d"))
CONFIG = GaussRenderConfig(bev_reduction=20)


def rig(degrees: tuple[float, ...] = (0.0, 60.0, 180.0, 270.0), tilt: float = 5.0) -> Cameras:
    """Upright cameras 1.5 m over the ground, turned left from +x and looking down a little."""
    poses = []
    for angle in degrees:
        a, b = math.radians(angle), math.radians(tilt)
        ahead = torch.tensor([math.cos(a) * math.cos(b), math.sin(a) * math.cos(b), -math.sin(b)])
        right = torch.tensor([math.sin(a), -math.cos(a), 0.0])
        rotation = torch.stack([right, torch.linalg.cross(ahead, right), ahead])
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ torch.tensor([math.cos(a), math.sin(a), 0.5])
        poses.append(pose)
    k = torch.tensor([[40.0, 0, 32], [0, 40, 18], [0, 0, 1]])
    return Cameras(k.expand(1, len(poses), 3, 3).clone(), torch.stack(poses)[None], 64, 36)


def everywhere(cameras: Cameras) -> list[Any]:
    """What takes the cameras of a data set: the loss, the evaluation, the check itself."""
    logits = torch.randn(1, 3, *GRID.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (1, *GRID.shape), generator=torch.Generator().manual_seed(1))
    plugin = GaussRender(GRID, ReferenceRenderer(), None, CONFIG)
    return [
        lambda: check_cameras(GRID, cameras),
        lambda: plugin(logits, None, cameras, labels),
        lambda: render_views(GRID, cameras, labels=labels, renderer=ReferenceRenderer(), config=CONFIG),
    ]


def test_right_cameras_pass_without_a_word_and_shares_are_right() -> None:
    cameras = rig()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for use in everywhere(cameras):
            use()
        shares = check_cameras(GRID, cameras)
    points = torch.cat([GRID.centres().reshape(-1, 3), torch.ones(math.prod(GRID.shape), 1)], 1).T
    for view, share in enumerate(shares[0].tolist()):
        x, y, z = (cameras.world_to_camera[0, view] @ points)[:3]
        u, v = 40 * x / z + 32, 40 * y / z + 18
        inside = (z > 0) & (u > 0.5) & (u < 63.5) & (v > 0.5) & (v < 35.5)
        assert share == pytest.approx(float(inside.float().mean()), abs=1e-6) and 0.02 < share < 0.5


def test_inverted_poses_are_told() -> None:
    cameras = rig()
    inverted = replace(cameras, world_to_camera=torch.linalg.inv(cameras.world_to_camera))
    for use in everywhere(inverted):
        with pytest.warns(UserWarning, match="cameras to the reference frame.*torch.linalg.inv"):
            use()


def test_normalised_intrinsics_are_refused() -> None:
    cameras = rig()
    normalised = replace(cameras, width=1600, height=900, intrinsics=cameras.intrinsics.clone())
    normalised.intrinsics[..., 0, :] /= 64
    normalised.intrinsics[..., 1, :] /= 36
    for use in everywhere(normalised):
        with pytest.raises(ValueError, match="intrinsics must be in pixels, focal lengths 0.625 and 1.111"):
            use()


def test_cameras_that_see_nothing_are_refused() -> None:
    cameras = rig()
    away = cameras.world_to_camera.clone()
    away[..., 2, 3] -= 100  # all of the grid is behind them
    blind = replace(cameras, world_to_camera=away)
    uses = everywhere(blind)
    for use in uses[:2]:
        with pytest.raises(ValueError, match="no camera of sample 0 sees any voxel"):
            use()
    uses[2]()  # an evaluation renders what there is: nothing
    above = GaussRender(GRID, ReferenceRenderer(), None, replace(CONFIG, with_camera=False, with_depth=False))
    labels = torch.ones(1, *GRID.shape, dtype=torch.long)
    assert above(torch.zeros(1, 3, *GRID.shape), None, blind, labels) > 0, "the view from above needs no camera"


def test_a_drawn_camera_may_see_nothing() -> None:
    """Sight is that of the sensor cameras: one that looks away, or that is moved out of the range, is no mistake."""
    cameras = rig()
    away = cameras.world_to_camera.clone()
    away[:, 1, 2, 3] -= 100
    plugin = GaussRender(GRID, ReferenceRenderer(), None, replace(CONFIG, camera_indices=(1,)))
    labels = torch.ones(1, *GRID.shape, dtype=torch.long)
    assert torch.isfinite(plugin(torch.zeros(1, 3, *GRID.shape), None, replace(cameras, world_to_camera=away), labels))


def test_no_pinhole_and_no_pose_are_refused_by_name() -> None:
    cameras = rig()
    skewed = cameras.intrinsics.clone()
    skewed[..., 0, 1] = 3.0
    mirrored = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0])) @ cameras.world_to_camera
    for use in everywhere(replace(cameras, intrinsics=skewed)):
        with pytest.raises(ValueError, match="intrinsics of scene 0, view 0 have skew"):
            use()
    for use in everywhere(replace(cameras, world_to_camera=mirrored)):
        with pytest.raises(ValueError, match="world_to_camera of scene 0, view 0 mirrors"):
            use()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower": (0.0, 0.0)}, "lower must be three finite numbers"),
        ({"upper": (8.0, math.nan, 3.0)}, "upper must be three finite numbers"),
        ({"upper": (-8.0, 8.0, 3.0)}, r"range -8.0..-8.0 m along x must be a whole number of voxels"),
        ({"lower": (8.0, -8.0, -1.0), "upper": (-8.0, 8.0, 3.0)}, "along x must be"),
        ({"voxel_size": 0.3}, "along x must be a whole number of voxels of 0.3 m, it is 53.3333"),
        ({"voxel_size": 0.0}, "voxel_size must be a positive number"),
        ({"voxel_size": -1.0}, "voxel_size must be a positive number"),
        ({"voxel_size": 100.0}, "along x must be"),
        ({"class_names": ("empty", "car", "car")}, "class_names must differ, 'car' stands more than once"),
        ({"empty": 3}, r"empty must be a class id in 0..2, got 3"),
        ({"empty": -1}, "empty must be a class id"),
        ({"class_names": ()}, "empty must be a class id"),
        ({"ignore": 2}, "ignore must be no class id, 2 is that of 'road'"),
    ],
)
def test_a_grid_checks_itself(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"grid: .*{message}"):
        replace(GRID, **change)


def test_grids_of_every_size_are_accepted() -> None:
    for size in (0.4, 0.8, 1.6, 3.2):  # 6.4 m are 16 voxels of 0.4 m but for rounding
        assert OccupancyGrid((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), size, NAMES, 0).shape[2] == round(6.4 / size)
    assert replace(GRID, ignore=-1).ignore == -1
