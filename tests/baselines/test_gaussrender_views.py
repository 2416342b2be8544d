"""Camera placement against the published numbers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from grids import published

from baselines.gaussrender import GaussRenderConfig, bev_camera, supervising_cameras
from baselines.gaussrender.views import STRATEGIES, draw_indices, tilt_and_shift
from baselines.interface import OccupancyGrid
from renderers import Cameras

OCC3D = OccupancyGrid(
    (-40, -40, -1),
    (40, 40, 5.4),
    0.4,
    tuple(f"class {i}" for i in range(18)),
    empty=17,
    dataset="occ3d",
    published=published("occ3d"),
)
SURROUND = OccupancyGrid(
    (-50, -50, -5),
    (50, 50, 3),
    0.5,
    tuple(f"class {i}" for i in range(17)),
    empty=0,
    dataset="surroundocc",
    published=published("surroundocc"),
)
KITTI = OccupancyGrid(
    (0, -25.6, -2),
    (51.2, 25.6, 4.4),
    0.2,
    tuple(f"c{i}" for i in range(19)),
    empty=0,
    dataset="kitti360",
    published=published("kitti360"),
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_poses(count: int, batch: int | None = None) -> torch.Tensor:
    g = rng(7)
    turned, _ = torch.linalg.qr(torch.randn(count * (batch or 1), 3, 3, generator=g, dtype=torch.float64))
    poses = torch.eye(4, dtype=torch.float64).repeat(len(turned), 1, 1)
    poses[:, :3, :3] = turned * torch.linalg.det(turned)[:, None, None]
    poses[:, :3, 3] = torch.randn(len(turned), 3, generator=g, dtype=torch.float64)
    return poses if batch is None else poses.unflatten(0, (batch, count))


def rotation(axis: str, degrees: float) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]]}[axis]
    turned = torch.eye(4, dtype=torch.float64)
    turned[:3, :3] = torch.tensor(rows)
    return turned


def test_tilt_and_shift() -> None:
    (pose,) = random_poses(1)
    expected = rotation("x", 20) @ rotation("y", -3) @ pose
    expected[1, 3] += 8
    expected[2, 3] -= 2
    torch.testing.assert_close(tilt_and_shift(pose[None], 20.0, -3.0, 8.0, -2.0)[0], expected)
    ahead = tilt_and_shift(torch.eye(4)[None], pitch=20.0, down=8.0)[0] @ torch.tensor([0, 0, 10.0, 1])
    # a point 10 m straight ahead: 8 m down from the raised camera, and 20 degrees up from the lowered axis
    assert ahead[1] == pytest.approx(8 - 10 * math.sin(math.radians(20)))


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_strategy_leaves_its_input_alone(strategy: str) -> None:
    poses = random_poses(4)
    before = poses.clone()
    placed = STRATEGIES[strategy](poses, OCC3D, GaussRenderConfig(), rng())
    assert poses.equal(before)
    assert len(placed) == (8 if strategy == "stereo" else 4)
    orthogonal = placed[:, :3, :3] @ placed[:, :3, :3].mT
    torch.testing.assert_close(orthogonal, torch.eye(3, dtype=torch.float64).expand_as(orthogonal), atol=1e-6, rtol=0)


def change(strategy: str, count: int = 400, grid: OccupancyGrid = OCC3D, **options: object) -> torch.Tensor:
    """What a strategy multiplies identity poses with; [count, 4, 4]."""
    identity = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    return STRATEGIES[strategy](identity, grid, GaussRenderConfig(**options), rng(1))


def test_sensor() -> None:
    poses = random_poses(3)
    assert STRATEGIES["sensor"](poses, OCC3D, GaussRenderConfig(), rng()).equal(poses)


def test_elevated() -> None:
    moved = change("elevated")
    assert moved[:, :3, 3].eq(torch.tensor([0.0, 8.0, 0.0], dtype=torch.float64)).all()
    pitch = torch.rad2deg(torch.atan2(-moved[:, 1, 2], moved[:, 2, 2] / moved[:, 0, 0].clamp_min(0.1)))
    yaw = torch.rad2deg(torch.atan2(moved[:, 0, 2], moved[:, 0, 0]))
    assert yaw.min() < -4 and yaw.max() > 4 and yaw.abs().max() <= 5
    straight = rotation("x", 20) @ rotation("y", float(yaw[0]))
    torch.testing.assert_close(moved[0, :3, :3], straight[:3, :3], atol=1e-6, rtol=0)
    assert pitch.mean() == pytest.approx(20, abs=0.2)


def test_random() -> None:
    moved = change("random")
    down, ahead = moved[:, 1, 3], moved[:, 2, 3]
    assert 0 <= down.min() < 0.5 and 7.5 < down.max() <= 8
    assert -10 <= ahead.min() < -9 and 9 < ahead.max() <= 10
    yaw = torch.rad2deg(torch.atan2(moved[:, 0, 2], moved[:, 0, 0]))
    assert -10 <= yaw.min() < -9 and 9 < yaw.max() <= 10
    # the height follows the pitch: 8 m at 20 degrees
    for k in range(5):
        expected = rotation("x", float(down[k]) * 20 / 8) @ rotation("y", float(yaw[k]))
        torch.testing.assert_close(moved[k, :3, :3], expected[:3, :3], atol=1e-6, rtol=0)


def test_stereo() -> None:
    moved = change("stereo", count=200)
    originals, copies = moved[:200], moved[200:]
    assert originals.eq(torch.eye(4)).all() and copies[:, :3, :3].eq(torch.eye(3)).all()
    assert copies[:, 0, 3].eq(0).all()  # never sideways
    for axis in (1, 2):
        assert -1 <= copies[:, axis, 3].min() < -0.9 and 0.9 < copies[:, axis, 3].max() <= 1


def test_trajectory() -> None:
    for grid in (OCC3D, SURROUND):
        assert change("trajectory", 3, grid)[:, :3, 3].eq(torch.tensor([0.0, 2.0, 0.0])).all()
    kitti = torch.cat(
        [STRATEGIES["trajectory"](torch.eye(4)[None], KITTI, GaussRenderConfig(), rng(seed)) for seed in range(200)]
    )[:, :3, 3]
    assert kitti[:, 0].eq(0).all() and kitti[:, 1].eq(2).all()
    assert -35.84 <= kitti[:, 2].min() < -34 and -2 < kitti[:, 2].max() <= 0
    free = change("trajectory", 1, SURROUND, trajectory_cancels=False)[0]
    assert free[2, 3] < 0 and float(free[0, 3] / free[2, 3]) == pytest.approx(-25 / 35)


def test_draw_has_the_published_weights() -> None:
    config = GaussRenderConfig(num_cameras=4000)
    counts = Counter(draw_indices(6, OCC3D, config, rng()))
    shares = [counts[k] / 4000 for k in range(6)]
    assert shares == pytest.approx([0.25, 0.125, 0.125, 0.25, 0.125, 0.125], abs=0.03)
    even = Counter(draw_indices(6, OCC3D, GaussRenderConfig(num_cameras=4000, weighted_camera_draw=False), rng()))
    assert [even[k] / 4000 for k in range(6)] == pytest.approx([1 / 6] * 6, abs=0.03)
    unknown = Counter(draw_indices(6, replace(OCC3D, dataset="mine", published=published("mine")), config, rng()))
    assert max(unknown.values()) < 1.2 * min(unknown.values()), "another data set's cameras are not in nuScenes' order"
    three = Counter(draw_indices(3, OCC3D, config, rng()))
    assert [three[k] / 4000 for k in range(3)] == pytest.approx([1 / 3] * 3, abs=0.04)
    assert draw_indices(6, KITTI, GaussRenderConfig(num_cameras=3), rng()) == [0, 0, 0]
    assert draw_indices(6, OCC3D, GaussRenderConfig(camera_indices=(5, 1)), rng()) == [5, 1]
    with pytest.raises(ValueError, match=r"camera_indices \(6,\) must lie in 0..5"):
        draw_indices(6, OCC3D, GaussRenderConfig(camera_indices=(6,)), rng())


def test_intrinsics_follow_their_camera() -> None:
    k = torch.eye(3).repeat(2, 6, 1, 1)
    k[..., 0, 0] = torch.arange(12.0).reshape(2, 6) + 100
    k[..., 0, 2], k[..., 1, 2] = 800, 450
    cameras = Cameras(k, random_poses(6, batch=2).float(), 1600, 900)
    config = GaussRenderConfig(camera_indices=(4, 0), camera_strategy="stereo", image_reduction=4)
    views = supervising_cameras(cameras, OCC3D, config, rng())
    assert (views.width, views.height) == (400, 225)
    assert views.intrinsics.shape == (2, 4, 3, 3) and views.world_to_camera.shape == (2, 4, 4, 4)
    assert (views.intrinsics[..., 0, 0] * 4).tolist() == [[104, 100, 104, 100], [110, 106, 110, 106]]
    assert views.intrinsics[0, 0, 0, 2] == 200 and views.intrinsics[0, 0, 2, 2] == 1
    assert views.world_to_camera[1, 0].equal(cameras.world_to_camera[1, 4])


def test_same_seed_same_cameras() -> None:
    cameras = Cameras(torch.eye(3).repeat(1, 6, 1, 1), random_poses(6, batch=1).float(), 16, 9)
    config = GaussRenderConfig(camera_strategy="random", num_cameras=3)
    first, again, other = (supervising_cameras(cameras, OCC3D, config, rng(s)).world_to_camera for s in (1, 1, 2))
    assert first.equal(again) and not first.equal(other)


@pytest.mark.parametrize(
    ("grid", "height", "scale", "cx"), [(OCC3D, 80, 5, 200), (SURROUND, 100, 4, 200), (KITTI, 51.2, 7.8125, 0)]
)
def test_bev_camera(grid: OccupancyGrid, height: float, scale: float, cx: float) -> None:
    camera = bev_camera(grid, batch=2, dtype=torch.float64)
    assert (camera.width, camera.height) == (400, 400) and camera.intrinsics.shape == (2, 1, 3, 3)
    k, pose = camera.intrinsics[1, 0], camera.world_to_camera[1, 0]
    torch.testing.assert_close(k, torch.tensor([[400, 0, cx], [0, 400, 200], [0, 0, 1]], dtype=torch.float64))
    # a point on the ground at (10, 4): right of and above the principal point
    x, y, z, _ = pose @ torch.tensor([10, 4, 0, 1], dtype=torch.float64)
    assert float(z) == pytest.approx(height)
    assert float(400 * x / z + cx) == pytest.approx(cx + 10 * scale)
    assert float(400 * y / z + 200) == pytest.approx(200 - 4 * scale)
    assert float((pose @ torch.tensor([0, 0, 2, 1], dtype=torch.float64))[2]) == pytest.approx(height - 2)
    coarse = bev_camera(grid.coarsened(4), dtype=torch.float64)
    assert coarse.intrinsics[0, 0].equal(k) and coarse.world_to_camera[0, 0].equal(pose)


def test_bev_reduction() -> None:
    small = bev_camera(OCC3D, config=GaussRenderConfig(bev_reduction=4))
    assert (small.width, small.height) == (100, 100)
    assert small.intrinsics[0, 0].tolist() == [[100, 0, 50], [0, 100, 50], [0, 0, 1]]
    with pytest.raises(ValueError, match="must divide 400"):
        bev_camera(OCC3D, config=GaussRenderConfig(bev_reduction=3))


def test_configuration_errors() -> None:
    with pytest.raises(ValueError, match="camera_strategy must be one of sensor"):
        GaussRenderConfig(camera_strategy="drone")
    with pytest.raises(ValueError, match="camera_indices is empty"):
        GaussRenderConfig(camera_indices=())
    with pytest.raises(ValueError, match="leaves no pixel"):
        cameras = Cameras(torch.eye(3).repeat(1, 1, 1, 1), torch.eye(4).repeat(1, 1, 1, 1), 16, 9)
        supervising_cameras(cameras, OCC3D, GaussRenderConfig(image_reduction=10), rng())
