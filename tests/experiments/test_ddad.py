"""DDAD in GaussianOcc's layout: frames without voxel labels, what is beside them, masks, semantics, depth made of lidar."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import ddad_layout
import numpy as np
import pytest
import torch
from ddad_layout import HEIGHT, SCENE, WIDTH, time_of

from baselines.photometric.alignment import aligned
from baselines.photometric.rigid import rotation_matrix
from experiments import data
from experiments.datasets.build import build_dataset
from experiments.datasets.ddad import DDAD
from experiments.datasets.frames import collate
from experiments.datasets.inventory import inventory
from experiments.datasets.layout_ddad import depth_path, mask_path, read_frames
from experiments.datasets.layouts import look
from experiments.datasets.registry import DATASETS
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError
from experiments.metrics.evaluator import OccupancyMetric
from experiments.spec import DataPreset

IMAGE = ImageTransform(width=121, height=70, distort=False)
ALL: dict[str, Any] = dict(image=IMAGE, neighbours=(-1, 1), semantics=True, depth=True, chain=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ddad_layout.write_layout(tmp_path_factory.mktemp("ddad"))


def test_frames_have_everything_but_labels(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles with pyquaternion's objects are read without it; cameras in ring order; all parts of a frame fit each other."""
    for name in [one for one in sys.modules if one.startswith("pyquaternion.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyquaternion", None)  # who would import it fails
    frames = DDAD(tiny, "train", **ALL)
    assert len(frames) == 2 and len(DDAD(tiny, "val")) == 4  # training frames have others on both sides
    batch = frames[0]
    assert (batch.labels == frames.grid.ignore).all() and not batch.camera_mask.any()
    around = batch.neighbours
    assert around is not None and around.valid.all() and around.mask is not None
    red, blue = around.current[0, :, 0, 30, 60] * 255, around.images[0, :, :, 2, 30, 60] * 255
    assert red.tolist() == pytest.approx([20 * view + 10 for view in range(6)], abs=1e-3)
    assert torch.allclose(blue, torch.tensor([5.0, 65.0])[:, None].expand(2, 6), atol=1e-3)
    ahead = around.camera_motion[0, 1, 0].inverse()[:3, 3]  # the front camera looks where the vehicle goes
    assert torch.allclose(ahead, torch.tensor([0.0, 0.0, ddad_layout.STEP]), atol=1e-4)
    ego = around.camera_to_ego[0] @ around.camera_motion[0, 1] @ around.camera_to_ego[0].inverse()
    assert torch.allclose(ego, ego[:1].expand(6, 4, 4), atol=1e-3)  # one vehicle moves
    assert around.mask[0, 0, :55].all() and not around.mask[0, 0, -8:].any()
    assert torch.allclose(around.camera_to_ego, batch.reference_to_camera.inverse(), atol=1e-4)
    shown = batch.semantics
    assert shown is not None and shown.semantic.shape == (1, 1, 6, 70, 121)
    column = shown.semantic[0, 0, 0, :, 0]
    # 6 rows are cut at the top: the sky up to row 50 of 152, nothing known up to 60, and road.
    assert (column[:18] == 17).all() and (column[20:23] == 255).all() and (column[25:] == 11).all()
    free = shown.unlabelled_as(17, 255).semantic[0, 0, 0, :, 0]
    assert (free[:23] == 17).all() and (free[25:] == 11).all()
    assert batch.depth is not None and (batch.depth[0] > 0).sum() == 6 and batch.depth.max() == 13.0
    view, row, at = (batch.depth[0] > 0).nonzero()[2].tolist()
    assert (view, row, at) == (2, 50 - 6, 12)
    both = collate([frames[0], frames[1]])["batch"]
    assert both.neighbours is not None and both.neighbours.mask is not None and both.neighbours.mask.shape[0] == 2


def test_ends_of_a_scene_have_nothing_beside_them(tiny: Path) -> None:
    frames = DDAD(tiny, "val", image=IMAGE, neighbours=(-1, 1))
    first, last = frames[0].neighbours, frames[3].neighbours
    assert first is not None and last is not None
    assert first.valid[0].all(dim=1).tolist() == [False, True] and last.valid[0].all(dim=1).tolist() == [True, False]
    assert first.images[:, 0].equal(first.current) and first.camera_motion[0, 0].equal(torch.eye(4).expand(6, 4, 4))


def test_images_may_be_stretched(tiny: Path) -> None:
    batch = DDAD(tiny, "val", image=ImageTransform(width=64, height=64, distort=False, stretch=True), neighbours=(1,))[0]
    around = batch.neighbours
    assert around is not None and around.current.shape[-2:] == (64, 64)
    assert torch.allclose(around.intrinsics[0, 0].diagonal(), torch.tensor([1000 * 64 / 1936, 1000 * 64 / 1216, 1.0]))


def test_occupancy_is_not_measured_without_labels(tiny: Path) -> None:
    frames = DDAD(tiny, "val", image=IMAGE)
    metric = OccupancyMetric(frames.grid, rays=frames.has_ray_origins)
    for index in range(2):
        batch = frames[index]
        metric.process({"batch": batch}, [{"labels": torch.full(frames.grid.shape, 17)}])
    assert metric.evaluate(2) == {}
    with pytest.raises(DataError, match="DDAD has no labels to see the voxels in sight by"):
        DDAD(tiny, "train", sight=True)
    sizes = DataPreset(source="real", image_size=(121, 70), distort=False, coarsen=4)
    assert (build_dataset("ddad", tiny, "val", sizes, 0)[0].labels == 255).all()


def test_what_is_looked_at(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inventory("ddad", tiny, "val")
    assert [part.there for part in found.parts] == [4, 0, 24] and found.parts[1].expected == 0
    assert {name: part.there for name, part in found.optional.items()} == {
        "depth": 24,
        "lidar": 24,
        "neighbours": 36 + 24,
        "semantics": 0,
    }
    assert not any(part.problem for part in found.optional.values())
    plain = look("ddad", tiny, "train")
    reading = look("ddad", tiny, "train", reads={"neighbours": (-1, 1), "semantics": (0,)})
    assert plain.fingerprint == reading.fingerprint and len(reading.parts["semantics"]) == 12
    assert len(reading.parts["neighbours"]) == 2 * 6 + 6  # the ends of the scene, and masks
    code = data.main(["status", "ddad", "--data-root", str(tiny)])
    out = capsys.readouterr().out
    assert code == 1 and "none" in out and "the published one 3950" in out


def changed(tiny: Path, root: Path) -> Path:
    shutil.copytree(tiny, root)
    return root


def test_verify_reads_all_parts(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    root = changed(tiny, tmp_path / "data")
    from dataclasses import replace

    known = replace(DATASETS.load("ddad"), releases={}, image_size=(WIDTH, HEIGHT))
    monkeypatch.setitem(DATASETS.own, "ddad", "test_ddad:KNOWN")
    monkeypatch.setattr(sys.modules[__name__], "KNOWN", known, raising=False)
    monkeypatch.setenv("OCC_CACHE", str(tmp_path / "cache"))
    assert data.main(["verify", "ddad", "--data-root", str(root), "--all"]) == 0, capsys.readouterr()
    mask = mask_path(root, SCENE, "CAMERA_07")
    cv2.imwrite(str(mask), np.zeros((20, 30), np.uint8))
    np.save(depth_path(root, read_frames(root, "val")[0], "CAMERA_05"), np.full((HEIGHT, WIDTH), np.nan, np.float32))
    capsys.readouterr()
    assert data.main(["verify", "ddad", "--data-root", str(root), "--all"]) == 1
    out = capsys.readouterr().out
    assert "mask.png is 30x20, its images are 242x152" in out and "has NaN or infinite values" in out


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ddad/info_val.pkl", b"", "damaged, or no plain data"),
        (f"ddad/ddad_semantic/{SCENE}/CAMERA_05/{time_of(1)}_mask.bin", b"\x02" * 100, "have 100 bytes, one for each pixel"),
        (
            f"ddad/ddad_semantic/{SCENE}/CAMERA_05/{time_of(1)}_mask.bin",
            b"\x55" * (WIDTH * HEIGHT),
            "hold 85, known: 0..16, and -1",
        ),
        (f"ddad/ddad_semantic/{SCENE}/CAMERA_05/{time_of(1)}_mask.bin", None, "are missing"),
        (f"ddad/raw_data/{SCENE}/rgb/CAMERA_09/{time_of(2)}.png", None, "missing, which was taken beside frame"),
        (f"ddad/mask/CAMERA_01/{SCENE}/mask.png", b"", "cannot be decoded"),
        (f"ddad/mask/CAMERA_01/{SCENE}/mask.png", None, "SurroundDepth's masks"),
        (f"ddad/depth/{SCENE}/depth/CAMERA_01/{time_of(1)}.npy", b"\x93NUMPY", "cannot be read"),
        (f"ddad/depth/{SCENE}/depth/CAMERA_01/{time_of(1)}.npy", None, "prepare gaussianocc"),
        ("ddad/val.txt", b"12\n", "val.txt lists '12'"),
    ],
)
def test_damaged_files_are_named(tiny: Path, tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    root = changed(tiny, tmp_path / "data")
    if content is None:
        (root / name).unlink()
    else:
        (root / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as raised:
        DDAD(root, "val", **ALL)[1]
    assert Path(name).stem in str(raised.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"context": [1]}, "'context' of frame"),
        ({"scene_name": "../x"}, "'scene_name' of frame"),
        ({"CAMERA_09": None}, "no CAMERA_09 in frame"),
        ({"CAMERA_09": {"intrinsics": np.eye(2)}}, "calibration of CAMERA_09"),
        ({"context": [-1, "99"]}, "does not have 99, the frame beside"),
    ],
)
def test_entries_that_are_no_frames_are_named(tiny: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    root = changed(tiny, tmp_path / "data")
    content = ddad_layout.infos()
    content[time_of(1)] |= change
    (root / "ddad/info_val.pkl").write_bytes(ddad_layout.dumped(content))
    with pytest.raises(DataError, match=said):
        DDAD(root, "val", image=IMAGE, neighbours=(-1, 1))[1]


def test_contexts_come_from_the_index_where_entries_lack_them(tiny: Path, tmp_path: Path) -> None:
    root, content = changed(tiny, tmp_path / "data"), ddad_layout.infos()
    index = {time: {key: entry.pop(key) for key in ("scene_name", "context")} for time, entry in content.items()}
    (root / "ddad/info_val.pkl").write_bytes(ddad_layout.dumped(content))
    (root / "ddad/index.pkl").write_bytes(ddad_layout.dumped(index))
    assert read_frames(root, "val") and [f.before for f in read_frames(root, "val")][:2] == [None, time_of(0)]
    (root / "ddad/val.txt").write_text(f"{time_of(2)}\n{time_of(1)}\n")
    assert [frame.time for frame in read_frames(root, "val")] == [time_of(2), time_of(1)]


def test_masks_are_found_in_both_places_and_told_from_the_releases_own(tiny: Path, tmp_path: Path) -> None:
    root = changed(tiny, tmp_path / "data")
    first = mask_path(root, SCENE, "CAMERA_05")
    other = root / "ddad/mask" / SCENE / "CAMERA_05/mask.png"
    other.parent.mkdir(parents=True)
    first.rename(other)
    assert mask_path(root, SCENE, "CAMERA_05") == other
    before = DDAD(root, "val", image=IMAGE, neighbours=(1,))[0].neighbours
    own = root / "ddad/self_occlusion_masks/05.png"
    own.parent.mkdir()
    cv2.imwrite(str(own), 255 - cv2.imread(str(other)))
    other.unlink()
    after = DDAD(root, "val", image=IMAGE, neighbours=(1,))[0].neighbours
    assert before is not None and after is not None and before.mask is not None and after.mask is not None
    assert mask_path(root, SCENE, "CAMERA_05") == own and before.mask.equal(after.mask)


def test_real_frames_have_depth_where_their_lidar_sees_surfaces(
    real_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Depth made of a real sweep: neighbouring cameras agree on it, masks leave out the vehicle and little else."""
    scene = real_frames / "ddad/000150"
    root = ddad_layout.link_real(scene, real_frames / "ddad/self_occlusion_masks", tmp_path)
    assert data.main(["prepare", "gaussianocc", "--data-root", str(root)]) == 0, capsys.readouterr()
    assert "3 frames made" in capsys.readouterr().out
    frames = DDAD(root, "val", image=ImageTransform(width=968, height=608, distort=False), neighbours=(-1, 1), depth=True)
    batch = frames[1]
    assert batch.depth is not None and batch.neighbours is not None and batch.neighbours.mask is not None
    counts = (batch.depth[0] > 0).flatten(1).sum(dim=1)
    assert (counts > 1000).all()
    kept = batch.neighbours.mask[0].float().flatten(1).mean(dim=1)
    assert kept[0] == 1 and (kept > 0.6).all() and (kept[2:5] < 0.9).all()  # front sees none of it, those that look back do
    ahead = batch.neighbours.camera_motion[0, 1, 0].inverse()[:3, 3]
    assert abs(ahead[0]) < 1 and abs(ahead[1]) < 1
    # What the front camera's pixels show lies, by their depth, at the place of the same surface half a frame's motion on.
    points = []
    for view in (0, 1):
        row, column = (batch.depth[0, view] > 0).nonzero(as_tuple=True)
        depth = batch.depth[0, view, row, column]
        pixel = torch.stack([column + 0.5, row + 0.5, torch.ones_like(depth)]) * depth
        camera = torch.linalg.solve(batch.neighbours.intrinsics[0, view], pixel)
        ego = batch.neighbours.camera_to_ego[0, view] @ torch.cat([camera, torch.ones_like(depth)[None]])
        points.append(ego[:3].T)
    both = torch.cdist(points[0], points[1]).min(dim=1).values
    assert (both < 0.05).sum() > 50  # where the two images overlap the same points are in both
    with pytest.raises(DataError, match="lidar sweep .* is missing"):
        broken = tmp_path / "broken"
        shutil.copytree(root, broken, copy_function=os.symlink, symlinks=False)
        for sweep in (broken / "ddad/raw_data/000150/point_cloud/LIDAR").glob("*.npz"):
            sweep.unlink()
        from experiments.datasets.prepare_ddad import prepare

        prepare(broken, "val", read_frames(broken, "val")[0])


def test_real_frames_align_by_the_motion_of_their_poses(real_frames: Path, tmp_path: Path) -> None:
    """Six cameras, a tenth of a second apart: rotation and direction; how far is right up to a factor (here 0.45)."""
    root = ddad_layout.link_real(real_frames / "ddad/000150", real_frames / "ddad/self_occlusion_masks", tmp_path)
    frames = DDAD(root, "val", image=ImageTransform(width=200, height=112, distort=False), neighbours=(-1, 1))
    neighbours = frames[1].neighbours
    assert neighbours is not None
    mounted = neighbours.camera_to_ego[:, 0]
    true = (mounted @ neighbours.camera_motion[:, 1, 0] @ mounted.inverse())[0]
    found = aligned(neighbours.current, neighbours.images[:, 1], neighbours, neighbours.valid[:, 1])[0]
    left = rotation_matrix(found[:3]).T @ true[:3, :3]
    assert torch.trace(left) > 1 + 2 * np.cos(np.radians(0.25))
    assert true[:3, 3].norm() > 1 and found[3:].norm() > 0.3
    assert torch.cosine_similarity(found[3:], true[:3, 3], dim=0) > np.cos(np.radians(5))
