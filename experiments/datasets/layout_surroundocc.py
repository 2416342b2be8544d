"""The official SurroundOcc-nuScenes layout below a data root, as GaussRender reads it: names and paths. No torch.

nuscenes_infos_{train,val}_sweeps_occ.pkl    GaussianFormer's info pickles: calibration and poses by sensor
surroundocc/samples/<lidar file>.npy         SurroundOcc's labels, one a key frame
nuscenes/samples/CAM_*/*.jpg                 nuScenes' images
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from experiments.datasets.layout import CAMERAS, OCC3D_CLASSES, SPLITS, checked_root, found, moment
from experiments.datasets.moments import Moment
from experiments.datasets.unpickle import DataError, load_infos

PUBLISHED = "GaussianFormer publishes it (github.com/huang-yh/GaussianFormer, its README links the pickles)"
GET_LABELS = (
    "unpack SurroundOcc's labels (github.com/weiyithu/SurroundOcc, docs/data.md) below the data root, so that "
    "surroundocc/samples holds the .npy files"
)

LIDAR = "LIDAR_TOP"

# Ids 1 to 16 are those of Occ3D. In the files, class 0 marks noise: points of no class that counts.
SURROUNDOCC_CLASSES = ("empty", *OCC3D_CLASSES[1:17])
NOISE = 0


@dataclass(frozen=True)
class KeyFrame:
    """A key frame: scene token, position in its scene, and its entry in the pickle."""

    scene: str
    index: int
    info: dict[str, Any]

    @property
    def token(self) -> str:
        """Its own where the pickle names one, else scene and position."""
        return str(self.info.get("token", f"{self.scene}__{self.index}"))

    def sensor(self, name: str, where: Path) -> dict[str, Any]:
        """The sensor's entry (filename, calib, pose); raises DataError naming pickle and frame if it is not there."""
        sensors = self.info.get("data")
        entry = sensors.get(name) if isinstance(sensors, dict) else None
        if not isinstance(entry, dict) or "filename" not in entry:
            raise DataError(f"{where} has no file of {name} in frame {self.scene} {self.index}")
        return entry


def info_path(data_root: str | Path, split: str) -> Path:
    """The info pickle of a split; raises DataError if the data root or the split does not exist."""
    return checked_root(data_root, split, SPLITS) / f"nuscenes_infos_{split}_sweeps_occ.pkl"


def read_frames(data_root: str | Path, split: str) -> list[KeyFrame]:
    """The key frames of a split by scene token, then position (valeoai/GaussRender dataset/surr_nuscenes.py:24-50).

    Raises DataError if there are none or the pickle is not laid out like GaussianFormer's.
    """
    path = info_path(data_root, split)
    content = load_infos(path, PUBLISHED)
    scenes = content.get("infos") if isinstance(content, dict) else None
    listed = content.get("metadata") if isinstance(content, dict) else None
    if not isinstance(scenes, dict) or not isinstance(listed, (list, tuple)):
        raise DataError(f"{path} has no 'infos' by scene with a list 'metadata': it is not a GaussianFormer-style info pickle")
    try:
        order = sorted((str(scene), int(index)) for scene, index in listed)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: 'metadata' is no list of (scene token, index): {error}") from error
    frames = []
    for scene, index in order:
        infos = scenes.get(scene)
        if not isinstance(infos, (list, tuple)) or not 0 <= index < len(infos) or not isinstance(infos[index], dict):
            raise DataError(f"{path} lists frame {index} of scene {scene} but does not hold it")
        frames.append(KeyFrame(scene, index, infos[index]))
    if not frames:
        raise DataError(f"{path} lists no frames")
    return frames


def image_path(data_root: str | Path, frame: KeyFrame, camera: str, where: Path) -> Path:
    """nuscenes/<file name as stored>, e.g. nuscenes/samples/CAM_FRONT/....jpg."""
    return found(data_root, Path(data_root, "nuscenes", str(frame.sensor(camera, where)["filename"])))


def lidar_path(data_root: str | Path, frame: KeyFrame, where: Path) -> Path:
    return found(data_root, Path(data_root, "nuscenes", str(frame.sensor(LIDAR, where)["filename"])))


def label_path(data_root: str | Path, frame: KeyFrame, where: Path) -> Path:
    """surroundocc/samples/<lidar file name>.npy."""
    name = PurePosixPath(str(frame.sensor(LIDAR, where)["filename"])).name
    return Path(data_root, "surroundocc", "samples", f"{name}.npy")


def moment_of(frame: KeyFrame, where: Path) -> Moment:
    """When a key frame was taken; raises DataError naming pickle and frame if it does not say."""
    return moment(frame.scene, frame.info.get("timestamp"), where, f"frame {frame.index} of scene {frame.scene}")


def moments(data_root: str | Path, split: str) -> list[Moment]:
    """When each frame of a split was taken."""
    where = info_path(data_root, split)
    return [moment_of(frame, where) for frame in read_frames(data_root, split)]


def frame_files(data_root: str | Path, split: str) -> Iterator[list[Path]]:
    """What each frame of a split consists of: its label and its six images."""
    where = info_path(data_root, split)
    for frame in read_frames(data_root, split):
        yield [label_path(data_root, frame, where), *(image_path(data_root, frame, name, where) for name in CAMERAS)]
