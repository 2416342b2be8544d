"""Occ3D-nuScenes loader: what it reads, where things lie, and what it says of damaged data."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from occ3d_layout import CAMERA_HEIGHT, FOCAL, HEIGHT, LIDAR, MOTION, WIDTH, labels_of, write_layout
from torch.utils.data import DataLoader

from baselines.interface import OccupancyBatch
from experiments.datasets.frames import collate
from experiments.datasets.geometry import ray_origins
from experiments.datasets.layout import CAMERAS, mini_indices, resolve
from experiments.datasets.layouts import data_fingerprint, describe
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.sampling import TrainSampler
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError

SMALL = ImageTransform(width=40, height=20)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that tests only read."""
    return write_layout(tmp_path_factory.mktemp("occ3d"))


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A data set of one frame that a test may damage."""
    return write_layout(tmp_path / "data", frames=1)


def project(matrix: torch.Tensor, point: list[float]) -> tuple[float, float, float]:
    """(u, v, depth) of a point through a [4, 4] matrix to (u*z, v*z, z, 1)."""
    x, y, z, _ = (matrix.double() @ torch.tensor([*point, 1.0], dtype=torch.float64)).tolist()
    return x / z, y / z, z


def label_pixel(sample: OccupancyBatch, view: int, point: list[float]) -> tuple[float, float, float]:
    """(u, v, depth) of a point in a label camera."""
    camera = torch.eye(4)
    camera[:3, :3] = sample.intrinsics[0, view]
    return project(camera @ sample.reference_to_camera[0, view], point)


def test_shapes_and_types(layout: Path) -> None:
    sample = Occ3DNuScenes(layout, "train", image=SMALL)[1]
    assert sample.images.shape == (1, 6, 3, 20, 40) and sample.images.dtype == torch.float32
    assert sample.projection.shape == sample.reference_to_camera.shape == (1, 6, 4, 4)
    assert sample.intrinsics.shape == (1, 6, 3, 3)
    assert sample.reference_to_lidar.shape == (1, 4, 4)
    for matrix in (sample.projection, sample.intrinsics, sample.reference_to_camera, sample.reference_to_lidar):
        assert matrix.dtype == torch.float32
    assert sample.camera_size == (WIDTH, HEIGHT)
    assert sample.labels.dtype == torch.int64 and sample.camera_mask.dtype == torch.bool
    stored = labels_of(1)
    assert np.array_equal(sample.labels[0].numpy(), stored["semantics"])
    assert np.array_equal(sample.camera_mask[0].numpy(), stored["mask_camera"].astype(bool))
    assert sample.meta[0]["token"] == "scene-0001-01" and sample.meta[0]["frame_idx"] == 1


def test_cameras_come_in_the_published_order_and_are_normalised(layout: Path) -> None:
    sample = Occ3DNuScenes(layout, "train", image=SMALL)[2]
    for view, name in enumerate(CAMERAS):
        assert f"/{name}/" in sample.meta[0]["image_paths"][view]
        for channel, mean in enumerate((103.53, 116.28, 123.675)):
            assert torch.allclose(sample.images[0, view, channel], torch.tensor(20.0 * view + 20.0 - mean), atol=1.01)


def test_projection_is_static_and_label_cameras_follow_the_ego_motion(layout: Path) -> None:
    """A point 10 m ahead at camera height: the static front camera sees it 9.8 m away, the moved one 9.3 m."""
    point = [10.0, 1.0, CAMERA_HEIGHT]
    sample = Occ3DNuScenes(layout, "train", image=SMALL)[0]
    u, v, depth = project(sample.projection[0, 0], point)
    # Native pixel (40 - 60/9.8, 22.5); 80x45 becomes 40x22, of which the top 2 rows are cut.
    assert depth == pytest.approx(9.8, abs=1e-4)
    assert u == pytest.approx((WIDTH / 2 - FOCAL / 9.8) / 2, abs=1e-4)
    assert v == pytest.approx(HEIGHT / 2 * 22 / 45 - 2, abs=1e-4)
    u, v, depth = label_pixel(sample, 0, point)
    assert depth == pytest.approx(9.8 - MOTION, abs=1e-4)
    assert u == pytest.approx(WIDTH / 2 - FOCAL / 9.3, abs=1e-4)
    assert v == pytest.approx(HEIGHT / 2, abs=1e-4)
    moved = Occ3DNuScenes(layout, "train", image=SMALL, static_projection=False)[0]
    assert project(moved.projection[0, 0], point)[2] == pytest.approx(9.3, abs=1e-4)
    assert label_pixel(moved, 0, point) == label_pixel(sample, 0, point)
    # Behind the car, only the rear camera sees it.
    assert label_pixel(sample, 3, [-10.0, 0.0, CAMERA_HEIGHT])[2] > 0
    assert label_pixel(sample, 0, [-10.0, 0.0, CAMERA_HEIGHT])[2] < 0


def test_reference_to_lidar(layout: Path) -> None:
    to_lidar = Occ3DNuScenes(layout, "train", image=SMALL)[0].reference_to_lidar[0].double()
    point = torch.tensor([LIDAR[0] + 5.0, LIDAR[1] + 2.0, LIDAR[2] + 1.0, 1.0], dtype=torch.float64)
    # 5 m ahead, 2 m left, 1 m up; the lidar's x points right and its y ahead.
    assert torch.allclose(to_lidar @ point, torch.tensor([-2.0, 5.0, 1.0, 1.0], dtype=torch.float64), atol=1e-5)


def test_label_cameras_scale_with_the_asked_width(layout: Path) -> None:
    native = Occ3DNuScenes(layout, "train", image=SMALL)[0]
    scaled = Occ3DNuScenes(layout, "train", image=SMALL, label_camera_width=WIDTH // 2)[0]
    assert scaled.camera_size == (WIDTH // 2, HEIGHT // 2)
    assert torch.allclose(scaled.intrinsics[0, :, :2], native.intrinsics[0, :, :2] / 2)
    assert torch.equal(scaled.intrinsics[0, :, 2], native.intrinsics[0, :, 2])
    assert torch.equal(scaled.reference_to_camera, native.reference_to_camera)
    assert torch.equal(scaled.projection, native.projection)


def test_coarse_labels_and_grid_agree(layout: Path) -> None:
    dataset = Occ3DNuScenes(layout, "train", image=SMALL, coarsen=2)
    sample = dataset[0]
    assert dataset.grid.shape == tuple(sample.labels.shape[1:]) == (100, 100, 8)
    # The block at 120..129 x 98..102 x 3..6 and the floor at z = 2: each coarse voxel with an occupied child.
    labels = sample.labels[0]
    assert (labels[60:65, 49:52, 2:4] == 4).all() and (labels[60:65, 49:52, 4:] == 17).all()
    # At z 2..3 a column of floor and one of block meet 4 to 4 (inside) or 4 to 2 (rim): floor on the rim, car inside.
    assert (labels[60:65, 49:51, 1] == 4).all() and (labels[60:65, 51, 1] == 11).all()
    assert sample.camera_mask[0, :, 50:].all() and not sample.camera_mask[0, :, :50].any()


def test_distortion_depends_on_seed_draw_and_index_only(layout: Path) -> None:
    def images(seed: int, key: int | tuple[int, int], **options: object) -> torch.Tensor:
        return Occ3DNuScenes(layout, "train", image=SMALL, augment=True, seed=seed, **options)[key].images  # type: ignore[arg-type]

    state = np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index, union-attr]
    base = images(3, (1, 7))
    assert torch.equal(base, images(3, (1, 7), cache=True))
    assert not torch.equal(base, images(3, (1, 8)))
    assert not torch.equal(base, images(4, (1, 7)))
    assert torch.equal(images(3, 1), images(3, (1, 0)))
    assert state == (np.random.get_state()[1].tolist(), random.getstate())  # type: ignore[index, union-attr]


def test_cached_frames_are_not_changed_by_their_use(layout: Path) -> None:
    dataset = Occ3DNuScenes(layout, "train", image=SMALL, augment=True, cache=True, label_camera_width=40)
    first, again = dataset[0, 5], dataset[0, 5]
    assert torch.equal(first.images, again.images) and torch.equal(first.intrinsics, again.intrinsics)
    assert torch.equal(first.labels, again.labels)


def test_workers_do_not_change_what_is_loaded(layout: Path) -> None:
    dataset = Occ3DNuScenes(layout, "train", image=SMALL, augment=True, seed=1)
    loaded = []
    for workers in (0, 2):
        sampler = TrainSampler(len(dataset), seed=5)
        sampler.set_epoch(2)
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers, collate_fn=collate)
        loaded.append([entry["batch"] for entry in loader])
    assert [b.batch_size for b in loaded[0]] == [2, 1]
    for alone, shared in zip(*loaded, strict=True):
        assert [m["token"] for m in alone.meta] == [m["token"] for m in shared.meta]
        assert torch.equal(alone.images, shared.images) and torch.equal(alone.labels, shared.labels)


def test_collate_joins_samples_in_order(layout: Path) -> None:
    dataset = Occ3DNuScenes(layout, "train", image=SMALL)
    batch = collate([dataset[2], dataset[0]])["batch"]
    assert batch.batch_size == 2 and [m["index"] for m in batch.meta] == [2, 0]
    assert torch.equal(batch.labels[1], dataset[0].labels[0]) and torch.equal(batch.images[0], dataset[2].images[0])
    other = Occ3DNuScenes(layout, "train", image=SMALL, label_camera_width=40)[0]
    with pytest.raises(DataError, match="different size"):
        collate([dataset[0], other])


def test_sampler_shares_an_epoch_between_ranks() -> None:
    def epoch(number: int, rank: int, world: int) -> list[tuple[int, int]]:
        sampler = TrainSampler(11, seed=1, rank=rank, world_size=world)
        sampler.set_epoch(number)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    alone = epoch(3, 0, 1)
    assert sorted(i for i, _ in alone) == list(range(11)) and {e for _, e in alone} == {3}
    assert epoch(3, 0, 2) == alone[0:10:2] and epoch(3, 1, 2) == alone[1:10:2]
    assert epoch(4, 0, 1) != [(i, 4) for i, _ in alone]


def test_mini_is_upstreams_draw() -> None:
    """First entries of valeoai/GaussRender dataset/indices/selected_indices_{train,val}_nuscenes.json."""
    train, val = mini_indices(28130), mini_indices(6019)
    assert len(train) == len(set(train)) == 5626 and train[:5] == [18276, 2709, 21163, 27444, 15650]
    assert len(val) == len(set(val)) == 1203 and val[:5] == [4569, 677, 5290, 3912, 1419]


def test_mini_keeps_the_ray_origins_of_the_whole_scene(tmp_path: Path) -> None:
    root = write_layout(tmp_path / "data", frames=6)
    whole, mini = Occ3DNuScenes(root, "val", image=SMALL), Occ3DNuScenes(root, "val", image=SMALL, mini=True)
    assert (len(whole), len(mini)) == (6, 1)
    meta = mini[0].meta[0]
    twin = next(whole[i].meta[0] for i in range(6) if whole[i].meta[0]["token"] == meta["token"])
    assert len(meta["ray_origins"]) == 6 and np.array_equal(meta["ray_origins"], twin["ray_origins"])


def test_ray_origins_of_a_straight_drive(layout: Path) -> None:
    """Frames 5 m apart: seen from the middle one, the lidars stand 5 m behind, here, and 5 m ahead."""
    origins = Occ3DNuScenes(layout, "val", image=SMALL)[1].meta[0]["ray_origins"]
    assert origins == pytest.approx(LIDAR + np.array([[-5.0, 0, 0], [0, 0, 0], [5.0, 0, 0]]), abs=1e-5)
    assert np.array_equal(origins[1], LIDAR)


def test_ray_origins_are_limited_and_thinned() -> None:
    """Frames 3 m apart, reference 20: 25 lie within 39 m; eight of them, evenly by index, ends included."""
    poses = np.tile(np.eye(4), (41, 1, 1))
    poses[:, 0, 3] = 3.0 * np.arange(41)
    steps = np.arange(-12, 13)
    expected = 3.0 * steps[[0, 3, 7, 10, 14, 17, 21, 24]]  # round(linspace(0, 24, 8)), halves to even
    origins = ray_origins(poses, 20, np.eye(4))
    assert origins[:, 0] == pytest.approx(expected)
    assert np.abs(origins[:, 0]).max() == 36.0  # 39 m itself is out


def test_describe_and_fingerprint(layout: Path, damaged: Path, tmp_path: Path) -> None:
    assert [(f.split, f.frames, f.usable, f.problem) for f in describe(layout)] == [
        ("train", 3, 3, ""),
        ("val", 3, 3, ""),
    ]
    assert describe(tmp_path / "nowhere") == []
    train, val = data_fingerprint("occ3d", damaged, "train"), data_fingerprint("occ3d", damaged, "val")
    assert train != val and train == data_fingerprint("occ3d", damaged, "train")
    image = damaged / "nuscenes/samples/CAM_BACK/scene-0001-00__CAM_BACK.jpg"
    image.write_bytes(image.read_bytes() + b"x")
    assert data_fingerprint("occ3d", damaged, "train") != train and data_fingerprint("occ3d", damaged, "val") == val
    image.unlink()
    assert [(f.usable, f.problem) for f in describe(damaged)] == [(0, "1 frame(s) without label or images"), (1, "")]
    (damaged / "bevdetv2-nuscenes_infos_val.pkl").write_bytes(b"no pickle")
    assert "damaged" in describe(damaged)[1].problem


def test_stored_paths_resolve_below_the_data_root() -> None:
    assert resolve("/root", "./data/nuscenes/a.jpg") == Path("/root/nuscenes/a.jpg")
    assert resolve("/root", "data/nuscenes/a.jpg") == Path("/root/nuscenes/a.jpg")
    assert resolve("/root", "nuscenes/a.jpg") == Path("/root/nuscenes/a.jpg")
    assert resolve("/root", "/elsewhere/a.jpg") == Path("/elsewhere/a.jpg")


def edit(root: Path, change) -> Path:  # type: ignore[no-untyped-def]
    """Apply ``change`` to the first train info of the pickle."""
    path = root / "bevdetv2-nuscenes_infos_train.pkl"
    content = pickle.loads(path.read_bytes())
    change(content["infos"][0])
    path.write_bytes(pickle.dumps(content))
    return path


def first(root: Path) -> OccupancyBatch:
    return Occ3DNuScenes(root, "train", image=SMALL)[0]


def test_missing_parts_are_named(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder.*--data-root"):
        Occ3DNuScenes(tmp_path / "nowhere", "train")
    with pytest.raises(DataError, match="unknown split 'test'"):
        Occ3DNuScenes(damaged, "test")
    label = damaged / "gts/scene-0001/scene-0001-00/labels.npz"
    label.unlink()
    with pytest.raises(DataError, match="labels.npz is missing.*gts.tar.gz"):
        first(damaged)
    (damaged / "nuscenes/samples/CAM_BACK/scene-0001-00__CAM_BACK.jpg").unlink()
    with pytest.raises(DataError, match="CAM_BACK/scene-0001-00__CAM_BACK.jpg is missing"):
        first(damaged)
    (damaged / "bevdetv2-nuscenes_infos_train.pkl").unlink()
    with pytest.raises(DataError, match="bevdetv2-nuscenes_infos_train.pkl.*RenderOcc"):
        first(damaged)


def test_damaged_images_are_named(damaged: Path) -> None:
    image = damaged / "nuscenes/samples/CAM_FRONT_LEFT/scene-0001-00__CAM_FRONT_LEFT.jpg"
    cv2.imwrite(str(image), np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8))
    with pytest.raises(DataError, match=f"scene-0001-00__CAM_FRONT_LEFT.jpg is {WIDTH + 2}x{HEIGHT}"):
        first(damaged)
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be decoded"):
        first(damaged)
    with pytest.raises(DataError, match="has 22 rows, fewer than the 30"):
        Occ3DNuScenes(damaged, "val", image=ImageTransform(width=40, height=30))[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "cannot be read"),
        ({"semantics": np.zeros((200, 200, 16), np.uint8)}, "cannot be read.*mask_camera"),
        ({**labels_of(0), "semantics": np.zeros((200, 200, 8), np.uint8)}, r"semantics is uint8 \[200, 200, 8\]"),
        ({**labels_of(0), "semantics": np.zeros((200, 200, 16))}, "semantics is float64"),
        ({**labels_of(0), "semantics": np.full((200, 200, 16), 18, np.uint8)}, "holds class 18"),
        ({**labels_of(0), "semantics": np.full((200, 200, 16), None)}, "cannot be read"),
    ],
)
def test_damaged_labels_are_named(damaged: Path, content: bytes | dict[str, np.ndarray], message: str) -> None:
    path = damaged / "gts/scene-0001/scene-0001-00/labels.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez_compressed(path, **content)
    with pytest.raises(DataError, match=f"labels.npz.*{message}"):
        first(damaged)


def test_truncated_labels_are_named(damaged: Path) -> None:
    path = damaged / "gts/scene-0001/scene-0001-00/labels.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="labels.npz cannot be read"):
        first(damaged)


def test_bad_calibration_is_named(damaged: Path) -> None:
    def spoil(info: dict) -> None:  # type: ignore[type-arg]
        info["cams"]["CAM_BACK"]["cam_intrinsic"][0, 0] = np.nan

    path = edit(damaged, spoil)
    with pytest.raises(DataError, match=f"{path.name}: calibration of CAM_BACK in frame scene-0001-00.*NaN"):
        first(damaged)
    edit(damaged, lambda info: info["cams"]["CAM_FRONT"].pop("sensor2ego_rotation"))
    with pytest.raises(DataError, match="CAM_FRONT in frame scene-0001-00.*no 'sensor2ego_rotation'"):
        first(damaged)
    edit(damaged, lambda info: info.update(lidar2ego_translation=[0.0, np.inf, 0.0]))
    with pytest.raises(DataError, match="calibration of lidar.*NaN or infinite"):
        first(damaged)
    edit(damaged, lambda info: info["cams"].pop("CAM_FRONT"))
    with pytest.raises(DataError, match="no 'CAM_FRONT'"):
        first(damaged)


def test_pickles_of_another_kind_are_named(damaged: Path) -> None:
    path = damaged / "bevdetv2-nuscenes_infos_train.pkl"
    for content, message in (([1, 2], "no list 'infos'"), ({"infos": []}, "lists no frames")):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=message):
            first(damaged)
