"""RenderOcc's files of lidar points in images from nuScenes' lidar and its lidarseg labels; ``layout_lidar_pixels`` says which.
No torch.

Points and classes are those of pmj110119/RenderOcc tools/gen_data: the key frame's sweep, brought through the global frame to
the camera's own moment; in front of the camera, and more than a pixel inside of the image. Points are neither tested for
occlusion nor for lying on the recording car.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camera_occupancy_bench.files import replacing
from experiments.datasets.geometry import lidar_to_global, pinhole, rigid
from experiments.datasets.layout import CAMERAS, field, info_path, read_infos, resolve
from experiments.datasets.layout_lidar_pixels import CLASS_OF_RAW, CLASSES, DEPTH, ROW, path_of
from experiments.datasets.unpickle import DataError, refusing

_GET_LIDAR = "unpack the lidar key frames of nuScenes' trainval set (nuscenes.org/nuscenes, Download) below the data root"
_GET_LIDARSEG = "unpack nuScenes-lidarseg (nuscenes.org/nuscenes, Download) into nuscenes/ of the data root"
_LIDARSEG = Path("nuscenes/lidarseg/v1.0-trainval")
_TABLE = Path("nuscenes/v1.0-trainval/sample_data.json")
_BLOCK = 1 << 24


@dataclass(frozen=True)
class Sweep:
    """The lidar sweep of a key frame, and the images that it is brought into.

    info   the key frame's entry in the pickle
    token  by which nuScenes names the sweep, and lidarseg its labels
    """

    info: dict[str, Any]
    token: str
    pickle: Path


def sweeps(data_root: Path, split: str, labelled: bool = True) -> list[Sweep]:
    """The sweeps of a split in the order of its info pickle; raises DataError if it is not there, or what names the labels of
    ``labelled`` ones: a pickle that does not name a sweep's token as ``lidar_idx`` needs nuScenes' table of files beside it.
    """
    pickle = info_path(data_root, split)
    infos = read_infos(data_root, split)
    if not labelled:
        return [Sweep(info, "", pickle) for info in infos]
    tokens = None if all(info.get("lidar_idx") for info in infos) else _tokens(data_root / _TABLE, pickle)
    found = []
    for info in infos:
        name = Path(str(field(info, "lidar_path", pickle))).name
        token = info.get("lidar_idx") or (tokens or {}).get(name)
        if not token:
            raise DataError(f"{data_root / _TABLE} does not list {name}, which {pickle} names: they are of different releases")
        found.append(Sweep(info, str(token), pickle))
    return found


def _tokens(table: Path, pickle: Path) -> dict[str, str]:
    """Token of every lidar key frame by its file's name; the table has a gigabyte, so it is read in blocks."""
    if not table.is_file():
        raise DataError(
            f"{pickle} does not say which lidarseg label belongs to which sweep, and {table}, which does, is missing: unpack the "
            "metadata of nuScenes' trainval set (nuscenes.org/nuscenes, Download) there"
        )
    found: dict[str, str] = {}
    rest = ""
    with table.open(encoding="utf-8", errors="replace") as file:
        while block := file.read(_BLOCK):
            *entries, rest = (rest + block).split("}")
            for entry in entries:
                name = re.search(r'"filename"\s*:\s*"samples/LIDAR_TOP/([^"]+)"', entry)
                token = re.search(r'"token"\s*:\s*"([^"]+)"', entry)
                if name and token:
                    found[name[1]] = token[1]
    return found


def is_prepared(data_root: Path, sweep: Sweep, labelled: bool = True) -> bool:
    """Whether all images of the key frame have their points, in files that are complete, with classes if ``labelled``; what
    another tool wrote counts too. No key frame is without a point in all of its images."""
    points = 0
    for image in _images(data_root, sweep):
        sizes = [_size(path_of(data_root, image, folder)) for folder in (DEPTH, CLASSES)]
        if sizes[0] < 0 or sizes[0] % ROW or (labelled and sizes[0] != sizes[1]):
            return False
        points += sizes[0]
    return points > 0


def prepare(data_root: Path, sweep: Sweep, labelled: bool = True) -> None:
    """Write both files of the key frame's images, or unless ``labelled`` that of depth alone; each is there complete, or not at
    all.

    Raises DataError for a sweep or label that is missing or damaged, and for an unusable calibration.
    """
    points = sweep_points(data_root, sweep)
    classes = _classes(data_root, sweep, len(points)) if labelled else None
    for image, to_camera, intrinsics in projections(data_root, sweep):
        pixels, chosen = in_image(points, to_camera, intrinsics, image_size(image))
        _write(data_root, image, DEPTH, pixels)
        if classes is not None:
            _write(data_root, image, CLASSES, np.column_stack([pixels[:, :2], classes[chosen]]))


