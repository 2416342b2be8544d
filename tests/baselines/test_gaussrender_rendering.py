"""Pixels of rendered voxels, the shared visibility, and the evaluation images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import published

from baselines.gaussrender import GaussRenderConfig, VoxelRenderer, VoxelToGaussians, render_views
from baselines.interface import OccupancyGrid
from renderers import Cameras
from renderers.reference import ReferenceRenderer

NAMES_18 = (*(f"class {i}" for i in range(17)), "empty")
GRID = OccupancyGrid(
    (-8.0, -8.0, -2.0), (8.0, 8.0, 2.0), 1.0, ("empty", "car", "road"), empty=0, dataset="occ3d", published=published("occ3d")
)
SIGMA = 0.27 / 0.4
AHEAD = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # x right = -y, z forward = +x
K = torch.tensor([[30.0, 0, 16.5], [0, 30, 8.5], [0, 0, 1]])
CAMERA = Cameras(K[None, None], AHEAD[None, None], 33, 17)
SMALL = GaussRenderConfig(bev_reduction=10)


def voxel(x: float, y: float, z: float) -> tuple[int, int, int]:
    """Index of the voxel that holds a point."""
    return int(x + 8), int(y + 8), int(z + 2)


def make_labels(*filled: tuple[tuple[float, float, float], int]) -> torch.Tensor:
    labels = torch.zeros(1, *GRID.shape, dtype=torch.long)
    for point, class_id in filled:
        labels[(0, *voxel(*point))] = class_id
    return labels


def drawer(config: GaussRenderConfig = SMALL) -> VoxelRenderer:
    return VoxelRenderer(GRID, ReferenceRenderer(), config)


def straight_at(point: tuple[float, float, float]) -> Cameras:
    """A camera that has ``point`` on its axis, at the centre of pixel (16, 8)."""
    pose = AHEAD.clone()
    pose[0, 3], pose[1, 3] = point[1], point[2]
    return Cameras(K[None, None], pose[None, None], 33, 17)


def test_truth_pixel_of_one_voxel() -> None:
    """Alpha is cut at 0.99: the class share and the depth on the axis are 0.99 of the full ones."""
    labels = make_labels(((5.5, 0.5, 0.5), 1))
    camera = straight_at((5.5, 0.5, 0.5))
    images = drawer().truth(labels, camera, drawer().in_image(camera))
    torch.testing.assert_close(images.image[0, 0, 8, 16], torch.tensor([0.01, 0.99, 0.0]))
    assert float(images.depth[0, 0, 8, 16]) == pytest.approx(0.99 * 5.5, rel=1e-5)
    # five pixels to the right, the Gaussian as it is: variance of the image of an isotropic one, with low pass
    variance = (30 * SIGMA / 5.5) ** 2 + 0.3
    alpha = np.exp(-0.5 * 25 / variance)
    assert float(images.image[0, 0, 8, 21, 1]) == pytest.approx(alpha, rel=1e-5)
    torch.testing.assert_close(images.image.sum(-1), torch.ones(1, 1, 17, 33))


def test_truth_never_exceeds_two_cut_layers() -> None:
    """The second opaque voxel stops at the transmittance limit: 0.9999 of a class at most."""
    labels = torch.full((1, *GRID.shape), 1)
    no_bev = GaussRenderConfig(with_bev=False, with_bev_depth=False)
    image = drawer(no_bev).truth(labels, CAMERA, drawer().in_image(CAMERA)).image
    assert image is not None
    assert image[..., 1].max() <= 0.9999 + 1e-6
    assert image[0, 0, 8, 16, 1] >= 0.99


def test_an_empty_grid_shows_the_empty_class() -> None:
    labels = make_labels()
    images = drawer().truth(labels, CAMERA, drawer().in_image(CAMERA))
    assert images.image[..., 0].eq(1).all() and images.image[..., 1:].eq(0).all()
    assert images.depth.eq(0).all() and images.bev_depth.eq(0).all() and images.bev[..., 0].eq(1).all()


def test_bev_pixel_of_a_known_voxel() -> None:
    """16 m range: the camera hangs 16 m up; x to the right, y upwards, depth 16 - z."""
    labels = make_labels(((3.5, 2.5, 1.5), 2))
    images = drawer(GaussRenderConfig(with_camera=False, with_depth=False)).truth(labels, CAMERA, drawer().in_image(CAMERA))
    share = images.bev[0, 0, :, :, 2]
    row, column = divmod(int(share.argmax()), 400)
    depth = 16 - 1.5
    assert (column + 0.5, row + 0.5) == (
        pytest.approx(200 + 400 * 3.5 / depth, abs=6),
        pytest.approx(200 - 400 * 2.5 / depth, abs=6),
    )
    # the share is cut to 0.99 over a plateau whose middle is the voxel's pixel
    rows, columns = torch.where(share > 0.989)
    assert float(columns.float().mean()) + 0.5 == pytest.approx(200 + 400 * 3.5 / depth, abs=0.6)
    assert float(rows.float().mean()) + 0.5 == pytest.approx(200 - 400 * 2.5 / depth, abs=0.6)
    assert float(images.bev_depth[0, 0, row, column]) == pytest.approx(0.99 * depth, rel=1e-5)


def test_in_image() -> None:
    centres = GRID.centres().flatten(0, 2)
    seen = drawer().in_image(CAMERA)
    assert seen.shape == (1, 1, len(centres))
    for centre, inside in zip(centres.tolist(), seen[0, 0].tolist(), strict=True):
        x, y, z = centre
        expected = x > 0 and 0.5 < 30 * -y / x + 16.5 < 32.5 and 0.5 < 30 * -z / x + 8.5 < 16.5
        assert inside == expected, centre


def test_mask_is_shared_and_only_for_camera_views() -> None:
    """A voxel just outside the image reaches into it, and is left out of both renderings there."""
    point = (5.5, 3.5, 0.5)  # u = 16.5 - 30 * 3.5 / 5.5 = -2.6
    labels = make_labels((point, 1))
    seen = drawer().in_image(CAMERA)
    assert not seen[0, 0, GRID.centres().flatten(0, 2).eq(torch.tensor(point)).all(-1)].any()
    truth = drawer().truth(labels, CAMERA, seen)
    assert truth.image[..., 0].eq(1).all() and truth.bev[..., 1].max() > 0.9
    unmasked = drawer().truth(labels, CAMERA, torch.ones_like(seen))
    assert unmasked.image[..., 1].max() > 0.1
    logits = 30 * torch.nn.functional.one_hot(labels, 3).float().movedim(-1, 1)
    config = GaussRenderConfig(overwrite_opacity=True, bev_reduction=10)
    predicted = drawer(config).prediction(VoxelToGaussians(GRID, None, config)(logits, None), CAMERA, labels, seen)
    assert predicted.image[..., 0].eq(1).all() and predicted.bev[..., 1].max() > 0.9


def test_prediction_keeps_empty_voxels() -> None:
    """An opaque empty voxel in front: right colour of empty space, wrong depth (a published quirk)."""
    labels = make_labels()
    logits = torch.zeros(1, 3, *GRID.shape)
    logits[:, 0] = 2.0
    voxels = VoxelToGaussians(GRID, None)(logits, None)
    seen = drawer().in_image(CAMERA)
    kept = drawer().prediction(voxels, CAMERA, labels, seen)
    assert kept.depth.max() > 0.3  # although the ground truth is empty
    masked_prep = VoxelToGaussians(GRID, None, GaussRenderConfig(mask_elements=True))
    masked = drawer().prediction(masked_prep(logits, None), CAMERA, labels, seen)
    assert masked.depth.max() == 0 and masked.image[..., 0].eq(1).all()


def test_hard_opacity_equals_the_training_path() -> None:
    """``render_views`` draws what the published flag ``overwrite_opacity`` draws, without the module."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, *GRID.shape), generator=g)
    labels[0, :3] = GRID.ignore
    logits = torch.randn(2, 3, *GRID.shape, generator=g)
    logits[:, 0] += 2
    cameras = Cameras(K.expand(2, 2, 3, 3), AHEAD.expand(2, 2, 4, 4), 33, 17)
    config = GaussRenderConfig(overwrite_opacity=True, bev_reduction=10)
    predicted, truth = render_views(GRID, cameras, logits, labels, ReferenceRenderer(), config)
    seen = drawer(config).in_image(cameras)
    images = drawer(config).prediction(VoxelToGaussians(GRID, None, config)(logits, None), cameras, labels, seen)
    assert predicted.semantics.shape == (2, 2, 17, 33) and predicted.bev_semantics.shape == (2, 40, 40)
    torch.testing.assert_close(predicted.depth, images.depth)
    torch.testing.assert_close(predicted.bev_depth, images.bev_depth[:, 0])
    assert (predicted.semantics == images.image.argmax(-1)).float().mean() > 0.999
    solid = drawer(config).truth(labels, cameras, seen)
    assert truth.semantics.equal(solid.image.argmax(-1)) and truth.depth.equal(solid.depth)
    assert truth.bev_semantics.equal(solid.bev.argmax(-1)[:, 0])


