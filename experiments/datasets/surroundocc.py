"""SurroundOcc-nuScenes in its official layout: sparse labels in the lidar frame, six images a frame.

Frames and matrices follow GaussRender (valeoai/GaussRender dataset/surr_nuscenes.py, dataset/pipeline.py:415-434).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.datasets import layout_surroundocc as layout
from experiments.datasets.dataset_surroundocc import DATASET
from experiments.datasets.frames import Calibration, Labels, pinhole
from experiments.datasets.geometry import rigid
from experiments.datasets.layout import CAMERAS
from experiments.datasets.lidar_pixels import LidarPixelFrames
from experiments.datasets.moments import Moment
from experiments.datasets.unpickle import DataError, refusing
from renderers.arrays import read_npy


def read_sparse_labels(path: Path, grid: OccupancyGrid) -> NDArray[np.uint8]:
    """Class ids [X, Y, Z] of a SurroundOcc label: rows (x, y, z, class) of voxel indices; raises DataError naming the file.

    Class 0 in the file is noise and becomes ``grid.ignore``; voxels that are not listed are empty. Of several rows for one
    voxel the last counts.
    """
    if not path.is_file():
        raise DataError(f"label {path} is missing: {layout.GET_LABELS}")
    with refusing(f"label {path}", "copy or download it again"):
        rows = read_npy(path)
    if rows.dtype.kind not in "iu" or rows.ndim != 2 or rows.shape[1] != 4:
        found = f"{rows.dtype} {list(rows.shape)}"
        raise DataError(f"label {path} is {found}, expected integers [n, 4] (x, y, z, class){_other(rows)}")
    rows = rows.astype(np.int64)
    if ((rows[:, :3] < 0) | (rows[:, :3] >= grid.shape)).any():
        raise DataError(f"label {path} lists voxels outside of the grid {list(grid.shape)}")
    if ((rows[:, 3] < 0) | (rows[:, 3] >= grid.num_classes)).any():
        hint = "; 17 is free in Occ3D's labels: SurroundOcc's own belong here" if rows[:, 3].max() == 17 else ""
        raise DataError(
            f"label {path} holds classes {rows[:, 3].min()}..{rows[:, 3].max()}, known: 0..{grid.num_classes - 1}{hint}"
        )
    labels = np.full(grid.shape, grid.empty, np.uint8)
    x, y, z, classes = rows.T
    labels[x, y, z] = np.where(classes == layout.NOISE, grid.ignore, classes)
    return labels


def _other(array: NDArray[Any]) -> str:
    """Whose labels an array looks like, if it is another data set's."""
    shapes: dict[tuple[int, ...], str] = {
        (200, 200, 16): "a dense grid, as Occ3D's labels are",
        (256, 256, 32): "a dense grid, as KITTI-360's labels are",
    }
    return f"; it is {shapes[array.shape]}: SurroundOcc's own belong here" if array.shape in shapes else ""


class SurroundOccNuScenes(LidarPixelFrames[layout.KeyFrame]):
    """SurroundOcc-nuScenes frames; arguments as in ``OccupancyFrames``.

    data_root  folder with the info pickles, ``surroundocc/samples/`` and ``nuscenes/samples/``
    split      "train" or "val"

    The reference frame is LIDAR_TOP. Features are sampled and labels rendered with the same cameras, which follow the
    ego motion between lidar and camera time. There is no visibility mask: ``camera_mask`` is False only where the
    label is unknown. ``meta`` holds: token, scene (its token), frame_idx, index, image_paths, lidar_path.
    """

    has_moments = True

    def __init__(self, data_root: str | Path, split: str, **options: Any) -> None:
        self.pickle = layout.info_path(data_root, split)
        super().__init__(data_root, split, **options)

    def _official_grid(self) -> OccupancyGrid:
        return DATASET.grid()

    def _index(self) -> Path:
        return self.pickle

    def _list(self) -> list[layout.KeyFrame]:
        return layout.read_frames(self.data_root, self.split)

    def _image_paths(self, frame: layout.KeyFrame) -> list[Path]:
        return [layout.image_path(self.data_root, frame, name, self.pickle) for name in CAMERAS]

    def _read_labels(self, frame: layout.KeyFrame) -> Labels:
        labels = read_sparse_labels(layout.label_path(self.data_root, frame, self.pickle), self.official_grid)
        return labels, labels != self.official_grid.ignore

    def names(self, index: int) -> tuple[str, ...]:
        """The token, and the name of the lidar file, after which SurroundOcc calls labels and predictions."""
        frame = self._frame(index)
        return frame.token, layout.lidar_path(self.data_root, frame, self.pickle).name

    def _calibration(self, frame: layout.KeyFrame) -> Calibration:
        pinholes, lidar_to_camera = [], []
        name = layout.LIDAR
        try:
            lidar = _sensor_to_global(frame.sensor(name, self.pickle))
            for name in CAMERAS:
                camera = frame.sensor(name, self.pickle)
                pinholes.append(pinhole(camera["calib"]["camera_intrinsic"]))
                lidar_to_camera.append(np.linalg.inv(_sensor_to_global(camera)) @ lidar)
        except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
            if isinstance(error, DataError):
                raise
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)
            where = f"frame {frame.index} of scene {frame.scene}"
            raise DataError(f"{self.pickle}: calibration of {name} in {where} is unusable: {problem}") from error
        extrinsics = np.stack(lidar_to_camera)
        return Calibration(np.stack(pinholes), extrinsics, extrinsics, np.eye(4))

    def _moment(self, frame: layout.KeyFrame) -> Moment:
        return layout.moment_of(frame, self.pickle)

    def _to_global(self, frame: layout.KeyFrame) -> NDArray[np.float64]:
        try:
            return _sensor_to_global(frame.sensor(layout.LIDAR, self.pickle))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            where = f"frame {frame.index} of scene {frame.scene}"
            raise DataError(f"{self.pickle}: the pose of {layout.LIDAR} in {where} is unusable: {error}") from error

    def _meta(self, index: int, frame: layout.KeyFrame) -> dict[str, Any]:
        return {
            "token": frame.token,
            "scene": frame.scene,
            "frame_idx": frame.index,
            "index": index,
            "image_paths": [str(path) for path in self._image_paths(frame)],
            "lidar_path": str(layout.lidar_path(self.data_root, frame, self.pickle)),
        }


def _sensor_to_global(sensor: dict[str, Any]) -> NDArray[np.float64]:
    """[4, 4] sensor -> global at the sensor's time: its mounting, then the pose of the vehicle."""
    calib, pose = sensor["calib"], sensor["pose"]
    return rigid(pose["rotation"], pose["translation"]) @ rigid(calib["rotation"], calib["translation"])
