"""Camera frames right before and after nuScenes' key frames, at the cameras' own 12 Hz: names, format, places. No torch.

    nuscenes/camera_frames_{train,val}.npz   which those are, made of nuScenes' tables
        tokens  text [N], the key frames
        files   bytes [N, 6, 2] below nuscenes/, one and the next but one of a key frame's camera (``CAMERAS``); empty where the
                scene has none
        poses   float64 [N, 6, 2, 7] the vehicle when they were taken -> global frame: quaternion (w, x, y, z), translation in
                metres; a quaternion of 0 where there is none
    nuscenes/sweeps/CAM_*/*.jpg              the images; every sixth is a key frame, in nuscenes/samples

The info pickles of Occ3D list key frames alone, and do not say which images come before and after. GaussianOcc asks nuScenes'
tables at each start (GANWANSHUI/GaussianOcc datasets/nusc_dataset.py: prev and next of sample_data). It takes the key frame's own
image where there is none; here such a one is not valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from camera_occupancy_bench.files import replacing
from experiments.datasets.dataset import PartFiles
from experiments.datasets.layout import CAMERAS, field, found, info_path, read_infos
from experiments.datasets.unpickle import DataError
from renderers.arrays import ArrayFileError, read_npz

OFFSETS = (-1, 1)
"""Camera frames from a key frame to what is listed of it, the last axis but one of ``poses``."""
PREPARATION, TOY, TOY_VERSION = "gaussianocc", "gaussianocc-toy", 1
"""What makes the list of real data, and the list and images of generated data; raise the version with every change to that."""
GET_LIST = (
    f"python -m experiments.data prepare {PREPARATION} makes it from nuScenes' tables in nuscenes/v1.0-trainval (nuscenes.org, "
    "Download, Metadata)"
)
GET_IMAGES = (
    "unpack the camera sweeps of nuScenes' trainval set (nuscenes.org/nuscenes, Download, under its terms) below the data root, "
    "so that nuscenes/sweeps/CAM_* hold the .jpg files"
)
TAKERS = (
    "Camera frames beside key frames are only read by models that learn from how images change, as GaussianOcc does; the other "
    "rows run without them."
)


@dataclass(frozen=True)
class CameraFrames:
    """What is listed of a key frame.

    files  [6][2] images below nuscenes/, "" where there is none
    poses  [6, 2, 7] as in the file
    """

    files: tuple[tuple[str, ...], ...]
    poses: NDArray[np.float64]


def list_path(data_root: str | Path, split: str) -> Path:
    return Path(data_root, "nuscenes", f"camera_frames_{split}.npz")


def read_list(data_root: str | Path, split: str) -> dict[str, CameraFrames]:
    """By token of the key frame; raises DataError naming the file if it is missing or damaged, or names a file elsewhere."""
    path = list_path(data_root, split)
    if not path.is_file():
        raise DataError(f"list of camera frames {path} is missing: {GET_LIST}")
    again = f"delete the file; {GET_LIST}"
    try:
        arrays = read_npz(path)
        tokens, files, poses = (arrays[name] for name in ("tokens", "files", "poses"))
    except (OSError, ArrayFileError, KeyError) as error:
        what = f"no array {error}" if isinstance(error, KeyError) else error
        raise DataError(f"list of camera frames {path} cannot be read ({what}): {again}") from error
    count, views = len(tokens) if tokens.ndim == 1 else -1, len(CAMERAS)
    if tokens.dtype.kind != "U" or files.dtype.kind != "S" or poses.dtype.kind != "f":
        raise DataError(f"list of camera frames {path} holds {tokens.dtype}, {files.dtype} and {poses.dtype}: {again}")
    if files.shape != (count, views, 2) or poses.shape != (count, views, 2, 7):
        shapes = [list(array.shape) for array in (tokens, files, poses)]
        raise DataError(f"list of camera frames {path} has arrays {', '.join(map(str, shapes))}: {again}")
    names = files.tolist()
    if not np.isfinite(poses).all() or not all(_is_plain(name) for rows in names for row in rows for name in row):
        raise DataError(f"list of camera frames {path} has poses or names that are none: {again}")
    texts = [tuple(tuple(name.decode() for name in row) for row in rows) for rows in names]
    return dict(zip(tokens.tolist(), map(CameraFrames, texts, poses.astype(np.float64)), strict=True))


def _is_plain(name: bytes) -> bool:
    return name.isascii() and not name.startswith(b"/") and b".." not in name.split(b"/") and b"\0" not in name


def write_list(data_root: Path, split: str, frames: dict[str, CameraFrames]) -> None:
    """Write the list of a split; it is there complete, or not at all."""
    tokens = np.array(list(frames))
    files = np.array([frame.files for frame in frames.values()], dtype=np.bytes_)
    poses = np.stack([frame.poses for frame in frames.values()])
    with replacing(list_path(data_root, split)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, tokens=tokens, files=files, poses=poses)


def image_path(data_root: str | Path, name: str) -> Path:
    """Of a name in the list."""
    return found(data_root, Path(data_root, "nuscenes", name))


def part_files() -> dict[str, PartFiles]:
    """The files of ``neighbours`` of a data set of nuScenes' images with Occ3D's labels."""

    def files(root: Path, split: str, _: list[list[Path]]) -> list[list[Path]]:
        where = info_path(root, split)
        tokens = [str(field(info, "token", where)) for info in read_infos(root, split)]
        path = list_path(root, split)
        if not path.is_file():
            return [[path] for _ in tokens]
        listed = read_list(root, split)
        own = [[name for row in listed[token].files for name in row if name] if token in listed else [] for token in tokens]
        return [[path, *(image_path(root, name) for name in names)] for names in own]

    return {"neighbours": PartFiles(files, f"{GET_LIST}; {GET_IMAGES}", TAKERS, made=TOY)}
