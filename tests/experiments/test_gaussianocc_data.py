"""What GaussianOcc reads of nuScenes: camera frames beside key frames, depth maps, semantics; of real layouts and toy worlds."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import occ3d_layout
import pytest
import torch

from baselines.interface import Neighbours
from experiments import data, toyworld
from experiments.datasets.ddad import DDAD
from experiments.datasets.inventory import inventory
from experiments.datasets.layout import CAMERAS, read_infos
from experiments.datasets.layout_camera_frames import list_path, read_list
from experiments.datasets.layout_ddad import depth_path, read_frames
from experiments.datasets.layout_depth_maps import map_of, points_of
from experiments.datasets.layout_depth_maps import path_of as map_path
from experiments.datasets.layout_image_semantics import path_of as semantics_path
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.prepare_gaussianocc import entries
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError

SIZE = occ3d_layout.WIDTH, occ3d_layout.HEIGHT
IMAGE = ImageTransform(width=40, height=16, distort=False)
WORLD = {"train_scenes": 1, "val_scenes": 1, "train_frames": 3, "val_frames": 1, "image_width": 320}


def images_of(root: Path, split: str, number: int) -> list[Path]:
    cams = read_infos(root, split)[number]["cams"]
    return [root / cams[name]["data_path"].removeprefix("./data/") for name in CAMERAS]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    root = occ3d_layout.write_layout(tmp_path / "data")
    for split in ("train", "val"):
        occ3d_layout.list_key_frames(root, split)
        for number in range(3):
            for view, image in enumerate(images_of(root, split, number)):
                ids = np.full(SIZE[::-1], view + 1, np.int8)
                ids[:20], ids[20:25] = 16, -1
                path = semantics_path(root, image)
                path.parent.mkdir(parents=True, exist_ok=True)
                ids.tofile(path)
    return root


def test_semantics_and_maps_of_depth(tiny: Path) -> None:
    first, second, *_ = images_of(tiny, "train", 1)
    for image in images_of(tiny, "train", 1):
        depth = np.zeros(SIZE[::-1], np.float64 if image == first else np.float32)
        depth[30, 41] = 7.5
        map_path(tiny, image).parent.mkdir(parents=True, exist_ok=True)
        np.save(map_path(tiny, image), depth)
    batch = Occ3DNuScenes(tiny, "train", image=IMAGE, semantics=True, depth=True)[1]
    shown = batch.semantics
    assert shown is not None and shown.semantic.shape == (1, 1, 6, 16, 40) and shown.steps.tolist() == [[0]]
    assert shown.semantic[0, 0, :, -1, 0].tolist() == [4, 11, 3, 10, 14, 16]
    assert shown.semantic[0, 0, 0, 3, 0] == 17 and shown.semantic[0, 0, 0, 5, 0] == 255 and (shown.depth == 0).all()
    assert torch.allclose(shown.reference_to_camera[:, 0], batch.reference_to_camera)
    assert batch.depth is not None and (batch.depth > 0).sum() == 6 and batch.depth[0, 0, 8, 20] == 7.5
    stretched = ImageTransform(width=40, height=45, distort=False, stretch=True)
    tall = Occ3DNuScenes(tiny, "train", image=stretched, semantics=True, view_size=(20, 30))[1].semantics
    assert tall is not None and tall.semantic.shape == (1, 1, 6, 30, 20)
    assert torch.allclose(tall.intrinsics[0, 0, 0].diagonal(), torch.tensor([60 * 20 / 80, 60 * 30 / 45, 1.0]))
    depth[30, 41] = np.nan
    np.save(map_path(tiny, second), depth)
    with pytest.raises(DataError, match=f"{second.stem}.npy has NaN or infinite values.*prepare gaussianocc"):
        Occ3DNuScenes(tiny, "train", image=IMAGE, depth=True)[1]


def test_maps_round_places_and_keep_the_last_point() -> None:
    rows = np.array(
        [[3.4, 1.6, 5.0], [2.6, 2.4, 6.0], [-0.4, 0, 7.0], [-0.6, 0, 8.0], [1e30, 0, 9.0], [7.4, 3, 1.0], [7.6, 3, 2.0]]
    )
    depth = map_of(rows, (8, 4))
    assert points_of(depth).tolist() == [[0, 0, 7], [3, 2, 6], [7, 3, 1]]
    assert points_of(map_of(rows, (8, 4), cut=True)).tolist() == [[0, 0, 8], [3, 1, 5], [2, 2, 6], [7, 3, 2]]


def table(root: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = root / "nuscenes/v1.0-trainval" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=0))


def write_tables(root: Path) -> None:
    """Tables of the tiny training split, with a frame right before and after each image but at the ends of the scene."""
    images, poses = [], []
    infos = read_infos(root, "train")
    for number, info in enumerate(infos):
        for view, name in enumerate(CAMERAS):
            own = f"{info['token']}-{name}"
            info["cams"][name]["sample_data_token"] = own
            beside = [f"{own}-{end}" if 0 <= number + step < len(infos) else "" for end, step in (("p", -1), ("n", 1))]
            file = info["cams"][name]["data_path"].removeprefix("./data/nuscenes/")
            row = {"calibrated_sensor_token": name, "ego_pose_token": own}
            images.append(row | {"token": own, "prev": beside[0], "next": beside[1], "filename": file})
            for token, step in zip(beside, (-1, 1), strict=True):
                if token:
                    swept = f"sweeps/{name}/{token}.jpg"
                    (root / "nuscenes" / swept).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(root / "nuscenes" / file, root / "nuscenes" / swept)
                    more = {"token": token, "filename": swept, "ego_pose_token": token, "prev": "", "next": ""}
                    images.append(row | more)
                    x, y, z = info["cams"][name]["ego2global_translation"]
                    pose = {"token": token, "rotation": [1, 0, 0, 0], "translation": [x + step * (1 + view / 10), y, z]}
                    poses.append(pose | {"timestamp": 1})
    table(root, "sample_data", images)
    table(root, "ego_pose", poses)
    import pickle

    (root / "bevdetv2-nuscenes_infos_train.pkl").write_bytes(pickle.dumps({"infos": infos, "metadata": {}}))


def test_the_list_is_made_of_nuscenes_tables(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        list_path(tiny, split).unlink()
    with pytest.raises(DataError, match="camera_frames_train.npz is missing: .*prepare gaussianocc"):
        Occ3DNuScenes(tiny, "train", neighbours=(1,))
    assert data.main(["prepare", "gaussianocc", "--data-root", str(tiny)]) == 1
    out = capsys.readouterr().out
    assert "sample_data.json is missing" in out and "metadata of nuScenes' trainval set" in out and "ddad: not below" in out
    write_tables(tiny)
    data.main(["prepare", "gaussianocc", "--data-root", str(tiny)])
    out = capsys.readouterr().out
    assert "gaussianocc train: 1 files made, 0 were there, 0 cannot be made" in out
    assert "lidar key frames" in out  # of the validation split there is no lidar here
    first, middle = (Occ3DNuScenes(tiny, "train", image=IMAGE, neighbours=(-1, 1))[number].neighbours for number in (0, 1))
    assert isinstance(first, Neighbours) and isinstance(middle, Neighbours) and middle.valid.all()
    assert first.valid[0].any(dim=1).tolist() == [False, True]
    assert torch.allclose(middle.images, middle.current[:, None].expand_as(middle.images))
    moved = (middle.camera_to_ego[0] @ middle.camera_motion[0, 1] @ middle.camera_to_ego[0].inverse())[:, :3, 3]
    assert torch.allclose(-moved[:, 0], torch.arange(6) / 10 + 1, atol=1e-3)  # each camera's own time
    data.main(["prepare", "gaussianocc", "--data-root", str(tiny)])
    assert "gaussianocc train: 0 files made, 1 were there" in capsys.readouterr().out
    path = tiny / "nuscenes/v1.0-trainval/ego_pose.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="ego_pose.json is cut off"):
        list(entries(path, ""))


def test_what_is_wrong_beside_a_frame_is_named(tiny: Path) -> None:
    def read() -> None:
        Occ3DNuScenes(tiny, "train", image=IMAGE, neighbours=(-1, 1), semantics=True)[1]

    read()
    image = images_of(tiny, "train", 1)[2]
    path = semantics_path(tiny, image)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"{path.name} have {len(whole) - 1} bytes"):
        read()
    path.write_bytes(whole)
    gone = images_of(tiny, "train", 2)[4]
    kept = gone.read_bytes()
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name} is missing, a camera frame beside key frame scene-0001-01"):
        read()
    gone.write_bytes(kept)
    listed = list_path(tiny, "train")
    arrays = dict(np.load(listed))
    for change, said in (
        ({"files": arrays["files"][:, :4]}, "has arrays"),
        ({"poses": arrays["poses"] * np.nan}, "has poses or names that are none"),
        ({"files": np.full_like(arrays["files"], b"../../x.jpg")}, "has poses or names that are none"),
        ({"tokens": arrays["tokens"].astype("S")}, "holds"),
    ):
        np.savez(listed, **arrays | change)
        with pytest.raises(DataError, match=f"{listed.name} {said}"):
            read()
    np.savez(listed, **{name: array[:1] for name, array in arrays.items()})
    with pytest.raises(DataError, match="lacks key frame scene-0001-01"):
        read()
    listed.write_bytes(b"PK")
    with pytest.raises(DataError, match=f"{listed.name} cannot be read"):
        read()


def hashes(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def warped(images: torch.Tensor, around: Neighbours, view: int, moment: int, depth: torch.Tensor) -> torch.Tensor:
    """Mean difference of the pixels of a view whose depth is known, and what another moment's image shows where they went."""
    row, column = (depth > 0).nonzero(as_tuple=True)
    pixel = torch.stack([column + 0.5, row + 0.5, torch.ones(len(row))]) * depth[row, column]
    point = torch.linalg.solve(around.intrinsics[0, view], pixel)
    moved = around.camera_motion[0, moment, view] @ torch.cat([point, torch.ones_like(point[:1])])
    there = around.intrinsics[0, view] @ moved[:3]
    u, v = (there[:2] / there[2]).floor().long()
    inside = (u >= 0) & (u < images.shape[-1]) & (v >= 0) & (v < images.shape[-2]) & (there[2] > 1)
    shown = images[0, moment, view][:, v[inside], u[inside]]
    return (shown - around.current[0, view][:, row[inside], column[inside]]).abs().mean()


