"""Warping, photometric losses and the pose network, against planes that are seen twice and formulas written out."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from baselines.checkpoints import CheckpointError, load_gaussianocc_pose
from baselines.interface import Neighbours
from baselines.photometric.losses import (
    C1,
    C2,
    Photometric,
    dissimilarity,
    least_error,
    neighbour_loss,
    photometric_error,
    smoothness,
)
from baselines.photometric.pose import PoseNetwork, camera_motion
from baselines.photometric.rigid import inverse, rigid, rotation_matrix
from baselines.photometric.scales import check_scales, scaled_loss
from baselines.photometric.warping import back_projected, moved, pixel_centres, warped

WIDTH, HEIGHT = 60, 40
PINHOLE = torch.tensor([[50.0, 0.0, 27.0], [0.0, 40.0, 22.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
NORMAL, DISTANCE = torch.tensor([0.2, -0.1, 1.0], dtype=torch.float64), 8.0
"""A plane before the first camera, n . x = d in its frame."""


def motion(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> Tensor:
    return rigid(rotation_matrix(torch.tensor(turn, dtype=torch.float64)), torch.tensor(shift, dtype=torch.float64))


def plane(intrinsics: Tensor, from_first: Tensor) -> tuple[Tensor, Tensor]:
    """Image [3, H, W] and depth [H, W] of the plane in a camera that first-camera points reach by ``from_first``: where a pixel's
    ray meets it, a colour that is a function of the place."""
    back = inverse(from_first)
    rays = pixel_centres(HEIGHT, WIDTH, like=intrinsics) @ torch.linalg.inv(intrinsics).T
    origin, directions = back[:3, 3], rays @ back[:3, :3].T
    depth = (DISTANCE - NORMAL @ origin) / (directions @ NORMAL)
    place = origin + depth[..., None] * directions
    waves = torch.stack([place[..., 0].sin(), (place[..., 1] * 1.3).cos(), (place[..., 0] + place[..., 1]).sin()])
    return 0.5 + 0.4 * waves, depth


def test_a_plane_warped_with_its_depth_and_the_true_motion_looks_as_from_the_first_camera() -> None:
    other = PINHOLE.clone()
    other[0, 0], other[1, 2] = 45.0, 19.0  # cameras may differ
    first, depth = plane(PINHOLE, torch.eye(4, dtype=torch.float64))
    to_second = motion((0.02, -0.05, 0.03), (0.6, -0.2, 0.9))
    second, _ = plane(other, to_second)
    brought, seen = warped(second, depth, PINHOLE, to_second, other)
    assert 0.6 < seen.double().mean() < 1
    assert (brought - first).abs()[:, seen].mean() < 0.004
    # The motion the other way round is far off.
    wrong, _ = warped(second, depth, PINHOLE, inverse(to_second), other)
    assert (wrong - first).abs()[:, seen].mean() > 10 * (brought - first).abs()[:, seen].mean()


def test_without_motion_an_image_warps_to_itself_and_beyond_its_border_its_colour_goes_on() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 5, 7, generator=generator)
    pinhole = torch.tensor([[6.0, 0.0, 3.0], [0.0, 5.0, 2.0], [0.0, 0.0, 1.0]]).expand(2, 3, 3)
    depth = torch.full((2, 5, 7), 4.0)
    still = torch.eye(4).expand(2, 4, 4)
    same, seen = warped(image, depth, pinhole, still, pinhole)
    assert torch.allclose(same, image, atol=1e-5) and seen.all()
    aside = still.clone()
    aside[:, 0, 3] = -100.0
    border, unseen = warped(image, depth, pinhole, aside, pinhole)
    assert torch.allclose(border, image[..., :1].expand_as(image), atol=1e-5) and not unseen.any()
    behind = still.clone()
    behind[:, 2, 3] = -8.0
    assert not warped(image, depth, pinhole, behind, pinhole)[1].any()


def test_gradients_of_depth_and_motion_are_those_of_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 2, 4, 5, generator=generator, dtype=torch.float64)
    pinhole = torch.tensor([[[4.0, 0.0, 2.4], [0.0, 5.0, 1.8], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    depth = (3 + torch.rand(1, 4, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    turn = torch.tensor([[0.01, 0.02, -0.03]], dtype=torch.float64, requires_grad=True)
    shift = torch.tensor([[0.13, -0.07, 0.21]], dtype=torch.float64, requires_grad=True)

    def image_of(depth: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
        return warped(image, depth, pinhole, rigid(rotation_matrix(turn), shift), pinhole)[0]

    assert torch.autograd.gradcheck(image_of, (depth, turn, shift), eps=1e-7, atol=1e-5)


def test_dissimilarity_is_the_formula_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(2)
    one, other = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    wide_one, wide_other = (np.pad(image.numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect") for image in (one, other))
    expected = np.zeros(one.shape)
    for c, y, x in np.ndindex(*one.shape):
        a, b = (wide[c, y : y + 3, x : x + 3] for wide in (wide_one, wide_other))
        covariance = (a * b).mean() - a.mean() * b.mean()
        ssim = (2 * a.mean() * b.mean() + C1) * (2 * covariance + C2)
        ssim /= (a.mean() ** 2 + b.mean() ** 2 + C1) * (a.var() + b.var() + C2)
        expected[c, y, x] = min(max((1 - ssim) / 2, 0), 1)
    assert np.allclose(dissimilarity(one, other).numpy(), expected)
    error = 0.85 * expected.mean(0) + 0.15 * (one - other).abs().mean(0).numpy()
    assert np.allclose(photometric_error(one, other).numpy(), error)
    assert photometric_error(one, one).abs().max() < 1e-12


def two_neighbours(batch: int = 2, views: int = 2, seed: int = 3) -> tuple[Tensor, Neighbours]:
    """Depth and neighbours of the plane: an earlier and a later moment, the true motion in them."""
    moves = [motion((0.0, 0.04, 0.0), (-0.5, 0.1, -0.4)), motion((0.0, -0.04, 0.0), (0.5, 0.0, 0.5))]
    target, depth = plane(PINHOLE, torch.eye(4, dtype=torch.float64))
    images = torch.stack([plane(PINHOLE, move)[0] for move in moves])

    def every(value: Tensor, *lead: int) -> Tensor:
        return value.float().expand(*lead, *value.shape).clone()

    return every(depth, batch, views), Neighbours(
        images=images.float()[None, :, None].expand(batch, -1, views, -1, -1, -1).clone(),
        current=every(target, batch, views),
        intrinsics=every(PINHOLE, batch, views),
        camera_to_ego=every(torch.eye(4), batch, views),
        camera_motion=torch.stack(moves).float()[None, :, None].expand(batch, -1, views, -1, -1).clone(),
        valid=torch.ones(batch, 2, views, dtype=torch.bool),
    )


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_loss_is_least_at_the_true_depth_and_scale() -> None:
    depth, neighbours = two_neighbours()
    losses = {
        factor: float(neighbour_loss(factor * depth, neighbours, neighbours.camera_motion, Photometric(), draws()))
        for factor in (0.6, 0.9, 1.0, 1.1, 1.6)
    }
    assert min(losses, key=losses.__getitem__) == 1.0 and losses[1.0] < 0.3 * losses[1.6]


def test_smaller_images_are_those_of_a_coarser_camera() -> None:
    depth, neighbours = two_neighbours(batch=1)
    neighbours = replace(neighbours, mask=(torch.arange(depth.shape[-1]) < 18).expand_as(depth).clone())
    assert all(side % 7 for side in depth.shape[-2:]), "rows and columns are left over"
    height, width = (side - side % 7 for side in depth.shape[-2:])

    def shrunk(maps: Tensor) -> Tensor:
        cut = maps[..., :height, :width].double()
        return cut.unflatten(-1, (width // 7, 7)).unflatten(-3, (height // 7, 7)).mean(dim=(-3, -1)).float()

    coarse = neighbours.intrinsics.clone()
    coarse[..., :2, :] /= 7
    mask = torch.zeros(shrunk(depth).shape, dtype=torch.bool)
    mask[..., :2] = True  # of the third pixel a part is masked
    small = replace(
        neighbours, images=shrunk(neighbours.images), current=shrunk(neighbours.current), intrinsics=coarse, mask=mask
    )

    def loss(depth: Tensor, some: Neighbours, *scales: int) -> Tensor:
        return scaled_loss(depth, some, some.camera_motion, Photometric(tie_noise=0, auto_mask=False), scales, draws())

    by_hand = loss(shrunk(1.2 * depth), small, 1)
    assert by_hand > 0
    torch.testing.assert_close(loss(1.2 * depth, neighbours, 7), by_hand, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss(1.2 * depth, neighbours, 1, 7), (loss(1.2 * depth, neighbours, 1) + by_hand) / 2)
    whole = replace(neighbours, mask=None)
    at = {factor: float(loss(factor * depth, whole, 1, 2, 4)) for factor in (0.6, 0.9, 1.0, 1.1, 1.6)}
    assert min(at, key=at.__getitem__) == 1.0
    for scales in ((), (0,), (1, 2.5)):
        with pytest.raises(ValueError, match="scales must be whole numbers of at least 1"):
            check_scales(scales)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="60x40 pixels are too small to be compared at 1/21"):
        loss(depth, neighbours, 1, 21)


def test_neighbours_that_are_not_there_do_not_count() -> None:
    depth, neighbours = two_neighbours()
    options = Photometric(tie_noise=0)

    def loss(valid: list[list[list[bool]]], images: Tensor = neighbours.images, depth: Tensor = depth * 1.2) -> Tensor:
        some = replace(neighbours, valid=torch.tensor(valid), images=images)
        return neighbour_loss(depth, some, neighbours.camera_motion, options, draws())

    yes, no = [True, True], [False, False]
    whole = loss([[yes, yes], [yes, yes]])
    assert torch.isclose(loss([[yes, yes], [no, no]]), whole), "images are alike, and half of them count"
    assert torch.isclose(loss([[[True, False]] * 2, [[False, True]] * 2]), whole)
    one = loss([[yes, no], [yes, no]])
    other = neighbours.images.clone()
    other[:, 1] = 0.5
    assert torch.equal(loss([[yes, no], [yes, no]], other), one) and one > whole, "the least of two is less"
    learned = depth.clone().requires_grad_()
    nothing = loss([[no, no], [no, no]], depth=learned)
    nothing.backward()
    assert nothing == 0 and learned.grad is not None and not learned.grad.any()


def test_what_fits_better_unwarped_teaches_nothing() -> None:
    depth, neighbours = two_neighbours(batch=1, views=1)
    along = replace(neighbours, images=neighbours.current[:, None].expand_as(neighbours.images).clone())  # moves with the rig
    for auto_mask, teaches in ((True, False), (False, True)):
        learned = depth.clone().requires_grad_()
        loss = neighbour_loss(learned, along, along.camera_motion, Photometric(auto_mask=auto_mask), draws())
        loss.backward()
        assert learned.grad is not None and bool(learned.grad.any()) is teaches
    error, still = torch.full((1, 2, 1, 2, 2), 0.3), torch.full((1, 2, 1, 2, 2), 0.3)
    valid = torch.ones(1, 2, 1, dtype=torch.bool)
    noisy = least_error(error, still, valid, 1e-5, draws())
    assert torch.equal(noisy, least_error(error, still, valid, 1e-5, draws())), "the generator alone draws"
    assert (noisy <= 0.3).all() and noisy.min() > 0.3 - 1e-4 and noisy.unique().numel() > 1


def test_a_mask_takes_pixels_out() -> None:
    depth, neighbours = two_neighbours(batch=1, views=1)
    mask = torch.zeros_like(depth, dtype=torch.bool)
    mask[..., : WIDTH // 2] = True
    masked, learned = replace(neighbours, mask=mask), (depth * 1.1).requires_grad_()
    options = Photometric(auto_mask=False)
    half = neighbour_loss(learned, masked, neighbours.camera_motion, options, draws())
    half.backward()
    assert learned.grad is not None and not learned.grad[..., WIDTH // 2 + 1 :].any() and learned.grad[..., :20].any()
    assert 0 < half < neighbour_loss(learned, neighbours, neighbours.camera_motion, options, draws())


def test_smoothness_knows_no_scale_and_spares_edges() -> None:
    flat = torch.full((2, 6, 8), 5.0)
    image = torch.full((2, 3, 6, 8), 0.5)
    assert smoothness(flat, image) == 0
    step = flat.clone()
    step[..., 4:] = 10.0
    edged = image.clone()
    edged[..., 4:] = 1.0
    rough = smoothness(step, image)
    assert torch.isclose(smoothness(7 * step, image), rough, rtol=1e-4)
    assert torch.isclose(smoothness(step, edged), rough * math.exp(-0.5))
    # inverse 0.2 | 0.1, mean 0.15: one of 7 differences along a row is 2 / 3
    assert torch.isclose(rough, torch.tensor(2 / 3 / 7), rtol=1e-4)


def test_what_is_no_share_or_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="ssim must be within 0..1, got 2"):
        Photometric(ssim=2)
    with pytest.raises(ValueError, match="smoothness must not be negative"):
        Photometric(smoothness=-1.0)


def test_rotations_are_scipys_and_motions_turn_back() -> None:
    vectors = torch.tensor([[0.3, -0.2, 1.1], [0.0, 0.0, 0.0], [1e-4, 0.0, 2e-4]], dtype=torch.float64, requires_grad=True)
    matrices = rotation_matrix(vectors)
    assert np.allclose(matrices.detach().numpy(), Rotation.from_rotvec(vectors.detach().numpy()).as_matrix(), atol=1e-6)
    matrices.sum().backward()
    assert vectors.grad is not None and torch.isfinite(vectors.grad).all(), "no rotation has a gradient too"
    pose = motion((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert torch.allclose(inverse(pose) @ pose, torch.eye(4, dtype=torch.float64), atol=1e-6)


def test_cameras_move_as_the_rig_does() -> None:
    rig = motion((0.0, 0.0, 0.1), (1.0, 0.2, 0.0))
    mounted = motion((-1.2, 1.2, -1.2), (1.5, 0.3, 1.6))
    point = torch.tensor([0.4, -0.3, 6.0, 1.0], dtype=torch.float64)  # of the camera, before
    there = camera_motion(rig[None, None], mounted[None, None])[0, 0, 0] @ point
    assert torch.allclose(mounted @ there, rig @ mounted @ point)


@pytest.fixture(scope="module")
def network() -> PoseNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PoseNetwork(depth=18, base_channels=4, channels=8, scale=1.0).eval()


def test_one_motion_for_the_rig_and_its_inverse_for_earlier_moments(network: PoseNetwork) -> None:
    _, neighbours = two_neighbours()
    later = replace(neighbours, images=neighbours.images[:, 1:], valid=neighbours.valid[:, 1:])
    swapped = replace(later, images=neighbours.current[:, None], current=neighbours.images[:, 1])
    valid = neighbours.valid.clone()
    valid[0, 0] = False
    mirrored = replace(neighbours, current=neighbours.current.flip(1), images=neighbours.images.flip(2))
    with torch.no_grad():
        both, lonely, cameras = network(neighbours), network(replace(neighbours, valid=valid)), network(mirrored)
        forth, back = network(later, moments=(2,)), network(swapped, moments=(-1,))
    assert both.shape == (2, 2, 4, 4) and (both[:, 1] - torch.eye(4)).abs().max() > 1e-3
    assert forth.shape == (2, 1, 4, 4) and (forth - torch.eye(4)).abs().max() > 1e-3
    assert torch.allclose(back @ forth, torch.eye(4).expand(2, 1, 4, 4), atol=1e-5)
    assert torch.equal(lonely[0, 0], torch.eye(4)) and torch.allclose(lonely[1], both[1], atol=1e-6)
    assert torch.allclose(cameras, both, atol=1e-5), "the mean over cameras knows no order"


def test_motion_is_told_by_the_images_at_hand_of_a_sample_at_a_time(network: PoseNetwork) -> None:
    """In evaluation as in training, whatever was counted and whatever else is in the batch; only training counts."""
    _, neighbours = two_neighbours()
    contrast = torch.tensor([1.0, 0.1])[:, None, None, None, None]
    neighbours = replace(neighbours, current=contrast * neighbours.current, images=contrast[..., None] * neighbours.images)
    network = copy.deepcopy(network)
    for name, value in network.named_buffers():
        if "running" in name:
            value.copy_(torch.rand(len(value), generator=torch.Generator().manual_seed(1)) + 3)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        answered = network(neighbours)
        assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
        alone = torch.cat([network.train()(neighbours.one(index)) for index in range(2)])
        assert any(not torch.equal(value, kept[name]) for name, value in network.state_dict().items())
        together = network(neighbours)
    assert torch.equal(answered, alone) and torch.equal(together, alone)


def test_both_networks_learn_but_for_what_is_idle(network: PoseNetwork) -> None:
    _, neighbours = two_neighbours(batch=1)
    network.zero_grad()
    network(neighbours).sum().backward()
    taught = {name for name, value in network.named_parameters() if value.grad is not None}
    idle = {name for name, _ in network.named_parameters() if name.startswith(("pose.refine_mlp.", "pose.finial_conv."))}
    assert idle and taught == {name for name, _ in network.named_parameters()} - idle


def test_published_names_and_sizes(tmp_path: Path) -> None:
    """Of pose.pth and pose_encoder.pth as networks/pose_decoder.py and torchvision's ResNet-34 make them."""
    whole = PoseNetwork()
    shapes = {name: tuple(value.shape) for name, value in whole.pose.state_dict().items() if name.endswith("weight")}
    assert shapes == {
        "net.0.weight": (256, 512, 1, 1),
        "net.1.weight": (256, 256, 3, 3),
        "net.2.weight": (256, 256, 3, 3),
        "net.3.weight": (12, 256, 1, 1),
        "refine_mlp.0.weight": (256, 1286),
        **{f"refine_mlp.{number}.0.weight": (256, 256) for number in range(2, 7)},
        "refine_mlp.7.weight": (12, 256),
        "finial_conv.weight": (128, 256, 1, 1),
    }
    encoder = whole.pose_encoder.state_dict()
    assert encoder["encoder.conv1.weight"].shape == (64, 6, 7, 7)
    assert encoder["encoder.layer3.5.conv2.weight"].shape == (256, 256, 3, 3)
    assert {name for name in encoder if "downsample" in name and name.endswith("weight")} == {
        f"encoder.layer{stage}.0.downsample.{part}.weight" for stage in (2, 3, 4) for part in (0, 1)
    }


