"""Pseudo labels of images: what a batch has of them, files in both forms, the generated world's, and how models make them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import occ3d_layout
import pytest
import tiny_models
import torch

from baselines.interface import ImageSupervision
from baselines.recipe import FRAMES
from experiments import data, plan, toyworld
from experiments.datasets import prepare_pseudo, pseudo_models
from experiments.datasets.build import build_dataset
from experiments.datasets.frames import collate
from experiments.datasets.layout import CAMERAS, OCC3D_CLASSES, read_infos
from experiments.datasets.layout_pseudo_labels import (
    DEPTH,
    EXACT,
    FOLDERS,
    SEMANTIC,
    STORED,
    path_of,
    read_classes,
    read_metres,
    write,
)
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.prepare_pseudo import Options
from experiments.datasets.pseudo_labels import label_maps
from experiments.datasets.registry import DATASETS
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError
from experiments.spec import DataPreset, load_table
from experiments.toyworld import imagelabels, pseudo

SIZE = occ3d_layout.WIDTH, occ3d_layout.HEIGHT
IMAGE = ImageTransform(width=40, height=16)
HORIZON = FRAMES["views"]
WORLD = {"train_scenes": 2, "val_scenes": 1, "train_frames": 4, "val_frames": 1, "image_width": 240}
IGNORE = 255


def labels_of(root: Path, split: str = "train") -> list[Path]:
    return [root / "gts" / info["scene_name"] / info["token"] / "labels.npz" for info in read_infos(root, split)]


def maps(folder: str, number: int = 0) -> np.ndarray:
    """The array of a file of the tiny frames, in its own order: camera and key frame are told by values."""
    array = np.zeros((6, SIZE[1], SIZE[0]), np.float16 if folder == DEPTH else np.int8)
    for place, name in enumerate(STORED[folder]):
        array[place] = 1 + CAMERAS.index(name) + (number % 8 if folder == SEMANTIC else number)
    return array


def write_maps(root: Path, compact: bool = False) -> Path:
    for split in ("train", "val"):
        for number, label in enumerate(labels_of(root, split)):
            for folder in FOLDERS:
                write(path_of(root, label, folder), maps(folder, number), compact, "a test")
    return root


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 15 key frames."""
    return write_maps(occ3d_layout.write_layout(tmp_path_factory.mktemp("tiny"), frames=15))


