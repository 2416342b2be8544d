"""The SurroundOcc loader on real nuScenes frames: it must agree with the Occ3D loader, which reads other files of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.interface import OccupancyBatch
from experiments.datasets.geometry import lidar_to_ego
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.surroundocc import SurroundOccNuScenes
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import load_infos

TOY = ImageTransform(width=200, height=112)
FRAMES = 3


@pytest.fixture(scope="module")
def samples(real_frames: Path) -> dict[str, OccupancyBatch]:
    """The frames of the SurroundOcc layout by token."""
    dataset = SurroundOccNuScenes(real_frames, "val", image=TOY, cache=True)
    found = [dataset[index] for index in range(len(dataset))]
    return {sample.meta[0]["token"]: sample for sample in found}


@pytest.fixture(scope="module")
def occ3d(real_frames: Path) -> dict[str, OccupancyBatch]:
    dataset = Occ3DNuScenes(real_frames, "val", image=TOY, cache=True)
    return {dataset[index].meta[0]["token"]: dataset[index] for index in range(FRAMES)}


@pytest.fixture(scope="module")
def infos(real_frames: Path) -> dict[str, dict]:
    return {info["token"]: info for info in load_infos(real_frames / "bevdetv2-nuscenes_infos_val.pkl")["infos"]}


def test_both_layouts_hold_the_same_frames_and_images(
    samples: dict[str, OccupancyBatch], occ3d: dict[str, OccupancyBatch]
) -> None:
    assert len(samples) == FRAMES and samples.keys() == occ3d.keys()
    for token, sample in samples.items():
        assert torch.equal(sample.images, occ3d[token].images)
        assert sample.meta[0]["image_paths"] == occ3d[token].meta[0]["image_paths"]
        assert torch.equal(sample.intrinsics, occ3d[token].intrinsics)


def test_cameras_are_those_of_occ3d_less_the_mounting_of_the_lidar(
    samples: dict[str, OccupancyBatch], occ3d: dict[str, OccupancyBatch], infos: dict[str, dict]
) -> None:
    """Composed from the poses of each sensor here, read from the converter's matrices there: 2 mm, 1e-4 rad."""
    for token, sample in samples.items():
        expected = occ3d[token].reference_to_camera[0].double().numpy() @ lidar_to_ego(infos[token])
        assert sample.reference_to_camera[0].numpy() == pytest.approx(expected, abs=2e-3)


def test_label_classes_are_those_of_the_files(real_frames: Path, samples: dict[str, OccupancyBatch]) -> None:
    for sample in samples.values():
        path = real_frames / "surroundocc/samples" / f"{Path(sample.meta[0]['lidar_path']).name}.npy"
        rows, labels = np.load(path), sample.labels[0].numpy()
        assert len(rows) > 3000
        for row in rows[:: len(rows) // 50]:
            assert labels[tuple(row[:3])] == (row[3] or 255)
        assert np.count_nonzero(labels) == len(np.unique(rows[:, :3], axis=0))
        assert np.count_nonzero(labels == 255) == np.count_nonzero(rows[:, 3] == 0) == int((~sample.camera_mask).sum())


def test_car_voxels_lie_in_the_annotated_cars(samples: dict[str, OccupancyBatch], infos: dict[str, dict]) -> None:
    """Boxes are annotated in the lidar frame: with x and y of the grid swapped or mirrored no voxel would be in one."""
    for token, sample in samples.items():
        info = infos[token]
        cars = info["gt_boxes"][info["gt_names"] == "car"]
        centres = np.argwhere(sample.labels[0].numpy() == 4) * 0.5 + 0.25 + [-50.0, -50.0, -5.0]
        inside = np.zeros(len(centres), bool)
        mirrored = np.zeros(len(centres), bool)
        for x, y, z, length, width, height, yaw in cars:
            for hit, points in ((inside, centres), (mirrored, centres * [-1, 1, 1])):
                along = (points[:, 0] - x) * np.cos(yaw) + (points[:, 1] - y) * np.sin(yaw)
                across = (points[:, 1] - y) * np.cos(yaw) - (points[:, 0] - x) * np.sin(yaw)
                margin = 0.5  # a voxel that a point near the box's side fell into
                hit |= (
                    (np.abs(along) < length / 2 + margin)
                    & (np.abs(across) < width / 2 + margin)
                    & (np.abs(points[:, 2] - z) < height / 2 + margin)
                )
        assert len(centres) > 10 and inside.mean() > 0.95 > mirrored.mean() + 0.3


def test_occupied_voxels_of_both_layouts_lie_in_the_same_places(
    samples: dict[str, OccupancyBatch], occ3d: dict[str, OccupancyBatch], infos: dict[str, dict]
) -> None:
    """The labels of both layouts come from the same points here: nearly every voxel has a neighbour in the other grid."""
    from scipy.spatial import KDTree

    for token, sample in samples.items():
        mine = np.argwhere((sample.labels[0] > 0).numpy()) * 0.5 + 0.25 + [-50.0, -50.0, -5.0]
        to_ego = lidar_to_ego(infos[token])
        mine = mine @ to_ego[:3, :3].T + to_ego[:3, 3]
        mine = mine[(np.abs(mine[:, :2]) < 39).all(axis=1) & (mine[:, 2] > -0.6) & (mine[:, 2] < 5.0)]
        theirs = np.argwhere((occ3d[token].labels[0] != 17).numpy()) * 0.4 + 0.2 + [-40.0, -40.0, -1.0]
        distance, _ = KDTree(theirs).query(mine)
        assert (distance < 0.8).mean() > 0.98
