"""What GaussianOcc needs of the driving world in Occ3D's layout: camera frames beside key frames, semantics, depth maps.

Frames are taken a twelfth of a second before and after a key frame's image, by the same camera, under the key frame's shadows; at
the ends of scenes there is none, as in nuScenes. Semantics are ``imagelabels``' of training
frames. Depth maps are made of lidar as of real data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from camera_occupancy_bench.files import replacing
from experiments.datasets.layout import CAMERAS, field, info_path, read_infos, resolve
from experiments.datasets.layout_camera_frames import OFFSETS, CameraFrames, image_path, list_path, read_list, write_list
from experiments.datasets.layout_image_semantics import path_of
from experiments.datasets.prepare_gaussianocc import depth_steps

from .config import ToyWorldConfig
from .drive import encoded
from .imagelabels import semantics, write_semantics
from .pseudo import recorder_of, world_of
from .writer import Recorder

BESIDE = 83_333
"""Microseconds between two frames of a camera."""


def steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], None]]]:
    """A split's files as ``Preparation.steps`` says: the images and, for training, the semantics of each frame, the list of the
    images, depth maps."""
    config = world_of(data_root)
    _, frames = config.size(split)
    pickle, made = info_path(data_root, split), []
    for number, info in enumerate(read_infos(data_root, split)):
        cameras = field(info, "cams", pickle)
        images = [resolve(data_root, cameras[name]["data_path"]) for name in CAMERAS]
        scene, frame = divmod(number, frames)
        recorder = partial(recorder_of, config, data_root, split, scene)
        files = [image_path(data_root, name) for name in _names(info, frame, frames) if name]
        files += [path_of(data_root, image) for image in images] if split == "train" else []
        made.append(
            (all(file.is_file() for file in files), partial(_make, recorder, data_root, split, info, images, frame, frames))
        )
    listed = list_path(data_root, split).is_file()
    if listed:
        read_list(data_root, split)
    made.append((listed, partial(_list, config, data_root, split)))
    return made + depth_steps(data_root, split)


def _names(info: dict, frame: int, frames: int) -> list[str]:
    """Files of the images beside those of a key frame, by camera and offset, below nuscenes/; "" at the ends of the scene."""
    names = []
    for name in CAMERAS:
        camera = info["cams"][name]
        log = Path(camera["data_path"]).name.split("__")[0]
        for offset in OFFSETS:
            there = 0 <= frame + offset < frames
            names.append(f"sweeps/{name}/{log}__{name}__{camera['timestamp'] + offset * BESIDE}.jpg" if there else "")
    return names


def _make(
    recorder_at: Callable[[], Recorder], data_root: Path, split: str, info: dict, images: list[Path], frame: int, frames: int
) -> None:
    recorder = recorder_at()
    timestamp = info["timestamp"]
    x, y = recorder._world(timestamp)[:2, 3]
    lit = recorder.lit(timestamp, (x, y))
    names = iter(_names(info, frame, frames))
    for camera in CAMERAS:
        for offset in OFFSETS:
            if not (name := next(names)):
                continue
            taken = info["cams"][camera]["timestamp"] + offset * BESIDE
            path = image_path(data_root, name)
            image = recorder.seen(camera, taken, (x, y), lit)
            with replacing(path) as temporary:
                temporary.write_bytes(encoded(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, recorder.config.jpeg_quality]))
    if split == "train":
        shown = semantics(recorder, frame)
        for camera, image_file in zip(CAMERAS, images, strict=True):
            write_semantics(path_of(data_root, image_file), shown[camera])


def _list(config: ToyWorldConfig, data_root: Path, split: str) -> None:
    infos = read_infos(data_root, split)
    _, frames = config.size(split)
    listed = {}
    for number, info in enumerate(infos):
        scene, frame = divmod(number, frames)
        recorder = recorder_of(config, data_root, split, scene)
        names = _names(info, frame, frames)
        poses = np.zeros((len(CAMERAS), len(OFFSETS), 7))
        for place, name in enumerate(names):
            view, at = divmod(place, len(OFFSETS))
            if name:
                taken = info["cams"][CAMERAS[view]]["timestamp"] + OFFSETS[at] * BESIDE
                rotation, translation = recorder.ego(taken)
                poses[view, at] = [*rotation, *translation]
        pairs = tuple(tuple(names[at : at + len(OFFSETS)]) for at in range(0, len(names), len(OFFSETS)))
        listed[str(info["token"])] = CameraFrames(pairs, poses)
    write_list(data_root, split, listed)
