"""Depth maps of DDAD's images from its lidar, as TRI-ML/dgp makes them (SynchronizedSceneDataset, generate_depth_from_datum). No
torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.geometry import pinhole, rigid
from experiments.datasets.layout_ddad import (
    CAMERAS,
    GET_IMAGES,
    IMAGE_SIZE,
    Frame,
    depth_path,
    folder,
    image_path,
    info_path,
    read_frames,
    transform,
)
from experiments.datasets.prepare_gaussianocc import depth_map, write_map
from experiments.datasets.prepare_renderocc import image_size
from experiments.datasets.unpickle import DataError, refusing
from renderers.arrays import read_npz


@dataclass(frozen=True)
class Sweep:
    """A lidar sweep: its file below the scene's folder, and [4, 4] lidar -> global frame."""

    file: str
    to_global: NDArray[np.float64]


def steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], None]]]:
    """A split's frames as ``Preparation.steps`` says."""
    found: list[tuple[bool, Callable[[], None]]] = []
    for frame in read_frames(data_root, split):
        done = all(depth_path(data_root, frame, camera).is_file() for camera in CAMERAS)
        found.append((done, partial(prepare, data_root, split, frame)))
    return found


def prepare(data_root: Path, split: str, frame: Frame) -> None:
    """Write the depth maps of a frame, each complete or not at all; raises DataError for a scene, sweep or image that is
    missing or damaged, and for an unusable calibration."""
    scene = folder(data_root) / "raw_data" / frame.scene
    sweep = sweeps(scene).get(frame.time)
    if sweep is None:
        raise DataError(f"{scene} has no lidar sweep of {frame.time} in its scene_*.json: {GET_IMAGES}")
    points = _points(scene / sweep.file)
    for name in CAMERAS:
        camera = frame.cameras[name]
        with refusing(f"{info_path(data_root, split)}: calibration of {name} in frame {frame.time}", "copy or download it again"):
            to_camera = np.linalg.inv(transform(camera["pose"])) @ sweep.to_global
            intrinsics = pinhole(camera["intrinsics"])
        image = image_path(data_root, frame.scene, name, frame.time)
        size = image_size(image)
        if size[0] * IMAGE_SIZE[1] != size[1] * IMAGE_SIZE[0]:
            raise DataError(f"image {image} is {size[0]}x{size[1]}; the calibration is for {IMAGE_SIZE[0]}x{IMAGE_SIZE[1]}")
        intrinsics[:2] *= size[0] / IMAGE_SIZE[0]
        write_map(depth_path(data_root, frame, name), depth_map(points, to_camera, intrinsics, size, cut=True))


@cache
def sweeps(scene: Path) -> dict[str, Sweep]:
    """The sweeps of a scene by the time that its cameras' files are named by; raises DataError for a missing or damaged list."""
    lists = sorted(scene.glob("scene_*.json"))
    if not lists:
        raise DataError(f"{scene} has no scene_*.json, which names the lidar's files and poses: {GET_IMAGES}")
    with refusing(str(lists[0]), "copy or download it again"):
        content = json.loads(lists[0].read_text(encoding="utf-8"))
        data: dict[str, Any] = {entry["key"]: entry["datum"] for entry in content["data"]}
        found = {}
        for sample in content["samples"]:
            datums = [data[key] for key in sample["datum_keys"]]
            clouds = [datum["point_cloud"] for datum in datums if "point_cloud" in datum]
            images = [PurePosixPath(datum["image"]["filename"]) for datum in datums if "image" in datum]
            for image in images:
                if clouds and image.parent.name == CAMERAS[0]:
                    found[image.stem] = _sweep(clouds[0])
        return found


def _sweep(datum: dict[str, Any]) -> Sweep:
    name, pose = PurePosixPath(datum["filename"]), datum["pose"]
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"it names {name}")
    quaternion = np.array([pose["rotation"][key] for key in ("qw", "qx", "qy", "qz")], np.float64)
    return Sweep(str(name), rigid(quaternion, np.array([pose["translation"][axis] for axis in "xyz"], np.float64)))


def _points(path: Path) -> NDArray[np.float64]:
    """[n, 3] in the lidar's frame."""
    if not path.is_file():
        raise DataError(f"lidar sweep {path} is missing: {GET_IMAGES}")
    with refusing(f"lidar sweep {path}", "copy or download it again"):
        points = read_npz(path)["data"]
        if points.dtype.kind != "f" or points.ndim != 2 or points.shape[1] < 3:
            raise ValueError(f"it is {points.dtype} {list(points.shape)[:8]}, expected rows x, y, z")
        if not np.isfinite(points[:, :3]).all():
            raise ValueError("it has NaN or infinite values")
    return points[:, :3].astype(np.float64)
