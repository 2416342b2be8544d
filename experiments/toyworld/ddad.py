"""The toy world in DDAD's layout, as GaussianOcc lays it out (``experiments/datasets/layout_ddad.py``): six cameras, no labels.

Of those files there are info pickles, images, lidar with the list that names it, semantics of training images and masks of the
vehicle, which covers the lowest rows of all images but the front camera's. Quaternions are plain arrays. All sensors record at
once, ten times a second, and the vehicle's frame, on the ground below its rear axle, is the lidar's. Depth is for
``prepare gaussianocc``.
"""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from camera_occupancy_bench.files import write
from experiments.datasets.layout_ddad import CAMERAS, FOLDER, IMAGE_SIZE

from . import writer
from .catalogue import CLASS_NAMES
from .config import ToyWorldConfig
from .drive import REACH, write_image
from .imagelabels import semantics, write_semantics
from .raycast import cast_lidar
from .solids import Assembly
from .world import generate

STEP = 0.1
"""Seconds between frames."""
_REACH = 120.0  # m that the lidar sees
_VEHICLE = 0.07  # of an image's rows
_BODY = (34, 32, 30)  # its colour, BGR

# As the cameras of DDAD's cars, roughly: place in the vehicle's frame (m), yaw (deg), focal length and image centre over the
# image width.
_CAMERAS: dict[str, tuple[tuple[float, float, float], float, float, tuple[float, float]]] = {
    "CAMERA_01": ((1.49, 0.29, 1.56), 0.0, 1.127, (0.479, 0.318)),
    "CAMERA_05": ((1.52, 0.46, 1.58), 51.6, 0.546, (0.498, 0.304)),
    "CAMERA_07": ((1.10, 0.43, 1.56), 123.8, 0.547, (0.499, 0.318)),
    "CAMERA_09": ((0.15, 0.13, 1.53), 180.0, 0.549, (0.488, 0.316)),
    "CAMERA_08": ((1.10, -0.46, 1.55), -123.0, 0.546, (0.499, 0.320)),
    "CAMERA_06": ((1.53, -0.41, 1.53), -53.0, 0.548, (0.489, 0.316)),
}


class Recorder(writer.Recorder):
    """Records one scene, frame by frame; frames are independent of each other and of the order of calls."""

    def __init__(self, config: ToyWorldConfig, root: Path, split: str, number: int) -> None:
        self.config, self.root, self.split = config, root, split
        self.name = f"{(0 if split == 'train' else 150) + number:06d}"
        rng = np.random.default_rng([config.seed, int(split == "val"), number])
        self.frames = config.size(split)[1]
        self.scene = generate(rng, (self.frames - 1) * STEP)
        self.rig = {name: _mount(*_CAMERAS[name], config.image_width, rng) for name in CAMERAS}
        self.exposures = dict.fromkeys(CAMERAS, 0.0)
        self.start = 1_560_000_000_000_000 + int(self.name) * 100_000_000
        self.site = rng.uniform(300, 2000, 2)
        self.assembly = Assembly(self.scene)
        elevation = np.radians(np.linspace(-25, 10, 48))
        azimuth = np.radians(np.arange(0, 360, 0.4))[:, None]
        flat = np.cos(elevation)
        self._beams = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0 * azimuth], -1)
        for name in CAMERAS:
            for folder in (self._folder / "rgb" / name, self._folder / "point_cloud/LIDAR"):
                folder.mkdir(parents=True, exist_ok=True)
            mask = np.zeros((config.image_height, config.image_width), np.uint8)
            mask[self._body(name)] = 255
            path = root / FOLDER / "mask" / name / self.name / "mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, mask, [])

    @property
    def _folder(self) -> Path:
        return self.root / FOLDER / "raw_data" / self.name

    def _body(self, camera: str) -> slice:
        """The rows of an image that show the vehicle itself."""
        height = self.config.image_height
        return slice(height if camera == CAMERAS[0] else height - round(_VEHICLE * height), height)

    def _time(self, frame: int) -> int:
        return self.start + round(frame * STEP * 1e6)

    def _stamp(self, frame: int) -> str:
        return f"{10 * self._time(frame)}"

    def record(self, frame: int) -> tuple[dict[str, Any], np.ndarray]:
        """Write the files of a frame; returns its entries in the pickle and in the list, and no voxel counts."""
        timestamp, stamp = self._time(frame), self._stamp(frame)
        world = self._world(timestamp)
        x, y = world[:2, 3]
        lit = self.lit(timestamp, (x, y))
        rotation, translation = self.ego(timestamp)
        to_global = writer._matrix(rotation, translation)
        beside = [self._stamp(other) if 0 <= other < self.frames else -1 for other in (frame - 1, frame + 1)]
        entry: dict[str, Any] = {"scene_name": self.name, "context": beside}
        official = np.diag([IMAGE_SIZE[0] / self.config.image_width, IMAGE_SIZE[1] / self.config.image_height, 1.0])
        shown = semantics(self, frame) if self.split == "train" else {}
        for name, mount in self.rig.items():
            assert mount.intrinsics is not None
            image = self.seen(name, timestamp, (x, y), lit)
            image[self._body(name)] = _BODY
            write_image(self._folder / "rgb" / name / f"{stamp}.png", image, [])
            if name in shown:
                shown[name][self._body(name)] = -1
                path = self.root / FOLDER / "ddad_semantic" / self.name / name / f"{stamp}_mask.bin"
                write_semantics(path, shown[name])
            entry[name] = {
                "intrinsics": official @ mount.intrinsics,
                "extrinsics": _pose(mount.matrix),
                "pose": _pose(to_global @ mount.matrix),
            }
        solids = self.assembly.at(self._seconds(timestamp)).near(x, y, REACH)
        origin = world @ np.array([0.9, 0.0, 1.9, 1.0])
        ranges, _, _ = cast_lidar(
            solids, self.scene.streets, self.scene.patches, origin[:3].copy(), self._beams @ world[:3, :3].T, _REACH
        )
        met = ranges > 0
        points = self._beams[met] * ranges[met][:, None] + [0.9, 0.0, 1.9]
        np.savez_compressed(self._folder / "point_cloud/LIDAR" / f"{stamp}.npz", data=np.column_stack([points, 0 * points[:, 0]]))
        listed = (stamp, self.name, rotation, translation)
        return {"time": stamp, "entry": entry, "listed": listed}, np.zeros(len(CLASS_NAMES), np.int64)


