"""A tiny data set in the official SurroundOcc-nuScenes layout: the frames of ``occ3d_layout``, described GaussianFormer's way."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from occ3d_layout import HEIGHT, WIDTH, frame_info

SCENES = {"train": ("b" * 32, "a" * 32), "val": ("c" * 32,)}


def frame(scene: str, index: int, number: int) -> dict[str, Any]:
    """One entry of the pickle: mounting and pose of every sensor, no matrix between two of them."""
    info = frame_info(scene, index, number)

    def sensor(path: str, source: dict[str, Any], calib: dict[str, Any]) -> dict[str, Any]:
        return {
            "filename": path.removeprefix("./data/nuscenes/"),
            "calib": calib,
            "pose": {"translation": source["ego2global_translation"], "rotation": source["ego2global_rotation"]},
        }

    lidar = {"translation": info["lidar2ego_translation"], "rotation": info["lidar2ego_rotation"], "camera_intrinsic": None}
    data = {"LIDAR_TOP": sensor(info["lidar_path"], info, lidar)}
    for name, camera in info["cams"].items():
        mounting = {"translation": camera["sensor2ego_translation"], "rotation": camera["sensor2ego_rotation"]}
        data[name] = sensor(camera["data_path"], camera, mounting | {"camera_intrinsic": camera["cam_intrinsic"].tolist()})
    return {"token": info["token"], "timestamp": number, "is_key_frame": True, "occ_path": "", "data": data}


def rows_of(number: int) -> np.ndarray:
    """A floor, a car-sized block whose place depends on ``number``, and one noise voxel, [n, 4] int64."""
    rows = [(x, y, 6, 11) for x in range(80, 120) for y in range(80, 120)]
    rows += [(x, y, 7, 4) for x in range(98, 102) for y in range(110 + number, 118 + number)]
    return np.array([*rows, (10, 20, 3, 0)], np.int64)


def write_layout(root: Path) -> Path:
    """Two training scenes (two frames and one) and a validation scene of one frame; returns ``root``."""
    number = 0
    for split, scenes in SCENES.items():
        infos: dict[str, list[dict[str, Any]]] = {}
        for scene in scenes:
            infos[scene] = []
            for index in range(2 if scene == "a" * 32 else 1):
                entry = frame(scene, index, number)
                infos[scene].append(entry)
                for view, (name, sensor) in enumerate(entry["data"].items()):
                    path = root / "nuscenes" / sensor["filename"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if name == "LIDAR_TOP":
                        label = root / "surroundocc/samples" / f"{path.name}.npy"
                        label.parent.mkdir(parents=True, exist_ok=True)
                        np.save(label, rows_of(number))
                    else:
                        image = np.full((HEIGHT, WIDTH, 3), 20 * view + 5 * number, np.uint8)
                        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
                number += 1
        listed = [(scene, index) for scene, entries in infos.items() for index in range(len(entries))]
        with (root / f"nuscenes_infos_{split}_sweeps_occ.pkl").open("wb") as file:
            pickle.dump({"infos": infos, "metadata": listed}, file)
    return root
