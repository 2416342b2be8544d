"""The official Occ3D-nuScenes layout below a data root: names, paths, what is there. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from experiments.datasets.unpickle import DataError, load_infos

SPLITS = ("train", "val")

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


def info_path(data_root: str | Path, split: str) -> Path:
    """The BEVDet-style info pickle of a split; raises DataError if the data root or the split does not exist."""
    root = Path(data_root)
    if split not in SPLITS:
        raise DataError(f"unknown split '{split}' (known: {', '.join(SPLITS)})")
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder: name the folder that holds the info pickles with --data-root")
    return root / f"bevdetv2-nuscenes_infos_{split}.pkl"


def read_infos(data_root: str | Path, split: str) -> list[dict[str, Any]]:
    """The infos of a split in the order of the pickle; raises DataError if there are none."""
    path = info_path(data_root, split)
    content = load_infos(path)
    infos = content.get("infos") if isinstance(content, dict) else None
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise DataError(f"{path} has no list 'infos': it is not a BEVDet-style info pickle")
    if not infos:
        raise DataError(f"{path} lists no frames")
    return infos


def field(info: dict[str, Any], key: str, where: Path) -> Any:
    """``info[key]``; raises DataError naming the pickle and the frame if the key is not there."""
    if key not in info:
        raise DataError(f"{where} has no '{key}' in the entry of {info.get('token', info.get('data_path', 'a frame'))}")
    return info[key]


def resolve(data_root: str | Path, stored: str) -> Path:
    """A path as the pickles store it ("./data/...", relative to the repository) below the data root."""
    path = PurePosixPath(stored)
    if path.is_absolute():
        return Path(stored)
    parts = path.parts[1:] if path.parts and path.parts[0] == "data" else path.parts
    return Path(data_root, *parts)


def label_path(data_root: str | Path, info: dict[str, Any], where: Path) -> Path:
    """gts/<scene>/<token>/labels.npz: the last two components of ``occ_path`` (GaussRender pipeline.py:448-463)."""
    scene, token = PurePosixPath(str(field(info, "occ_path", where))).parts[-2:]
    return Path(data_root) / "gts" / scene / token / "labels.npz"


def _files(data_root: str | Path, info: dict[str, Any], where: Path) -> Iterator[Path]:
    yield label_path(data_root, info, where)
    cameras = field(info, "cams", where)
    for name in CAMERAS:
        yield resolve(data_root, field(field(cameras, name, where), "data_path", where))


@dataclass(frozen=True)
class FoundSplit:
    """What lies on disk of one split: ``frames`` listed, ``usable`` of them with label and all six images."""

    dataset: str
    split: str
    frames: int
    usable: int
    problem: str = ""


def describe(data_root: str | Path) -> list[FoundSplit]:
    """The splits found below a data root with their frame counts; empty if there are none. Damage is described."""
    found: list[FoundSplit] = []
    if not Path(data_root).is_dir():
        return found
    for split in SPLITS:
        try:
            path = info_path(data_root, split)
            if not path.is_file():
                continue
            infos = read_infos(data_root, split)
            usable = sum(all(file.is_file() for file in _files(data_root, info, path)) for info in infos)
        except DataError as error:
            found.append(FoundSplit("Occ3D-nuScenes", split, 0, 0, str(error)))
            continue
        missing = len(infos) - usable
        problem = f"{missing} frame(s) without label or images" if missing else ""
        found.append(FoundSplit("Occ3D-nuScenes", split, len(infos), usable, problem))
    return found


def data_fingerprint(data_root: str | Path, split: str) -> str:
    """sha256 (hex) over the info pickle's bytes and the sizes of the images and labels that it names.

    It does not depend on where the data root lies. Reading sizes instead of contents keeps it to seconds on the
    full data set; a file that is missing counts as size -1.
    """
    path = info_path(data_root, split)
    infos = read_infos(data_root, split)
    digest = hashlib.sha256(path.read_bytes())
    for info in infos:
        for file in _files(data_root, info, path):
            digest.update(b"%d," % (file.stat().st_size if file.is_file() else -1))
    return digest.hexdigest()