def test_published_files_load(network: PoseNetwork, tmp_path: Path) -> None:
    model, other = nn.Module(), nn.Module()
    model.pose_network = PoseNetwork(depth=18, base_channels=4, channels=8)
    other.pose_network = network
    file = tmp_path / "pose_encoder.pth"
    torch.save({**network.pose_encoder.state_dict(), "encoder.fc.weight": torch.zeros(10, 32)}, file)
    with pytest.raises(CheckpointError, match=r"pose\.pth"):
        load_gaussianocc_pose(model, file)
    torch.save(network.pose.state_dict(), tmp_path / "pose.pth")
    loaded = load_gaussianocc_pose(model, file)
    assert set(loaded) == set(model.state_dict())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    torch.save({"net.0.weight": network.pose.net[0].weight}, tmp_path / "pose.pth")
    with pytest.raises(CheckpointError, match="missing in the file"):
        load_gaussianocc_pose(model, file)


def test_points_of_pixels_are_at_their_centres() -> None:
    points = back_projected(torch.full((1, 2, 3), 2.0), torch.tensor([[[2.0, 0.0, 1.5], [0.0, 4.0, 1.0], [0.0, 0.0, 1.0]]]))
    assert torch.allclose(points[0, 1, 2], torch.tensor([1.0, 0.25, 2.0]))
    assert torch.allclose(moved(points, motion((0, 0, 0), (1, 2, 3)).float()[None])[0, 0, 1], torch.tensor([1.0, 1.75, 5.0]))
