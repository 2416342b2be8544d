"""The lidar points in nuScenes' images from GaussianFormer's info pickles, as ``prepare_renderocc`` makes them from BEVDet's. No
torch.

Those pickles do not say which lidarseg label belongs to which sweep: depth alone is made, of which there is a loss. Whoever has
BEVDet's pickles below the same data root gets classes by them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.datasets import layout_surroundocc as layout
from experiments.datasets.layout import CAMERAS
from experiments.datasets.prepare_renderocc import Sweep, is_prepared, prepare
from experiments.datasets.unpickle import refusing


def sweeps(data_root: Path, split: str) -> list[Sweep]:
    """The sweeps of a split in the order of its frames; raises DataError if its info pickle is not there, or a frame in it has no
    usable calibration."""
    pickle = layout.info_path(data_root, split)
    found = []
    for frame in layout.read_frames(data_root, split):
        where = f"{pickle}: calibration in frame {frame.index} of scene {frame.scene}"
        with refusing(where, "copy or download the file again"):
            found.append(Sweep(_as_bevdet(frame, pickle), "", pickle))
    return found


def steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], None]]]:
    """A split's sweeps as ``Preparation.steps`` says."""
    return [
        (is_prepared(data_root, sweep, labelled=False), partial(prepare, data_root, sweep, labelled=False))
        for sweep in sweeps(data_root, split)
    ]


def _as_bevdet(frame: layout.KeyFrame, pickle: Path) -> dict[str, Any]:
    """What a key frame says of its sweep and its images, under the names of BEVDet's pickles."""

    def sensor(name: str, mounting: str) -> dict[str, Any]:
        entry = frame.sensor(name, pickle)
        poses = {mounting: entry["calib"], "ego2global": entry["pose"]}
        return {f"{pose}_{part}": of[part] for pose, of in poses.items() for part in ("translation", "rotation")}

    def path(name: str) -> str:
        return f"./data/nuscenes/{frame.sensor(name, pickle)['filename']}"

    cameras = {
        name: {
            **sensor(name, "sensor2ego"),
            "data_path": path(name),
            "cam_intrinsic": frame.sensor(name, pickle)["calib"]["camera_intrinsic"],
        }
        for name in CAMERAS
    }
    token = frame.info.get("token", f"{frame.scene}__{frame.index}")
    return {**sensor(layout.LIDAR, "lidar2ego"), "token": token, "lidar_path": path(layout.LIDAR), "cams": cameras}
