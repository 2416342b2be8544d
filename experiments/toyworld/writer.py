"""Drives through toy scenes and writes what the sensors record in the layout of a nuScenes occupancy data set.

Below the root, in each of these layouts: ``nuscenes/samples/`` (JPEG images, ``LIDAR_TOP`` as float32 rows x y z intensity
ring) and ``nuscenes/lidarseg/v1.0-trainval/`` (uint8 raw nuScenes-lidarseg ids, one a lidar point).

    occ3d        ``bevdetv2-nuscenes_infos_{train,val}.pkl`` (keys of BEVDet-style info files) and
                 ``gts/<scene>/<token>/labels.npz``
    surroundocc  ``nuscenes_infos_{train,val}_sweeps_occ.pkl`` and ``surroundocc/samples/<lidar file>.npy``

The world, its drives and its images are the same in both; see ``surroundocc.py`` for what is labelled there. The layout of
SSCBench-KITTI-360, with another car and no pickles, is ``kitti360.py``'s, that of DDAD ``ddad.py``'s; ``recording.py`` goes
through all scenes.
Paths in the pickles start with ``./data/``, which stands for the root. A sweep and the voxels show one instant, the key
frame's time stamp; every camera has its own time stamp some milliseconds earlier, with the ego pose and the moving
things of that instant.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from . import surroundocc
from .catalogue import CLASS_NAMES, FREE
from .config import ToyWorldConfig
from .drive import KEY_FRAME, REACH, ego_pose, write_image
from .raycast import cast_lidar, cast_shadows, render_camera
from .solids import Assembly, Solids
from .voxelise import OCC3D, Lattice, mark_visible, voxelise
from .world import Scene, generate

_START = 1_600_000_000_000_000  # time stamp of the first scene, microseconds
_LIDAR_REACH = 70.0
_BEAMS = np.radians(np.linspace(-30.67, 10.67, 32))
_COLUMNS = 1080

# Cameras of the nuScenes car, roughly: place in the ego frame (m), yaw (deg), focal length and image centre over the
# image width, exposure relative to the lidar's time stamp (ms).
CAMERAS: dict[str, tuple[tuple[float, float, float], float, float, tuple[float, float], float]] = {
    "CAM_FRONT": ((1.71, 0.01, 1.51), 0.0, 0.791, (0.512, 0.305), -36.0),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.5), -56.0, 0.788, (0.505, 0.308), -28.0),
    "CAM_FRONT_LEFT": ((1.53, 0.49, 1.51), 55.5, 0.795, (0.516, 0.3), -43.0),
    "CAM_BACK": ((0.03, 0.0, 1.57), 180.0, 0.506, (0.52, 0.298), -11.0),
    "CAM_BACK_LEFT": ((1.04, 0.48, 1.57), 108.5, 0.785, (0.497, 0.301), -1.0),
    "CAM_BACK_RIGHT": ((1.02, -0.48, 1.56), -110.5, 0.789, (0.503, 0.304), -20.0),
}

# Raw nuScenes-lidarseg ids of the Occ3D classes 0..16 ("others" written as movable_object.pushable_pullable).
_LIDARSEG = np.array([11, 9, 14, 16, 17, 18, 21, 2, 12, 22, 23, 24, 25, 26, 27, 28, 30], np.uint8)
_BOX_CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer", "barrier", "motorcycle", "bicycle", "pedestrian",
    "traffic_cone",
)  # fmt: skip


@dataclass(frozen=True)
class Mount:
    """A sensor in the ego frame: quaternion (w, x, y, z) and translation (m); for cameras the intrinsics [3, 3]."""

    rotation: list[float]
    translation: list[float]
    intrinsics: np.ndarray | None = None

    @cached_property
    def matrix(self) -> np.ndarray:
        """Sensor to ego frame, [4, 4]."""
        return _matrix(self.rotation, self.translation)


def _quaternion(rotation: Rotation) -> list[float]:
    x, y, z, w = rotation.as_quat()
    return [float(w), float(x), float(y), float(z)]


def _matrix(quaternion: list[float], translation: list[float]) -> np.ndarray:
    w, x, y, z = quaternion
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    matrix[:3, 3] = translation
    return matrix


def _token(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32]


def _rig(rng: np.random.Generator, width: int) -> dict[str, Mount]:
    """The sensors of one car: the usual mounting, each a few millimetres and tenths of a degree off."""
    rig = {}
    for name, (place, yaw, focal, middle, _) in CAMERAS.items():
        towards = math.radians(yaw)
        cos, sin = math.cos(towards), math.sin(towards)
        axes = np.array([[sin, 0.0, cos], [-cos, 0.0, sin], [0.0, -1.0, 0.0]])  # right, down, forward as columns
        turn = Rotation.from_matrix(axes) * Rotation.from_euler("xyz", rng.normal(0, 0.3, 3), degrees=True)
        f = focal * width * rng.uniform(0.995, 1.005)
        cx, cy = np.array(middle) * width * rng.uniform(0.99, 1.01, 2)
        intrinsics = np.array([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])
        rig[name] = Mount(_quaternion(turn), [float(v) for v in np.array(place) + rng.normal(0, 0.01, 3)], intrinsics)
    lidar = Rotation.from_euler("z", -90, degrees=True) * Rotation.from_euler("xyz", rng.normal(0, 0.3, 3), degrees=True)
    rig["LIDAR_TOP"] = Mount(_quaternion(lidar), [0.943713, 0.0, 1.84023])
    return rig


def _reframe(yaw_vector: np.ndarray, rotation: np.ndarray) -> float:
    turned = rotation @ yaw_vector
    return math.atan2(turned[1], turned[0])


class Recorder:
    """Records one scene, key frame by key frame; frames are independent of each other and of the order of calls."""

    def __init__(self, config: ToyWorldConfig, root: Path, split: str, number: int) -> None:
        self.config, self.root, self.split = config, root, split
        first = 0 if split == "train" else 500
        self.name = f"scene-{first + number + 1:04d}"
        rng = np.random.default_rng([config.seed, int(split == "val"), number])
        self.frames = config.size(split)[1]
        self.scene: Scene = generate(rng, (self.frames - 1) * KEY_FRAME)
        self.rig = _rig(rng, config.image_width)
        self.exposures = {name: camera[4] + rng.uniform(-1, 1) for name, camera in CAMERAS.items()}
        self.start = _START + (first + number) * 100_000_000 + int(rng.integers(1_000_000))
        self.site = rng.uniform(300, 2000, 2)  # where the scene lies on the map, m
        self.assembly = Assembly(self.scene)
        self.log = f"toy-seed{config.seed}-{self.name}"
        width, height = config.image_width, config.image_height
        stride = max(1, round(width / 200))  # rays for the camera mask: below half a voxel apart at the grid's edge
        u, v = np.meshgrid(np.arange(0, width, stride) + 0.5, np.arange(0, height, stride) + 0.5)
        self._pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)], axis=-1)
        azimuth = np.arange(_COLUMNS)[:, None] * (2 * math.pi / _COLUMNS)
        flat = np.cos(_BEAMS) * np.ones_like(azimuth)
        self._beams = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(_BEAMS) + 0 * azimuth], -1)

    def _time(self, frame: int) -> int:
        return self.start + round(frame * KEY_FRAME * 1e6)

    def _seconds(self, timestamp: int) -> float:
        return (timestamp - self.start) * 1e-6

    def ego(self, timestamp: int) -> tuple[list[float], list[float]]:
        """Rotation (w, x, y, z) and translation (m) of the ego frame in the global frame."""
        turn, x, y = ego_pose(self.scene, self._seconds(timestamp))
        return _quaternion(turn), [float(x + self.site[0]), float(y + self.site[1]), 0.0]

    def _world(self, timestamp: int) -> np.ndarray:
        """Ego to the scene's own world frame, [4, 4]."""
        rotation, (x, y, z) = self.ego(timestamp)
        return _matrix(rotation, [x - self.site[0], y - self.site[1], z])

    def _token(self, frame: int, what: str = "sample") -> str:
        return _token(self.config.seed, self.name, frame, what) if 0 <= frame < self.frames else ""

    def _file(self, frame: int, sensor: str, timestamp: int) -> str:
        ending = "pcd.bin" if sensor == "LIDAR_TOP" else "jpg"
        return f"nuscenes/samples/{sensor}/{self.log}__{sensor}__{timestamp}.{ending}"

    def record(self, frame: int) -> tuple[dict[str, Any], np.ndarray]:
        """Write the files of a key frame; returns its BEVDet-style info and the class counts [18] of its voxels that count."""
        timestamp = self._time(frame)
        world = self._world(timestamp)
        x, y = world[0, 3], world[1, 3]
        solids = self.assembly.at(self._seconds(timestamp)).near(x, y, REACH)
        lit = self.lit(timestamp, (x, y))
        info = self._info(frame, timestamp)
        for name, camera in info["cams"].items():
            image = self.seen(name, camera["timestamp"], (x, y), lit)
            path = self.root / camera["data_path"].removeprefix("./data/")
            write_image(path, image, [cv2.IMWRITE_JPEG_QUALITY, self.config.jpeg_quality])
        write_labels = self._write_occ3d if self.config.layout == "occ3d" else self._write_surroundocc
        counts = write_labels(info, solids, world)

        owner = self._write_lidar(frame, info["lidar_path"], solids, world @ self.rig["LIDAR_TOP"].matrix)
        self._annotate(info, timestamp, np.bincount(owner[owner >= 0], minlength=len(self.scene.things)))
        return info, counts

    def lit(self, timestamp: int, middle: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The light around a place at a moment: its row, shadows and their corner."""
        light = self.scene.light.row()
        solids = self.assembly.at(self._seconds(timestamp)).near(*middle, REACH)
        return light, *cast_shadows(solids, light[:3], middle)

    def seen(
        self, name: str, timestamp: int, middle: tuple[float, float], lit: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> np.ndarray:
        """The image [H, W, 3] uint8, BGR, that a camera takes at a time of what is around a place, lit as by ``lit``."""
        mount = self.rig[name]
        pose = self._world(timestamp) @ mount.matrix
        assert mount.intrinsics is not None
        moved = self.assembly.at(self._seconds(timestamp)).near(*middle, REACH)
        image, _ = render_camera(
            moved, self.scene.streets, self.scene.patches, *lit, pose[:3, 3].copy(), pose[:3, :3].copy(), mount.intrinsics,
            self.config.image_width, self.config.image_height,
        )  # fmt: skip
        return image

    def _voxels(self, solids: Solids, pose: np.ndarray, lattice: Lattice) -> np.ndarray:
        return voxelise(solids, self.scene.streets, self.scene.patches, pose[:3, :3].copy(), pose[:3, 3].copy(), lattice)

    def _write_occ3d(self, info: dict[str, Any], solids: Solids, world: np.ndarray) -> np.ndarray:
        """Labels and masks in the ego frame; counts over voxels that the cameras see."""
        labels = self._voxels(solids, world, OCC3D)
        camera_mask, lidar_mask = np.zeros(OCC3D.shape, np.uint8), np.zeros(OCC3D.shape, np.uint8)
        to_ego = np.linalg.inv(world)
        for name, camera in info["cams"].items():
            mount = self.rig[name]
            here = to_ego @ self._world(camera["timestamp"]) @ mount.matrix
            assert mount.intrinsics is not None
            mark_visible(camera_mask, labels, here[:3, 3].copy(), here[:3, :3] @ np.linalg.inv(mount.intrinsics), self._pixels)
        beams = self._beams.reshape(-1, 3)
        for other in range(self.frames):  # as in Occ3D, what the lidar sees on its whole way through the scene counts
            here = to_ego @ self._world(self._time(other)) @ self.rig["LIDAR_TOP"].matrix
            mark_visible(lidar_mask, labels, here[:3, 3].copy(), here[:3, :3].copy(), beams)
        folder = self.root / "gts" / self.name / info["token"]
        folder.mkdir(parents=True)
        np.savez_compressed(folder / "labels.npz", semantics=labels, mask_lidar=lidar_mask, mask_camera=camera_mask)
        return np.bincount(labels[camera_mask > 0], minlength=len(CLASS_NAMES))

    def _write_surroundocc(self, info: dict[str, Any], solids: Solids, world: np.ndarray) -> np.ndarray:
        """Sparse labels in the lidar frame; counts over the whole grid."""
        rows = surroundocc.sparse_labels(self._voxels(solids, world @ self.rig["LIDAR_TOP"].matrix, surroundocc.LATTICE))
        np.save(self.root / surroundocc.label_file(info), rows)
        counts = np.bincount(rows[:, 3], minlength=len(CLASS_NAMES))
        counts[FREE] = np.prod(surroundocc.LATTICE.shape) - len(rows)
        return counts

    def _write_lidar(self, frame: int, path: str, solids: Solids, pose: np.ndarray) -> np.ndarray:
        """Write a sweep and its point labels; returns the object index of every point (-1 on the ground)."""
        ranges, classes, owner = cast_lidar(
            solids, self.scene.streets, self.scene.patches, pose[:3, 3].copy(), self._beams @ pose[:3, :3].T,
            _LIDAR_REACH,
        )  # fmt: skip
        rng = np.random.default_rng([self.config.seed, int(self.split == "val"), int(self.name[-4:]), frame])
        met = ranges > 0
        noisy = ranges[met] + rng.normal(0, 0.01, int(met.sum()))
        points = np.empty((len(noisy), 5), np.float32)
        points[:, :3] = self._beams[met] * noisy[:, None]
        points[:, 3] = np.clip(255 * np.exp(-noisy / 25) * rng.uniform(0.4, 1.0, len(noisy)), 0, 255).round()
        points[:, 4] = np.broadcast_to(np.arange(len(_BEAMS)), met.shape)[met]
        points.tofile(self.root / path.removeprefix("./data/"))
        seg = self.root / "nuscenes/lidarseg/v1.0-trainval" / f"{self._token(frame, 'LIDAR_TOP')}_lidarseg.bin"
        _LIDARSEG[classes[met]].tofile(seg)
        return owner[met]

    def _info(self, frame: int, timestamp: int) -> dict[str, Any]:
        """The info of a key frame without its boxes; keys and conventions of BEVDet's converter."""
        rotation, translation = self.ego(timestamp)
        lidar = self.rig["LIDAR_TOP"]
        to_lidar = np.linalg.inv(_matrix(rotation, translation) @ lidar.matrix)
        cams = {}
        for name in CAMERAS:
            mount = self.rig[name]
            taken = timestamp + round(self.exposures[name] * 1000)
            ego_rotation, ego_translation = self.ego(taken)
            to_lidar_from = to_lidar @ _matrix(ego_rotation, ego_translation) @ mount.matrix
            cams[name] = {
                "data_path": f"./data/{self._file(frame, name, taken)}",
                "type": name,
                "sample_data_token": self._token(frame, name),
                "sensor2ego_translation": mount.translation,
                "sensor2ego_rotation": mount.rotation,
                "ego2global_translation": ego_translation,
                "ego2global_rotation": ego_rotation,
                "timestamp": taken,
                "sensor2lidar_rotation": to_lidar_from[:3, :3].copy(),
                "sensor2lidar_translation": to_lidar_from[:3, 3].copy(),
                "cam_intrinsic": mount.intrinsics,
            }
        token = self._token(frame)
        return {
            "lidar_path": f"./data/{self._file(frame, 'LIDAR_TOP', timestamp)}",
            "token": token,
            "scene_name": self.name,
            "scene_token": _token(self.config.seed, self.name),
            "frame_idx": frame,
            "prev": self._token(frame - 1),
            "next": self._token(frame + 1),
            "timestamp": timestamp,
            "sweeps": [],
            "cams": cams,
            "lidar2ego_translation": lidar.translation,
            "lidar2ego_rotation": lidar.rotation,
            "ego2global_translation": translation,
            "ego2global_rotation": rotation,
            "occ_path": f"./data/gts/{self.name}/{token}",
            "lidar_idx": self._token(frame, "LIDAR_TOP"),
            "panoptic_path": None,
        }

    def _annotate(self, info: dict[str, Any], timestamp: int, points: np.ndarray) -> None:
        """Add the boxes of the things of nuScenes' detection classes, in the lidar frame and at CAM_FRONT's time."""
        chosen = [
            (i, thing) for i, thing in enumerate(self.scene.things)
            if thing.model.class_name in _BOX_CLASSES and math.dist(thing.at(0)[:2], self.scene.way.pose(0)[:2]) < 80
        ]  # fmt: skip
        to_lidar = np.linalg.inv(self._world(timestamp) @ self.rig["LIDAR_TOP"].matrix)
        front = info["cams"]["CAM_FRONT"]["timestamp"]
        to_front = np.linalg.inv(self._world(front))
        boxes, velocities, annotations, labels = [], [], [], []
        for index, thing in chosen:
            length, width, height = thing.model.size
            x, y, yaw = thing.at(self._seconds(timestamp))
            heading = np.array([math.cos(yaw), math.sin(yaw), 0.0])
            centre = np.array([x, y, thing.height + height / 2, 1.0])
            velocity = heading * thing.speed
            boxes.append([*(to_lidar @ centre)[:3], length, width, height, _reframe(heading, to_lidar[:3, :3])])
            velocities.append((to_lidar[:3, :3] @ velocity)[:2])
            if points[index]:
                turned = (to_front[:3, :3] @ velocity)[:2]
                place, angle = (to_front @ centre)[:3], _reframe(heading, to_front[:3, :3])
                annotations.append(np.array([*place, length, width, height, angle, *turned]))
                labels.append(_BOX_CLASSES.index(thing.model.class_name))
        count = points[[index for index, _ in chosen]] if chosen else np.zeros(0, np.int64)
        info["gt_boxes"] = np.array(boxes).reshape(-1, 7)
        info["gt_names"] = np.array([thing.model.class_name for _, thing in chosen], dtype=np.str_)
        info["gt_velocity"] = np.array(velocities).reshape(-1, 2)
        info["num_lidar_pts"] = count.astype(np.int64)
        info["num_radar_pts"] = np.zeros(len(chosen), np.int64)
        info["valid_flag"] = count > 0
        info["ann_infos"] = (annotations, labels)
