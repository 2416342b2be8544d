"""What GaussianOcc needs of nuScenes beyond what is downloaded: the list of the camera frames beside key frames
(``layout_camera_frames``), and depth maps of the split that is evaluated (``layout_depth_maps``). No torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camera_occupancy_bench.files import replacing
from experiments.datasets.geometry import rigid
from experiments.datasets.layout import CAMERAS, field, info_path, read_infos, resolve
from experiments.datasets.layout_camera_frames import CameraFrames, list_path, read_list, write_list
from experiments.datasets.layout_depth_maps import map_of, path_of
from experiments.datasets.prepare_renderocc import Sweep, image_size, projections, sweep_points, sweeps
from experiments.datasets.unpickle import DataError

_TABLES = Path("nuscenes/v1.0-trainval")
_GET_TABLES = "unpack the metadata of nuScenes' trainval set (nuscenes.org/nuscenes, Download) below the data root"
_BLOCK = 1 << 24
DEPTH_SPLIT = "val"
"""Depth of training frames teaches nothing: it would only take place."""


def steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], None]]]:
    """A split's files as ``Preparation.steps`` says: the list of camera frames, then each key frame's depth maps."""
    listed = [(_is_listed(data_root, split), partial(list_camera_frames, data_root, split))]
    return [*listed, *depth_steps(data_root, split)]


def depth_steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], None]]]:
    """The same of the depth maps alone."""
    if split != DEPTH_SPLIT:
        return []
    found = sweeps(data_root, split, labelled=False)
    return [(_has_depth(data_root, sweep), partial(write_depth, data_root, sweep)) for sweep in found]


def list_camera_frames(data_root: Path, split: str) -> None:
    """Write the list of a split from nuScenes' tables, which together have gigabytes and are read in blocks, one after the other.

    Raises DataError for a table that is missing, or is of another release than the info pickle.
    """
    sample_data, ego_pose = (data_root / _TABLES / f"{name}.json" for name in ("sample_data", "ego_pose"))
    for table in (sample_data, ego_pose):
        if not table.is_file():
            raise DataError(f"{table} is missing: {_GET_TABLES}")
    pickle = info_path(data_root, split)
    own: dict[str, tuple[str, int]] = {}  # of a camera's key frame by its own token: key frame and camera
    infos = read_infos(data_root, split)
    for info in infos:
        cameras = field(info, "cams", pickle)
        for view, name in enumerate(CAMERAS):
            token = field(field(cameras, name, pickle), "sample_data_token", pickle)
            own[str(token)] = (str(field(info, "token", pickle)), view)
    beside: dict[str, list[tuple[str, int, int]]] = {}  # token of an image: what it is listed for
    calibrated: dict[str, str] = {}
    for entry in entries(sample_data, '"samples/CAM_'):
        if (place := own.pop(_text(entry, "token", sample_data), None)) is None:
            continue
        for number, key in enumerate(("prev", "next")):
            if token := _text(entry, key, sample_data):
                beside.setdefault(token, []).append((*place, number))
                calibrated[token] = _text(entry, "calibrated_sensor_token", sample_data)
    if own:
        raise DataError(f"{sample_data} does not list {next(iter(own))}, an image of {pickle}: they are of different releases")
    files = {str(info["token"]): np.full((len(CAMERAS), 2), "", object) for info in infos}
    poses = {token: np.zeros((len(CAMERAS), 2, 7)) for token in files}
    taken: dict[str, list[tuple[str, int, int]]] = {}  # token of a pose: what it is of
    for entry in entries(sample_data, "/CAM_"):
        token = _text(entry, "token", sample_data)
        if not (places := beside.pop(token, [])):
            continue
        if _text(entry, "calibrated_sensor_token", sample_data) != calibrated[token]:
            raise DataError(f"{sample_data}: the camera of {token} is mounted otherwise than in the key frame beside it")
        for sample, view, number in places:
            files[sample][view, number] = _text(entry, "filename", sample_data)
        taken.setdefault(_text(entry, "ego_pose_token", sample_data), []).extend(places)
    if beside:
        raise DataError(f"{sample_data} names {next(iter(beside))}, and does not list it: copy or download it again")
    for entry in entries(ego_pose, ""):
        for sample, view, number in taken.pop(_text(entry, "token", ego_pose), []):
            poses[sample][view, number] = _pose(entry, ego_pose)
    if taken:
        raise DataError(f"{ego_pose} does not list {next(iter(taken))}, the pose of an image in {sample_data}: {_GET_TABLES}")
    write_list(data_root, split, {token: CameraFrames(tuple(map(tuple, files[token])), poses[token]) for token in files})


def entries(table: Path, having: str) -> Iterator[dict[str, Any]]:
    """The entries of one of nuScenes' tables, a list of flat objects, in whose text ``having`` stands; raises DataError for a
    table that is damaged."""
    rest = ""
    with table.open(encoding="utf-8", errors="replace") as file:
        while block := file.read(_BLOCK):
            *texts, rest = (rest + block).split("}")
            for text in texts:
                if having not in text:
                    continue
                try:
                    yield json.loads(text[text.index("{") :] + "}")
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{table} has an entry that is none ({error}): copy or download it again") from None
    if rest.strip() != "]":
        raise DataError(f"{table} is cut off: copy or download it again")


def _text(entry: dict[str, Any], key: str, table: Path) -> str:
    if not isinstance(value := entry.get(key), str):
        raise DataError(f"{table} has no '{key}' in the entry of {entry.get('token', entry.get('filename', '?'))}")
    return value


def _pose(entry: dict[str, Any], table: Path) -> NDArray[np.float64]:
    try:
        rigid(entry["rotation"], entry["translation"])
        return np.array([*entry["rotation"], *entry["translation"]], np.float64)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{table}: the pose {entry.get('token')} is unusable: {error}") from error


def _is_listed(data_root: Path, split: str) -> bool:
    """Whether there is a list of this split's key frames."""
    if not list_path(data_root, split).is_file():
        return False
    try:
        listed = read_list(data_root, split)
    except DataError:
        return False
    pickle = info_path(data_root, split)
    return {str(field(info, "token", pickle)) for info in read_infos(data_root, split)} <= set(listed)


def _has_depth(data_root: Path, sweep: Sweep) -> bool:
    cameras = field(sweep.info, "cams", sweep.pickle)
    images = [resolve(data_root, field(field(cameras, name, sweep.pickle), "data_path", sweep.pickle)) for name in CAMERAS]
    return all(path_of(data_root, image).is_file() for image in images)


def write_depth(data_root: Path, sweep: Sweep) -> None:
    """Write the depth maps of a key frame's images, each complete or not at all; raises DataError for a sweep that is missing or
    damaged, and for an unusable calibration."""
    points = sweep_points(data_root, sweep)
    for image, to_camera, intrinsics in projections(data_root, sweep):
        write_map(path_of(data_root, image), depth_map(points, to_camera, intrinsics, image_size(image)))


def depth_map(
    points: NDArray[np.float64],
    to_camera: NDArray[np.float64],
    intrinsics: NDArray[np.float64],
    size: tuple[int, int],
    cut: bool = False,
) -> NDArray[np.float32]:
    """[h, w] of an image of ``size`` (width, height) from points [n, 3], of which those in front of the camera are seen;
    ``cut`` as in ``map_of``."""
    seen = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    seen = seen[seen[:, 2] > 0]
    pixels = seen @ intrinsics.T
    return map_of(np.column_stack([pixels[:, :2] / seen[:, 2:], seen[:, 2]]), size, cut)


def write_map(path: Path, depth: NDArray[np.float32]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, depth)