def test_the_toy_world_has_what_gaussianocc_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """New files beside the old ones; images beside key frames show the world from where their poses say; cameras overlap."""
    root = toyworld.ensure_at(toyworld.ToyWorldConfig(**WORLD), tmp_path / "world")  # type: ignore[arg-type]
    before = hashes(root)
    assert data.main(["prepare", "gaussianocc-toy", "--data-root", str(root)]) == 0, capsys.readouterr()
    assert data.main(["prepare", "gaussianocc-toy", "--data-root", str(root)]) == 0
    assert "0 files made, 4 were there" in capsys.readouterr().out
    after = hashes(root)
    assert {name: after[name] for name in before} == before
    added = {name.split("/")[1] for name in after if name not in before}
    assert added == {"sweeps", "nuscenes_semantic", "depth_full", "camera_frames_train.npz", "camera_frames_val.npz"}
    found = inventory("occ3d", root, "train").optional
    assert not found["neighbours"].problem and not found["semantics"].problem
    assert all(len(frame.files) == 6 for frame in read_list(root, "train").values())

    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 0
    options: dict[str, Any] = dict(image=ImageTransform(width=320, height=180, distort=False), depth=True)
    batch = Occ3DNuScenes(root, "train", **options, neighbours=(-1, 1), semantics=True)[1]
    around, shown = batch.neighbours, batch.semantics
    assert around is not None and shown is not None and batch.depth is not None and around.valid.all()
    right = [warped(around.images, around, view, moment, batch.depth[0, view]) for view in range(6) for moment in range(2)]
    still = around.current[:, None].expand_as(around.images)
    wrong = [warped(still, around, view, moment, batch.depth[0, view]) for view in range(6) for moment in range(2)]
    assert sum(right) < 0.8 * sum(wrong)
    share = [(shown.semantic == kind).float().mean().item() for kind in (11, 17, 255)]
    assert share[0] > 0.05 and share[1] > 0.05 and 0 < share[2] < 0.2

    val = Occ3DNuScenes(root, "val", **options, neighbours=(-1, 1))[0]
    assert val.neighbours is not None and not val.neighbours.valid.any()  # a scene of one frame
    dense = np.load(map_path(root, images_of(root, "val", 0)[0]))
    assert dense.shape == (180, 320) and (dense > 0).sum() > 300

    # Neighbouring cameras in the ring overlap: points that one has depth of are seen by the next.
    ring = [CAMERAS.index(f"CAM_{name}") for name in ("FRONT", "FRONT_LEFT", "BACK_LEFT", "BACK", "BACK_RIGHT", "FRONT_RIGHT")]
    for one, other in zip(ring, ring[1:] + ring[:1], strict=True):
        column, row = torch.meshgrid(torch.arange(320) + 0.5, torch.arange(180) + 0.5, indexing="xy")
        pixel = torch.stack([column.flatten(), row.flatten(), torch.ones(320 * 180)]) * 40.0
        point = torch.linalg.solve(around.intrinsics[0, one], pixel)
        ego = around.camera_to_ego[0, one] @ torch.cat([point, torch.ones_like(point[:1])])
        there = (around.camera_to_ego[0, other].inverse() @ ego)[:3]
        u, v = (around.intrinsics[0, other] @ there)[:2] / there[2]
        inside = (there[2] > 0) & (u > 0) & (u < 320) & (v > 0) & (v < 180)
        assert 0.01 < inside.float().mean() < 0.4


