"""DDAD as GaussianOcc lays it out: six cameras, lidar, no voxel labels.

Frames and matrices follow GANWANSHUI/GaussianOcc datasets/ddad_dataset.py. The grid, in the vehicle's frame, is that in which
GaussianOcc predicts; nothing is known of its voxels, so that none counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.datasets import layout_ddad as layout
from experiments.datasets.augmentation import Pixels
from experiments.datasets.dataset_ddad import DATASET
from experiments.datasets.frames import Calibration, Labels, OccupancyFrames, pinhole
from experiments.datasets.layout_depth_maps import points_of
from experiments.datasets.layout_image_semantics import read_semantics
from experiments.datasets.lidar_pixels import nearest
from experiments.datasets.moments import Moment
from experiments.datasets.parts import CameraFrame, Matrices
from experiments.datasets.unpickle import DataError


class DDAD(OccupancyFrames[layout.Frame]):
    """DDAD's frames; arguments as in ``OccupancyFrames``.

    data_root  folder with ``ddad/``
    split      "train" or "val"

    ``labels`` are unknown everywhere and ``camera_mask`` is False. All cameras are taken to take their images at once. ``meta``
    holds: token ("<scene>/<time>"), scene, index, image_paths.
    """

    camera_names = layout.CAMERAS
    get_depth = layout.GET_DEPTH
    has_labels = False
    has_moments = True
    has_neighbours = True
    has_semantics = True
    has_lidar = True

    def __init__(self, data_root: str | Path, split: str, **options: Any) -> None:
        self.pickle = layout.info_path(data_root, split)
        self._infos = layout.read_infos(data_root, split)
        self._masks: dict[Path, NDArray[np.bool_]] = {}
        super().__init__(data_root, split, **options)

    def _official_grid(self) -> OccupancyGrid:
        return DATASET.grid()

    def _index(self) -> Path:
        return self.pickle

    def _list(self) -> list[layout.Frame]:
        return layout.chosen_frames(self.data_root, self.split, self._infos)

    def _image_paths(self, frame: layout.Frame) -> list[Path]:
        return [layout.image_path(self.data_root, frame.scene, camera, frame.time) for camera in layout.CAMERAS]

    def _read_labels(self, frame: layout.Frame) -> Labels:
        shape = self.official_grid.shape
        return np.full(shape, self.official_grid.ignore, np.uint8), np.zeros(shape, bool)

    def _calibration(self, frame: layout.Frame) -> Calibration:
        pinholes, to_camera = [], []
        for name in layout.CAMERAS:
            try:
                pinholes.append(pinhole(frame.cameras[name]["intrinsics"]))
                to_camera.append(np.linalg.inv(layout.transform(frame.cameras[name]["extrinsics"])))
            except (KeyError, ValueError, TypeError) as error:
                raise DataError(
                    f"{self.pickle}: calibration of {name} in frame {frame.time} is unusable: {_said(error)}"
                ) from error
        stacked = np.stack(to_camera)
        return Calibration(np.stack(pinholes), stacked, stacked, np.eye(4), DATASET.image_size)

    def _pose(self, frame: layout.Frame, camera: str) -> Matrices:
        """[4, 4] camera -> global frame."""
        try:
            return layout.transform(frame.cameras[camera]["pose"])
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{self.pickle}: the pose of {camera} in frame {frame.time} is unusable: {_said(error)}") from error

    def _to_global(self, frame: layout.Frame) -> NDArray[np.float64]:
        return self._pose(frame, layout.CAMERAS[0]) @ self._calibration(frame).labels[0]

    def _moment(self, frame: layout.Frame) -> Moment:
        return layout.moment_of(frame)

    def _camera_frames(self, frame: layout.Frame, offset: int) -> list[CameraFrame | None]:
        time = frame.before if offset < 0 else frame.after
        if time is None:
            return [None] * len(layout.CAMERAS)
        if (other := self._infos.get(time)) is None:
            raise DataError(f"{self.pickle} does not have {time}, the frame beside {frame.time}: {layout.PUBLISHED}")
        found: list[CameraFrame | None] = []
        for name in layout.CAMERAS:
            path = layout.image_path(self.data_root, other.scene, name, time)
            if not path.is_file():
                raise DataError(f"image {path} is missing, which was taken beside frame {frame.time}: {layout.GET_IMAGES}")
            found.append(CameraFrame(path, np.linalg.inv(self._pose(other, name)) @ self._pose(frame, name)))
        return found

    def _compared(self, frame: layout.Frame, size: tuple[int, int]) -> NDArray[np.bool_]:
        return np.stack([self._mask(layout.mask_path(self.data_root, frame.scene, name), size) for name in layout.CAMERAS])

    def _mask(self, path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
        if path not in self._masks:
            self._masks[path] = layout.read_mask(path, size)
        return self._masks[path]

    def _read_semantics(self, frame: layout.Frame, size: tuple[int, int]) -> NDArray[np.uint8]:
        paths = [layout.semantics_path(self.data_root, frame, name) for name in layout.CAMERAS]
        return np.stack([read_semantics(path, size) for path in paths])

    def _depth_maps(self, frame: layout.Frame, size: tuple[int, int]) -> list[NDArray[np.float32]]:
        paths = [layout.depth_path(self.data_root, frame, name) for name in layout.CAMERAS]
        return [layout.read_depth_map(path, size) for path in paths]

    def _read_depth(self, position: int, pixels: Pixels) -> NDArray[np.float32]:
        """Of several points in a pixel of the network's input the nearest one."""
        maps = self._depth_maps(self._all_frames[position], (pixels.width, pixels.height))
        size = self.image.width, self.image.height
        pairs = zip(maps, pixels.geometry.image, strict=True)
        return np.stack([nearest(points_of(one) + [0.5, 0.5, 0], matrix, *size) for one, matrix in pairs])

    def _read_lidar(self, position: int, size: tuple[int, int], to_label: Matrices) -> dict[str, NDArray[Any]]:
        """The points of the depth maps, row by row, in the middles of their pixels."""
        points = [points_of(one) for one in self._depth_maps(self._all_frames[position], size)]
        rows = np.concatenate(points).astype(np.float64)
        places = (rows[:, :2] + 0.5) @ to_label[:2, :2].T + to_label[:2, 2]
        camera = np.repeat(np.arange(len(points)), [len(one) for one in points])
        return {"places": places, "cells": np.floor(places), "depth": rows[:, 2], "camera": camera}

    def _meta(self, index: int, frame: layout.Frame) -> dict[str, Any]:
        return {
            "token": f"{frame.scene}/{frame.time}",
            "scene": frame.scene,
            "index": index,
            "image_paths": [str(path) for path in self._image_paths(frame)],
        }


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