def projections(data_root: Path, sweep: Sweep) -> Iterator[tuple[Path, NDArray[np.float64], NDArray[np.float64]]]:
    """For each camera its image, [4, 4] lidar -> global frame -> camera when it took that, and [3, 3] intrinsics; raises
    DataError for an unusable calibration."""
    for name, image in zip(CAMERAS, _images(data_root, sweep), strict=True):
        camera = sweep.info["cams"][name]
        with refusing(f"{sweep.pickle}: calibration of {name} in {sweep.info.get('token')}", "copy or download the file again"):
            to_global = rigid(camera["ego2global_rotation"], camera["ego2global_translation"]) @ rigid(
                camera["sensor2ego_rotation"], camera["sensor2ego_translation"]
            )
            to_camera = np.linalg.inv(to_global) @ lidar_to_global(sweep.info)
            intrinsics = pinhole(camera["cam_intrinsic"])
        yield image, to_camera, intrinsics


def in_image(
    points: NDArray[np.float64], to_camera: NDArray[np.float64], pinhole: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows (u, v, depth) of the points [n, 3] that lie in an image of ``size`` (width, height), and which ones those are [n]."""
    seen = points @ to_camera[:3, :3].T + to_camera[:3, 3]
    depth = seen[:, 2]
    pixels = seen @ pinhole.T
    u, v = (pixels[:, :2] / np.where(depth > 0, depth, 1.0)[:, None]).T
    chosen = (depth > 0) & (u > 1) & (u < size[0] - 1) & (v > 1) & (v < size[1] - 1)
    return np.column_stack([u, v, depth])[chosen], chosen


def steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], None]]]:
    """A split's sweeps as ``Preparation.steps`` says; without the folder of lidarseg's labels there is depth alone to make."""
    labelled = (data_root / _LIDARSEG).is_dir()
    found = sweeps(data_root, split, labelled)
    return [(is_prepared(data_root, sweep, labelled), partial(prepare, data_root, sweep, labelled)) for sweep in found]


def _images(data_root: Path, sweep: Sweep) -> list[Path]:
    cameras = field(sweep.info, "cams", sweep.pickle)
    return [resolve(data_root, field(field(cameras, name, sweep.pickle), "data_path", sweep.pickle)) for name in CAMERAS]


def sweep_points(data_root: Path, sweep: Sweep) -> NDArray[np.float64]:
    """Points [n, 3] in the lidar's frame."""
    path = resolve(data_root, field(sweep.info, "lidar_path", sweep.pickle))
    if not path.is_file():
        raise DataError(f"{path} is missing: {_GET_LIDAR}")
    if path.stat().st_size % 20:
        raise DataError(f"{path} has {path.stat().st_size} bytes, expected rows of 20: copy or download it again")
    points = np.fromfile(path, "<f4").reshape(-1, 5)[:, :3].astype(np.float64)
    if not np.isfinite(points).all():
        raise DataError(f"{path} has NaN or infinite values: copy or download it again")
    return points


def _classes(data_root: Path, sweep: Sweep, count: int) -> NDArray[np.uint8]:
    """Classes [count] of a sweep's points."""
    label = data_root / _LIDARSEG / f"{sweep.token}_lidarseg.bin"
    if not label.is_file():
        raise DataError(f"{label} is missing: {_GET_LIDARSEG}")
    raw = np.fromfile(label, np.uint8)
    if len(raw) != count:
        raise DataError(f"{label} labels {len(raw)} points, {sweep.info['lidar_path']} has {count}: copy or download both again")
    if len(raw) and raw.max() >= len(CLASS_OF_RAW):
        raise DataError(f"{label} holds class {raw.max()}, known: 0..{len(CLASS_OF_RAW) - 1}: copy or download it again")
    return CLASS_OF_RAW[raw]


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) without trusting that it is the published one."""
    from experiments.datasets.transforms import read_image

    height, width = read_image(path).shape[:2]
    return width, height


def _write(data_root: Path, image: Path, folder: str, rows: NDArray[np.float64]) -> None:
    with replacing(path_of(data_root, image, folder)) as temporary:
        rows.astype("<f4").tofile(temporary)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