def test_labels_as_prediction() -> None:
    labels = make_labels(((5.5, 0.5, 0.5), 1), ((6.5, -1.5, 0.5), 2))
    predicted, truth = render_views(GRID, CAMERA, labels.to(torch.uint8), labels, ReferenceRenderer(), SMALL)
    assert predicted.semantics.equal(truth.semantics) and predicted.depth.equal(truth.depth)
    assert set(truth.semantics.unique().tolist()) == {0, 1, 2}
    only, nothing = render_views(GRID, CAMERA, prediction=labels, renderer=ReferenceRenderer(), config=SMALL)
    assert nothing is None and only.semantics.equal(truth.semantics)
    nothing, only = render_views(GRID, CAMERA, labels=labels, renderer=ReferenceRenderer(), config=SMALL)
    assert nothing is None and only.semantics.equal(truth.semantics)


def test_evaluation_errors() -> None:
    with pytest.raises(ValueError, match="nothing to render"):
        render_views(GRID, CAMERA)
    with pytest.raises(ValueError, match="logits must be"):
        render_views(GRID, CAMERA, torch.zeros(1, 4, *GRID.shape), renderer=ReferenceRenderer())


def test_official_label_shows_in_all_six_cameras(real_frames: Path) -> None:
    """A street seen by a real rig: every camera shows occupied voxels at plausible depths, the road below the rest."""
    rig = json.loads((real_frames / "occ3d_official_scene-1077.json").read_text())
    stored = np.load(real_frames / rig["occ_path"])
    labels = torch.from_numpy(stored["semantics"].astype(np.int64))[None]
    grid = OccupancyGrid((-40, -40, -1), (40, 40, 5.4), 0.4, NAMES_18, empty=17, dataset="occ3d", published=published("occ3d"))
    intrinsics = torch.tensor([camera["K"] for camera in rig["cams"].values()])
    to_ego = torch.tensor([camera["cam2ego"]["matrix"] for camera in rig["cams"].values()])
    cameras = Cameras(intrinsics[None], torch.linalg.inv(to_ego)[None], *rig["image_wh"])
    config = GaussRenderConfig(image_reduction=8)
    _, truth = render_views(grid, cameras, labels=labels, renderer="cpu", config=config)
    assert truth is not None and truth.semantics.shape == (1, 6, 112, 200)
    rows = torch.arange(112.0)[:, None].expand(112, 200)
    for semantics, depth in zip(truth.semantics[0], truth.depth[0], strict=True):
        occupied = semantics != 17
        assert occupied.float().mean() > 0.3
        assert 2 < float(depth[occupied].median()) < 40
        road = semantics == 11
        if road.any():
            assert rows[road].mean() > rows[occupied & ~road].mean()
    above = truth.bev_semantics[0]
    assert above.shape == (400, 400) and set(above.unique().tolist()) <= set(np.unique(stored["semantics"]).tolist())
    # road at the vehicle, which is the middle of the picture; the depth of the road is about the camera's height
    assert (truth.bev_depth[0][above == 11].median() - 80).abs() < 2