def test_the_toy_world_in_ddads_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = toyworld.ToyWorldConfig(layout="ddad", train_scenes=1, val_scenes=1, train_frames=3, val_frames=2, image_width=242)
    root = toyworld.ensure_at(config, tmp_path / "world")
    assert data.main(["prepare", "gaussianocc", "--data-root", str(root)]) == 0, capsys.readouterr()
    image = ImageTransform(width=242, height=152, distort=False)
    batch = DDAD(root, "train", image=image, neighbours=(-1, 1), semantics=True)[0]
    around, shown = batch.neighbours, batch.semantics
    assert around is not None and shown is not None and around.mask is not None and around.valid.all()
    hidden = 1 - around.mask[0].float().mean(dim=(1, 2))
    assert hidden[0] == 0 and torch.allclose(hidden[1:], torch.tensor(11 / 152))
    assert (shown.semantic[0, 0, 1:, -11:] == 255).all() and (shown.semantic == 17).float().mean() > 0.05
    val = DDAD(root, "val", image=image, neighbours=(-1, 1), depth=True)[0]
    depth, around = val.depth, val.neighbours
    assert depth is not None and around is not None and ((depth[0] > 0).flatten(1).sum(dim=1) > 300).all()
    right = sum(warped(around.images, around, view, 1, depth[0, view]) for view in range(6))
    still = around.current[:, None].expand_as(around.images)
    assert right < 0.9 * sum(warped(still, around, view, 1, depth[0, view]) for view in range(6))


