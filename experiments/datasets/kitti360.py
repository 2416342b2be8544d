"""SSCBench-KITTI-360 in its official layout: dense labels in the velodyne frame, one image a frame.

Frames and matrices follow GaussRender (valeoai/GaussRender dataset/kitti_360.py:94-183).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.datasets import layout_kitti360 as layout
from experiments.datasets.dataset_kitti360 import DATASET
from experiments.datasets.frames import Calibration, Labels, OccupancyFrames, pinhole
from experiments.datasets.prepare_kitti360 import check_against_raw
from experiments.datasets.unpickle import DataError, refusing
from renderers.arrays import read_npy


def read_labels(path: Path, grid: OccupancyGrid) -> NDArray[np.uint8]:
    """Class ids [X, Y, Z] of a prepared label, of any number type; raises DataError naming the file."""
    if not path.is_file():
        raise DataError(f"label {path} is missing: {layout.PREPARE}")
    with refusing(f"label {path}", f"delete it; {layout.PREPARE}"):
        stored = read_npy(path)
    if stored.dtype.kind not in "iuf" or stored.shape != grid.shape:
        raise DataError(f"label {path} is {stored.dtype} {list(stored.shape)}, expected numbers {list(grid.shape)}")
    with np.errstate(invalid="ignore"):
        labels = stored.astype(np.uint8)
    wrong = (labels != stored) | ((labels >= grid.num_classes) & (labels != grid.ignore))
    if wrong.any():
        raise DataError(f"label {path} holds {stored[wrong][0]}, known: 0..{grid.num_classes - 1} and {grid.ignore}")
    return labels


class SSCBenchKITTI360(OccupancyFrames[layout.Frame]):
    """SSCBench-KITTI-360 frames; arguments as in ``OccupancyFrames``.

    data_root  folder with ``data_2d_raw/`` and ``preprocess/labels/``, and ``depth/`` for models that take depth
    split      "train", "val" or "test"

    The reference frame is the velodyne's, in which the labels lie; the calibration is a constant of the data set. There
    is no visibility mask: ``camera_mask`` is False only where the label is unknown. ``meta`` holds: token
    ("<drive>/<frame>"), scene ("<drive>/<first frame>": a run of a drive), drive, frame_idx, index, image_paths.
    """

    camera_names = (layout.CAMERA,)
    get_depth = layout.GET_DEPTH

    def _official_grid(self) -> OccupancyGrid:
        return DATASET.grid()

    def _list(self) -> list[layout.Frame]:
        return layout.read_frames(self.data_root, self.split)

    def _image_paths(self, frame: layout.Frame) -> list[Path]:
        return [layout.image_path(self.data_root, frame)]

    def _depth_paths(self, frame: layout.Frame) -> list[Path]:
        return [layout.depth_path(self.data_root, frame)]

    def _read_labels(self, frame: layout.Frame) -> Labels:
        labels = read_labels(layout.label_path(self.data_root, frame), self.official_grid)
        return labels, labels != self.official_grid.ignore

    def names(self, index: int) -> tuple[str, ...]:
        """<drive>/<frame>, and the frame's number alone, which is enough where a split has one drive."""
        frame = self._frame(index)
        return f"{frame.drive}/{frame.name}", frame.name

    def check_source(self, index: int) -> None:
        check_against_raw(self.data_root, self._frame(index), self._read_labels(self._frame(index))[0])

    def _calibration(self, frame: layout.Frame) -> Calibration:
        velodyne_to_camera = np.linalg.inv(np.array(layout.CAMERA_TO_VELODYNE))[None]
        pinholes = pinhole(layout.INTRINSICS)[None]
        return Calibration(pinholes, velodyne_to_camera, velodyne_to_camera, np.eye(4), layout.IMAGE_SIZE)

    def _meta(self, index: int, frame: layout.Frame) -> dict[str, Any]:
        return {
            "token": f"{frame.drive}/{frame.name}",
            "scene": frame.scene,
            "drive": frame.drive,
            "frame_idx": int(frame.name),
            "index": index,
            "image_paths": [str(path) for path in self._image_paths(frame)],
        }
