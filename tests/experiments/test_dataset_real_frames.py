"""The loader on real nuScenes frames: published sizes, and geometry that only fits if every frame is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.interface import OccupancyBatch
from experiments.datasets.layouts import describe
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import load_infos

TOY = ImageTransform(width=200, height=112)


@pytest.fixture(scope="module")
def paper_sample(real_frames: Path) -> OccupancyBatch:
    """The first frame at the published sizes."""
    return Occ3DNuScenes(real_frames, "val")[0]


def label_pixels(sample: OccupancyBatch, points: np.ndarray) -> np.ndarray:
    """[V, N, 3] (u, v, depth) of ego points [N, 3] in the label cameras."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    camera = np.einsum("vij,nj->vni", sample.reference_to_camera[0].double().numpy(), homogeneous)[..., :3]
    pixels = np.einsum("vij,vnj->vni", sample.intrinsics[0].double().numpy(), camera)
    return np.concatenate([pixels[..., :2] / pixels[..., 2:], camera[..., 2:]], axis=-1)


def projected(sample: OccupancyBatch, points: np.ndarray) -> np.ndarray:
    """[V, N, 3] (u, v, depth) of ego points [N, 3] in the network's images."""
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    pixels = np.einsum("vij,nj->vni", sample.projection[0].double().numpy(), homogeneous)
    return np.concatenate([pixels[..., :2] / pixels[..., 2:3], pixels[..., 2:3]], axis=-1)


def test_published_sizes(paper_sample: OccupancyBatch) -> None:
    assert paper_sample.images.shape == (1, 6, 3, 896, 1600)
    assert paper_sample.labels.shape == (1, 200, 200, 16)
    assert paper_sample.camera_size == (1600, 900)
    assert int(paper_sample.labels.max()) == 17 and 0 < int(paper_sample.camera_mask.sum()) < 640_000
    # BGR images of a city by day, after the means are taken off: values within what 0..255 allows.
    assert paper_sample.images.min() >= -123.7 and paper_sample.images.max() <= 151.5


def test_network_images_are_the_label_cameras_less_four_rows(real_frames: Path, paper_sample: OccupancyBatch) -> None:
    """With compensated projection the two cameras differ by the crop alone; with the static one also by the motion."""
    points = np.random.default_rng(0).uniform([-30, -30, -1], [30, 30, 4], (500, 3))
    compensated = Occ3DNuScenes(real_frames, "val", static_projection=False)[0]
    ours, labels = projected(compensated, points), label_pixels(compensated, points)
    front = labels[..., 2] > 1.0
    assert (ours - labels)[front] == pytest.approx(np.tile([0.0, -4.0, 0.0], (int(front.sum()), 1)), abs=5e-2)
    static = projected(paper_sample, points)
    # The car of this frame moves: between lidar and camera time at most half a metre.
    shift = np.abs(static - ours)[..., 2]
    assert 0.05 < shift.max() < 0.6


def test_compensated_extrinsics_chain_through_the_global_frame(real_frames: Path, paper_sample: OccupancyBatch) -> None:
    """ego(lidar) -> global -> ego(camera) -> camera gives the same camera as lidar2cam @ ego2lidar."""
    from experiments.datasets.geometry import rigid
    from experiments.datasets.layout import CAMERAS

    info = load_infos(real_frames / "bevdetv2-nuscenes_infos_val.pkl")["infos"][0]
    to_global = rigid(info["ego2global_rotation"], info["ego2global_translation"])
    for view, name in enumerate(CAMERAS):
        camera = info["cams"][name]
        from_global = np.linalg.inv(
            rigid(camera["ego2global_rotation"], camera["ego2global_translation"])
            @ rigid(camera["sensor2ego_rotation"], camera["sensor2ego_translation"])
        )
        assert paper_sample.reference_to_camera[0, view].numpy() == pytest.approx(from_global @ to_global, abs=2e-3)


