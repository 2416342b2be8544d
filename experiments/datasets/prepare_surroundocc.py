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
    lidar, *cameras = (frame.sensor(name, pickle) for name in (layout.LIDAR, *CAMERAS))
    images = [
        {"data_path": _path(one), "cam_intrinsic": one["calib"]["camera_intrinsic"], **_poses(one, "sensor2ego")}
        for one in cameras
    ]
    cams = dict(zip(CAMERAS, images, strict=True))
    return {"token": frame.token, "lidar_path": _path(lidar), **_poses(lidar, "lidar2ego"), "cams": cams}


def _path(sensor: dict[str, Any]) -> str:
    return f"./data/nuscenes/{sensor['filename']}"


def _poses(sensor: dict[str, Any], mounting: str) -> dict[str, Any]:
    named = {mounting: sensor["calib"], "ego2global": sensor["pose"]}
    return {f"{name}_{part}": pose[part] for name, pose in named.items() for part in ("translation", "rotation")}
