"""SSCBench-KITTI-360 loader: one camera, the velodyne frame, prepared labels, depth, and what it says of damaged data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grids import kitti360_grid
from kitti360_layout import FAR, voxels, write_layout

from experiments.cell.evaluation import ShuffledImages
from experiments.datasets import layout_kitti360 as official
from experiments.datasets.frames import collate
from experiments.datasets.kitti360 import SSCBenchKITTI360, read_labels
from experiments.datasets.layout_kitti360 import Frame, classes_of_voxels
from experiments.datasets.layouts import data_fingerprint, describe, layout_of
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.prepare_kitti360 import is_prepared, prepare
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError

SMALL = ImageTransform(width=352, height=94)
GRID = kitti360_grid()
TEST = "2013_05_28_drive_0009_sync"


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("kitti360"))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A data root of one's own with a single frame in it, to break: its files are those of the first test frame."""
    root = tmp_path / "data"
    import cv2

    frame = Frame(TEST, "000250")
    for path in (official.image_path(root, frame), official.depth_path(root, frame), official.voxel_path(root, frame, "bin")):
        path.parent.mkdir(parents=True)
    cv2.imwrite(str(official.image_path(root, frame)), np.zeros((188, 704, 3), np.uint8))
    np.save(official.depth_path(root, frame), np.full((188, 704), 5, np.float32))
    official.voxel_path(root, frame, "bin").write_bytes(b"")
    raw, invalid = voxels(4)
    raw.tofile(official.voxel_path(root, frame, "label"))
    invalid.tofile(official.voxel_path(root, frame, "invalid"))
    return root


def test_grid_is_the_published_one() -> None:
    assert GRID.shape == official.SHAPE == (256, 256, 32) and GRID.voxel_size == 0.2
    assert (GRID.lower, GRID.upper, GRID.frame) == ((0.0, -25.6, -2.0), (51.2, 25.6, 4.4), "velodyne")
    assert len(GRID.class_names) == 19 and GRID.empty == 0 and GRID.dataset == "kitti360"
    assert [GRID.class_names[i] for i in (0, 1, 5, 13, 16, 18)] == [
        "empty",
        "car",
        "other-vehicle",
        "vegetation",
        "traffic-sign",
        "other-object",
    ]
    assert kitti360_grid(4).shape == (64, 64, 8)


