"""Voxel labels as Gaussians through every backend here: the official Occ3D label in its six cameras, and the toy world's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from contract_checks import device_of

from experiments.datasets.geometry import rigid
from experiments.datasets.unpickle import load_infos
from experiments.toyworld import ToyWorldConfig, ensure
from renderers import Cameras, availability, get, names
from renderers.agreement import compare_dialects
from renderers.cases import Case
from renderers.conformance import check
from renderers.interface import RasterSettings
from renderers.scenes import voxels, window

pytestmark = pytest.mark.usefixtures("one_thread")

OFFICIAL = "gts/scene-1077/29796060110c4163b07f06eff4af0753/labels.npz"
LOWER, EDGE, SIGMA, FREE, CLASSES = (-40.0, -40.0, -1.0), 0.4, 0.27, 17, 18  # Occ3D grid; GaussRender's constant scale
RIG = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
COMPILED = [name for name in names() if availability(name) and name != "reference"]


def voxel_case(name: str, labels: np.ndarray, cameras: Cameras, opacity: float) -> Case:
    """The filled voxels that lie in the camera's window, as GaussRender draws them: one-hot, over the empty class."""
    gaussians = voxels(torch.from_numpy(labels.astype(np.int64)), FREE, LOWER, EDGE, SIGMA, opacity, CLASSES)
    background = torch.nn.functional.one_hot(torch.tensor(FREE), CLASSES).float()
    pose, k = cameras.world_to_camera[0], cameras.intrinsics[0]
    points = gaussians.means[0] @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]
    pixels = points @ k.transpose(1, 2)
    pixels = pixels[..., :2] / pixels[..., 2:].clamp_min(1e-3)
    size = torch.tensor([cameras.width, cameras.height])
    visible = (points[..., 2] > 0.5) & ((pixels > 0) & (pixels < size)).all(-1)
    return Case(name, gaussians, cameras, RasterSettings(background=background), visible[None])


@pytest.fixture(scope="module")
def official(real_frames: Path) -> tuple[np.ndarray, Cameras]:
    """The label [200, 200, 16] and its rig's six cameras at 1600x900."""
    with np.load(real_frames / OFFICIAL) as stored:
        labels = stored["semantics"]
    rig = json.loads((real_frames / "occ3d_official_scene-1077.json").read_text())["cams"]
    intrinsics = torch.tensor([rig[name]["K"] for name in RIG])
    poses = torch.linalg.inv(torch.tensor([rig[name]["cam2ego"]["matrix"] for name in RIG], dtype=torch.float64)).float()
    return labels, Cameras(intrinsics[None], poses[None], 1600, 900)


def one_of(cameras: Cameras, view: int) -> Cameras:
    return Cameras(cameras.intrinsics[:, [view]], cameras.world_to_camera[:, [view]], cameras.width, cameras.height)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("opacity", [0.27, 1.0])
def test_official_label_in_a_window_of_the_front_camera(
    official: tuple[np.ndarray, Cameras], backend: str, opacity: float
) -> None:
    labels, cameras = official
    case = voxel_case("occ3d front", labels, window(one_of(cameras, 1), 8, 70, 50, 48, 32), opacity)
    result = check(get(backend), case, device=device_of(backend))
    assert result.ok, str(result)
    assert int(case.visible.sum()) > 300 and int(case.gaussians.features.sum(1).count_nonzero()) > 5


@pytest.mark.slow
@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("view", range(6), ids=RIG)
def test_official_label_in_each_camera(official: tuple[np.ndarray, Cameras], backend: str, view: int) -> None:
    labels, cameras = official
    for opacity in (0.27, 1.0):
        case = voxel_case(RIG[view], labels, window(one_of(cameras, view), 16, 0, 0, 100, 56), opacity)
        result = check(get(backend), case, device=device_of(backend))
        assert result.ok, str(result)
        assert int(case.visible.sum()) > 300


def test_dialects_on_the_official_label(official: tuple[np.ndarray, Cameras]) -> None:
    labels, cameras = official
    case = voxel_case("occ3d front", labels, window(one_of(cameras, 1), 8, 80, 55, 32, 32), 1.0)
    result = compare_dialects("gaussrender", "gsplat-1.5", case)
    assert result.ok, str(result)
    assert {"D1", "D2", "D10"} <= {effect.code for effect in result.effects}


@pytest.mark.slow
@pytest.mark.parametrize("backend", COMPILED)
def test_toy_world_in_its_cameras(tmp_path: Path, backend: str) -> None:
    """A frame of the procedural world, the layout of its files that of the real ones."""
    root = ensure(ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=1, val_frames=1, image_width=64), tmp_path)
    info = load_infos(root / "bevdetv2-nuscenes_infos_val.pkl")["infos"][0]
    with np.load(root / info["occ_path"].removeprefix("./data/") / "labels.npz") as stored:
        labels = stored["semantics"]
    rigs = [info["cams"][name] for name in RIG]
    ego = np.stack([np.linalg.inv(rigid(cam["sensor2ego_rotation"], cam["sensor2ego_translation"])) for cam in rigs])
    intrinsics = torch.tensor(np.stack([cam["cam_intrinsic"] for cam in rigs])).float()
    cameras = Cameras(intrinsics[None], torch.from_numpy(ego).float()[None], 64, 36)
    for view in (1, 4):
        case = voxel_case(f"toy world {RIG[view]}", labels, one_of(cameras, view), 0.6)
        result = check(get(backend), case, device=device_of(backend))
        assert result.ok, str(result)
        out = get("cpu" if availability("cpu") else "reference").render(case.gaussians, case.cameras, case.settings, case.visible)
        assert float(out.alpha.mean()) > 0.3
