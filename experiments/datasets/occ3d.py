"""Occ3D-nuScenes in its official layout: info pickles, six images and one ``labels.npz`` a frame.

Frames and matrices follow GaussRender (valeoai/GaussRender dataset/occ3d_nuscenes.py): the grid lies in the ego
frame at the lidar's time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.datasets.dataset_occ3d import DATASET
from experiments.datasets.frames import Calibration, Labels, pinhole
from experiments.datasets.geometry import lidar_to_ego, lidar_to_global, ray_origins, rigid
from experiments.datasets.layout import CAMERAS, GET_LABELS, field, info_path, label_path, moment_of, read_infos, resolve
from experiments.datasets.layout_camera_frames import GET_IMAGES, GET_LIST, OFFSETS, image_path, list_path, read_list
from experiments.datasets.layout_image_semantics import path_of, read_semantics
from experiments.datasets.moments import Moment
from experiments.datasets.parts import CameraFrame
from experiments.datasets.pseudo_labels import PseudoLabelFrames
from experiments.datasets.unpickle import DataError, refusing
from renderers.arrays import read_npz


def read_labels(path: Path, grid: OccupancyGrid, mask: str = "mask_camera") -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Class ids and a mask, that of the cameras, [X, Y, Z] of a ``labels.npz``; raises DataError naming the file."""
    if not path.is_file():
        raise DataError(f"label {path} is missing: {GET_LABELS}")
    with refusing(f"label {path}", "copy or download it again"):
        arrays = read_npz(path)
        labels, visible = arrays["semantics"], arrays[mask]
    for name, array in (("semantics", labels), (mask, visible)):
        if array.shape != grid.shape or array.dtype.kind not in "biu":
            raise DataError(f"label {path}: {name} is {array.dtype} {list(array.shape)}, expected integers {list(grid.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= grid.num_classes:
        bad = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise DataError(f"label {path} holds class {bad}, Occ3D's classes are 0..{grid.num_classes - 1}")
    return labels.astype(np.uint8), visible.astype(bool)


class Occ3DNuScenes(PseudoLabelFrames[dict[str, Any]]):
    """Occ3D-nuScenes frames; arguments as in ``OccupancyFrames``, and

    data_root           folder with the info pickles, ``gts/`` and ``nuscenes/samples/``
    split               "train" or "val"
    static_projection   True, as published: image features are sampled with the static calibration (ego -> camera),
                        which ignores the ego motion between lidar and camera time; False: with the compensated one,
                        which the label cameras use in any case

    ``camera_mask`` is the official one. ``meta`` holds: token, scene, frame_idx, index, image_paths, lidar_path,
    ray_origins ([n, 3] float64, ego frame, for RayIoU).
    """

    has_moments = True
    has_neighbours = True
    has_semantics = True
    has_camera_mask = True
    has_ray_origins = True
    own_mask = "camera mask"

    def __init__(self, data_root: str | Path, split: str, *, static_projection: bool = True, **options: Any) -> None:
        self.static_projection = static_projection
        self.pickle = info_path(data_root, split)
        self._listed = read_list(data_root, split) if options.get("neighbours") else None
        super().__init__(data_root, split, **options)
        # RayIoU looks at every key frame of a scene, also at those that ``mini`` leaves out.
        self._scenes: dict[str, list[int]] = {}
        for position, info in enumerate(self._all_frames):
            self._scenes.setdefault(str(field(info, "scene_name", self.pickle)), []).append(position)

    def _official_grid(self) -> OccupancyGrid:
        return DATASET.grid()

    def _index(self) -> Path:
        return self.pickle

    def _list(self) -> list[dict[str, Any]]:
        return read_infos(self.data_root, self.split)

    def _image_paths(self, frame: dict[str, Any]) -> list[Path]:
        cameras = field(frame, "cams", self.pickle)
        entries = [field(cameras, name, self.pickle) for name in CAMERAS]
        return [resolve(self.data_root, field(entry, "data_path", self.pickle)) for entry in entries]

    def _label_path(self, frame: dict[str, Any]) -> Path:
        return label_path(self.data_root, frame, self.pickle)

    def _read_labels(self, frame: dict[str, Any]) -> Labels:
        return read_labels(self._label_path(frame), self.official_grid)

    def other_masks(self, index: int) -> dict[str, NDArray[np.bool_]]:
        """Both masks together, by which GaussianOcc is scored, and all voxels, unobserved ones counting as free."""
        path = self._label_path(self._frame(index))
        (labels, camera), (_, lidar) = (read_labels(path, self.official_grid, f"mask_{name}") for name in ("camera", "lidar"))
        masks = {"camera and lidar mask": camera & lidar, "no mask": np.ones_like(camera)}
        return {name: self._coarse_mask(labels, mask) for name, mask in masks.items()}

    def names(self, index: int) -> tuple[str, ...]:
        return (str(field(self._frame(index), "token", self.pickle)),)

    def _calibration(self, frame: dict[str, Any]) -> Calibration:
        pinholes, features, labels = [], [], []
        name = "lidar"
        try:
            ego_to_lidar = np.linalg.inv(lidar_to_ego(frame))
            for name in CAMERAS:
                camera = frame["cams"][name]
                pinholes.append(pinhole(camera["cam_intrinsic"]))
                to_ego = rigid(camera["sensor2ego_rotation"], camera["sensor2ego_translation"])
                to_lidar = rigid(camera["sensor2lidar_rotation"], camera["sensor2lidar_translation"])
                labels.append(np.linalg.inv(to_lidar) @ ego_to_lidar)
                features.append(np.linalg.inv(to_ego) if self.static_projection else labels[-1])
        except (KeyError, ValueError, np.linalg.LinAlgError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)
            token = frame.get("token", "?")
            raise DataError(f"{self.pickle}: calibration of {name} in frame {token} is unusable: {problem}") from error
        return Calibration(np.stack(pinholes), np.stack(features), np.stack(labels), ego_to_lidar)

    def _camera_frames(self, frame: dict[str, Any], offset: int) -> list[CameraFrame | None]:
        if self._listed is None:
            self._listed = read_list(self.data_root, self.split)
        token = str(field(frame, "token", self.pickle))
        if (listed := self._listed.get(token)) is None:
            raise DataError(f"{list_path(self.data_root, self.split)} lacks key frame {token}: delete the file; {GET_LIST}")
        number = OFFSETS.index(offset)
        found: list[CameraFrame | None] = []
        for view, name in enumerate(CAMERAS):
            if not (file := listed.files[view][number]):
                found.append(None)
                continue
            path = image_path(self.data_root, file)
            if not path.is_file():
                raise DataError(f"image {path} is missing, a camera frame beside key frame {token}: {GET_IMAGES}")
            pose = listed.poses[view, number]
            try:
                camera = frame["cams"][name]
                mounted = rigid(camera["sensor2ego_rotation"], camera["sensor2ego_translation"])
                now = rigid(camera["ego2global_rotation"], camera["ego2global_translation"]) @ mounted
                motion = np.linalg.inv(rigid(pose[:4], pose[4:]) @ mounted) @ now
            except (KeyError, ValueError) as error:
                where = list_path(self.data_root, self.split)
                raise DataError(f"{where}: the pose of {name} beside key frame {token} is unusable: {error}") from error
            found.append(CameraFrame(path, motion))
        return found

    def _read_semantics(self, frame: dict[str, Any], size: tuple[int, int]) -> NDArray[np.uint8]:
        return np.stack([read_semantics(path_of(self.data_root, image), size) for image in self._image_paths(frame)])

    def _moment(self, frame: dict[str, Any]) -> Moment:
        return moment_of(frame, self.pickle)

    def _to_global(self, frame: dict[str, Any]) -> NDArray[np.float64]:
        try:
            return rigid(frame["ego2global_rotation"], frame["ego2global_translation"])
        except (KeyError, ValueError) as error:
            raise DataError(f"{self.pickle}: the pose of frame {frame.get('token', '?')} is unusable: {error}") from error

    def _meta(self, index: int, frame: dict[str, Any]) -> dict[str, Any]:
        scene = str(frame["scene_name"])
        positions = self._scenes[scene]
        try:
            poses = np.stack([lidar_to_global(self._all_frames[position]) for position in positions])
        except (KeyError, ValueError) as error:
            raise DataError(f"{self.pickle}: a pose of {scene} is unusable: {error}") from error
        return {
            "token": field(frame, "token", self.pickle),
            "scene": scene,
            "frame_idx": frame.get("frame_idx"),
            "index": index,
            "image_paths": [str(path) for path in self._image_paths(frame)],
            "lidar_path": str(resolve(self.data_root, frame["lidar_path"])) if frame.get("lidar_path") else None,
            "ray_origins": ray_origins(poses, positions.index(self._chosen[index]), lidar_to_ego(frame)),
        }
