"""The toy world in the SSCBench-KITTI-360 layout: files, labels, what the lidar saw, depth, poses."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from grids import kitti360_grid

from experiments.datasets import layout_kitti360 as layout
from experiments.toyworld import ToyWorldConfig, ensure_at, fingerprint, summary
from experiments.toyworld.catalogue import MODELS
from experiments.toyworld.kitti360 import (
    BASELINE,
    FARTHEST,
    LATTICE,
    NUMBER_STEP,
    Recorder,
    class_of,
    frame_of,
    intrinsics,
    stereo_depth,
)
from experiments.toyworld.recording import class_names
from experiments.toyworld.voxelise import Lattice, mark_visible

TINY = ToyWorldConfig(seed=3, train_scenes=1, val_scenes=2, train_frames=1, val_frames=2, image_width=352, layout="kitti360")
OCCUPIED = range(1, 19)
FLAT = ("road", "parking", "sidewalk", "other-ground", "terrain")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_at(TINY, tmp_path_factory.mktemp("toyworld") / "kitti360")


def voxels(root: Path, frame: layout.Frame, kind: str, dtype: type) -> np.ndarray:
    return np.fromfile(layout.voxel_path(root, frame, kind), dtype).reshape(layout.SHAPE)


def digest(root: Path, frame: layout.Frame) -> list[str]:
    paths = [layout.image_path(root, frame), layout.label_path(root, frame), layout.depth_path(root, frame)]
    paths += [layout.voxel_path(root, frame, kind) for kind in ("bin", "label", "invalid")]
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_other_layouts_keep_their_names() -> None:
    """Committed records name their data by it."""
    assert fingerprint(ToyWorldConfig()) == "599c54ca497b43cf"
    assert fingerprint(ToyWorldConfig(layout="surroundocc")) == "34dd14e32651acf0"
    assert ToyWorldConfig().image_width == 400 and ToyWorldConfig().splits == ("train", "val")


def test_images_have_the_official_proportions() -> None:
    config = ToyWorldConfig(layout="kitti360")
    assert (config.image_width, config.image_height) == (704, 188)
    assert fingerprint(config) == fingerprint(replace(config, image_width=704))
    official = replace(config, image_width=1408)
    assert (official.image_width, official.image_height) == layout.IMAGE_SIZE
    assert intrinsics(1408) == pytest.approx(np.array(layout.INTRINSICS))
    assert intrinsics(704)[:2] == pytest.approx(np.array(layout.INTRINSICS)[:2] / 2)
    with pytest.raises(ValueError, match="image_width must be a multiple of 176"):
        ToyWorldConfig(layout="kitti360", image_width=400)


def test_frames_lie_in_the_official_drives(root: Path) -> None:
    names = {split: [(f.drive, f.name) for f in layout.read_frames(root, split)] for split in layout.SPLITS}
    assert names == {
        "train": [("2013_05_28_drive_0000_sync", "000000")],
        "val": [("2013_05_28_drive_0006_sync", number) for number in ("000000", "000005")],
        "test": [("2013_05_28_drive_0009_sync", number) for number in ("000000", "000005", "000110", "000115")],
    }
    assert summary(root)["frames"] == {split: len(frames) for split, frames in names.items()}


def test_scenes_of_a_drive_are_told_apart_by_gaps() -> None:
    config = ToyWorldConfig(layout="kitti360")
    for split in config.splits:
        scenes, frames = config.size(split)
        listed = [frame_of(config, split, scene, index) for scene in range(scenes) for index in range(frames)]
        assert len({(frame.drive, frame.name) for frame in listed}) == scenes * frames
        assert len({frame.scene for frame in listed}) == scenes
        numbers = {}
        for frame in sorted(listed, key=lambda frame: (frame.drive, frame.name)):
            drive, number = frame.drive, int(frame.name)
            if drive in numbers:
                step = number - numbers[drive]
                assert step == NUMBER_STEP or step > layout.SCENE_GAP
                assert (step == NUMBER_STEP) == (frame.name != frame.scene.split("/")[1])
            numbers[drive] = number
        assert set(numbers) == {layout.drive_name(number) for number in layout.DRIVES[split]}


def test_reader_finds_the_scenes_that_were_written(root: Path) -> None:
    written = [frame_of(TINY, "test", scene, index) for scene in range(2) for index in range(2)]
    assert layout.read_frames(root, "test") == written


def test_files_have_the_official_formats(root: Path) -> None:
    grid = kitti360_grid()
    assert (LATTICE.shape, LATTICE.lower, LATTICE.edge) == (grid.shape, grid.lower, grid.voxel_size)
    counts = {split: np.zeros(19, int) for split in layout.SPLITS}
    for split in layout.SPLITS:
        for frame in layout.read_frames(root, split):
            assert cv2.imread(str(layout.image_path(root, frame))).shape == (94, 352, 3)
            depth = np.load(layout.depth_path(root, frame))
            assert depth.shape == (94, 352) and depth.dtype == np.float32
            assert depth.min() > 0.3 and depth.max() <= FARTHEST
            raw, invalid = voxels(root, frame, "label", np.uint16), voxels(root, frame, "invalid", np.uint8)
            assert set(np.unique(raw)) <= {0, *(raw_id for ids in layout.RAW_IDS.values() for raw_id in ids)}
            assert set(np.unique(invalid)) == {0, 1}
            classes = np.load(layout.label_path(root, frame))
            assert (classes == layout.classes_of_voxels(raw, invalid)).all()
            counts[split] += np.bincount(classes[classes != layout.UNKNOWN], minlength=19)
            bits = np.unpackbits(np.fromfile(layout.voxel_path(root, frame, "bin"), np.uint8)).reshape(layout.SHAPE)
            hit, occupied = bits > 0, np.isin(classes, OCCUPIED)
            assert 2_000 < hit.sum() < occupied.sum() and occupied[hit].all()
    assert summary(root)["visible_voxels"] == {split: count.tolist() for split, count in counts.items()}
    assert class_names("kitti360") == layout.CLASSES
    assert (sum(counts.values()) > 0).all()  # no class is missing


def test_unseen_voxels_are_invalid(root: Path) -> None:
    for frame in layout.read_frames(root, "test"):
        raw, invalid = voxels(root, frame, "label", np.uint16), voxels(root, frame, "invalid", np.uint8)
        assert (raw[invalid == 1] == 0).all()  # nothing is labelled that was not seen
        assert 0.15 < invalid.mean() < 0.6
        # the lidar stands 1.73 m above the ground: seen around it, unknown below the road
        assert invalid[:10, 120:136, 8:12].mean() < 0.1
        assert invalid[:50, 100:156, 0].mean() > 0.9
        # what is labelled is a surface: free space that was seen lies beside it
        known_free = np.pad((raw == 0) & (invalid == 0), 1)
        beside = np.zeros(layout.SHAPE, bool)
        for axis in range(3):
            beside |= np.roll(known_free, 1, axis)[1:-1, 1:-1, 1:-1] | np.roll(known_free, -1, axis)[1:-1, 1:-1, 1:-1]
        inner = raw[1:-1, 1:-1, 1:-1] > 0  # those at the grid's faces may be seen from outside of it
        assert beside[1:-1, 1:-1, 1:-1][inner].mean() > 0.99


def first_hits(classes: np.ndarray, width: int, rows: range, columns: range) -> list[tuple[int, int, float, int]]:
    """Row, column, depth (m) and class of the first voxel that is not empty along rays of the camera."""
    to_velodyne = np.array(layout.CAMERA_TO_VELODYNE)
    matrix = intrinsics(width)
    hits = []
    for row in rows:
        for column in columns:
            ray = np.array([(column + 0.5 - matrix[0, 2]) / matrix[0, 0], (row + 0.5 - matrix[1, 2]) / matrix[1, 1], 1.0])
            z = np.arange(1.0, 30.0, 0.05)
            points = z[:, None] * (to_velodyne[:3, :3] @ ray) + to_velodyne[:3, 3]
            index = np.floor((points - LATTICE.lower) / LATTICE.edge).astype(int)
            inside = ((index >= 0) & (index < layout.SHAPE)).all(axis=1)
            met = np.where(inside, classes[tuple(np.where(inside[:, None], index, 0).T)], 0)
            if met.any():
                first = int(np.flatnonzero(met)[0])
                hits.append((row, column, float(z[first]), int(met[first])))
    return hits


def test_labels_lie_where_the_camera_sees_things(root: Path) -> None:
    """Along the rays of the official calibration, the first voxel is as far away as the depth says; trees are green.

    With the calibration off by 12 pixels, four things in ten are not, and one in fifteen stands behind what is seen.
    """
    things, ground, leaves = [], [], []
    for split in layout.SPLITS:
        for frame in layout.read_frames(root, split):
            classes, depth = np.load(layout.label_path(root, frame)), np.load(layout.depth_path(root, frame))
            image = cv2.imread(str(layout.image_path(root, frame))).astype(int)
            for row, column, z, class_id in first_hits(classes, 352, range(2, 94, 6), range(3, 352, 11)):
                noise = 4 * 0.0005 * 352 * z**2 / (intrinsics(352)[0, 0] * BASELINE)
                error = float(depth[row, column]) - z
                if class_id == layout.UNKNOWN:
                    continue
                if layout.CLASSES[class_id] in FLAT:
                    # a grazing ray enters a voxel of the ground well before it meets the ground, up to 0.2 m below
                    ground.append(-0.4 - noise < error < 0.4 + noise + 0.17 * z)
                else:
                    things.append((error > -0.4 - noise, error < 0.4 + noise))
                if layout.CLASSES[class_id] == "vegetation":
                    blue, green, red = image[row, column]
                    leaves.append(green > red and green > blue)
    assert len(things) > 1_000 and len(ground) > 500 and len(leaves) > 100
    not_behind, not_before = np.mean(things, axis=0)
    assert not_behind > 0.99
    assert not_before > 0.8  # at outlines, voxels stand out beyond the things
    assert np.mean(ground) > 0.99
    assert np.mean(leaves) > 0.75


def test_depth_errs_as_stereo_does() -> None:
    focal = float(intrinsics(704)[0, 0])
    errors = {}
    for true in (5.0, 20.0):
        seen = stereo_depth(np.full((188, 704), true), focal, np.random.default_rng(0))
        errors[true] = float((seen - true).std())
        assert abs(seen.mean() - true) < 0.05 * true
    assert 0.02 < errors[5.0] < 0.06
    assert errors[20.0] / errors[5.0] == pytest.approx(16, rel=0.1)
    sky = stereo_depth(np.full((188, 704), np.inf), focal, np.random.default_rng(0))
    assert np.isfinite(sky).all() and sky.max() <= FARTHEST and np.median(sky) == pytest.approx(FARTHEST)


def test_poses_follow_the_car(root: Path) -> None:
    frames = layout.read_frames(root, "test")
    folder = layout.image_path(root, frames[0]).parents[2]
    cars, cameras = np.loadtxt(folder / "pose.txt"), np.loadtxt(folder / "cam0_to_world.txt")
    assert cars.shape == (4, 13) and cameras.shape == (4, 17)
    assert cars[:, 0].tolist() == cameras[:, 0].tolist() == [int(frame.name) for frame in frames]
    between = []
    for car, camera in zip(cars, cameras, strict=True):
        pose = np.eye(4)
        pose[:3] = car[1:].reshape(3, 4)
        assert pose[:3, :3] @ pose[:3, :3].T == pytest.approx(np.eye(3), abs=1e-8)
        assert pose[2, 2] < -0.99  # z points down
        between.append(np.linalg.inv(pose) @ camera[1:].reshape(4, 4))
    assert np.array(between) == pytest.approx(np.broadcast_to(between[0], (4, 4, 4)), abs=1e-6)
    assert between[0][:3, 2] == pytest.approx([1, 0, 0.1], abs=0.1)  # the camera looks ahead and a little down
    step = cars[1, [4, 8]] - cars[0, [4, 8]]
    assert step @ cars[0, [1, 5]] > 0.5 * np.linalg.norm(step) > 0.1  # forward along the car's x axis


def test_frames_do_not_depend_on_order_or_neighbours(root: Path, tmp_path: Path) -> None:
    alone = Recorder(TINY, tmp_path, "test", 1)
    alone.record(1)
    frame = alone.frame(1)
    assert digest(tmp_path, frame) == digest(root, frame)
    assert digest(root, frame) != digest(root, replace(frame, name="000110"))
    other = Recorder(replace(TINY, seed=4), tmp_path, "test", 1)
    assert not np.allclose(other.stations[1], alone.stations[1])


def test_parts_that_nuscenes_lumps_together_are_told_apart() -> None:
    found = {}
    for kind, make in MODELS.items():
        model = make(np.random.default_rng(0))
        found[kind] = [layout.CLASSES[class_of(model, part)] for part in model.parts]
    assert found["sign"] == ["pole", "traffic-sign"]
    assert {kind: names[0] for kind, names in found.items() if kind != "sign"} == {
        "car": "car", "truck": "truck", "bus": "other-vehicle", "trailer": "other-vehicle",
        "construction_vehicle": "other-vehicle", "bicycle": "bicycle", "motorcycle": "motorcycle", "pedestrian": "person",
        "barrier": "other-structure", "traffic_cone": "other-object", "others": "other-object", "building": "building",
        "wall": "fence", "lamp": "pole", "tree": "vegetation", "hedge": "vegetation", "bush": "vegetation",
        "mound": "terrain",
    }  # fmt: skip


def test_rays_cross_any_lattice() -> None:
    lattice = Lattice((10, 6, 4), (0.0, -0.6, -2.0), 0.2)
    labels, mask = np.zeros(lattice.shape, np.uint8), np.zeros(lattice.shape, np.uint8)
    labels[7, 3, 1] = 11
    start = np.array([-1.0, 0.1, -1.7])  # outside, in the line of voxels (:, 3, 1)
    mark_visible(mask, labels, start, np.eye(3), np.array([[1.0, 0.0, 0.0]]), lattice, free=0)
    assert np.argwhere(mask).tolist() == [[i, 3, 1] for i in range(8)]
