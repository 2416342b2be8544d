"""The toy world: layout, geometry of what is written, determinism, cache."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from experiments.datasets.unpickle import load_infos
from experiments.toyworld import ToyWorldConfig, ensure, ensure_at, fingerprint, summary
from experiments.toyworld.catalogue import BOX, CLASS_ID, CONE, CYLINDER, ELLIPSOID, FREE, WHEEL
from experiments.toyworld.ground import BRICK, GRASS, PAINT, PAVING, ground_at, street_along, street_lateral
from experiments.toyworld.solids import FAR, intersect
from experiments.toyworld.voxelise import OCC3D, mark_visible
from experiments.toyworld.world import Street, advance

TINY = ToyWorldConfig(seed=3, train_scenes=1, val_scenes=1, train_frames=2, val_frames=2, image_width=208)
TO_OCC3D = {11: 0, 9: 1, 14: 2, 16: 3, 17: 4, 18: 5, 21: 6, 2: 7, 12: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
            28: 15, 30: 16}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure(TINY, tmp_path_factory.mktemp("cache"))


def infos(root: Path, split: str = "val") -> list[dict[str, Any]]:
    return load_infos(root / f"bevdetv2-nuscenes_infos_{split}.pkl")["infos"]


def below(root: Path, path: str) -> Path:
    assert path.startswith("./data/")
    return root / path.removeprefix("./data/")


def labels(root: Path, info: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(below(root, info["occ_path"]) / "labels.npz") as arrays:
        return dict(arrays)


def matrix(quaternion: list[float], translation: list[float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(np.roll(quaternion, -1)).as_matrix()
    pose[:3, 3] = translation
    return pose


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_follows_the_official_one(root: Path) -> None:
    for split in ("train", "val"):
        frames = infos(root, split)
        assert len(frames) == 2
        assert [f["prev"] for f in frames] == ["", frames[0]["token"]]
        assert [f["next"] for f in frames] == [frames[1]["token"], ""]
        assert frames[1]["timestamp"] - frames[0]["timestamp"] == 500_000
        for info in frames:
            assert info["occ_path"] == f"./data/gts/{info['scene_name']}/{info['token']}"
            for name, camera in info["cams"].items():
                assert cv2.imread(str(below(root, camera["data_path"]))).shape == (117, 208, 3)
                assert camera["data_path"].startswith(f"./data/nuscenes/samples/{name}/")
                assert -50_000 < camera["timestamp"] - info["timestamp"] < 0
            arrays = labels(root, info)
            assert {k: (a.shape, a.dtype) for k, a in arrays.items()} == dict.fromkeys(
                ("semantics", "mask_lidar", "mask_camera"), ((200, 200, 16), np.dtype("uint8"))
            )
            assert arrays["semantics"].max() == FREE
            assert set(np.unique(arrays["mask_camera"])) == set(np.unique(arrays["mask_lidar"])) == {0, 1}
            assert 0.05 < arrays["mask_camera"].mean() < 0.6
            assert len(info["gt_boxes"]) == len(info["gt_names"]) == len(info["num_lidar_pts"]) > 10
            assert len(info["ann_infos"][0]) == int(info["valid_flag"].sum())


def test_info_keys_are_those_of_the_real_pickles(root: Path, real_frames: Path) -> None:
    notes = {"lidar_available", "lidar_note", "label_note"}  # written by the makers of that folder, not upstream
    real, toy = infos(real_frames)[0], infos(root)[0]
    assert set(toy) == set(real) - notes
    assert list(toy["cams"]) and set(toy["cams"]) == set(real["cams"])
    assert set(toy["cams"]["CAM_BACK"]) == set(real["cams"]["CAM_BACK"])
    for key in ("gt_boxes", "gt_velocity", "valid_flag", "num_lidar_pts"):
        assert toy[key].dtype == real[key].dtype and toy[key].shape[1:] == real[key].shape[1:]
    for name, camera in toy["cams"].items():
        focal = camera["cam_intrinsic"][0, 0] / 208, real["cams"][name]["cam_intrinsic"][0, 0] / 1600
        assert focal[0] == pytest.approx(focal[1], rel=0.03)
        turn = [matrix(c["sensor2ego_rotation"], [0, 0, 0])[:3, 2] for c in (camera, real["cams"][name])]
        assert math.degrees(math.acos(turn[0] @ turn[1])) < 5


def test_splits_are_disjoint_and_scenes_differ(root: Path) -> None:
    train, val = infos(root, "train"), infos(root, "val")
    assert not {i["scene_name"] for i in train} & {i["scene_name"] for i in val}
    assert not {i["token"] for i in train} & {i["token"] for i in val}
    assert (labels(root, train[0])["semantics"] != labels(root, val[0])["semantics"]).mean() > 0.02


def test_poses_chain_as_in_nuscenes(root: Path) -> None:
    info = infos(root)[1]
    lidar = matrix(info["ego2global_rotation"], info["ego2global_translation"]) @ matrix(
        info["lidar2ego_rotation"], info["lidar2ego_translation"]
    )
    for camera in info["cams"].values():
        pose = matrix(camera["ego2global_rotation"], camera["ego2global_translation"]) @ matrix(
            camera["sensor2ego_rotation"], camera["sensor2ego_translation"]
        )
        chained = np.linalg.inv(lidar) @ pose
        np.testing.assert_allclose(chained[:3, :3], camera["sensor2lidar_rotation"], atol=1e-9)
        np.testing.assert_allclose(chained[:3, 3], camera["sensor2lidar_translation"], atol=1e-6)
    # the lidar's x points right and its y forward, as on the real car
    np.testing.assert_allclose(matrix(info["lidar2ego_rotation"], [0, 0, 0])[:3, 0], [0, -1, 0], atol=0.03)


def test_lidar_points_lie_in_voxels_of_their_class(root: Path) -> None:
    info = infos(root)[0]
    points = np.fromfile(below(root, info["lidar_path"]), np.float32).reshape(-1, 5)
    raw = np.fromfile(root / "nuscenes/lidarseg/v1.0-trainval" / f"{info['lidar_idx']}_lidarseg.bin", np.uint8)
    assert len(points) == len(raw) > 10_000
    assert set(points[:, 4]) <= set(range(32))
    to_ego = matrix(info["lidar2ego_rotation"], info["lidar2ego_translation"])
    # a surface less than a sample's distance inside a voxel leaves it free: look a decimetre behind the surface
    deeper = points[:, :3] * (1 + 0.1 / np.linalg.norm(points[:, :3], axis=1, keepdims=True))
    ego = deeper @ to_ego[:3, :3].T + to_ego[:3, 3]
    index = np.floor((ego - [-40, -40, -1]) / 0.4).astype(int)
    inside = ((index >= 0) & (index < OCC3D.shape)).all(axis=1)
    found = labels(root, info)["semantics"][tuple(index[inside].T)]
    expected = np.array([TO_OCC3D[int(value)] for value in raw[inside]])
    # edges, range noise and voxels shared by two things leave a few points out
    assert (found != FREE).mean() > 0.98
    assert (found == expected).mean() > 0.93


def test_voxels_project_onto_what_the_camera_shows(root: Path) -> None:
    """Trees, buses and litter have their colours where the labels say they are."""
    hits = {"vegetation": [0, 0], "bus": [0, 0], "others": [0, 0]}
    for split in ("train", "val"):
        for info in infos(root, split):
            arrays = labels(root, info)
            ego_to_lidar = np.linalg.inv(matrix(info["lidar2ego_rotation"], info["lidar2ego_translation"]))
            for camera in info["cams"].values():
                image = cv2.imread(str(below(root, camera["data_path"]))).astype(int)
                to_lidar = np.eye(4)
                to_lidar[:3, :3], to_lidar[:3, 3] = camera["sensor2lidar_rotation"], camera["sensor2lidar_translation"]
                transform = np.linalg.inv(to_lidar) @ ego_to_lidar
                occupied = np.argwhere((arrays["semantics"] != FREE) & (arrays["mask_camera"] > 0))
                classes = arrays["semantics"][tuple(occupied.T)]
                centres = (occupied + 0.5) * 0.4 + [-40, -40, -1]
                seen = centres @ transform[:3, :3].T + transform[:3, 3]
                pixel = seen @ camera["cam_intrinsic"].T
                z = pixel[:, 2]
                u, v = (np.floor(pixel[:, i] / np.where(z > 1, z, 1)).astype(int) for i in (0, 1))
                ok = (z > 3) & (z < 20) & (u >= 0) & (u < 208) & (v >= 0) & (v < 117)
                nearest: dict[tuple[int, int], int] = {}
                for i in sorted(np.flatnonzero(ok), key=lambda i: -z[i]):  # the nearest voxel of a pixel stays
                    nearest[int(u[i]), int(v[i])] = int(classes[i])
                for (column, row), class_id in nearest.items():
                    blue, green, red = image[row, column]
                    shows = {
                        "vegetation": green > red and green > blue + 8,
                        "bus": red > blue + 25 and green > blue + 10,
                        "others": blue > green + 20 or red > blue + 40,
                    }
                    for name, tally in hits.items():
                        if class_id == CLASS_ID[name]:
                            tally[0] += bool(shows[name])
                            tally[1] += 1
    for name, (right, total) in hits.items():
        assert total > 30, name
        # windows, wheels and outlines show other colours
        assert right > 0.5 * total, f"{name}: {right} of {total}"


def test_camera_mask_ends_at_the_first_occupied_voxel() -> None:
    grid, mask = np.full(OCC3D.shape, FREE, np.uint8), np.zeros(OCC3D.shape, np.uint8)
    grid[110, 100, 3] = 4
    start = np.array([0.2, 0.2, 0.4])  # the middle of voxel 100, 100, 3
    mark_visible(mask, grid, start, np.eye(3), np.array([[1.0, 0.0, 0.0]]))
    assert np.argwhere(mask).tolist() == [[i, 100, 3] for i in range(100, 111)]
    mask[:] = 0
    turned = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    mark_visible(mask, grid, start, turned, np.array([[1.0, 0.0, 0.0]]))
    assert np.argwhere(mask).tolist() == [[100, j, 3] for j in range(100, 200)]
    mask[:] = 0
    mark_visible(mask, grid, np.array([-50.0, 0.2, 0.4]), np.eye(3), np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
    assert np.argwhere(mask).tolist() == [[i, 100, 3] for i in range(0, 111)]


@pytest.mark.parametrize(
    ("shape", "origin", "direction", "expected"),
    [
        (BOX, (-10, 0.5, 0), (1, 0, 0), 8.0),
        (BOX, (-10, 1.5, 0), (1, 0, 0), FAR),
        (BOX, (10, 0, 0), (1, 0, 0), FAR),
        (ELLIPSOID, (0, 0, 9), (0, 0, -1), 6.0),
        (ELLIPSOID, (-10, 0, 3.01), (1, 0, 0), FAR),
        (CYLINDER, (0, -6, 1), (0, 2, 0), 2.5),
        (CYLINDER, (1.9, 0.9, 9), (0, 0, -1), FAR),
        (WHEEL, (0, 8, 0), (0, -1, 0), 7.0),
        (WHEEL, (0.0, 0.5, 9), (0, 0, -1), 6.0),
        (CONE, (-10, 0, 0), (1, 0, 0), 9.0),
        (CONE, (-10, 0, 3.1), (1, 0, 0), FAR),
    ],
)
def test_rays_meet_solids(shape: int, origin: tuple[float, ...], direction: tuple[float, ...], expected: float) -> None:
    """Half extents 2, 1, 3 m at the origin; the same holds after turning part and ray by 90 degrees."""
    for cos, sin in ((1.0, 0.0), (0.0, 1.0)):
        part = np.array([0.0, 0.0, 0.0, cos, sin, 1 / 2, 1.0, 1 / 3])
        ox, oy = cos * origin[0] - sin * origin[1], sin * origin[0] + cos * origin[1]
        dx, dy = cos * direction[0] - sin * direction[1], sin * direction[0] + cos * direction[1]
        # a hair off the axes, where a slab test would divide zero by zero
        t = intersect(shape, part, ox + 1e-9, oy + 1e-9, origin[2], dx + 1e-12, dy + 1e-12, direction[2] + 1e-12)
        assert t == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("curvature", [0.0, 0.02, -0.03])
def test_streets_know_where_a_place_is(curvature: float) -> None:
    street = Street((3.0, -2.0, 0.7), curvature, 5.0, 2.0, 0.0, 0.8, -math.inf, 3.2)
    row = np.array(street.row())
    for s, d in ((0.0, 0.0), (12.0, 3.0), (-20.0, -4.5), (30.0, 6.0)):
        x, y, _ = street.pose(s, d)
        assert street_lateral(row, x, y) == pytest.approx(d, abs=1e-9)
        assert street_along(row, x, y) == pytest.approx(s, abs=1e-9)
    patches = np.empty((0, 7))
    kinds = {d: ground_at(row[None], patches, *street.pose(10.0, d)[:2])[0] for d in (0.5, 4.7, 6.0, -6.0, 8.0)}
    assert kinds == {0.5: BRICK, 4.7: PAINT, 6.0: PAVING, -6.0: GRASS, 8.0: GRASS}
    there = advance(advance((0.0, 0.0, 0.3), 7.0, curvature), -7.0, curvature)
    assert there == pytest.approx((0.0, 0.0, 0.3), abs=1e-9)


def test_same_seed_same_bytes_and_other_seed_other_world(root: Path, tmp_path: Path) -> None:
    again = ensure_at(TINY, tmp_path / "again")
    assert digest(again) == digest(root)
    other = ToyWorldConfig(seed=4, train_scenes=1, val_scenes=1, train_frames=1, val_frames=1, image_width=128)
    moved = ensure_at(other, tmp_path / "other")
    assert (labels(moved, infos(moved)[0])["semantics"] != labels(root, infos(root)[0])["semantics"]).mean() > 0.02


def test_cache_is_used_and_survives_a_killed_build(tmp_path: Path) -> None:
    config = ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=1, val_frames=1, image_width=64)
    home = tmp_path / "toyworld"
    leftover = home / f".{fingerprint(config)}.building"
    leftover.mkdir(parents=True)
    (leftover / "half").write_text("what a killed build leaves")
    root = ensure(config, tmp_path)
    assert root == home / fingerprint(config) and not leftover.exists() and not (root / "half").exists()
    written = (root / "toyworld.json").stat().st_mtime_ns
    assert ensure(config, tmp_path) == root
    assert (root / "toyworld.json").stat().st_mtime_ns == written
    assert summary(root)["frames"] == {"train": 1, "val": 1}
    arrays = labels(root, infos(root)[0])
    counted = np.bincount(arrays["semantics"][arrays["mask_camera"] > 0], minlength=18).tolist()
    assert summary(root)["visible_voxels"]["val"] == counted


def test_two_builds_at_once_share_one(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from experiments.toyworld import *\n"
        "print(ensure(ToyWorldConfig(0, 1, 1, 1, 1, 64), Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    here = Path(__file__).parents[2]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=here) for _ in range(2)]
    answers = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert answers == {f"{tmp_path / 'toyworld' / fingerprint(ToyWorldConfig(0, 1, 1, 1, 1, 64))}\n"}


def test_bad_input_gets_one_clear_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_width must be a multiple of 16"):
        ToyWorldConfig(image_width=100)
    with pytest.raises(ValueError, match="val_scenes must be at least 1"):
        ToyWorldConfig(val_scenes=0)
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ValueError, match="already holds something else"):
        ensure_at(TINY, tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"
    assert fingerprint(TINY) != fingerprint(ToyWorldConfig())


@pytest.mark.slow
def test_default_world_has_every_class_everywhere(tmp_path: Path) -> None:
    """All 17 classes in both splits, and several kinds of road users near the car in every frame."""
    root = ensure(ToyWorldConfig())
    note = summary(root)
    for split in ("train", "val"):
        occupied = np.array(note["visible_voxels"][split][:FREE])
        assert (occupied > 0.003 * occupied.sum()).all()
    x = (np.arange(200) + 0.5) * 0.4 - 40
    close = np.hypot(x[:, None], x) < 25
    for info in infos(root):
        arrays = labels(root, info)
        seen = np.unique(arrays["semantics"][close][arrays["mask_camera"][close] > 0])
        assert (seen < CLASS_ID["driveable_surface"]).sum() >= 5, info["token"]
