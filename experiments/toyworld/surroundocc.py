"""The toy world in the SurroundOcc-nuScenes layout: GaussianFormer's info pickles, sparse labels in the lidar frame."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .catalogue import FREE
from .voxelise import Lattice

LATTICE = Lattice((200, 200, 16), (-50.0, -50.0, -5.0), 0.5)  # in the frame of LIDAR_TOP
LABELS = "surroundocc/samples"
_ROOT = "./data/nuscenes/"


def surface(labels: np.ndarray) -> np.ndarray:
    """Which voxels of filled labels [X, Y, Z] lie at a surface: occupied, and beside a free voxel above the ground.

    SurroundOcc's labels come from reconstructed surfaces, so what is inside of buildings and below the ground is not
    labelled and counts as empty.
    """
    occupied = labels != FREE
    free = np.pad(~occupied & np.logical_or.accumulate(occupied, axis=2), 1)
    beside = np.zeros(labels.shape, bool)
    for axis in range(3):
        for step in (0, 2):
            window = [slice(1, -1)] * 3
            window[axis] = slice(step, step + labels.shape[axis])
            beside |= free[tuple(window)]
    return occupied & beside


def sparse_labels(labels: np.ndarray) -> np.ndarray:
    """Rows (x, y, z, class) [n, 4] int64 of the surfaces in filled labels [X, Y, Z].

    Classes 1 to 16 keep their ids; "others" is 0, which SurroundOcc's files use for noise.
    """
    places = np.argwhere(surface(labels))
    return np.column_stack([places, labels[tuple(places.T)]]).astype(np.int64)


def label_file(info: dict[str, Any]) -> str:
    """Path of a frame's label below the data root; ``info`` is BEVDet's."""
    return f"{LABELS}/{PurePosixPath(info['lidar_path']).name}.npy"


def frame_info(info: dict[str, Any]) -> dict[str, Any]:
    """A BEVDet-style info the way GaussianFormer's pickles put it: mounting and pose of every sensor."""

    def sensor(path: str, poses: dict[str, Any], mounting: tuple[Any, Any], intrinsics: Any) -> dict[str, Any]:
        return {
            "filename": path.removeprefix(_ROOT),
            "calib": {"translation": mounting[0], "rotation": mounting[1], "camera_intrinsic": intrinsics},
            "pose": {"translation": poses["ego2global_translation"], "rotation": poses["ego2global_rotation"]},
        }

    lidar = (info["lidar2ego_translation"], info["lidar2ego_rotation"])
    data = {"LIDAR_TOP": sensor(info["lidar_path"], info, lidar, None)}
    for name, camera in info["cams"].items():
        mounting = (camera["sensor2ego_translation"], camera["sensor2ego_rotation"])
        data[name] = sensor(camera["data_path"], camera, mounting, camera["cam_intrinsic"].tolist())
    return {
        "token": info["token"],
        "timestamp": info["timestamp"],
        "is_key_frame": True,
        "occ_path": f"./data/{label_file(info)}",
        "data": data,
    }


def write_infos(root: Path, split: str, infos: list[dict[str, Any]]) -> None:
    """The info pickle of a split from its BEVDet-style infos, in the order of frames."""
    scenes: dict[str, list[dict[str, Any]]] = {}
    for info in infos:
        scenes.setdefault(info["scene_token"], []).append(frame_info(info))
    listed = [(scene, index) for scene, frames in scenes.items() for index in range(len(frames))]
    with (root / f"nuscenes_infos_{split}_sweeps_occ.pkl").open("wb") as file:
        pickle.dump({"infos": scenes, "metadata": listed}, file, protocol=4)