def hashes(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated world, with what is made of it when a row asks for views; nothing else changes."""
    root = toyworld.ensure_at(toyworld.ToyWorldConfig(**WORLD), tmp_path_factory.mktemp("worlds") / "world")  # type: ignore[arg-type]
    before = hashes(root)
    for made, make in pseudo.steps(root, "train"):
        assert not made
        make()
    after = hashes(root)
    assert {name: after[name] for name in before} == before
    added = {name.partition("/")[0] for name in after if name not in before}
    assert added == {*FOLDERS, EXACT} and all(made for made, _ in pseudo.steps(root, "train"))
    return root


def views_of(root: Path, key: int | tuple[int, int] = 0, **options: Any) -> ImageSupervision:
    views = Occ3DNuScenes(root, "train", **{"image": IMAGE, "views": HORIZON, **options})[key].views
    assert views is not None
    return views


# What is in a batch.


def test_cameras_are_found_by_name_in_both_kinds_of_files(tiny: Path) -> None:
    views = views_of(tiny, 7, views=(-1, 0))
    for number, frame in enumerate((6, 7)):
        for view in range(6):
            assert (views.semantic[0, number, view] == 1 + view + (frame % 8)).all()
            assert (views.depth[0, number, view] == 1 + view + frame).all()
    label, other = labels_of(tiny)[3], tuple(sorted(CAMERAS))
    for folder, read in ((SEMANTIC, read_classes), (DEPTH, read_metres)):
        found = read(path_of(tiny, label, folder), other, SIZE)
        assert [int(one[0, 0]) for one in found] == [1 + CAMERAS.index(name) + 3 for name in other]
    assert STORED[SEMANTIC] != STORED[DEPTH] and set(STORED[SEMANTIC]) == set(STORED[DEPTH]) == set(CAMERAS)


def test_moments_are_drawn_anew_every_time_and_repeat_by_seed(tiny: Path) -> None:
    frames = Occ3DNuScenes(tiny, "train", image=IMAGE, views=HORIZON, view_count=6)

    def drawn(key: tuple[int, int], frames: Occ3DNuScenes = frames) -> tuple[int, ...]:
        views = frames[key].views
        assert views is not None and views.valid.all() and views.steps.shape == (1, 7)
        steps = views.steps[0].tolist()
        for number, step in enumerate(steps):  # each map is that of its moment
            assert (views.depth[0, number, 0] == 1 + key[0] + step).all()
        return tuple(steps)

    first = [drawn((7, draw)) for draw in range(6)]
    assert first == [drawn((7, draw)) for draw in range(6)] and len(set(first)) > 3
    assert all(steps[-1] == 0 and 0 not in steps[:-1] and len(set(steps)) == 7 for steps in first)
    assert all(list(steps[:-1]) == sorted(steps[:-1]) and max(map(abs, steps)) <= 6 for steps in first)
    other = Occ3DNuScenes(tiny, "train", image=IMAGE, views=HORIZON, view_count=6, seed=1)
    assert [drawn((7, draw), other) for draw in range(6)] != first
    assert {step for draw in range(40) for step in drawn((7, draw))} == set(HORIZON)


def test_ends_of_a_scene(tiny: Path, tmp_path: Path) -> None:
    """At the beginning only later key frames are drawn; of what the scene does not have nothing is known."""
    assert min(views_of(tiny, 0, view_count=6).steps[0].tolist()) == 0
    everything = views_of(tiny, 1, views=(-2, -1, 1, 0))
    assert everything.valid.tolist() == [[False, True, True, True]] and everything.steps.tolist() == [[0, -1, 1, 0]]
    root = write_maps(occ3d_layout.write_layout(tmp_path, frames=1))
    alone = views_of(root, view_count=6)
    assert alone.valid.tolist() == [[False] * 6 + [True]] and alone.steps.eq(0).all()
    assert (alone.semantic[:, :6] == IGNORE).all() and alone.depth[:, :6].eq(0).all() and alone.depth[:, 6].gt(0).all()
    assert alone.reference_to_camera[0, 0].equal(alone.reference_to_camera[0, 6])
    with pytest.raises(ValueError, match="own, 0, among them"):
        views_of(root, views=(-1, 1))


def test_scaled_cropped_and_nothing_beyond_40_metres() -> None:
    """The published sizes: 1600x900 by 0.44 to 704x396, less 140 rows at the top."""
    image = ImageTransform(width=704, height=256)
    assert image.matrix(1600, 900) == pytest.approx(np.array([[0.44, 0, 0], [0, 0.44, -140], [0, 0, 1]]))
    u, v = np.meshgrid(np.arange(1600) + 0.5, np.arange(900) + 0.5)
    depth = np.stack([u / 40, v / 25]).astype(np.float32)  # up to 40 and 36 m, of an even slope
    classes = np.stack([1 + (u // 200), 1 + (v // 100)]).astype(np.uint8)
    classes[:, 850:] = 0
    found = label_maps(classes, depth, image, IGNORE)
    assert found.semantic.shape == found.depth.shape == (2, 256, 704)
    columns, rows = (np.arange(704) + 0.5) / 0.44, (np.arange(256) + 140.5) / 0.44
    assert found.depth[0, 100] == pytest.approx(columns / 40, abs=0.02)
    assert found.depth[1, :, 300] == pytest.approx(rows / 25, abs=0.02)
    assert (found.semantic[0, 100] == 1 + columns // 200).mean() > 0.99
    assert (found.semantic[1, :, 300] == np.where(rows < 850, 1 + rows // 100, IGNORE)).mean() > 0.98
    far = label_maps(classes, np.full_like(depth, 40.5), image, IGNORE)
    assert (far.semantic == IGNORE).all() and (far.depth == 0).all()
    near = label_maps(classes, np.full_like(depth, 39.5), image, IGNORE)
    assert (near.semantic[:, :200] != IGNORE).all() and (near.depth == 39.5).all()
    holes = np.full_like(depth, 20)
    holes[:, :, ::7] = 0
    some = label_maps(classes, holes, image, IGNORE).depth
    assert set(np.unique(some)) == {0.0, 20.0}, "a depth between known and unknown is none"


def test_label_maps_have_a_size_of_their_own(tiny: Path) -> None:
    views, small = views_of(tiny, 3), views_of(tiny, 3, view_size=(20, 10))
    assert views.semantic.shape[-2:] == (16, 40) and small.semantic.shape[-2:] == (10, 20)
    focal = occ3d_layout.FOCAL
    assert small.intrinsics[0, 0, 0].numpy() == pytest.approx(
        np.array([[focal / 4, 0, 10], [0, focal * 11 / 45, 4.5], [0, 0, 1]])
    )
    with pytest.raises(DataError, match="views of 40x40: .* has 22 rows"):
        views_of(tiny, 3, view_size=(40, 40))


def lifted(views: ImageSupervision, moment: int, view: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points [n, 3] of the reference frame at pixels with known depth, with their classes and depths."""
    known = (views.depth[0, moment, view] > 0) & (views.semantic[0, moment, view] != IGNORE)
    v, u = known.nonzero(as_tuple=True)
    z = views.depth[0, moment, view][known].double()
    pixels = torch.stack([u + 0.5, v + 0.5, torch.ones_like(z)], -1).double()
    points = z[:, None] * (pixels @ torch.linalg.inv(views.intrinsics[0, moment, view].double()).T)
    back = torch.linalg.inv(views.reference_to_camera[0, moment, view].double())
    return points @ back[:3, :3].T + back[:3, 3], views.semantic[0, moment, view][known], z


@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "augmented"])
def test_a_point_is_in_the_pixel_that_shows_it_at_every_moment(world: Path, augmented: bool) -> None:
    """Points of the exact maps lie in voxels of their class, and where the maps of other moments show that depth and class."""
    image = ImageTransform(width=240, height=120)
    frames = Occ3DNuScenes(
        world, "train", image=image, views=(-2, -1, 1, 0), exact_views=True, augment=augmented, bevdet=augmented, seed=3
    )
    batch = frames[2, 1]
    views, grid = batch.views, frames.grid
    assert views is not None and views.valid.all() and views.steps.tolist() == [[-2, -1, 1, 0]]
    same, seen, in_voxel, voxels = 0, 0, 0, 0
    still = torch.tensor([11, 12, 13, 14, 15, 16])
    for view in range(6):
        points, classes, _ = lifted(views, 3, view)
        chosen = torch.isin(classes, still)
        points, classes = points[chosen], classes[chosen]
        cell = ((points - torch.tensor(grid.lower)) / grid.voxel_size).floor().long()
        inside = ((cell >= 0) & (cell < torch.tensor(grid.shape))).all(1)
        around = torch.stack([batch.labels[0][tuple((cell[inside] + torch.tensor([0, 0, dz])).clamp(min=0).T)] for dz in (0, -1)])
        in_voxel, voxels = in_voxel + int((around == classes[inside]).any(0).sum()), voxels + int(inside.sum())
        for moment in range(3):
            to_camera, k = views.reference_to_camera[0, moment, view].double(), views.intrinsics[0, moment, view].double()
            camera = points @ to_camera[:3, :3].T + to_camera[:3, 3]
            z = camera[:, 2]
            pixel = (camera @ k.T)[:, :2] / z[:, None]
            u, v = pixel.floor().long().T
            there = (z > 1) & (z < 30) & (u >= 0) & (u < image.width) & (v >= 0) & (v < image.height)
            u, v, z, of = u[there], v[there], z[there], classes[there]
            depth = views.depth[0, moment, view][v, u].double()
            visible = (depth > 0.98 * z) | (depth == 0)  # nothing stands before it there
            near = (depth - z).abs() < 0.02 * z + 0.1
            same += int((near & (views.semantic[0, moment, view][v, u] == of))[visible].sum())
            seen += int(visible.sum())
    assert seen > 5000 and same / seen > 0.9
    assert voxels > 20000 and in_voxel / voxels > 0.9


