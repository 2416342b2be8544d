"""GaussianOcc's first stage: clouds of pixels, what cameras have in common, and that rendered neighbours tell metres."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from baselines.gaussianocc_gsp.clouds import Cloud, cloud, composed, overlap, quaternion, resized, splatted, where_exposed
from baselines.gaussianocc_gsp.config import TOY, gaussianocc_gsp_config
from baselines.gaussianocc_gsp.losses import NUSCENES_EXPOSURES, Teaching, cross_view_loss
from baselines.gaussianocc_gsp.model import RASTER, GaussianOccGSP
from baselines.interface import LidarDepth, Neighbours, OccupancyBatch, OccupancyGrid
from baselines.photometric.rigid import inverse, rigid
from baselines.photometric.warping import pixel_centres
from experiments.datasets.layout import CAMERAS
from experiments.spec import load_table
from experiments.toyworld.writer import CAMERAS as RECORDED
from renderers import get

HEIGHT, WIDTH = 32, 48
GRID = OccupancyGrid((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 2.0, ("thing", "empty"), 1)


def rig() -> tuple[Tensor, Tensor]:
    """Intrinsics [1, 2, 3, 3] and camera_to_ego [1, 2, 4, 4] of two cameras that look ahead, 0.8 m beside each other, turned 20
    degrees apart."""
    pinhole = torch.tensor([[40.0, 0.0, 24.0], [0.0, 40.0, 16.0], [0.0, 0.0, 1.0]])
    ahead = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    poses = []
    for side, degrees in ((0.4, 10.0), (-0.4, -10.0)):
        turn = torch.tensor(Rotation.from_euler("z", degrees, degrees=True).as_matrix(), dtype=torch.float32)
        poses.append(rigid(turn @ ahead, torch.tensor([0.3, side, 1.5])))
    return pinhole.expand(1, 2, 3, 3).clone(), torch.stack(poses)[None]


def wall(intrinsics: Tensor, camera_to_ego: Tensor, distance: float = 8.0) -> tuple[Tensor, Tensor]:
    """Images [1, V, 3, H, W] and depth [1, V, H, W] of a wall across the way, coloured by place."""
    rays = torch.einsum("bvij,hwj->bvhwi", torch.linalg.inv(intrinsics), pixel_centres(HEIGHT, WIDTH, intrinsics))
    directions = torch.einsum("bvij,bvhwj->bvhwi", camera_to_ego[..., :3, :3], rays)
    origins = camera_to_ego[..., None, None, :3, 3]
    depth = (distance - origins[..., 0]) / directions[..., 0]
    place = origins + depth[..., None] * directions
    waves = [(2 * place[..., 1]).sin(), (2 * place[..., 2]).cos(), (place[..., 1] + 2 * place[..., 2]).sin()]
    return 0.5 + 0.4 * torch.stack(waves, dim=2), depth


def opaque(depth: Tensor, intrinsics: Tensor) -> Cloud:
    """A cloud of nearly opaque, small Gaussians at ``depth``."""
    raw = torch.zeros(*depth.shape[:2], 9, *depth.shape[2:])
    return replace(cloud(raw, intrinsics, (0.1, 80.0)), depth=depth, scales=(0.3 * depth / 40)[..., None].expand(*depth.shape, 3))


def test_a_cloud_at_the_true_depth_shows_the_other_camera_what_it_sees() -> None:
    intrinsics, mounted = rig()
    images, depth = wall(intrinsics, mounted)
    distances = torch.linspace(2, 30, 15)
    shared = overlap(intrinsics, mounted, (HEIGHT, WIDTH), distances, 0.9, 2)
    assert 0.2 < shared.float().mean() < 0.9

    def loss(scale: float) -> float:
        # Scaled about its camera: what monocular depth does not know.
        shown = splatted(opaque(scale * depth, intrinsics), images, intrinsics, mounted, get("reference"), RASTER)
        return float(cross_view_loss(shown, images, shared, 0.85))

    losses = {scale: loss(scale) for scale in (0.5, 0.75, 1.0, 1.33, 2.0)}
    assert min(losses, key=losses.__getitem__) == 1.0 and losses[1.0] < 0.5 * losses[0.75]


def test_no_camera_is_shown_its_own_pixels() -> None:
    intrinsics, mounted = rig()
    images, depth = wall(intrinsics, mounted)
    first = images.clone()
    first[:, 1] = 0.0
    shown = splatted(opaque(depth, intrinsics), first, intrinsics, mounted, get("reference"), RASTER)
    assert not shown[:, 0].any() and shown[:, 1].any()


def test_gradients_come_to_every_attribute() -> None:
    intrinsics, mounted = rig()
    small = resized(intrinsics, (HEIGHT, WIDTH), (8, 12))
    images = torch.nn.functional.interpolate(wall(intrinsics, mounted)[0][0], size=(8, 12), mode="area")[None]
    generator = torch.Generator().manual_seed(0)
    raw = (0.3 * torch.randn(1, 2, 9, 8, 12, generator=generator)).requires_grad_()
    shown = splatted(cloud(raw, small, (0.5, 80.0)), images, small, mounted, get("reference"), RASTER)
    cross_view_loss(shown, images, torch.ones(1, 2, 8, 12, dtype=torch.bool), 0.85).backward()
    assert raw.grad is not None and torch.isfinite(raw.grad).all()
    assert raw.grad.abs().amax(dim=(0, 1, 3, 4)).min() > 0


def test_the_overlap_is_what_another_camera_sees() -> None:
    intrinsics, mounted = rig()
    distances = torch.tensor([2.0, 5.0, 12.0])
    whole = overlap(intrinsics, mounted, (HEIGHT, WIDTH), distances, 0.0, 0)
    expected = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    for view in range(2):  # point by point
        to_other = (inverse(mounted[0, 1 - view]) @ mounted[0, view]).double()
        for v, u in np.ndindex(HEIGHT, WIDTH):
            for z in distances.double():
                point = z * (torch.linalg.inv(intrinsics[0, view].double()) @ torch.tensor([u + 0.5, v + 0.5, 1.0]).double())
                there = intrinsics[0, 1 - view].double() @ (to_other @ torch.cat([point, torch.ones(1).double()]))[:3]
                x, y = (there[:2] / there[2]).tolist()
                expected[view, v, u] |= bool(there[2] > 0) and 0 <= x < WIDTH and 0 <= y < HEIGHT
    assert (whole[0] != expected).float().mean() < 0.01  # rounding at a rim
    assert whole[0, 0, :, -1].all() and not whole[0, 0, :, 0].any(), "the left camera shares its right side"
    every = overlap(intrinsics, mounted, (HEIGHT, WIDTH), distances, 0.9, 0)
    eroded = overlap(intrinsics, mounted, (HEIGHT, WIDTH), distances, 0.0, 1)
    for fewer in (every, eroded):
        assert fewer.sum() < whole.sum() and not (fewer & ~whole).any()
    column = int(whole[0, 0, HEIGHT // 2].float().argmax())
    assert not eroded[0, 0, HEIGHT // 2, column] and eroded[0, 0, HEIGHT // 2, column + 1]


def test_quaternions_are_scipys() -> None:
    turns = Rotation.random(20, rng=np.random.default_rng(0))
    halves = Rotation.from_euler("xyz", [[180, 0, 0], [0, 180, 0], [0, 0, 180], [0, 0, 0]], degrees=True)
    for turn in (turns, halves):
        own = quaternion(torch.tensor(turn.as_matrix()))
        assert torch.allclose((own * torch.tensor(turn.as_quat(scalar_first=True))).sum(-1).abs(), torch.ones(len(own)).double())
    first, second = torch.tensor(turns[:10].as_quat(scalar_first=True)), torch.tensor(turns[10:].as_quat(scalar_first=True))
    both = torch.tensor((turns[:10] * turns[10:]).as_quat(scalar_first=True))
    assert torch.allclose((composed(first, second) * both).sum(-1).abs(), torch.ones(10).double())


def sample(batch: int = 1, seed: int = 0) -> OccupancyBatch:
    """Of the wall, with the rig a little further back and ahead."""
    intrinsics, mounted = rig()
    current, _ = wall(intrinsics, mounted)
    shifts = [torch.tensor([step, 0.0, 0.0]) for step in (-0.4, 0.4)]
    images = torch.stack([wall(intrinsics, mounted, 8.0 - float(shift[0]))[0] for shift in shifts], dim=1)
    moves = torch.stack([rigid(torch.eye(3), -shift) for shift in shifts])
    motion = inverse(mounted)[:, None] @ moves[None, :, None] @ mounted[:, None]

    def every(value: Tensor) -> Tensor:
        return value.expand(batch, *value.shape[1:]).clone()

    shape = GRID.shape
    return OccupancyBatch(
        images=every((current - 0.5) / 0.25),
        projection=torch.eye(4).expand(batch, 2, 4, 4),
        intrinsics=every(intrinsics),
        reference_to_camera=every(inverse(mounted)),
        camera_size=(WIDTH, HEIGHT),
        labels=torch.full((batch, *shape), GRID.empty),
        camera_mask=torch.ones(batch, *shape, dtype=torch.bool),
        reference_to_lidar=torch.eye(4).expand(batch, 4, 4),
        neighbours=Neighbours(
            images=every(images),
            current=every(current),
            intrinsics=every(intrinsics),
            camera_to_ego=every(mounted),
            camera_motion=every(motion),
            valid=torch.ones(batch, 2, 2, dtype=torch.bool),
        ),
    )


SMALL: dict[str, Any] = dict(
    backbone={**TOY["backbone"], "base_channels": 4, "stem_channels": 4},
    backbone_channels=(4, 8, 16, 32),
    decoder_channels=(4, 4, 4, 4),
    pose=dict(depth=18, base_channels=4, channels=8),
)


def model(**options: Any) -> GaussianOccGSP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GaussianOccGSP(GRID, **SMALL, renderer="reference", **options)


def test_it_learns_and_every_network_is_taught() -> None:
    one, batch = model(), sample(batch=2)
    losses = one(batch, mode="loss")
    assert set(losses) == {"loss_temporal", "loss_smoothness", "loss_cross_view"}
    sum(losses.values()).backward()
    untaught = {name for name, value in one.named_parameters() if value.requires_grad and (value.grad is None)}
    assert not untaught
    assert all(torch.isfinite(value.grad).all() for value in one.parameters() if value.grad is not None)
    again = one(batch, mode="loss")
    assert {name: float(value.detach()) for name, value in again.items()} == pytest.approx(
        {name: float(value.detach()) for name, value in losses.items()}
    ), "the noise of ties is the iteration's"


def test_what_has_no_weight_is_left_out() -> None:
    batch = sample()
    alone = model(teaching={"cross_view_weight": 0.0}, moments=(-1, 1))
    alone._renderer = "no such renderer"  # not asked for
    assert set(alone(batch, mode="loss")) == {"loss_temporal", "loss_smoothness"} and alone.departures == {}
    weighted = model(teaching={"cross_view_weight": 3.0, "photometric": {"smoothness": 0.0}})(batch, mode="loss")
    plain = model(teaching={"photometric": {"smoothness": 0.0}})(batch, mode="loss")
    assert set(plain) == {"loss_temporal", "loss_cross_view"}
    assert torch.isclose(weighted["loss_cross_view"], 3 * plain["loss_cross_view"])


def test_cameras_stand_where_they_are_mounted_or_where_they_were() -> None:
    batch = sample()
    assert batch.neighbours is not None
    apart = rigid(torch.eye(3), torch.tensor([0.3, 0.0, 0.0]))  # the second camera exposed later
    were = torch.stack([batch.neighbours.camera_to_ego[0, 0], apart @ batch.neighbours.camera_to_ego[0, 1]])[None]
    later = replace(batch, reference_to_camera=inverse(were))

    def losses(rig: str, batch: OccupancyBatch) -> Tensor:
        return model(teaching={"rig": rig})(batch, mode="loss")["loss_cross_view"].detach()

    assert torch.equal(losses("mounted", batch), losses("mounted", later))
    assert torch.isclose(losses("compensated", batch), losses("mounted", batch), rtol=1e-3)
    assert not torch.isclose(losses("compensated", later), losses("mounted", later), rtol=1e-3)
    with pytest.raises(ValueError, match="unknown rig 'moved'"):
        Teaching(rig="moved")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frame_time must be a positive number of seconds, got 0"):
        Teaching(frame_time=0)
    with pytest.raises(ValueError, match="exposures are of 6 cameras, the batch has 2"):
        losses("timed", batch)


def test_a_clock_and_the_motion_say_where_cameras_were() -> None:
    """Of a vehicle that drives evenly through a bend."""
    mounted = rig()[1]
    shares = torch.tensor([-0.5, 0.25])

    def driven(share: float) -> Tensor:
        """The rig when the images were taken -> the rig ``share`` of a camera frame later."""
        bend = torch.tensor(Rotation.from_euler("z", -2.0 * share, degrees=True).as_matrix(), dtype=torch.float32)
        return rigid(bend, torch.tensor([-0.5 * share, 0.01 * share, 0.0]))

    expected = torch.stack([inverse(driven(float(share))) @ mounted[0, view] for view, share in enumerate(shares)])
    motion, moments = torch.stack([driven(-1.0), driven(1.0)])[None], torch.tensor([-1.0, 1.0])
    for valid in ((True, True), (True, False), (False, True)):
        found = where_exposed(motion, torch.tensor([valid]), mounted, moments, shares)
        assert torch.allclose(found[0], expected, atol=1e-5)
    assert (expected - mounted[0]).abs().max() > 0.2
    ends = where_exposed(motion, torch.tensor([[False, False]]), mounted, moments, shares)
    assert torch.allclose(ends, mounted)

    batch = sample()
    assert batch.neighbours is not None
    one = model(teaching={"rig": "timed", "exposures": (-0.02, 0.0)})
    said = motion.clone().requires_grad_()
    at_half = one.rig(batch, said)
    assert not at_half.requires_grad, "how cameras stand to each other teaches no motion"
    assert torch.allclose(
        at_half, where_exposed(motion, torch.tensor([[True, True]]), mounted, moments, torch.tensor([-0.24, 0.0]))
    )
    assert torch.equal(model(teaching={"rig": "mounted"}).rig(batch, motion), batch.neighbours.camera_to_ego)


def test_generated_cameras_expose_when_nuscenes_do() -> None:
    assert NUSCENES_EXPOSURES == pytest.approx([RECORDED[name][-1] / 1000 for name in CAMERAS], abs=1e-3)


def test_it_says_nothing_of_voxels() -> None:
    one, batch = model().eval(), sample(batch=2)
    assert (one.predict(batch).labels == GRID.empty).all()
    with pytest.raises(ValueError, match="needs the batch's 'neighbours'"):
        one.predict(replace(batch, neighbours=None))
    with pytest.raises(ValueError, match=r"neighbours must be of the moments \(-1,\), the batch has 2"):
        model(moments=(-1,)).predict(batch)


def test_sizes_and_options() -> None:
    config = gaussianocc_gsp_config("toy", GRID)
    del config["type"]
    whole = GaussianOccGSP(**config)
    raw = whole.raw(replace(sample(), images=torch.zeros(1, 2, 3, 36, 50), neighbours=None))
    assert raw.shape == (1, 2, 9, 18, 25)
    depth = whole.depth(raw, (36, 50))
    assert depth.shape == (1, 2, 36, 50) and (depth > 0.1).all() and (depth < 80).all()
    with pytest.raises(ValueError, match="unknown GaussianOcc first stage size 'big'"):
        gaussianocc_gsp_config("big", GRID)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes no gaussrender"):
        gaussianocc_gsp_config("toy", GRID, gaussrender={})
    with pytest.raises(ValueError, match="nothing teaches"):
        Teaching(temporal_weight=0.0, cross_view_weight=0.0)
    with pytest.raises(ValueError, match="overlap must be nearest < farthest"):
        Teaching(overlap=(5.0, 1.0, 3))
    with pytest.raises(ValueError, match="ssim must be within"):
        Teaching(photometric={"ssim": 2.0})
    with pytest.raises(ValueError, match="depth_range must be"):
        model(depth_range=(2.0, 1.0))
    with pytest.raises(ValueError, match="decoder_channels must be as many"):
        GaussianOccGSP(GRID, **{**SMALL, "decoder_channels": (4, 4)})


def test_depth_and_motion_are_answers() -> None:
    one, batch = model().eval(), sample(batch=2)
    points = LidarDepth(
        places=torch.full((1, 2), 5.0),
        cells=torch.full((1, 2), 5),
        depth=torch.tensor([8.0]),
        camera=torch.tensor([0]),
        scene=torch.tensor([0]),
        to_view=torch.eye(3).expand(2, 2, 3, 3),
        size=(WIDTH, HEIGHT),
    )
    twice = torch.diag(torch.tensor([2.0, 2.0, 1.0]))
    measured = replace(batch, lidar=points, intrinsics=twice @ batch.intrinsics, camera_size=(2 * WIDTH, 2 * HEIGHT))
    answer = one.predict(measured)
    assert answer.depth is not None and answer.motion is not None and answer.motion.shape == (2, 2, 4, 4)
    assert answer.depth.depth.shape == (2, 2, HEIGHT, WIDTH) and (answer.depth.depth > 0).all()
    half = torch.diag(torch.tensor([0.5, 0.5, 1.0]))
    assert torch.allclose(answer.depth.to_view, half.expand(2, 2, 3, 3), atol=1e-5), "of the label camera's larger image"
    assert one.predict(batch).depth is None
    said = one(measured, mode="predict")
    assert torch.equal(said[1]["motion"], answer.motion[1]) and torch.equal(said[1]["depth"].depth[0], answer.depth.depth[1])


@pytest.mark.parametrize("name", ["gaussianocc-gsp-unaligned", "gaussianocc-gsp-unaligned-cross-view"])
def test_rows_without_alignment_have_the_toys_pose_network_otherwise(name: str) -> None:
    row = load_table("table_gaussianocc_depth").row(name)
    assert {**row.options["pose"], "aligned": True} == TOY["pose"]