def test_raw_ids_become_the_published_classes() -> None:
    given = np.array([0, 10, 252, 11, 15, 18, 258, 13, 257, 259, 30, 254, 40, 60, 44, 48, 49, 50, 51, 70, 72, 80, 81, 52, 99])
    classes = [0, 1, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    unknown = np.array([1, 31, 32, 71, 253, 255, 65535])
    raw = np.concatenate([given, unknown]).astype(np.uint16)
    assert classes_of_voxels(raw, np.zeros(len(raw), np.uint8)).tolist() == classes + [255] * len(unknown)
    # An invalid flag makes an unlabelled voxel unknown and changes nothing else.
    assert classes_of_voxels(raw, np.ones(len(raw), np.uint8)).tolist() == [255, *classes[1:]] + [255] * len(unknown)


def test_order_of_frames_and_scenes(layout: Path) -> None:
    dataset = SSCBenchKITTI360(layout, "train", image=SMALL)
    metas = [dataset[i].meta[0] for i in range(len(dataset))]
    first, last = "2013_05_28_drive_0004_sync", "2013_05_28_drive_0007_sync"
    assert [m["token"] for m in metas] == [f"{first}/000000", f"{first}/000005", f"{last}/000100"]
    assert [m["scene"] for m in metas] == [f"{first}/000000", f"{first}/000000", f"{last}/000100"]
    assert [(m["drive"], m["frame_idx"], m["index"]) for m in metas] == [(first, 0, 0), (first, 5, 1), (last, 100, 2)]
    test = SSCBenchKITTI360(layout, "test", image=SMALL)
    assert [test[i].meta[0]["scene"][-6:] for i in range(3)] == ["000250", "000250", "000400"]  # 100 frames are left out there


def test_shapes(layout: Path) -> None:
    dataset = SSCBenchKITTI360(layout, "train", image=SMALL)
    sample = dataset[1]
    assert sample.images.shape == (1, 1, 3, 94, 352) and sample.labels.shape == (1, 256, 256, 32)
    assert sample.projection.shape == (1, 1, 4, 4) and sample.camera_size == (704, 188) and sample.depth is None
    assert dataset.camera_names == ("image_00",) and not dataset.has_ray_origins
    blue, green, red = (np.float32(v) for v in (10, 100, 200))
    mean = SMALL.mean
    assert np.allclose(sample.images[0, 0, :, 5, 5].numpy(), [blue - mean[0], green - mean[1], red - mean[2]])
    joined = collate([sample, dataset[0]])["batch"]
    assert joined.labels.shape == (2, 256, 256, 32) and joined.depth is None


def test_labels_and_what_counts(layout: Path) -> None:
    sample = SSCBenchKITTI360(layout, "test", image=SMALL)[0]
    labels, counted = sample.labels[0].numpy(), sample.camera_mask[0].numpy()
    raw, invalid = voxels(4)  # the fifth frame that was written
    assert (labels[raw == 10] == 1).all() and (labels[raw == 40] == 7).all() and (labels[raw == 81] == 16).all()
    assert labels[10, 10, 10] == 255 and (labels[(raw == 0) & (invalid == 1)] == 255).all()
    assert (labels[(raw == 0) & (invalid == 0)] == 0).all()
    assert np.array_equal(counted, labels != 255) and not counted.all()


def test_official_images_are_taken_as_they_are(tmp_path: Path) -> None:
    root = write_layout(tmp_path / "full", *official.IMAGE_SIZE, depth=False)
    width, height = official.IMAGE_SIZE
    sample = SSCBenchKITTI360(root, "val", image=ImageTransform(width=width, height=height))[0]
    intrinsics = np.array([[552.554261, 0, 682.049453], [0, 552.554261, 238.769549], [0, 0, 1]])
    assert np.allclose(sample.intrinsics[0, 0].numpy(), intrinsics) and sample.camera_size == (1408, 376)
    camera_to_velodyne = np.array(official.CAMERA_TO_VELODYNE)
    assert np.allclose(sample.reference_to_camera[0, 0].numpy() @ camera_to_velodyne, np.eye(4), atol=1e-5)
    assert np.array_equal(sample.reference_to_lidar[0].numpy(), np.eye(4))
    full = np.eye(4)
    full[:3, :3] = intrinsics
    assert np.allclose(sample.projection[0, 0].numpy(), full @ np.linalg.inv(camera_to_velodyne), rtol=1e-5, atol=1e-4)


def test_a_point_ahead_is_seen_where_it_is(layout: Path) -> None:
    """The camera looks along the velodyne's x, y to its left; half-size images halve the pixels."""
    sample = SSCBenchKITTI360(layout, "val", image=SMALL, label_camera_width=176)[0]
    centre = np.array(official.CAMERA_TO_VELODYNE)[:3, 3]
    to_camera = sample.reference_to_camera[0, 0].double().numpy()
    ahead = to_camera @ [*(centre + [20, 0, 0]), 1]
    left = to_camera @ [*(centre + [20, 2, 0]), 1]
    assert ahead[2] == pytest.approx(20, rel=0.01) and left[0] < ahead[0] - 1.9
    u, v, z = (sample.projection[0, 0].double().numpy() @ [*(centre + [20, 0, 0]), 1])[:3]
    expected = [552.554261 * ahead[0] / ahead[2] + 682.049453, 552.554261 * ahead[1] / ahead[2] + 238.769549]
    assert np.allclose([u / z * 4, v / z * 4], expected, atol=0.05)  # 352 of 1408
    # Label cameras of 176 pixels: an eighth of the official image.
    assert sample.camera_size == (176, 47)
    assert np.allclose(sample.intrinsics[0, 0].numpy()[:2], np.array(official.INTRINSICS)[:2] / 8)


def test_coarse_labels_for_the_toy_grid(layout: Path) -> None:
    dataset = SSCBenchKITTI360(layout, "test", image=SMALL, coarsen=4, cache=True)
    sample = dataset[0]
    assert sample.labels.shape == (1, 64, 64, 8) and dataset.grid.voxel_size == 0.8
    labels = sample.labels[0].numpy()
    assert labels[12, 31, 2] == 1 and labels[5, 30, 0] == 7 and labels[30, 31, 2] == 255


def test_half_of_the_training_frames_are_mirrored_and_their_cameras_stay(layout: Path) -> None:
    plain = SSCBenchKITTI360(layout, "train", image=SMALL, coarsen=4, depth=True)[0]
    assert (
        plain.depth is not None and not plain.images.equal(plain.images.flip(-1)) and not plain.labels.equal(plain.labels.flip(2))
    )
    options: dict[str, Any] = dict(image=replace(SMALL, distort=False), coarsen=4, depth=True, augment=True, mirror=True)
    dataset = SSCBenchKITTI360(layout, "train", cache=True, seed=3, **options)
    again = SSCBenchKITTI360(layout, "train", seed=3, **options)
    mirrored = []
    for draw in range(40):
        sample = dataset[0, draw]
        assert sample.images.equal(again[0, draw].images)
        mirrored.append(not sample.images.equal(plain.images))
        expected = [plain.images, plain.depth, plain.labels, plain.camera_mask]
        if mirrored[-1]:
            expected = [t.flip(axis) for t, axis in zip(expected, (-1, -1, 2, 2), strict=True)]
        got = [sample.images, sample.depth, sample.labels, sample.camera_mask]
        assert all(a is not None and a.equal(b) for a, b in zip(got, expected, strict=True))
        assert sample.projection.equal(plain.projection) and sample.reference_to_camera.equal(plain.reference_to_camera)
    assert 12 <= sum(mirrored) <= 28
    shown = SSCBenchKITTI360(layout, "train", **{**options, "augment": False})
    assert all(shown[0, draw].images.equal(plain.images) for draw in range(8))


def test_frames_of_several_cameras_are_not_mirrored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Occ3DNuScenes has 6 cameras: only frames of one can be mirrored"):
        Occ3DNuScenes(tmp_path, "train", mirror=True)


def test_depth_at_the_size_of_the_input(layout: Path) -> None:
    dataset = SSCBenchKITTI360(layout, "val", image=SMALL, depth=True)
    depth = dataset[0].depth
    assert depth is not None and depth.shape == (1, 1, 94, 352) and depth.dtype.is_floating_point
    ramp = np.linspace(5.0, FAR, 704, dtype=np.float32)
    step = ramp[1] - ramp[0]
    assert np.abs(depth[0, 0, 40].numpy() - (ramp[0::2] + ramp[1::2]) / 2).max() <= step  # the nearest pixel
    assert set(depth[0, 0, 0].tolist()) <= set(ramp.tolist())
    assert np.array_equal(dataset.depth(0), depth[0].numpy())
    batch = collate([dataset[0], dataset[0]])["batch"]
    assert batch.depth is not None and batch.depth.shape == (2, 1, 94, 352)
    second = batch.one(1)
    assert second.depth is not None and second.depth.shape == (1, 1, 94, 352)
    assert batch.to("cpu").depth is not None


def test_shuffled_images_bring_their_depth(layout: Path) -> None:
    frames = SSCBenchKITTI360(layout, "train", image=SMALL, depth=True)
    scenes = ["a", "b", "c"]
    swapped = ShuffledImages(frames, scenes)[0]
    partner = next(i for i in range(3) if (frames[i].images == swapped.images).all())
    assert partner != 0 and (swapped.depth == frames[partner].depth).all() and (swapped.labels == frames[0].labels).all()


def test_rows_cut_off_above_are_cut_off_the_depth_too(layout: Path) -> None:
    whole = SSCBenchKITTI360(layout, "val", image=ImageTransform(width=352, height=94), depth=True)[0].depth
    lower = SSCBenchKITTI360(layout, "val", image=ImageTransform(width=352, height=64), depth=True)[0].depth
    assert whole is not None and lower is not None and (lower == whole[:, :, 30:]).all()


def test_depth_of_a_padded_image_is_cut(damaged: Path) -> None:
    prepare(damaged, Frame(TEST, "000250"))
    padded = np.full((192, 736), np.nan, np.float64)
    padded[:188, :704] = 7
    np.save(official.depth_path(damaged, Frame(TEST, "000250")), padded)
    depth = SSCBenchKITTI360(damaged, "test", image=SMALL, depth=True)[0].depth
    assert depth is not None and (depth == 7).all()


@pytest.mark.parametrize(
    "values, message",
    [
        (np.full((188, 704), np.nan, np.float32), "NaN, infinite or negative"),
        (np.full((188, 704), np.inf, np.float32), "NaN, infinite or negative"),
        (np.full((188, 704), -1, np.float32), "NaN, infinite or negative"),
        (np.zeros((94, 352), np.float32), "352x94, smaller than its 704x188 image"),
        (np.zeros((188, 704, 1), np.float32), r"\[188, 704, 1\], expected numbers \[188, 704\]"),
        (None, "cannot be read"),
    ],
)
def test_damaged_depth_is_named(damaged: Path, values: np.ndarray | None, message: str) -> None:
    frame = Frame(TEST, "000250")
    prepare(damaged, frame)
    path = official.depth_path(damaged, frame)
    path.write_bytes(b"nothing") if values is None else np.save(path, values)
    with pytest.raises(DataError, match=message) as error:
        SSCBenchKITTI360(damaged, "test", image=SMALL, depth=True)[0]
    assert str(path) in str(error.value)
    SSCBenchKITTI360(damaged, "test", image=SMALL)[0]  # whoever takes no depth does not look at it
    path.unlink()
    with pytest.raises(DataError, match="is missing: .*MobileStereoNet.*depth/<drive>/<frame>.npy"):
        SSCBenchKITTI360(damaged, "test", image=SMALL, depth=True)[0]


def test_a_data_set_without_depth_says_so(layout: Path) -> None:
    class WithoutDepth(SSCBenchKITTI360):
        get_depth = ""

    with pytest.raises(DataError, match="WithoutDepth has no depth: take another data set"):
        WithoutDepth(layout, "val", depth=True)


def test_labels_of_other_number_types(tmp_path: Path) -> None:
    """Upstream's pre-processing writes the same values as float32."""
    raw, invalid = voxels(0)
    classes = classes_of_voxels(raw, invalid)
    for dtype in (np.float32, np.int64):
        np.save(tmp_path / "label.npy", classes.astype(dtype))
        assert np.array_equal(read_labels(tmp_path / "label.npy", GRID), classes)


@pytest.mark.parametrize(
    "values, message",
    [
        (np.zeros((256, 256, 16), np.uint8), r"uint8 \[256, 256, 16\], expected numbers \[256, 256, 32\]"),
        (np.full((256, 256, 32), 19, np.uint8), r"holds 19, known: 0\.\.18 and 255"),
        (np.full((256, 256, 32), 0.5, np.float32), r"holds 0\.5"),
        (np.full((256, 256, 32), np.nan, np.float32), "holds nan"),
        (np.full((256, 256, 32), -1, np.int8), "holds -1"),
        (np.full((256, 256, 32), 300, np.int16), "holds 300"),
        (None, "cannot be read"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, values: np.ndarray | None, message: str) -> None:
    path = tmp_path / "broken.npy"
    path.write_bytes(b"no array") if values is None else np.save(path, values)
    with pytest.raises(DataError, match=message) as error:
        read_labels(path, GRID)
    assert str(path) in str(error.value)


def test_a_missing_label_names_the_command_that_makes_it(damaged: Path) -> None:
    with pytest.raises(DataError, match="python -m experiments.data prepare kitti360"):
        SSCBenchKITTI360(damaged, "test", image=SMALL)[0]


def test_images_of_another_shape_do_not_fit_the_calibration(damaged: Path) -> None:
    import cv2

    frame = Frame(TEST, "000250")
    prepare(damaged, frame)
    path = official.image_path(damaged, frame)
    cv2.imwrite(str(path), np.zeros((376, 1400, 3), np.uint8))
    with pytest.raises(DataError, match="1400x376; the calibration is for 1408x376") as error:
        SSCBenchKITTI360(damaged, "test", image=SMALL)[0]
    assert str(path) in str(error.value)


def test_files_that_are_no_frames_and_splits_without_any(damaged: Path) -> None:
    with pytest.raises(DataError, match="drive of split val .*0006.*SSCBench publishes"):
        SSCBenchKITTI360(damaged, "val")
    with pytest.raises(DataError, match="unknown split 'vall' .known: train, val, test"):
        SSCBenchKITTI360(damaged, "vall")
    with pytest.raises(DataError, match="is not a folder"):
        SSCBenchKITTI360(damaged / "gone", "test")
    (official.voxel_folder(damaged, TEST) / "copy of 000250.bin").touch()
    with pytest.raises(DataError, match="copy of 000250.bin is not named after a frame"):
        SSCBenchKITTI360(damaged, "test")


def test_preparing_is_complete_or_not_at_all(damaged: Path) -> None:
    frame = Frame(TEST, "000250")
    assert not is_prepared(damaged, frame)
    label = official.voxel_path(damaged, frame, "label")
    whole = label.read_bytes()
    label.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="4194303 bytes, expected 4194304") as error:
        prepare(damaged, frame)
    assert str(label) in str(error.value) and not is_prepared(damaged, frame)
    label.write_bytes(whole)
    path = prepare(damaged, frame)
    assert is_prepared(damaged, frame) and [p.name for p in path.parent.iterdir()] == ["000250_1_1.npy"]
    assert np.array_equal(np.load(path), classes_of_voxels(*voxels(4)))
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_prepared(damaged, frame)
    official.voxel_path(damaged, frame, "invalid").unlink()
    with pytest.raises(DataError, match="000250.invalid is missing: SSCBench publishes"):
        prepare(damaged, frame)


def test_describe_and_fingerprint(layout: Path, damaged: Path) -> None:
    assert [(f.dataset, f.split, f.frames, f.usable) for f in describe(layout)] == [
        ("SSCBench-KITTI-360", "train", 3, 3),
        ("SSCBench-KITTI-360", "val", 1, 1),
        ("SSCBench-KITTI-360", "test", 3, 3),
    ]
    assert layout_of("kitti360").evaluated == "test" and layout_of("occ3d").evaluated == "val"
    assert [f.problem for f in describe(damaged)] == ["1 frame(s) without label or images"]  # of test; the others are not there
    before = data_fingerprint("kitti360", damaged, "test")
    prepare(damaged, Frame(TEST, "000250"))
    prepared = data_fingerprint("kitti360", damaged, "test")
    assert prepared != before
    (official.voxel_folder(damaged, TEST) / "000300.bin").touch()
    assert data_fingerprint("kitti360", damaged, "test") not in (before, prepared)
