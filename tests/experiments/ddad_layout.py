"""DDAD in GaussianOcc's layout for tests: a tiny one, and info pickles of a scene of DDAD's own release."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from experiments.datasets.layout_ddad import CAMERAS

WIDTH, HEIGHT = 242, 152
HEADINGS = (0.0, 60.0, 120.0, 180.0, -120.0, -60.0)
"""Degrees counter-clockwise from straight ahead, by CAMERAS."""
SCENE = "000007"
STEP = 2.0
"""Metres that the vehicle moves forward between two frames."""


class Quaternion:
    """What pyquaternion's pickles look like, which need not be installed."""

    def __init__(self, q: Any) -> None:
        self.q = np.asarray(q, np.float64)


Quaternion.__module__, Quaternion.__qualname__ = "pyquaternion.quaternion", "Quaternion"


def dumped(content: Any) -> bytes:
    """A pickle that names pyquaternion."""
    module = ModuleType("pyquaternion.quaternion")
    module.Quaternion = Quaternion  # type: ignore[attr-defined]
    packages = {"pyquaternion": ModuleType("pyquaternion"), "pyquaternion.quaternion": module}
    before = {name: sys.modules.get(name) for name in packages}
    sys.modules.update(packages)
    try:
        return pickle.dumps(content, 4)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


def camera_to_vehicle(heading: float) -> np.ndarray:
    a = np.deg2rad(heading)
    matrix = np.eye(4)
    matrix[:3, 2] = np.cos(a), np.sin(a), 0.0
    matrix[:3, 0] = np.sin(a), -np.cos(a), 0.0
    matrix[:3, 1] = 0.0, 0.0, -1.0
    matrix[:3, 3] = 1.0, 0.0, 1.5
    return matrix


def quaternion(rotation: np.ndarray) -> Quaternion:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return Quaternion([w, x, y, z])


def moved(matrix: np.ndarray) -> dict[str, Any]:
    return {"quat": quaternion(matrix[:3, :3]), "tvec": matrix[:3, 3].copy()}


def time_of(number: int) -> str:
    return str(15_616_458_250_000_000 + 1_000_000 * number)


def infos(frames: int = 4) -> dict[str, Any]:
    """A scene that drives straight ahead."""
    out = {}
    for number in range(frames):
        before, after = (time_of(n) if 0 <= n < frames else -1 for n in (number - 1, number + 1))
        entry: dict[str, Any] = {"scene_name": SCENE, "context": [before, after]}
        to_global = np.eye(4)
        to_global[0, 3] = 100 + STEP * number
        for name, heading in zip(CAMERAS, HEADINGS, strict=True):
            mounted = camera_to_vehicle(heading)
            entry[name] = {
                "intrinsics": np.array([[1000.0, 0, 968], [0, 1000.0, 608], [0, 0, 1]]),
                "extrinsics": moved(mounted),
                "pose": moved(to_global @ mounted),
            }
        out[time_of(number)] = entry
    return out


def write_layout(root: Path, frames: int = 4) -> Path:
    """One scene in both splits, with images, masks, semantics and depth; returns ``root``."""
    base = root / "ddad"
    for split in ("train", "val"):
        (base / f"info_{split}.pkl").parent.mkdir(parents=True, exist_ok=True)
        (base / f"info_{split}.pkl").write_bytes(dumped(infos(frames)))
    for view, name in enumerate(CAMERAS):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[-20:, :] = 255  # the vehicle
        path = base / "mask" / name / SCENE / "mask.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), mask)
        for number in range(frames):
            image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            image[..., 2], image[..., 0] = 20 * view + 10, 30 * number + 5  # red, blue
            semantics = np.full((HEIGHT, WIDTH), 2, np.int8)
            semantics[:50], semantics[50:60] = 16, -1
            depth = np.zeros((HEIGHT, WIDTH), np.float32)
            depth[100, 10 * view + 5] = 12.0 + number
            for folder, end, content in (
                (f"raw_data/{SCENE}/rgb", ".png", image),
                (f"ddad_semantic/{SCENE}", "_mask.bin", semantics),
                (f"depth/{SCENE}/depth", ".npy", depth),
            ):
                path = base / folder / name / f"{time_of(number)}{end}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if end == ".png":
                    cv2.imwrite(str(path), content)
                elif end == ".npy":
                    np.save(path, content)
                else:
                    content.tofile(path)
    return root


def link_real(scene: Path, masks: Path, root: Path) -> Path:
    """GaussianOcc's layout around a scene of DDAD's own release, with info pickles of both splits made from its lists."""
    base = root / "ddad"
    (base / "raw_data").mkdir(parents=True)
    (base / "raw_data" / scene.name).symlink_to(scene)
    (base / "self_occlusion_masks").symlink_to(masks)
    content = json.loads(next(scene.glob("scene_*.json")).read_text())
    data = {entry["key"]: entry["datum"] for entry in content["data"]}
    taken = []
    for sample in content["samples"]:
        calibration = json.loads((scene / "calibration" / f"{sample['calibration_key']}.json").read_text())
        cameras = {}
        for datum in (data[key]["image"] for key in sample["datum_keys"] if "image" in data[key]):
            path = PurePosixPath(datum["filename"])
            number = calibration["names"].index(path.parent.name)
            k = calibration["intrinsics"][number]
            matrix = np.array([[k["fx"], k["skew"], k["cx"]], [0, k["fy"], k["cy"]], [0, 0, 1]])
            cameras[path.parent.name] = {
                "intrinsics": matrix,
                "extrinsics": _pose(calibration["extrinsics"][number]),
                "pose": _pose(datum["pose"]),
            }
            time = path.stem
        taken.append((time, cameras))
    taken.sort(key=lambda pair: pair[0])
    out = {}
    for number, (time, cameras) in enumerate(taken):
        beside = [taken[n][0] if 0 <= n < len(taken) else -1 for n in (number - 1, number + 1)]
        out[time] = {"scene_name": scene.name, "context": beside, **cameras}
    for split in ("train", "val"):
        (base / f"info_{split}.pkl").write_bytes(dumped(out))
    return root


def _pose(entry: dict[str, Any]) -> dict[str, Any]:
    q, t = entry["rotation"], entry["translation"]
    return {"quat": Quaternion([q[key] for key in ("qw", "qx", "qy", "qz")]), "tvec": np.array([t[axis] for axis in "xyz"])}
