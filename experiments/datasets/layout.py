"""The official Occ3D-nuScenes layout below a data root: names and paths. No torch."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from experiments.datasets.moments import Moment
from experiments.datasets.unpickle import DataError, load_infos

SPLITS = ("train", "val")
OUTSIDE = "OCC_OUTSIDE_DATA_ROOT"
"""The environment variable that, being 1, allows info files to name files outside of the data root."""
MINI_SHARE = 0.2
MINI_SEED = 2025
PUBLISHED = "RenderOcc publishes it (github.com/pmj110119/RenderOcc, docs/prepare_datasets.md)"
GET_LABELS = "unpack Occ3D's gts.tar.gz (github.com/Tsinghua-MARS-Lab/Occ3D) in the data root"

# nuScenes' own part, the same for every data set that labels it. Only key frames of the six cameras are read: no sweeps.
NUSCENES_RELEASES = {"nuScenes' trainval set": {"train": 28130, "val": 6019}}
NUSCENES_IMAGE_SIZE = (1600, 900)
GET_IMAGES = (
    "unpack the camera key frames of nuScenes' trainval set (nuscenes.org/nuscenes, Download, under its terms) below the data "
    "root, so that nuscenes/samples/CAM_* hold the .jpg files"
)

# Weights of the cross entropy of the nuScenes classes 0 (others) to 16 (vegetation), and of empty space (valeoai/GaussRender
# src/loss/utils.py).
NUSCENES_WEIGHTS = (
    1.01552756, 1.06897009, 1.30013094, 1.07253735, 0.94637502, 1.10087012, 1.26960524, 1.06258364, 1.189019,
    1.06217292, 1.00595144, 0.85706115, 1.03923299, 0.90867526, 0.8936431, 0.85486129, 0.8527829,
)  # fmt: skip
EMPTY_WEIGHT = 0.5

# With which the cameras below are drawn for rendering (gaussian_render.py:300-312; published as 1/3 and 1/6, which do not sum
# to one).
NUSCENES_DRAW = (0.25, 0.125, 0.125, 0.25, 0.125, 0.125)

# Classes whose things move by themselves (boschresearch/GaussianFlowOcc mmdet3d/models/detectors/gaussianflowocc.py).
NUSCENES_MOVING = ("bicycle", "bus", "car", "construction_vehicle", "motorcycle", "pedestrian", "trailer", "truck")

# The order in which GaussRender stacks the cameras (dataset/nuscenes.py:33-40).
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")

OCC3D_CLASSES = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)


def mini_indices(count: int) -> list[int]:
    """The 20 % of ``count`` frames that upstream's ``is_mini`` takes, in its order (at least one).

    Drawn as GaussRender dataset/nuscenes.py:42-70 draws them; for 28,130 and 6,019 frames the result equals the
    lists that it ships (dataset/indices/*.json). A private generator leaves the global one alone.
    """
    return random.Random(MINI_SEED).sample(range(count), max(1, int(count * MINI_SHARE)))


def info_path(data_root: str | Path, split: str) -> Path:
    """The BEVDet-style info pickle of a split; raises DataError if the data root or the split does not exist."""
    return checked_root(data_root, split, SPLITS) / f"bevdetv2-nuscenes_infos_{split}.pkl"


def checked_root(data_root: str | Path, split: str, splits: tuple[str, ...]) -> Path:
    """The data root; raises DataError if it is no folder or ``split`` is none of ``splits``."""
    root = Path(data_root)
    if split not in splits:
        raise DataError(f"unknown split '{split}' (known: {', '.join(splits)})")
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder: name the folder that holds the data set with --data-root")
    return root


def read_infos(data_root: str | Path, split: str) -> list[dict[str, Any]]:
    """The infos of a split in the order of the pickle; raises DataError if there are none."""
    path = info_path(data_root, split)
    content = load_infos(path, PUBLISHED)
    infos = content.get("infos") if isinstance(content, dict) else None
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise DataError(f"{path} has no list 'infos': it is not a BEVDet-style info pickle")
    if not infos:
        raise DataError(f"{path} lists no frames")
    return infos


def field(info: dict[str, Any], key: str, where: Path) -> Any:
    """``info[key]``; raises DataError naming the pickle and the frame if the key is not there."""
    if not isinstance(info, dict):
        raise DataError(f"{where} has a {type(info).__name__} where '{key}' should stand")
    if key not in info:
        raise DataError(f"{where} has no '{key}' in the entry of {info.get('token', info.get('data_path', 'a frame'))}")
    return info[key]


def resolve(data_root: str | Path, stored: str) -> Path:
    """A path as the pickles store it ("./data/...", relative to the repository) below the data root."""
    if not isinstance(stored, str):
        raise DataError(f"the info pickle below {data_root} names a file by a {type(stored).__name__}, not by a path")
    path = PurePosixPath(stored)
    if path.is_absolute():
        return found(data_root, Path(stored))
    parts = path.parts[1:] if path.parts and path.parts[0] == "data" else path.parts
    return found(data_root, Path(data_root, *parts))


def either(path: Path, other: Path) -> Path:
    """``path``, or the ``other`` file where that alone is there."""
    return other if other.is_file() and not path.is_file() else path


def found(data_root: str | Path, path: Path) -> Path:
    """A file of nuScenes that a pickle names: ``path`` if it is there, else the one below the data root with the same end.

    Pickles made elsewhere name files by the paths of that machine; from samples/ or sweeps/ on they are nuScenes' own. Raises
    DataError for a file that is there, but not below the data root, unless the environment variable ``OUTSIDE`` allows it.
    """
    inside = is_below(path, data_root)
    for folder in ("samples", "sweeps"):
        if folder in path.parts:
            start = len(path.parts) - 1 - path.parts[::-1].index(folder)
            own = Path(data_root, "nuscenes", *path.parts[start:])
            if own != path and own.is_file() and is_below(own, data_root) and not (path.is_file() and (inside or _allowed())):
                return own
    if not inside and not _allowed() and path.exists():
        raise DataError(
            f"an info file names {path}, which is outside of the data root {data_root}: put or link it there, or allow such "
            f"paths with the environment variable {OUTSIDE}=1, if you trust the file"
        )
    return path


def is_below(file: Path, folder: str | Path) -> bool:
    """By name; links are not followed, as a data set may consist of them."""
    return Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder))


def _allowed() -> bool:
    return os.environ.get(OUTSIDE) == "1"


def label_path(data_root: str | Path, info: dict[str, Any], where: Path) -> Path:
    """gts/<scene>/<token>/labels.npz: the last two components of ``occ_path`` (GaussRender pipeline.py:448-463)."""
    parts = PurePosixPath(str(field(info, "occ_path", where))).parts[-2:]
    if len(parts) != 2 or ".." in parts:
        raise DataError(f"{where}: 'occ_path' of {info.get('token', 'a frame')} does not end in <scene>/<token>")
    scene, token = parts
    return Path(data_root) / "gts" / scene / token / "labels.npz"


def moment(scene: Any, microseconds: Any, where: Path, frame: str) -> Moment:
    """When a key frame was taken; raises DataError naming the pickle and the frame for what is no time stamp."""
    if isinstance(microseconds, bool) or not isinstance(microseconds, int):
        raise DataError(f"{where}: 'timestamp' of {frame} must be whole microseconds, got {microseconds!r}")
    return Moment(str(scene), microseconds)


def moment_of(info: dict[str, Any], where: Path) -> Moment:
    """The same of an info."""
    return moment(field(info, "scene_name", where), field(info, "timestamp", where), where, str(info.get("token", "a frame")))


def moments(data_root: str | Path, split: str) -> list[Moment]:
    """When each frame of a split was taken."""
    where = info_path(data_root, split)
    return [moment_of(info, where) for info in read_infos(data_root, split)]


def frame_files(data_root: str | Path, split: str) -> Iterator[list[Path]]:
    """What each frame of a split consists of: its label and its six images."""
    where = info_path(data_root, split)
    for info in read_infos(data_root, split):
        cameras = field(info, "cams", where)
        images = [resolve(data_root, field(field(cameras, name, where), "data_path", where)) for name in CAMERAS]
        yield [label_path(data_root, info, where), *images]
