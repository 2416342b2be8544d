"""Reads the yard's frames."""

from pathlib import Path
from typing import Any

import numpy as np

from baselines.interface import OccupancyGrid
from camera_occupancy_extra.yard import DATASET, frames
from experiments.datasets.frames import Calibration, Labels, OccupancyFrames


class YardFrames(OccupancyFrames[Path]):
    camera_names = ("front",)

    def _official_grid(self) -> OccupancyGrid:
        return DATASET.grid()

    def _list(self) -> list[Path]:
        return frames(self.data_root, self.split)

    def _image_paths(self, frame: Path) -> list[Path]:
        return [frame.with_suffix(".png")]

    def _read_labels(self, frame: Path) -> Labels:
        labels = np.load(frame)
        return labels, np.ones(labels.shape, bool)

    def _calibration(self, frame: Path) -> Calibration:
        pinholes = np.array([[[24.0, 0, 24], [0, 24, 16], [0, 0, 1]]])
        to_camera = np.array([[[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 1], [0, 0, 0, 1]]])
        return Calibration(pinholes, to_camera, to_camera, np.eye(4))

    def _meta(self, index: int, frame: Path) -> dict[str, Any]:
        return {"token": frame.stem, "scene": "yard", "index": index, "image_paths": [str(frame.with_suffix(".png"))]}