@pytest.mark.parametrize("content, said", [(np.ones((10, 10), "f4"), r"is 10x10, its image is \d+x\d+"), (np.nan, "has NaN")])
@pytest.mark.parametrize("dataset", ["occ3d", "ddad"])
def test_depth_maps_of_other_images_are_refused_wherever_they_are_read(
    tmp_path: Path, dataset: str, content: Any, said: str
) -> None:
    if dataset == "occ3d":
        root = occ3d_layout.write_layout(tmp_path / "data", frames=2)
        images = images_of(root, "val", 0)
        path, get = map_path(root, images[2]), "prepare gaussianocc makes it from nuScenes' lidar"
        for image in images:
            map_path(root, image).parent.mkdir(parents=True, exist_ok=True)
            np.save(map_path(root, image), np.ones((occ3d_layout.HEIGHT, occ3d_layout.WIDTH), "f4"))
    else:
        config = toyworld.ToyWorldConfig(
            layout="ddad", train_scenes=1, val_scenes=1, train_frames=1, val_frames=1, image_width=242
        )
        root = toyworld.ensure_at(config, tmp_path / "data")
        assert data.main(["prepare", "gaussianocc", "--data-root", str(root)]) == 0
        path, get = depth_path(root, read_frames(root, "val")[0], "CAMERA_05"), "python -m experiments.data prepare gaussianocc"
    reader: Any = {"occ3d": Occ3DNuScenes, "ddad": DDAD}[dataset]
    image = ImageTransform(width=40, height=16, distort=False)

    def read(**part: bool) -> None:
        assert reader(root, "val", image=image, **part)[0] is not None

    for part in ("lidar", "depth"):
        read(**{part: True})
    whole = np.load(path)
    np.save(path, content if np.ndim(content) else np.full_like(whole, content))
    for part in ("lidar", "depth"):
        with pytest.raises(DataError, match=f"{path.name} {said}.*{get}"):
            read(**{part: True})
    with pytest.raises(DataError, match=f"{path.name} {said}"):
        reader(root, "val").check_part("lidar", 0)  # which ``verify`` asks