def test_a_batch_is_joined_checked_and_moved(tiny: Path) -> None:
    frames = Occ3DNuScenes(tiny, "train", image=IMAGE, views=(-1, 1, 0))
    batch = collate([frames[0], frames[5]])["batch"]
    views = batch.views
    assert views is not None and views.semantic.shape == (2, 3, 6, 16, 40) and views.valid.tolist()[0] == [False, True, True]
    assert views.one(1).depth.equal(frames[5].views.depth)  # type: ignore[union-attr]
    wrong: dict[str, tuple[Any, str]] = {
        "depth": (-views.depth, "depth must be finite and not negative"),
        "semantic": (views.semantic.float(), "semantic must be int64"),
        "steps": (views.steps[:, :2], r"steps must be \[2, 3\]"),
        "valid": (~views.valid, "the last moment must be the batch's own"),
        "intrinsics": (views.intrinsics[:, :, :5], r"intrinsics must be \[2, 3, 6, 3, 3\]"),
    }
    for name, (value, message) in wrong.items():
        with pytest.raises(ValueError, match=f"ImageSupervision: {message}"):
            replace(batch, views=replace(views, **{name: value}))
    assert Occ3DNuScenes(tiny, "train", image=IMAGE)[0].views is None


def test_real_frames(real_frames: Path, tmp_path: Path) -> None:
    """Of published sizes, with neighbours half a second away: a far point lands in the other frame's image where it should."""
    root = tmp_path / "data"
    root.mkdir()
    for entry in real_frames.iterdir():
        (root / entry.name).symlink_to(entry)
    infos = read_infos(root, "train")
    for info in infos:
        label = root / "gts" / info["scene_name"] / info["token"] / "labels.npz"
        for folder in FOLDERS:
            array = np.broadcast_to(np.arange(1, 7).reshape(6, 1, 1), (6, 900, 1600))
            write(path_of(root, label, folder), array, True, "a test")
    frames = Occ3DNuScenes(root, "train", image=ImageTransform(width=704, height=256), views=(-1, 1, 0))
    index = next(number for number, info in enumerate(infos) if info["scene_name"] == "scene-0103")
    batch = frames[index]
    views = batch.views
    assert views is not None and views.valid.tolist() == [[False, True, True]] and views.semantic.shape == (1, 3, 6, 256, 704)
    expected = batch.intrinsics[0] * torch.tensor([[0.44], [0.44], [1.0]])
    expected[:, 1, 2] -= 140
    torch.testing.assert_close(views.intrinsics[0, 2], expected, atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(views.reference_to_camera[0, 2], batch.reference_to_camera[0])
    other = frames[index + 1]
    both = torch.linalg.inv(other.reference_to_camera[0].double()) @ views.reference_to_camera[0, 1].double()
    poses = [frames._to_global(frames._all_frames[number]) for number in (index, index + 1)]
    moved = np.linalg.inv(poses[1]) @ poses[0]
    for view in range(6):  # the same motion through each camera
        assert both[view].numpy() == pytest.approx(moved, abs=2e-4)
    assert 0.5 < np.linalg.norm(moved[:3, 3]) < 15


# Files.


def test_compact_files_say_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    depth = (5 + np.cumsum(rng.normal(0, 0.05, (6, 45, 80)), axis=-1)).clip(0).astype(np.float16)
    depth[:, :9], depth[0, 20] = 300, 0
    classes = rng.integers(-1, 17, (6, 45, 80)).astype(np.int8)
    for folder, array, read in ((SEMANTIC, classes, read_classes), (DEPTH, depth, read_metres)):
        found = []
        for compact in (False, True):
            path = tmp_path / folder / "scene" / "token.npy"
            write(path, array, compact, "a test")
            (file,) = path.parent.iterdir()
            assert file.suffix == (".npz" if compact else ".npy"), "one form alone"
            found.append(read(file, CAMERAS, SIZE))
        assert found[0].dtype == found[1].dtype and np.array_equal(*found)
        expected = array[[STORED[folder].index(name) for name in CAMERAS]]
        assert np.array_equal(found[0], np.maximum(expected, 0).astype(found[0].dtype))


def npz(path: Path, **arrays: Any) -> None:
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    path.unlink()


def _changed(value: Any, number: Any) -> np.ndarray:
    array = np.array(value)
    array[2, 3, 4] = number
    return array


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "classes missing": (SEMANTIC, Path.unlink, "is missing: .*prepare pseudo-semantics"),
    "depth missing": (DEPTH, Path.unlink, "is missing: .*pseudo-depth"),
    "cut off": (SEMANTIC, lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot be read .it is cut off"),
    "depth cut off": (DEPTH, lambda p: p.write_bytes(p.read_bytes()[:700]), "cannot be read .it is cut off"),
    "empty": (DEPTH, lambda p: p.write_bytes(b""), "cannot be read"),
    "five cameras": (
        SEMANTIC,
        lambda p: np.save(p, maps(SEMANTIC)[:5]),
        "is of 5 cameras, expected 6: CAM_FRONT, CAM_FRONT_LEFT",
    ),
    "seven cameras": (DEPTH, lambda p: np.save(p, maps(DEPTH)[[0, 0, 1, 2, 3, 4, 5]]), "is of 7 cameras, expected 6"),
    "another size": (DEPTH, lambda p: np.save(p, maps(DEPTH)[:, :, :79]), "is 79x45, its images are 80x45"),
    "flat": (SEMANTIC, lambda p: np.save(p, maps(SEMANTIC)[0]), r"expected whole numbers \[6, 45, 80\]"),
    "classes as floats": (SEMANTIC, lambda p: np.save(p, maps(DEPTH)), r"is float16 .* expected whole numbers"),
    "depth as classes": (DEPTH, lambda p: np.save(p, maps(SEMANTIC)), r"is int8 .* expected floating point numbers"),
    "class 17": (SEMANTIC, lambda p: np.save(p, _changed(maps(SEMANTIC), 17)), "holds class 17, known: 1..16"),
    "class -2": (SEMANTIC, lambda p: np.save(p, _changed(maps(SEMANTIC), -2)), "holds class -2, known: 1..16"),
    "NaN": (DEPTH, lambda p: np.save(p, _changed(maps(DEPTH), np.nan)), "has NaN or infinite values"),
    "infinite": (DEPTH, lambda p: np.save(p, _changed(maps(DEPTH), np.inf)), "has NaN or infinite values"),
    "negative": (DEPTH, lambda p: np.save(p, _changed(maps(DEPTH), -1.5)), "has a depth of -1.5 m"),
    "objects": (SEMANTIC, lambda p: np.save(p, np.array([{}], object), allow_pickle=True), "objects and pickles are not read"),
    "compact of nothing": (DEPTH, lambda p: npz(p, cameras=np.array(CAMERAS)), "it has no array planes"),
    "compact of others": (
        SEMANTIC,
        lambda p: npz(p, cameras=np.array(["CAM_UP", *CAMERAS[1:]]), classes=maps(SEMANTIC).astype(np.uint8)),
        "lacks CAM_FRONT, it is of CAM_UP",
    ),
    "compact of one twice": (
        SEMANTIC,
        lambda p: npz(p, cameras=np.array([CAMERAS[0], *CAMERAS[:5]]), classes=maps(SEMANTIC).astype(np.uint8)),
        "no list of different names",
    ),
    "compact planes": (DEPTH, lambda p: npz(p, cameras=np.array(CAMERAS), planes=maps(DEPTH)), "its planes are float16"),
    "compact cut off": (
        DEPTH,
        lambda p: (npz(p, cameras=np.array(CAMERAS)), p.with_suffix(".npz").write_bytes(b"PK\x03\x04rest")),
        "cannot be read",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_files_are_named(tmp_path: Path, case: str) -> None:
    folder, damage, message = DAMAGE[case]
    root = write_maps(occ3d_layout.write_layout(tmp_path, frames=1))
    (label,) = labels_of(root)
    damage(path_of(root, label, folder))
    path = path_of(root, label, folder)
    with pytest.raises(DataError, match=message) as error:
        views_of(root)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_status_and_verify_know_them(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OCC_CACHE", str(tmp_path / "cache"))
    root = occ3d_layout.write_layout(tmp_path / "data", frames=2)
    data.main(["status", "occ3d", "--data-root", str(root)])
    out = capsys.readouterr().out
    assert "train, views: 4 of 4 files are missing" in out and "prepare pseudo-semantics" in out and "GaussianFlowOcc" in out
    write_maps(root, compact=True)
    damaged = path_of(root, labels_of(root)[1], DEPTH)
    data.main(["status", "occ3d", "--data-root", str(root)])
    out = capsys.readouterr().out
    assert "views" in out and "4 of 4" in out and "train, views" not in out
    damaged.write_bytes(damaged.read_bytes()[:200])
    published = replace(DATASETS.load("occ3d"), releases={"published": {"train": 2, "val": 2}}, image_size=SIZE)
    monkeypatch.setattr(DATASETS.target("occ3d").replace(":", "."), published)
    assert data.main(["verify", "occ3d", "--data-root", str(root), "--all"]) == 1
    out = capsys.readouterr().out
    assert f"pseudo label {damaged} cannot be read" in out and "occ3d train: 1 of 2 frames read completely and good" in out
    assert "occ3d val: 2 of 2 frames read completely and good" in out


# The generated world.


def test_toy_labels_err_as_they_say_and_alike_every_time(world: Path, tmp_path: Path) -> None:
    config = toyworld.ToyWorldConfig(**WORLD)  # type: ignore[arg-type]
    size = config.image_width, config.image_height
    agree, known, unknown, ratios = 0, 0, 0, []
    for label in labels_of(world):
        classes = [read_classes(path_of(root, label, SEMANTIC), CAMERAS, size) for root in (world / EXACT, world)]
        depth = [read_metres(path_of(root, label, DEPTH), CAMERAS, size) for root in (world / EXACT, world)]
        agree, known = agree + int((classes[0] == classes[1])[classes[0] > 0].sum()), known + int((classes[0] > 0).sum())
        unknown += int((classes[1] == 0)[classes[0] > 0].sum())
        near = (depth[0] > 3) & (depth[0] < 25)
        ratios.append([np.median((depth[1] / depth[0])[view][near[view]]) for view in range(6)])
        assert depth[0].max() == imagelabels.SKY and set(np.unique(classes[0])) <= set(range(17))
    assert 0.75 < agree / known < 0.97 and 0.005 < unknown / known < 0.1
    drift = np.log(np.array(ratios))  # [frames, cameras]: one of the scene's camera, one of the image
    assert 0.02 < drift.std() < 0.09 and 0.01 < drift[:4].std(axis=0).mean() < 0.06
    # Again, elsewhere, frame by frame backwards: the same files.
    root = tmp_path / "world"
    shutil.copytree(world, root, ignore=shutil.ignore_patterns(*FOLDERS, EXACT))
    pseudo.recorder_of.cache_clear()
    for _, make in reversed(pseudo.steps(root, "train")[:2]):
        make()
    for label in labels_of(root)[:2]:
        for folder in FOLDERS:
            files = [path_of(place / sub, label, folder).read_bytes() for place in (root, world) for sub in ("", EXACT)]
            assert files[0] == files[2] and files[1] == files[3] and files[0] != files[1]


def test_errors_of_the_toy_model() -> None:
    """A small thing is missed or confused now and then, grounds now and then; noise grows with depth."""
    classes, things = np.full((225, 400), 11, np.uint8), np.full((225, 400), -1)
    classes[:60] = 0
    classes[120:124, 200:204], things[120:124, 200:204] = 7, 5
    depth = np.broadcast_to(np.linspace(2, 60, 400, dtype=np.float32), (225, 400)).copy()
    fates, errors = [], []
    for seed in range(120):
        seen, far = imagelabels.noisy(classes, depth, things, 0.0, np.random.default_rng(seed))
        around = np.bincount(seen[118:126, 198:206].ravel(), minlength=17)
        fates.append("seen" if around[7] else "confused" if around[15] else "missed")
        errors.append((far / depth)[:, [60, 330]])
    counts = {fate: fates.count(fate) for fate in ("seen", "confused", "missed")}
    assert counts["missed"] > 20 and 3 < counts["confused"] < 30 and counts["seen"] > 40
    near, distant = np.std(np.concatenate(errors), axis=0)
    assert near < distant < 0.2


def test_a_toy_row_takes_the_noisy_ones_or_the_exact_ones(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    preset = DataPreset("toyworld", (120, 48))
    found = {}
    for name in ("noisy", "exact"):
        frames = build_dataset("occ3d", world, "train", replace(preset, pseudo_labels=name), 0, {"views": (-1, 1, 0)}, views=1)
        first, again = frames[1].views, frames[1].views
        assert first is not None and again is not None and first.depth.equal(again.depth) and first.steps.shape == (1, 2)
        found[name] = first
    assert found["noisy"].steps.equal(found["exact"].steps) and not found["noisy"].depth.equal(found["exact"].depth)
    # The plan makes what is not there.
    table = load_table("table_occ3d")
    monkeypatch.setattr(plan, "toy", lambda _: type("World", (), {"ensure": staticmethod(lambda fields: world)}))
    gone = path_of(world, labels_of(world)[0], DEPTH)
    content = gone.read_bytes()
    gone.unlink()
    plan.toy_data(table, "toy", reads=("views",))
    assert gone.read_bytes() == content
    # And a person may.
    gone.unlink()
    assert data.main(["prepare", "pseudo-toy", "--data-root", str(world)]) == 0
    assert "pseudo-toy train: 1 frames made, 7 were there" in capsys.readouterr().out and gone.read_bytes() == content


def test_rows_that_learn_from_them_name_what_is_missing(tiny: Path, tmp_path: Path) -> None:
    """Before anything runs: files of a data root; exact ones where there are none. The generated world's are in the fingerprint
    of the rows that read them, and of no other."""
    table = load_table("table_occ3d")
    row = replace(table.row("tpvformer"), name="pictures", traits={"taught_by": ("views",), "frames": {"views": (-1, 1, 0)}})
    table = replace(table, rows=(*table.rows, row))
    request = plan.Request(table=table, preset="toy", renderers=("cpu",), rows=("tpvformer", "pictures"))
    generated = plan.make(request, lambda: False)
    words = generated.data_fingerprint.split(" ")
    assert len(words) == 2 and words[0].startswith("toyworld-") and words[1].startswith("pictures=")
    assert generated.cells[0].fingerprint(words[0]) == generated.cells[0].fingerprint(generated.data_fingerprint)
    exact = plan.make(replace(request, settings=("data.pseudo_labels=exact",)), lambda: False)
    assert exact.cells[1].data.pseudo_labels == "exact" and "exact" in exact.cells[1].name
    root = tmp_path / "data"
    shutil.copytree(tiny, root)
    real = replace(request, data_root=root)
    plan.make(real, lambda: False)
    with pytest.raises(plan.PlanError, match="is of generated worlds alone"):
        plan.make(replace(real, settings=("data.pseudo_labels=exact",)), lambda: False)
    with pytest.raises(DataError, match="only generated worlds have exact pseudo labels, made by prepare pseudo-toy"):
        views_of(root, exact_views=True)
    path_of(root, labels_of(root)[3], DEPTH).unlink()
    with pytest.raises(DataError, match="occ3d train, views: 1 of 30 files are missing or empty.*prepare pseudo-semantics"):
        plan.make(real, lambda: False)


def test_other_versions_of_toy_labels_are_made_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo, "SOURCE", "toy world 2")
    assert not any(made for made, _ in pseudo.steps(world, "train"))
    # What models made of the images is nobody's to overwrite.
    monkeypatch.setattr(pseudo, "SOURCE", "toy world 1")
    file = path_of(world, labels_of(world)[0], DEPTH)
    content = file.read_bytes()
    write(file, np.ones((6, 135, 240)), True, "a model")
    of_a_model = file.read_bytes()
    made, make = pseudo.steps(world, "train")[0]
    make()
    assert made and file.read_bytes() == of_a_model
    file.write_bytes(content)


def test_toy_labels_of_what_is_no_toy_world(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.main(["prepare", "pseudo-toy", "--data-root", str(tiny)]) == 1
    assert "holds no generated world" in (out := capsys.readouterr().out) and "prepare pseudo-semantics" in out
    root = tmp_path / "old"
    root.mkdir()
    config = {"config": {"seed": 1}, "fingerprint": "of another version"}
    (root / "toyworld.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="another version or layout"):
        pseudo.steps(root, "train")


# How models make them.


class Fake:
    """Stands for a model: says of each image its mean colour."""

    def __init__(self, weights: Path | None, device: str) -> None:
        pass

    @staticmethod
    def source(weights: Path | None) -> str:
        return "a test"

    def __call__(self, image: np.ndarray, focal: float) -> np.ndarray:
        assert focal == occ3d_layout.FOCAL
        return np.full(image.shape[:2], round(float(image.mean())) % 17, np.uint8)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo_models, "GroundedSam", Fake)
    monkeypatch.setattr(pseudo_models, "MetricDepth", Fake)
    monkeypatch.setattr(prepare_pseudo.importlib.util, "find_spec", lambda name: object())


def prepared(root: Path, *words: str) -> int:
    return data.main(["prepare", "pseudo-semantics", "--data-root", str(root), *words])


def files_of(root: Path, folder: str = SEMANTIC) -> list[Path]:
    return sorted(path for path in (root / folder).rglob("*") if path.is_file())


@pytest.mark.usefixtures("fake")
def test_frames_that_are_there_are_left_and_others_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = occ3d_layout.write_layout(tmp_path / "data")
    assert prepared(root) == 0
    out = capsys.readouterr().out
    assert "3 frames of 1600x900 take 0.0 GB, with --compact about 0.0 GB" in out and "GB are free" in out
    assert "pseudo-semantics train: 3 frames made, 0 were there, 0 cannot be made" in out
    files = files_of(root)
    assert [path.name for path in files] == [f"scene-0001-0{n}.npy" for n in range(3)]
    stored = np.load(files[1])
    assert stored.shape == (6, 45, 80) and stored.dtype == np.int8
    for place, name in enumerate(STORED[SEMANTIC]):  # the flat images' grey
        assert abs(int(stored[place, 0, 0]) - (20 * CAMERAS.index(name) + 15) % 17) <= 1
    times = [path.stat().st_mtime_ns for path in files]
    files[1].unlink()
    (files[1].parent / ".scene-0001-01.npy.1.tmp").write_bytes(b"half")  # of a process that was killed
    assert prepared(root) == 0
    assert "1 frames made, 2 were there" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in (files[0], files[2])] == [times[0], times[2]]
    assert np.array_equal(np.load(files[1]), stored)
    assert prepared(root, "--again", "--compact") == 0 and "3 frames made" in capsys.readouterr().out
    assert [path.suffix for path in files_of(root) if path.name[0] != "."] == [".npz"] * 3
    assert np.array_equal(read_classes(files_of(root)[-2], STORED[SEMANTIC], SIZE), stored)


@pytest.mark.usefixtures("fake")
def test_shards_and_scenes_share_the_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, shared = occ3d_layout.write_layout(tmp_path / "one"), occ3d_layout.write_layout(tmp_path / "two")
    assert prepared(whole) == prepared(shared, "--shard", "2/2") == 0
    assert [path.name for path in files_of(shared)] == ["scene-0001-01.npy"]
    assert prepared(shared, "--shard", "1/2") == 0
    assert [p.read_bytes() for p in files_of(whole)] == [p.read_bytes() for p in files_of(shared)]
    assert "pseudo-semantics train: 2 frames made, 0 were there" in capsys.readouterr().out
    jobs = [
        prepare_pseudo.Job((), (), Path("gts", f"scene-000{scene}", f"{frame}", "labels.npz"))
        for scene in (3, 1, 2)
        for frame in (0, 1)
    ]

    def scenes(words: str, shard: str = "1/1") -> list[str]:
        found = prepare_pseudo.chosen(jobs, Options(scenes=words, shard=shard))
        return [f"{job.label.parts[1][-1]}{job.label.parts[2]}" for job in found]

    assert scenes("0:2") == ["10", "11", "20", "21"] and scenes("2:") == ["30", "31"] and scenes("") == scenes(":")
    assert scenes("scene-0003,scene-0002") == ["30", "31", "20", "21"] and scenes("", "2/4") == ["31", "21"]
    for words, shard, message in (
        ("5:7", "1/1", "of no scene, the split has 3"),
        ("scene-0009", "1/1", "'scene-0009'"),
        ("", "3/2", "--shard takes I/N"),
        ("", "0/2", "--shard takes I/N"),
        ("", "half", "--shard takes I/N"),
    ):
        with pytest.raises(DataError, match=message):
            scenes(words, shard)


@pytest.mark.usefixtures("fake")
def test_what_keeps_models_from_labelling_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = occ3d_layout.write_layout(tmp_path / "data")

    def said(*words: str) -> str:
        assert data.main(["prepare", *words, "--data-root", str(root)]) != 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return " ".join((out + err).split())

    assert "--compact is of prepare pseudo-semantics and pseudo-depth alone, not of renderocc" in said("renderocc", "--compact")
    assert "--metric3d is of prepare pseudo-depth alone" in said("pseudo-semantics", "--metric3d", str(root))
    assert "'pseudo-semantic'; did you mean 'pseudo-semantics'?" in said("pseudo-semantic")
    (root / SEMANTIC).write_text("a file where the folder has to be")
    assert SEMANTIC in said("pseudo-semantics")
    (root / SEMANTIC).unlink()
    image = root / "nuscenes/samples/CAM_BACK/scene-0001-01__CAM_BACK.jpg"
    image.write_bytes(b"no image")
    text = said("pseudo-semantics")
    assert f"image {image} cannot be decoded" in text and "2 frames made, 0 were there, 1 cannot be made" in text
    assert len(files_of(root)) == 2
    full = shutil._ntuple_diskusage(10**9, 10**9, 0)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    assert "0.0 GB are free" in (text := said("pseudo-depth")) and "--scenes" in text and "--compact" in text
    assert not files_of(root, DEPTH)
    monkeypatch.setattr(prepare_pseudo.importlib.util, "find_spec", lambda name: None)
    assert "transformers, which has the models, is not installed" in (text := said("pseudo-depth")) and ".[pseudo]" in text


def test_all_and_a_data_set_leave_pseudo_labels_out(tiny: Path) -> None:
    assert dict(data._named("all"))["occ3d"] == dict(data._named("occ3d"))["occ3d"] == ["renderocc"]
    assert dict(data._named("pseudo-depth")) == {"occ3d": ["pseudo-depth"]}


def test_the_highest_score_wins_a_pixel() -> None:
    masks = [np.zeros((2, 4), bool) for _ in range(3)]
    masks[0][:, :3], masks[1][:, 2:], masks[2][0] = True, True, True
    found = pseudo_models.strongest(masks, [0.5, 0.6, 0.3], [4, 15, 0], (2, 4))
    assert found.tolist() == [[4, 4, 15, 15]] * 2
    assert not pseudo_models.strongest([], [], [], (2, 4)).any(), "nothing is found"
    names = {name for name, _ in pseudo_models.PROMPTS} - {"sky"}
    assert names == set(OCC3D_CLASSES[1:17]) and sum(len(prompts) for _, prompts in pseudo_models.PROMPTS) == 42


def hub(folder: Path) -> tuple[Path, Path]:
    """A stand-in for a copy of Metric3D, whose depth is the red of the image, and its weights."""
    folder.mkdir()
    (folder / "hubconf.py").write_text(
        "import torch\n"
        "class Model(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.gain = torch.nn.Parameter(torch.zeros(()))\n"
        "    def inference(self, data):\n"
        "        red = data['input'][:, :1] * 58.395 + 123.675\n"
        "        return self.gain * red, None, {}\n"
        "def metric3d_vit_large(pretrain=False):\n"
        "    assert not pretrain\n"
        "    return Model()\n"
    )
    weights = folder / "weights.pth"
    torch.save({"model_state_dict": {"gain": torch.tensor(1.0)}}, weights)
    return folder, weights


def test_metric3d_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Red is given as red; depth is brought to the camera's focal length; the padding is cut off again."""
    folder, weights = hub(tmp_path / "metric3d")
    image = np.zeros((45, 80, 3), np.uint8)
    image[..., 0], image[:, 40:, 0] = 50, 100
    depth = pseudo_models.Metric3D(folder, weights, "cpu")(image, 60.0)
    metres = 60.0 * 1064 / 80 / 1000
    assert depth.shape == (45, 80) and depth.dtype == np.float32
    assert depth[:, :38] == pytest.approx(50 * metres, rel=1e-3) and depth[:, 42:] == pytest.approx(100 * metres, rel=1e-3)
    root = occ3d_layout.write_layout(tmp_path / "data")
    order = ["prepare", "pseudo-depth", "--data-root", str(root), "--metric3d", str(folder), "--weights"]
    assert data.main([*order, str(weights)]) == 0
    for label in labels_of(root):
        assert (read_metres(path_of(root, label, DEPTH), CAMERAS, SIZE) > 5).all()
    for wrong, message in (
        (tmp_path / "nothing.pth", "is no file: huggingface.co/JUGGHM"),
        (folder / "hubconf.py", "cannot be loaded"),
    ):
        shutil.rmtree(root / DEPTH)
        assert data.main([*order, str(wrong)]) == 1
        assert message in " ".join(capsys.readouterr().out.split())
        (root / DEPTH).mkdir(exist_ok=True)


def test_models_of_transformers_label_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Grounding DINO, SAM and Depth Anything as published, but tiny and with random weights: files of the right form, and what
    the models say of each camera's image is in its place."""
    pytest.importorskip("transformers", reason="the extra 'pseudo' is not installed: pip install '.[pseudo]'")
    weights, depth = tiny_models.write_grounded_sam(tmp_path / "weights"), tiny_models.write_depth(tmp_path / "depth")
    root = occ3d_layout.write_layout(tmp_path / "data", frames=1)
    rng = np.random.default_rng(0)
    for path in (root / "nuscenes/samples").rglob("*.jpg"):
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (6, 10, 3)).astype(np.uint8), SIZE))
    assert prepared(root, "--weights", str(weights)) == 0
    assert data.main(["prepare", "pseudo-depth", "--weights", str(depth), "--compact", "--data-root", str(root)]) == 0
    (label,) = labels_of(root)
    model, far = pseudo_models.GroundedSam(weights, "cpu"), pseudo_models.MetricDepth(depth, "cpu")
    classes = read_classes(path_of(root, label, SEMANTIC), CAMERAS, SIZE)
    metres = read_metres(path_of(root, label, DEPTH), CAMERAS, SIZE)
    for view, name in enumerate(CAMERAS):
        file = root / f"nuscenes/samples/{name}/scene-0001-00__{name}.jpg"
        image = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
        if view < 2:
            assert np.array_equal(classes[view], model(image, 60.0)) and classes[view].any()
        assert np.array_equal(metres[view], far(image, 60.0).astype(np.float16).astype(np.float32))
    boxes, scores = model.boxes(image, "car")
    assert boxes.shape[1] == 4 and (scores > pseudo_models.THRESHOLD).all()
    assert len(model.masks(image, boxes)) == len(boxes) and not len(model.masks(image, boxes[:0]))
    assert views_of(root, views=(0,)).semantic.shape == (1, 1, 6, 16, 40)

    def said(*words: str) -> str:
        assert data.main(["prepare", *words, "--again", "--data-root", str(root)]) == 1
        return " ".join(capsys.readouterr().out.split())

    assert (
        "holds no model (config.json" in (text := said("pseudo-semantics", "--weights", str(tmp_path)))
        and "IDEA-Research" in text
    )
    relative = tiny_models.write_depth(tmp_path / "relative", metric=False)
    assert "whose depth is relative" in said("pseudo-depth", "--weights", str(relative))
    (depth / "model.safetensors").write_bytes(b"cut off")
    assert "cannot be loaded as a model of depth" in said("pseudo-depth", "--weights", str(depth))
    assert "--device nowhere" in said("pseudo-depth", "--weights", str(relative), "--device", "nowhere")
