"""A tiny data set in the official Occ3D-nuScenes layout, written for the loader's tests."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from experiments.datasets.layout import CAMERAS, read_infos
from experiments.datasets.layout_camera_frames import CameraFrames, write_list

WIDTH, HEIGHT = 80, 45
FOCAL = 60.0

# Optical axes of the cameras in the ego frame, degrees counter-clockwise from straight ahead, by CAMERAS.
HEADINGS = (0.0, -55.0, 55.0, 180.0, 110.0, -110.0)
CAMERA_HEIGHT = 1.5
LIDAR = np.array([1.0, 0.0, 1.8])
MOTION = 0.5  # metres the ego moves forward between lidar and camera time


def camera_to_ego(heading: float) -> np.ndarray:
    """[3, 3] of a level camera (x right, y down, z forward) that looks ``heading`` degrees to the left."""
    a = np.deg2rad(heading)
    forward = np.array([np.cos(a), np.sin(a), 0.0])
    right = np.array([np.sin(a), -np.cos(a), 0.0])
    return np.stack([right, np.array([0.0, 0.0, -1.0]), forward], axis=1)


def quaternion(rotation: np.ndarray) -> list[float]:
    """(w, x, y, z) of a rotation matrix, through its axis: the eigenvector of the largest eigenvalue of K."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    values, vectors = np.linalg.eigh(k / 3.0)
    x, y, z, w = vectors[:, values.argmax()]
    return [float(v) for v in (w, x, y, z)]


def frame_info(scene: str, frame: int, number: int) -> dict[str, Any]:
    """The BEVDet-style info of a frame."""
    token = f"{scene}-{frame:02d}"
    position = np.array([100.0 + 5.0 * frame, 50.0, 0.0])
    lidar_rotation = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x right, y forward, z up
    cams = {}
    for name, heading in zip(CAMERAS, HEADINGS, strict=True):
        to_ego = camera_to_ego(heading)
        translation = np.array([0.2, 0.0, CAMERA_HEIGHT])
        cams[name] = {
            "data_path": f"./data/nuscenes/samples/{name}/{token}__{name}.jpg",
            "type": name,
            "cam_intrinsic": np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]]),
            "sensor2ego_translation": translation.tolist(),
            "sensor2ego_rotation": quaternion(to_ego),
            "ego2global_translation": (position + [MOTION, 0, 0]).tolist(),
            "ego2global_rotation": [1.0, 0.0, 0.0, 0.0],
            "sensor2lidar_rotation": lidar_rotation.T @ to_ego,
            "sensor2lidar_translation": lidar_rotation.T @ (translation + [MOTION, 0, 0] - LIDAR),
            "timestamp": number,
        }
    return {
        "token": token,
        "scene_name": scene,
        "frame_idx": frame,
        "timestamp": number,
        "lidar_path": f"./data/nuscenes/samples/LIDAR_TOP/{token}.pcd.bin",
        "lidar2ego_translation": LIDAR.tolist(),
        "lidar2ego_rotation": quaternion(lidar_rotation),
        "ego2global_translation": position.tolist(),
        "ego2global_rotation": [1.0, 0.0, 0.0, 0.0],
        "occ_path": f"./data/nuscenes/gts/{scene}/{token}",
        "cams": cams,
        "gt_names": np.array(["car"]),
    }


def labels_of(number: int) -> dict[str, np.ndarray]:
    """A floor and a car-sized block whose place depends on ``number``; the right half is not seen by any camera."""
    semantics = np.full((200, 200, 16), 17, np.uint8)
    semantics[:, :, 2] = 11
    semantics[120 + number : 130 + number, 98:103, 3:7] = 4
    visible = np.zeros(semantics.shape, np.uint8)
    visible[:, 100:] = 1
    return {"semantics": semantics, "mask_lidar": visible, "mask_camera": visible}


def write_layout(root: Path, frames: int = 3) -> Path:
    """Write one scene a split with ``frames`` frames each; returns ``root``."""
    for split, scene in (("train", "scene-0001"), ("val", "scene-0002")):
        infos = [frame_info(scene, frame, frame) for frame in range(frames)]
        for number, info in enumerate(infos):
            folder = root / "gts" / scene / info["token"]
            folder.mkdir(parents=True)
            np.savez_compressed(folder / "labels.npz", **labels_of(number))
            for view, camera in enumerate(info["cams"].values()):
                path = root / camera["data_path"].removeprefix("./data/")
                path.parent.mkdir(parents=True, exist_ok=True)
                # Flat colours survive JPEG, so the tests can tell camera and frame by value.
                image = np.full((HEIGHT, WIDTH, 3), 20 * view + 5 * number + 10, np.uint8)
                cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
        with (root / f"bevdetv2-nuscenes_infos_{split}.pkl").open("wb") as file:
            pickle.dump({"infos": infos, "metadata": {"version": "test"}}, file)
    return root


def list_key_frames(root: Path, split: str) -> None:
    """A list of camera frames of a split, which names the scenes' key frames before and after as those right beside."""
    infos = read_infos(root, split)
    listed = {}
    for info in infos:
        scene = sorted((one for one in infos if one["scene_name"] == info["scene_name"]), key=lambda one: one["frame_idx"])
        number = [one["token"] for one in scene].index(info["token"])
        files, poses = [], np.zeros((6, 2, 7))
        for view, name in enumerate(CAMERAS):
            beside = [scene[at]["cams"][name] if 0 <= at < len(scene) else None for at in (number - 1, number + 1)]
            names = ["" if one is None else one["data_path"].removeprefix("./data/nuscenes/") for one in beside]
            files.append(tuple(names))
            for place, one in enumerate(beside):
                if one is not None:
                    poses[view, place] = [*one["ego2global_rotation"], *one["ego2global_translation"]]
        listed[info["token"]] = CameraFrames(tuple(files), poses)
    write_list(root, split, listed)
