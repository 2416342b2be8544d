"""SurroundOcc-nuScenes loader: sparse labels, the lidar frame, its cameras, and what it says of damaged data."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grids import surroundocc_grid
from occ3d_layout import CAMERA_HEIGHT, FOCAL, HEIGHT, LIDAR, MOTION, WIDTH
from surroundocc_layout import rows_of, write_layout

from experiments.datasets.frames import collate
from experiments.datasets.layouts import data_fingerprint, describe
from experiments.datasets.surroundocc import SurroundOccNuScenes, read_sparse_labels
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError

SMALL = ImageTransform(width=40, height=20)
GRID = surroundocc_grid()


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("surroundocc"))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A data set of one's own, to break."""
    return write_layout(tmp_path / "data")


def pixel(matrix: np.ndarray, point: list[float]) -> np.ndarray:
    u, v, z = (matrix @ [*point, 1.0])[:3]
    return np.array([u / z, v / z, z])


def test_grid_is_the_published_one() -> None:
    assert GRID.shape == (200, 200, 16) and GRID.voxel_size == 0.5
    assert (GRID.lower, GRID.upper, GRID.frame) == ((-50.0, -50.0, -5.0), (50.0, 50.0, 3.0), "lidar")
    assert len(GRID.class_names) == 17 and GRID.class_names[0] == "empty" and GRID.empty == 0
    assert (GRID.class_names[1], GRID.class_names[4], GRID.class_names[16]) == ("barrier", "car", "vegetation")


def test_shapes_and_order_of_frames(layout: Path) -> None:
    dataset = SurroundOccNuScenes(layout, "train", image=SMALL)
    assert [(dataset[i].meta[0]["scene"][0], dataset[i].meta[0]["frame_idx"]) for i in range(len(dataset))] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
    ]
    sample = dataset[1]
    assert sample.images.shape == (1, 6, 3, 20, 40) and sample.labels.shape == (1, 200, 200, 16)
    assert sample.projection.shape == (1, 6, 4, 4) and sample.camera_size == (WIDTH, HEIGHT)
    assert set(sample.meta[0]) == {"token", "scene", "frame_idx", "index", "image_paths", "lidar_path"}
    assert "ray_origins" not in sample.meta[0] and not dataset.has_ray_origins
    assert collate([sample, dataset[0]])["batch"].labels.shape == (2, 200, 200, 16)


def test_sparse_rows_become_voxels_noise_becomes_unknown(layout: Path) -> None:
    sample = SurroundOccNuScenes(layout, "val", image=SMALL)[0]
    labels, counted = sample.labels[0].numpy(), sample.camera_mask[0].numpy()
    rows = rows_of(3)
    listed = rows[rows[:, 3] > 0]
    assert (labels[tuple(listed[:, :3].T)] == listed[:, 3]).all()
    assert labels[10, 20, 3] == 255 and not counted[10, 20, 3]
    assert np.count_nonzero(labels) == len(rows) and np.count_nonzero(~counted) == 1


def test_the_last_of_two_rows_counts(tmp_path: Path) -> None:
    path = tmp_path / "label.npy"
    np.save(path, np.array([[1, 2, 3, 4], [1, 2, 3, 9], [5, 5, 5, 0], [5, 5, 5, 2]], np.int32))
    labels = read_sparse_labels(path, GRID)
    assert (labels[1, 2, 3], labels[5, 5, 5]) == (9, 2) and np.count_nonzero(labels) == 2


def test_the_lidar_frame_is_seen_by_the_front_camera(layout: Path) -> None:
    """A point 10 m ahead of the camera on its axis: y is forward in the lidar frame, x is right."""
    sample = SurroundOccNuScenes(layout, "train", image=SMALL)[0]
    ahead = [0.0, 10.0 + 0.2 + MOTION - LIDAR[0], CAMERA_HEIGHT - LIDAR[2]]  # LIDAR_TOP stands at LIDAR in the ego frame
    extrinsic = sample.reference_to_camera[0, 0].double().numpy()
    assert (extrinsic @ [*ahead, 1.0])[:3] == pytest.approx([0, 0, 10], abs=1e-4)
    right = [1.0, *ahead[1:]]
    assert (extrinsic @ [*right, 1.0])[:3] == pytest.approx([1, 0, 10], abs=1e-4)
    label_camera = np.eye(4)
    label_camera[:3, :3] = sample.intrinsics[0, 0].double().numpy()
    u, v, _ = pixel(label_camera @ extrinsic, right)
    assert (u, v) == pytest.approx((WIDTH / 2 + FOCAL / 10, HEIGHT / 2), abs=1e-3)
    # The network's image is half as large, and its two top rows are cut.
    u_net, v_net, _ = pixel(sample.projection[0, 0].double().numpy(), right)
    assert (u_net, v_net) == pytest.approx((u / 2, v * 22 / 45 - 2), abs=1e-3)
    assert np.array_equal(sample.reference_to_lidar[0].numpy(), np.eye(4))