def test_annotated_boxes_are_seen_by_the_cameras_that_look_at_them(real_frames: Path, paper_sample: OccupancyBatch) -> None:
    """Each box within 30 m appears in a camera whose heading fits its bearing, at its distance."""
    info = load_infos(real_frames / "bevdetv2-nuscenes_infos_val.pkl")["infos"][0]
    from_lidar = np.linalg.inv(paper_sample.reference_to_lidar[0].double().numpy())
    centres = info["gt_boxes"][:, :3] @ from_lidar[:3, :3].T + from_lidar[:3, 3]
    near = centres[np.linalg.norm(centres[:, :2], axis=1) < 30]
    assert len(near) > 10
    pixels = label_pixels(paper_sample, near)
    inside = (pixels[..., 2] > 0.5) & ((pixels[..., :2] > 0) & (pixels[..., :2] < [1600, 900])).all(axis=-1)
    assert inside.any(axis=0).mean() > 0.9
    headings = np.deg2rad([0, -55, 55, 180, 110, -110])  # of nuScenes' cameras, in the published order
    bearing = np.arctan2(near[:, 1], near[:, 0])
    for view, index in zip(*np.nonzero(inside), strict=True):
        turn = (bearing[index] - headings[view] + np.pi) % (2 * np.pi) - np.pi
        assert abs(turn) < np.deg2rad(75 if view == 3 else 50)


def test_lidar_points_fall_on_the_same_colours_as_their_neighbours(real_frames: Path, paper_sample: OccupancyBatch) -> None:
    """Depth edges of the lidar lie on image edges: with the right extrinsics more than with cameras turned by 2 degrees."""
    path = Path(paper_sample.meta[0]["lidar_path"])
    points = np.fromfile(path, np.float32).reshape(-1, 5)
    from_lidar = np.linalg.inv(paper_sample.reference_to_lidar[0].double().numpy())
    ego = points[:, :3] @ from_lidar[:3, :3].T + from_lidar[:3, 3]
    jump = np.zeros(len(ego))
    for ring in np.unique(points[:, 4]):
        rows = np.nonzero(points[:, 4] == ring)[0]
        rows = rows[np.argsort(np.arctan2(points[rows, 1], points[rows, 0]))]
        radius = np.linalg.norm(points[rows, :2], axis=1)
        # A near point beside a far one is the border of an object.
        jump[rows] = np.maximum(np.roll(radius, 1), np.roll(radius, -1)) - radius
    edges = ego[(jump > 3.0) & (np.linalg.norm(ego[:, :2], axis=1) > 3.0)]
    assert len(edges) > 300
    grey = paper_sample.images[0].mean(dim=1).numpy()
    gradient = np.abs(np.diff(grey, axis=2, prepend=grey[:, :, :1]))

    def edge_strength(degrees: float) -> float:
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        pixels = label_pixels(paper_sample, edges @ turn.T)
        strengths = []
        for view in range(6):
            u, v, z = pixels[view].T
            v = v - 4
            kept = (z > 1) & (u > 3) & (u < 1596) & (v > 1) & (v < 895)
            columns, rows = u[kept].astype(int), v[kept].astype(int)
            strengths.append(np.max([gradient[view][rows, columns + k] for k in (-2, -1, 0, 1, 2)], axis=0))
        return float(np.concatenate(strengths).mean())

    right = edge_strength(0.0)
    assert right > 1.1 * max(edge_strength(2.0), edge_strength(-2.0))


def test_toy_size_reads_the_same_frames(real_frames: Path, paper_sample: OccupancyBatch) -> None:
    dataset = Occ3DNuScenes(real_frames, "train", image=TOY, coarsen=2, label_camera_width=200, augment=True)
    assert len(dataset) == 3
    for index in range(3):
        sample = dataset[index]
        assert sample.images.shape == (1, 6, 3, 112, 200) and sample.labels.shape == (1, 100, 100, 8)
        assert sample.camera_size == (200, 112) and torch.isfinite(sample.images).all()
    small = dataset[0]
    points = np.random.default_rng(0).uniform([-30, -30, -1], [30, 30, 4], (200, 3))
    fine, coarse = label_pixels(paper_sample, points), label_pixels(small, points)
    assert coarse[..., :2] == pytest.approx(fine[..., :2] / 8, rel=1e-4, abs=1e-2)


def test_ray_origins_start_at_the_lidar(real_frames: Path) -> None:
    dataset = Occ3DNuScenes(real_frames, "val", image=TOY)
    assert [len(dataset[i].meta[0]["ray_origins"]) for i in range(3)] == [1, 2, 2]
    for index, own in ((0, 0), (1, 0), (2, 1)):
        sample = dataset[index]
        lidar = np.linalg.inv(sample.reference_to_lidar[0].double().numpy())[:3, 3]
        assert sample.meta[0]["ray_origins"][own] == pytest.approx(lidar, abs=1e-5)


def test_describe_counts_the_frames(real_frames: Path) -> None:
    assert [(f.dataset, f.split, f.frames, f.usable) for f in describe(real_frames)] == [
        (name, split, 3, 3) for name in ("Occ3D-nuScenes", "SurroundOcc-nuScenes") for split in ("train", "val")
    ]
