"""Motion by aligning images, against a rig that drives over a flat patterned ground; and a pose network that is told it."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from baselines.interface import Neighbours
from baselines.photometric.alignment import FARTHEST, aligned
from baselines.photometric.pose import PoseNetwork
from baselines.photometric.rigid import inverse, rigid, rotation_matrix
from baselines.photometric.warping import pixel_centres

WIDTH, HEIGHT, VIEWS = 200, 112, 4
PINHOLE = torch.tensor([[110.0, 0.0, 97.0], [0.0, 105.0, 60.0], [0.0, 0.0, 1.0]])
FORWARD = Rotation.from_euler("ZYZ", [-90, 90, 180], degrees=True)  # a camera that looks along its rig's x axis


def mounted() -> Tensor:
    """[V, 4, 4] cameras that look around, above the ground."""
    turns = [Rotation.from_euler("z", 360 * view / VIEWS, degrees=True) * FORWARD for view in range(VIEWS)]
    rotations = torch.stack([torch.tensor(turn.as_matrix(), dtype=torch.float32) for turn in turns])
    return rigid(rotations, torch.tensor([[0.8 * math.cos(i), 0.5 * math.sin(i), 1.4 + 0.1 * i] for i in range(VIEWS)]))


def shown(rig: Tensor) -> Tensor:
    """[V, 3, H, W] what cameras of a rig at ``rig`` [4, 4] see: waves on the ground and on what stands ``FARTHEST`` away."""
    cameras = rig @ mounted()
    rays = pixel_centres(HEIGHT, WIDTH, like=PINHOLE) @ torch.linalg.inv(PINHOLE).T
    rays = torch.einsum("vij,hwj->vhwi", cameras[:, :3, :3], rays)
    place = cameras[:, None, None, :3, 3]
    nearness = -rays[..., 2] / place[..., 2]
    points = place + rays / nearness.clamp(min=1 / FARTHEST)[..., None]
    x, y, z = points.unbind(-1)
    near, far = (x * 1.5).sin() * (y * 1.5).cos(), (x * 0.3).sin() + (y * 0.3).cos() + (z * 0.4).sin()
    return (0.5 + torch.where(nearness > 1 / FARTHEST, 0.3 * near, 0.1 * far))[:, None].expand(-1, 3, -1, -1)


def driven(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> Neighbours:
    """What a rig sees that moves so from now to later; earlier as now."""
    motion = rigid(rotation_matrix(torch.tensor(turn)), torch.tensor(shift))
    now, later = shown(torch.eye(4)), shown(inverse(motion))
    return Neighbours(
        images=torch.stack([now, later])[None],
        current=now[None],
        intrinsics=PINHOLE.expand(1, VIEWS, 3, 3).clone(),
        camera_to_ego=mounted()[None],
        camera_motion=torch.eye(4).expand(1, 2, VIEWS, 4, 4).clone(),
        valid=torch.ones(1, 2, VIEWS, dtype=torch.bool),
    )


def told(neighbours: Neighbours) -> Tensor:
    return aligned(neighbours.current, neighbours.images[:, 1], neighbours, neighbours.valid[:, 1])[0]


@pytest.mark.parametrize(
    ("turn", "shift"),
    [((0.0, 0.0, 0.0), (-0.5, 0.0, 0.0)), ((0.0, 0.0, 0.04), (-0.3, 0.02, 0.0)), ((0.01, -0.015, -0.03), (-0.7, -0.05, 0.02))],
)
def test_motion_over_a_flat_ground_is_found(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> None:
    neighbours = driven(turn, shift)
    found = told(neighbours)
    assert (found[:3] - torch.tensor(turn)).norm() < math.radians(0.3)
    assert (found[3:] - torch.tensor(shift)).norm() < 0.06
    back = aligned(neighbours.images[:, 1], neighbours.current, neighbours, neighbours.valid[:, 1])[0]
    assert (back + found)[:3].norm() < math.radians(0.3) and (back + found)[3:].norm() < 0.06


def test_cameras_and_pixels_that_do_not_count_say_nothing() -> None:
    neighbours = driven((0.0, 0.0, 0.03), (-0.4, 0.0, 0.0))
    noise = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    spoilt = neighbours.images.clone()
    spoilt[0, 1, 2] = noise
    spoilt[0, 1, 0, :, 96:] = noise[:, 96:]  # a multiple of what sizes are divided by: no square is half of it
    current = neighbours.current.clone()
    current[0, 0, :, 96:] = spoilt[0, 1, 0, :, 96:]  # the vehicle itself, which never moves
    valid, mask = neighbours.valid.clone(), torch.ones(1, VIEWS, HEIGHT, WIDTH, dtype=torch.bool)
    valid[0, 1, 2] = False
    mask[0, 0, 96:] = False
    aware = told(replace(neighbours, images=spoilt, current=current, valid=valid, mask=mask))
    assert (aware[:3] - torch.tensor([0.0, 0.0, 0.03])).norm() < math.radians(0.2)
    assert (aware[3:] - torch.tensor([-0.4, 0.0, 0.0])).norm() < 0.08
    naive = told(replace(neighbours, images=spoilt, current=current))
    assert (naive - aware).norm() > 1e-3
    none = told(replace(neighbours, valid=torch.zeros_like(valid)))
    grey = torch.full_like(neighbours.images, 0.5)
    assert not none.any() and not told(replace(neighbours, images=grey, current=grey[:, 0])).any()


def test_cameras_below_the_ground_are_refused() -> None:
    """Where labels' frame is another one, a lidar's, heights are none."""
    neighbours = driven((0.0, 0.0, 0.0), (-0.4, 0.0, 0.0))
    low = neighbours.camera_to_ego.clone()
    low[0, 1, 2, 3] = -0.3
    with pytest.raises(ValueError, match=r"above the ground, z = 0 of the labels' frame; one is at -0\.30 m"):
        told(replace(neighbours, camera_to_ego=low))


def test_mirrored_images_turn_the_other_way() -> None:
    neighbours = driven((0.0, 0.0, 0.03), (-0.4, 0.0, 0.0))
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    across = torch.tensor([[-1.0, 0.0, float(WIDTH)], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    mirrored = replace(
        neighbours,
        images=neighbours.images.flip(-1),
        current=neighbours.current.flip(-1),
        intrinsics=across @ neighbours.intrinsics,
    )
    assert torch.allclose(told(mirrored), told(neighbours), atol=1e-4), "of the same cameras, with pixels the other way round"
    cameras = flip @ neighbours.camera_to_ego @ torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    other = replace(mirrored, camera_to_ego=cameras, intrinsics=mirrored.intrinsics @ torch.diag(torch.tensor([-1.0, 1.0, 1.0])))
    assert torch.allclose(told(other), told(neighbours) * torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0]), atol=1e-4)


def test_a_network_that_is_told_motion_corrects_its_rotation_and_says_its_metres() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        aware, plain = (PoseNetwork(depth=18, base_channels=4, channels=8, scale=1.0, aligned=tells) for tells in (True, False))
    plain.load_state_dict(aware.state_dict())
    neighbours = driven((0.0, 0.0, 0.03), (-0.4, 0.0, 0.0))
    with torch.no_grad():
        said, alone = aware.eval()(neighbours)[0], plain.eval()(neighbours)[0]
        alignment = told(neighbours)
    assert alone[1, :3, 3].norm() > 0.01
    assert torch.allclose(said[1, :3, 3], alone[1, :3, 3] * alignment[3:].norm(), rtol=1e-4, atol=1e-6)
    assert said[0, :3, 3].abs().max() < 1e-6, "the earlier image is the same: nothing moved"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert (aware(neighbours)[0, 1] - said[1]).abs().max() < 0.01, "alignment keeps its precision"
    turned = said[1, :3, :3] @ alone[1, :3, :3].T
    assert abs(float(torch.atan2(turned[1, 0], turned[0, 0])) - 0.03) < 0.004