def test_coarse_labels(layout: Path) -> None:
    dataset = SurroundOccNuScenes(layout, "val", image=SMALL, coarsen=2, label_camera_width=40)
    sample = dataset[0]
    labels = sample.labels[0].numpy()
    assert labels.shape == dataset.grid.shape == (100, 100, 8) and dataset.grid.voxel_size == 1.0
    assert labels[5, 10, 1] == 255 and not sample.camera_mask[0, 5, 10, 1]  # a block with nothing but noise in it
    assert labels[40, 40, 3] == 11 and (labels == 4).any()
    assert sample.camera_size == (40, 22)


def test_describe_and_fingerprint(damaged: Path) -> None:
    assert [(f.dataset, f.split, f.frames, f.usable) for f in describe(damaged)] == [
        ("SurroundOcc-nuScenes", "train", 3, 3),
        ("SurroundOcc-nuScenes", "val", 1, 1),
    ]
    train, val = (data_fingerprint("surroundocc", damaged, split) for split in ("train", "val"))
    assert train != val
    next((damaged / "surroundocc/samples").glob("c*.npy")).unlink()
    assert data_fingerprint("surroundocc", damaged, "train") == train
    assert data_fingerprint("surroundocc", damaged, "val") != val
    assert describe(damaged)[1].problem == "1 frame(s) without label or images"
    with pytest.raises(DataError, match="unknown data set 'surround'"):
        data_fingerprint("surround", damaged, "train")


@pytest.mark.parametrize(
    "rows, message",
    [
        (np.zeros((4, 3), np.int64), r"int64 \[4, 3\], expected integers \[n, 4\]"),
        (np.zeros((4, 4), np.float32), "float32"),
        (np.array([[200, 0, 0, 1]]), "outside of the grid"),
        (np.array([[0, -1, 0, 1]]), "outside of the grid"),
        (np.array([[0, 0, 0, 17]]), r"classes 17\.\.17, known: 0\.\.16"),
        (None, "cannot be read"),
    ],
)
def test_damaged_labels_are_named(tmp_path: Path, rows: np.ndarray | None, message: str) -> None:
    path = tmp_path / "broken.npy"
    path.write_bytes(b"no array") if rows is None else np.save(path, rows)
    with pytest.raises(DataError, match=message) as error:
        read_sparse_labels(path, GRID)
    assert str(path) in str(error.value)
    with pytest.raises(DataError, match="missing: unpack SurroundOcc's labels"):
        read_sparse_labels(tmp_path / "gone.npy", GRID)


def rewrite(root: Path, change: Any) -> None:
    path = root / "nuscenes_infos_val_sweeps_occ.pkl"
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(content)))


def without_front(content: dict[str, Any]) -> dict[str, Any]:
    del content["infos"]["c" * 32][0]["data"]["CAM_FRONT"]
    return content


def without_pose(content: dict[str, Any]) -> dict[str, Any]:
    del content["infos"]["c" * 32][0]["data"]["CAM_BACK"]["pose"]
    return content


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["infos"], "not a GaussianFormer-style info pickle"),
        (lambda c: {**c, "metadata": []}, "lists no frames"),
        (lambda c: {**c, "metadata": ["scene"]}, "no list of"),
        (lambda c: {**c, "metadata": [("c" * 32, 1)]}, "does not hold it"),
        (without_front, "no file of CAM_FRONT in frame"),
        (without_pose, "calibration of CAM_BACK in frame 0 of scene c+ is unusable: no 'pose'"),
    ],
)
def test_damaged_pickles_are_named(damaged: Path, change: Any, message: str) -> None:
    rewrite(damaged, change)
    with pytest.raises(DataError, match=message) as error:
        SurroundOccNuScenes(damaged, "val", image=SMALL)[0]
    assert "nuscenes_infos_val_sweeps_occ.pkl" in str(error.value)


def test_a_missing_pickle_says_who_publishes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="GaussianFormer publishes it"):
        SurroundOccNuScenes(tmp_path, "val")
    with pytest.raises(DataError, match="unknown split 'test'"):
        SurroundOccNuScenes(tmp_path, "test")
