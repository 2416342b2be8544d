"""BEVDet's augmentation: what is drawn, and that images, cameras, labels, rays and depth of a frame stay those of one world."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import kitti360_layout
import numpy as np
import occ3d_layout
import pytest
import torch
from torch import Tensor

from baselines.interface import BatchPart, OccupancyBatch
from experiments import data, toyworld
from experiments.datasets.augmentation import Augmentation, warped, warped_depth
from experiments.datasets.build import build_dataset
from experiments.datasets.kitti360 import SSCBenchKITTI360
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.transforms import ImageTransform, read_image, resized
from experiments.datasets.unpickle import DataError
from experiments.spec import Cell, DataPreset, load_table

IMAGE = ImageTransform(width=96, height=48, distort=False)  # half of the world's own 192x108, cropped
ALL: dict[str, Any] = dict(
    image=IMAGE, depth=True, sight=True, chain=True, history=(-1,), neighbours=(-1,), rays=(0,), augment=True,
    static_projection=False,
)  # fmt: skip
KEYS = [(1, draw) for draw in range(6)]
NOTHING = Augmentation(np.zeros(6), np.zeros(6), np.zeros(6, bool), np.zeros(6), np.ones(3))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of a generated scene, with RenderOcc's points."""
    root = tmp_path_factory.mktemp("augmented") / "world"
    toyworld.ensure_at(toyworld.ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=2, val_frames=1, image_width=192), root)
    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 0
    occ3d_layout.list_key_frames(root, "train")
    return root


def train(root: Path, **options: Any) -> Occ3DNuScenes:
    return Occ3DNuScenes(root, "train", **ALL | {"bevdet": True} | options)


@pytest.fixture(scope="module")
def plain(world: Path) -> OccupancyBatch:
    return train(world, bevdet=False)[1]


@pytest.fixture(scope="module")
def augmented(world: Path) -> list[OccupancyBatch]:
    frames = train(world, cache=True)
    return [frames[key] for key in KEYS]


def tensors(batch: OccupancyBatch) -> Iterator[tuple[str, Tensor]]:
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield field.name, value
        elif isinstance(value, BatchPart):
            yield from ((f"{field.name}.{name}", tensor) for name, tensor in value._tensors().items())