def write_infos(root: Path, split: str, infos: list[dict[str, Any]]) -> None:
    """The info pickle of a split, and each scene's list of its lidar."""
    with (root / FOLDER / f"info_{split}.pkl").open("wb") as file:
        pickle.dump({info["time"]: info["entry"] for info in infos}, file, protocol=4)
    scenes: dict[str, list[tuple[str, str, list[float], list[float]]]] = {}
    for info in infos:
        scenes.setdefault(info["listed"][1], []).append(info["listed"])
    for scene, frames in scenes.items():
        data: list[dict[str, Any]] = []
        for stamp, _, rotation, translation in frames:
            turn = dict(zip(("qw", "qx", "qy", "qz"), rotation, strict=True))
            pose = {"rotation": turn, "translation": dict(zip("xyz", translation, strict=True))}
            cloud = {"filename": f"point_cloud/LIDAR/{stamp}.npz", "pose": pose}
            data.append({"key": f"lidar {stamp}", "datum": {"point_cloud": cloud}})
            data.append({"key": f"front {stamp}", "datum": {"image": {"filename": f"rgb/{CAMERAS[0]}/{stamp}.png"}}})
        samples = [{"datum_keys": [f"lidar {stamp}", f"front {stamp}"]} for stamp, *_ in frames]
        path = root / FOLDER / "raw_data" / scene / "scene_toy.json"
        write(path, json.dumps({"name": scene, "samples": samples, "data": data}) + "\n")


def _mount(
    place: tuple[float, float, float],
    yaw: float,
    focal: float,
    middle: tuple[float, float],
    width: int,
    rng: np.random.Generator,
) -> writer.Mount:
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    axes = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])  # right, down, forward as columns
    turn = Rotation.from_matrix(axes) * Rotation.from_euler("xyz", rng.normal(0, 0.3, 3), degrees=True)
    f, (cx, cy) = focal * width * rng.uniform(0.995, 1.005), np.array(middle) * width
    intrinsics = np.array([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])
    return writer.Mount(writer._quaternion(turn), [float(v) for v in np.array(place) + rng.normal(0, 0.01, 3)], intrinsics)


def _pose(matrix: np.ndarray) -> dict[str, np.ndarray]:
    x, y, z, w = Rotation.from_matrix(matrix[:3, :3]).as_quat()
    return {"quat": np.array([w, x, y, z]), "tvec": matrix[:3, 3].copy()}