def through(projection: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [n, 2] and depths [n] of points [n, 3] through a [4, 4] matrix to (u*z, v*z, z, 1)."""
    rows = torch.nn.functional.pad(points.double(), (0, 1), value=1.0) @ projection.double().T
    return rows[:, :2] / rows[:, 2:3], rows[:, 2]


def inside(pixels: Tensor, depth: Tensor, margin: float = 0.0) -> Tensor:
    size = torch.tensor([IMAGE.width, IMAGE.height])
    return (depth > 0.5) & (pixels >= margin).all(1) & (pixels < size - margin).all(1)


def ends(batch: OccupancyBatch, beyond: float = 1.0) -> Tensor:
    assert batch.rays is not None
    return batch.rays.origins + batch.rays.depth[:, None] * batch.rays.directions * beyond


def signs(batch: OccupancyBatch) -> tuple[int, ...]:
    assert batch.chain is not None
    return tuple(int(sign) for sign in batch.chain.reference[0].diagonal())


# ---- what is drawn ----


def test_without_flips_all_else_is_drawn_the_same() -> None:
    for seed in range(5):
        whole, own = (Augmentation.drawn(np.random.default_rng(seed), 6, flips) for flips in (True, False))
        assert not own.flip.any() and (own.reference == 1).all()
        assert all((getattr(whole, name) == getattr(own, name)).all() for name in ("resize", "left", "rotation"))
    occ3d = load_table("table_occ3d")
    row = replace(occ3d.row("tpvformer"), model="gaussianflowocc")
    read = {preset: Cell(occ3d, row, "cpu", preset, 0).data for preset in ("toy", "paper")}  # type: ignore[arg-type]
    assert (read["paper"].bevdet, read["paper"].flips, read["paper"].distort) == (True, False, False)
    assert not read["toy"].bevdet and read["paper"].image_size == (704, 256)


def test_draws_are_the_published_ones() -> None:
    image, size = ImageTransform(width=1408, height=512), (1600, 900)
    generator = np.random.default_rng(0)
    scales, flips, turns, lefts, axes = [], [], [], [], []
    for _ in range(200):
        drawn = Augmentation.drawn(generator, 6)
        geometry = drawn.geometry(image, *size)
        level = replace(drawn, rotation=np.zeros(6)).geometry(image, *size).image
        axes.append(np.diag(geometry.reference))
        assert np.array_equal(np.diag(axes[-1]), geometry.reference)
        for matrix, before in zip(geometry.image, level, strict=True):
            # Rotated about the middle of the crop, whose bottom is the image's.
            middle = np.linalg.inv(before) @ [704, 256, 1]
            assert np.allclose(matrix @ middle, [704, 256, 1])
            assert (before @ [0, 900, 1])[1] == pytest.approx(512)
            rotation = matrix @ np.linalg.inv(before)
            assert np.linalg.det(rotation[:2, :2]) == pytest.approx(1)
            turns.append(np.degrees(np.arctan2(rotation[0, 1], rotation[0, 0])))
            scales.append(abs(before[0, 0]))
            assert before[1, 1] == pytest.approx(scales[-1], abs=1 / 900)
            flips.append(before[0, 0] < 0)
            left, right = sorted((before @ [u, 0, 1])[0] for u in (0, 1600))
            assert right - left == pytest.approx(1600 * scales[-1]) and (scales[-1] >= 0.88 or flips[-1] or left == 0)
            if scales[-1] > 0.98:
                hidden = -left if not flips[-1] else right - 1408
                lefts.append(hidden / (1600 * scales[-1] - 1408))
    for values, lowest, highest in ((scales, 0.82, 0.99), (turns, -5.4, 5.4), (lefts, 0.0, 1.0)):
        spread = highest - lowest
        assert lowest - 1e-3 < min(values) < lowest + 0.03 * spread and highest - 0.03 * spread < max(values) < highest + 1e-3
        assert np.mean(values) == pytest.approx((lowest + highest) / 2, abs=0.1 * spread)
    assert np.mean(flips) == pytest.approx(0.5, abs=0.05)
    assert sorted({tuple(signs) for signs in axes}) == [(-1, -1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, 1)]
    assert np.mean(axes, axis=0) == pytest.approx([0, 0, 1], abs=0.15)


def test_seed_draw_and_frame_say_what_is_drawn(world: Path, augmented: list[OccupancyBatch]) -> None:
    for again, batch in zip((train(world)[key] for key in KEYS[:2]), augmented, strict=False):  # without a cache
        assert all(value.equal(dict(tensors(batch))[name]) for name, value in tensors(again))
    others = [*augmented, train(world, seed=1)[KEYS[0]], train(world)[0, 0]]
    drawn = {tuple(batch.chain.image.flatten().tolist()) for batch in others if batch.chain is not None}
    assert len(drawn) == len(others)
    assert len({signs(batch) for batch in augmented}) > 1
    views = augmented[0].chain.image[0]  # type: ignore[union-attr]
    assert len({tuple(view.flatten().tolist()) for view in views}) == 6  # every camera has its own


def test_distortion_is_drawn_besides(world: Path, augmented: list[OccupancyBatch]) -> None:
    distorted = train(world, image=replace(IMAGE, distort=True))[KEYS[0]]
    assert not distorted.images.equal(augmented[0].images) and distorted.projection.equal(augmented[0].projection)


# ---- pixels ----


@pytest.mark.parametrize("number", range(4))
def test_pixels_come_to_where_the_matrix_says(number: int) -> None:
    """Colours that tell their place: averaged and interpolated they tell it as well, to a fraction of a pixel."""
    v, u = np.mgrid[:108, :192] + 0.5
    native = np.stack([u, 2 * v, np.full_like(u, 255)], axis=2).astype(np.uint8)  # cut down to u - 0.5
    matrix = Augmentation.drawn(np.random.default_rng(number), 1).geometry(IMAGE, 192, 108).image[0]
    image = warped(native, matrix, IMAGE.width, IMAGE.height)
    depth = warped_depth((1000 * (u - 0.5) + v).astype(np.float32), matrix, IMAGE.width, IMAGE.height)
    rows, columns = np.mgrid[: IMAGE.height, : IMAGE.width] + 0.5
    source = np.stack([columns, rows, np.ones_like(rows)], axis=2) @ np.linalg.inv(matrix).T
    deep = ((source[..., :2] > 3) & (source[..., :2] < (189, 105))).all(axis=2)
    out = ((source[..., :2] < -3) | (source[..., :2] > (195, 111))).any(axis=2)
    assert deep.mean() > 0.8
    off = image[deep][:, :2] - (source[deep][:, :2] * (1, 2) - (0.5, 0))
    assert np.abs(off).max() < 1.7 and np.abs(off.mean(axis=0)).max() < 0.2 and (image[deep][:, 2] == 255).all()
    at = np.stack([depth[deep] // 1000 + 0.5, depth[deep] % 1000], axis=1)
    assert np.abs(at - source[deep][:, :2]).max() < 0.6
    assert not image[out].any() and not depth[out].any()


def test_a_draw_that_changes_nothing_leaves_the_frame(
    world: Path, plain: OccupancyBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Augmentation, "drawn", lambda *_: NOTHING)
    for name, value in tensors(train(world)[1]):
        assert torch.allclose(value, dict(tensors(plain))[name], rtol=1e-6, atol=1e-6), name
    assert train(world)[1].images.equal(plain.images)


def test_what_the_crop_without_augmentation_cuts_off_is_shown(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of smaller images, all: the bottom stays where it is, and what is above and beside them is black."""
    monkeypatch.setattr(Augmentation, "drawn", lambda *_: replace(NOTHING, resize=np.full(6, -0.06)))
    frames = train(world)
    images = frames[1].images[0].permute(0, 2, 3, 1) + torch.tensor(IMAGE.mean)
    for image, path in zip(images, frames._image_paths(frames._all_frames[1]), strict=True):
        whole = resized(read_image(path), 84, 47)
        assert np.allclose(image[1:, :84].numpy(), whole, atol=1e-3)
        assert image[0].abs().max() < 1e-3 and image[:, 84:].abs().max() < 1e-3


# ---- one world ----


def test_a_points_pixel_has_its_depth(augmented: list[OccupancyBatch]) -> None:
    """The nearest of the rays' ends in a pixel, by the batch's cameras, is the sparse depth there; and by the label cameras."""
    for batch in augmented:
        assert batch.chain is not None and batch.depth is not None and batch.rays is not None
        points = ends(batch)
        assert torch.allclose(batch.chain.projection(), batch.projection, rtol=1e-4, atol=1e-2)
        compared = 0
        for view in range(6):
            # Rays of a view: those that go out from its camera.
            camera = torch.linalg.inv(batch.reference_to_camera[0, view].double())[:3, 3]
            own = (batch.rays.origins.double() - camera).norm(dim=1) < 1e-4
            assert own.sum() > 100
            pixels, depth = through(batch.projection[0, view], points[own])
            assert torch.allclose(depth, batch.rays.depth[own].double(), rtol=1e-4)
            _, labelled = through(batch.reference_to_camera[0, view], points[own])
            assert torch.allclose(labelled, depth, rtol=1e-4)
            seen = inside(pixels, depth)
            columns, rows = pixels[seen].floor().long().unbind(1)
            nearest = torch.full((IMAGE.height * IMAGE.width,), torch.inf, dtype=torch.float64)
            nearest.scatter_reduce_(0, rows * IMAGE.width + columns, depth[seen], "amin")
            expected = torch.where(nearest.isinf(), 0.0, nearest).view(IMAGE.height, IMAGE.width)
            same = torch.isclose(expected, batch.depth[0, view].double(), rtol=1e-4)
            assert same.double().mean() > 0.998  # all but points on the border of two pixels
            compared += int((expected > 0).sum())
        assert compared > 1000


def test_labels_at_the_ends_of_rays_are_theirs_as_often(plain: OccupancyBatch, augmented: list[OccupancyBatch]) -> None:
    lower, size = torch.tensor([-40.0, -40.0, -1.0]), 80.0 / plain.labels.shape[1]

    def agreement(batch: OccupancyBatch) -> tuple[float, float, float]:
        assert batch.rays is not None and batch.sight is not None
        place = ((ends(batch, 1.003) - lower) / size).floor().long()
        near = ((place >= 0) & (place < torch.tensor(batch.labels.shape[1:]))).all(1) & (batch.rays.depth < 20)
        index = tuple(place[near].T)
        same = batch.labels[0][index] == batch.rays.semantic[near]
        return tuple(float(kind.float().mean()) for kind in (same, batch.camera_mask[0][index], batch.sight[0][index]))  # type: ignore[return-value]

    expected = agreement(plain)
    assert min(expected) > 0.6
    for batch in augmented:
        assert agreement(batch) == pytest.approx(expected, abs=0.02)
        turned = [axis + 1 for axis in range(2) if signs(batch)[axis] < 0]
        assert batch.labels.equal(plain.labels.flip(turned)) and batch.camera_mask.equal(plain.camera_mask.flip(turned))
        in_lidar = batch.reference_to_lidar[0] @ torch.diag(torch.tensor([*signs(batch), 1.0]))
        assert torch.allclose(in_lidar, plain.reference_to_lidar[0])


def test_a_point_has_its_colour_now_and_before(plain: OccupancyBatch, augmented: list[OccupancyBatch]) -> None:
    """What the images show at a point's pixel, of this moment and of the earlier one, is what they show without augmentation."""

    def colours(images: Tensor, pixels: Tensor) -> Tensor:
        place = pixels / torch.tensor([IMAGE.width, IMAGE.height]) * 2 - 1
        sampled = torch.nn.functional.grid_sample(images[None].double(), place[None, None], align_corners=False)
        return sampled[0, :, 0].T

    def moments(batch: OccupancyBatch) -> list[tuple[Tensor, Tensor]]:
        assert batch.history is not None
        return [(batch.images[0], batch.projection[0]), (batch.history.images[0, 0], batch.history.projection[0, 0])]

    for batch in augmented:
        for (images, projection), (plain_images, plain_projection) in zip(moments(batch), moments(plain), strict=True):
            for view in range(6):
                pixels, depth = through(projection[view], ends(batch))
                before, _ = through(plain_projection[view], ends(plain))
                both = inside(pixels, depth, 2) & inside(before, depth, 2)
                assert both.sum() > 100
                found, there = colours(images[view], pixels[both]), colours(plain_images[view], before[both])
                off = (found - there).abs().mean()
                elsewhere = (found - colours(plain_images[view], pixels[both])).abs().mean()
                assert off < 0.4 * elsewhere


def test_neighbours_follow_the_images(augmented: list[OccupancyBatch], plain: OccupancyBatch) -> None:
    mean = torch.tensor(IMAGE.mean)[:, None, None]
    for batch in augmented:
        around, chain, earlier = batch.neighbours, batch.chain, batch.history
        assert around is not None and chain is not None and earlier is not None and plain.neighbours is not None
        intrinsics = chain.image @ chain.intrinsics
        assert torch.allclose(around.intrinsics, intrinsics)
        assert torch.allclose(around.camera_motion, plain.neighbours.camera_motion)
        assert torch.allclose(around.current.flip(2) * 255 - mean, batch.images, atol=1e-3)
        assert torch.allclose(around.images.flip(3) * 255 - mean, earlier.images, atol=1e-3)


# ---- who has it ----


def test_training_frames_alone_are_augmented(world: Path) -> None:
    sizes = DataPreset(source="real", image_size=(96, 48), distort=False, bevdet=True)
    for split, is_augmented in (("train", True), ("val", False)):
        shown = [build_dataset("occ3d", world, split, replace(sizes, bevdet=asked), 0)[0].images for asked in (True, False)]
        assert shown[0].equal(shown[1]) != is_augmented


def test_grids_that_cannot_be_turned_are_refused(tmp_path: Path) -> None:
    root = kitti360_layout.write_layout(tmp_path)
    sizes = DataPreset(source="real", image_size=(352, 64), distort=False, bevdet=True)
    with pytest.raises(DataError, match=r"grid of .* goes from 0\.0 to 51\.2 m along x; BEVDet's augmentation turns axes round"):
        build_dataset("kitti360", root, "train", sizes, 0)
    SSCBenchKITTI360(root, "train", image=ImageTransform(width=352, height=64))


def test_images_too_small_to_be_resized_are_named(world: Path) -> None:
    with pytest.raises(DataError, match=r"image .*\.jpg: the network takes 12 of its 192 columns, too few to be resized by -6%"):
        train(world, image=ImageTransform(width=12, height=4))[0]


def test_the_recipe_says_it_where_the_preset_augments() -> None:
    table = load_table("table_occ3d")
    row = replace(table.row("tpvformer"), name="renderocc", model="renderocc")
    kinds = {preset: Cell(table, row, "cpu", preset, 0).data for preset in ("toy", "paper")}
    assert [(kinds[p].distort, kinds[p].mirror, kinds[p].bevdet) for p in ("toy", "paper")] == [
        (False, False, False), (False, False, True)]  # fmt: skip
    other = Cell(table, table.row("tpvformer"), "cpu", "paper", 0).data
    assert (other.distort, other.bevdet) == (True, False)
