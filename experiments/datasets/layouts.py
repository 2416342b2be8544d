"""All official layouts by data set: what lies below a data root, and a fingerprint of it. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets import layout, layout_kitti360, layout_surroundocc
from experiments.datasets.unpickle import DataError


@dataclass(frozen=True)
class Layout:
    """One data set's layout.

    title        name for people
    classes      names of its classes, without the empty one
    splits       names of its splits
    evaluated    the split on which numbers are published
    index        (data root, split) -> the file that lists the split's frames, or a folder whose file names do
    listing      (data root, split) -> the bytes that list the split's frames
    frame_files  (data root, split) -> for each frame, label first, the files it consists of
    releases     release -> split -> number of its frames; a split is complete with that of any, the first is today's download
    image_size   (width, height) in pixels of every image as published
    folders      below the data root: that of the labels, that of the images
    sources      what brings the index, the labels, the images
    index_name   of the index, for people
    depth_files  (data root, split) -> for each frame the file with its depth, where some models take one
    get_depth    what brings the depth
    raw_files    (data root, split) -> for each frame the files that its label was made of, where they are published
    """

    title: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    evaluated: str
    index: Callable[[Path, str], Path]
    listing: Callable[[Path, str], bytes]
    frame_files: Callable[[Path, str], Iterator[list[Path]]]
    releases: Mapping[str, Mapping[str, int]]
    image_size: tuple[int, int]
    folders: tuple[str, str]
    sources: tuple[str, str, str]
    index_name: str = "info pickle"
    depth_files: Callable[[Path, str], list[Path]] | None = None
    get_depth: str = ""
    raw_files: Callable[[Path, str], list[list[Path]]] | None = None


LAYOUTS: dict[str, Layout] = {
    "occ3d": Layout(
        title="Occ3D-nuScenes",
        classes=tuple(name for name in layout.OCC3D_CLASSES if name != "free"),
        splits=layout.SPLITS,
        evaluated="val",
        index=layout.info_path,
        listing=lambda root, split: layout.info_path(root, split).read_bytes(),
        frame_files=layout.frame_files,
        releases=layout.NUSCENES_RELEASES,
        image_size=layout.NUSCENES_IMAGE_SIZE,
        folders=("gts", "nuscenes/samples"),
        sources=(layout.PUBLISHED, layout.GET_LABELS, layout.GET_IMAGES),
    ),
    "surroundocc": Layout(
        title="SurroundOcc-nuScenes",
        classes=layout_surroundocc.SURROUNDOCC_CLASSES[1:],
        splits=layout.SPLITS,
        evaluated="val",
        index=layout_surroundocc.info_path,
        listing=lambda root, split: layout_surroundocc.info_path(root, split).read_bytes(),
        frame_files=layout_surroundocc.frame_files,
        releases=layout.NUSCENES_RELEASES,
        image_size=layout.NUSCENES_IMAGE_SIZE,
        folders=("surroundocc/samples", "nuscenes/samples"),
        sources=(layout_surroundocc.PUBLISHED, layout_surroundocc.GET_LABELS, layout.GET_IMAGES),
    ),
    "kitti360": Layout(
        title="SSCBench-KITTI-360",
        classes=layout_kitti360.CLASSES[1:],
        splits=layout_kitti360.SPLITS,
        evaluated=layout_kitti360.EVALUATED,
        index=layout_kitti360.index_path,
        listing=layout_kitti360.listing,
        frame_files=layout_kitti360.frame_files,
        releases=layout_kitti360.RELEASES,
        image_size=layout_kitti360.IMAGE_SIZE,
        folders=("preprocess/labels", "data_2d_raw"),
        sources=(layout_kitti360.PUBLISHED, layout_kitti360.PREPARE, layout_kitti360.GET_IMAGES),
        index_name="voxel files",
        depth_files=layout_kitti360.depth_files,
        get_depth=layout_kitti360.GET_DEPTH,
        raw_files=layout_kitti360.raw_files,
    ),
}


def layout_of(dataset: str) -> Layout:
    """The layout called ``dataset``; raises DataError for a name that is not in ``LAYOUTS``."""
    if dataset not in LAYOUTS:
        raise DataError(f"unknown data set '{dataset}' (known: {', '.join(LAYOUTS)})")
    return LAYOUTS[dataset]


@dataclass(frozen=True)
class FoundSplit:
    """What lies on disk of one split: ``frames`` listed, ``usable`` of them with label and all images."""

    dataset: str
    split: str
    frames: int
    usable: int
    problem: str = ""


def describe(data_root: str | Path) -> list[FoundSplit]:
    """The splits found below a data root with their frame counts; empty if there are none. Damage is described."""
    root = Path(data_root)
    if not root.is_dir():
        return []
    found = []
    for known in LAYOUTS.values():
        for split in known.splits:
            try:
                if not known.index(root, split).exists():
                    continue
                complete = [all(file.is_file() for file in files) for files in known.frame_files(root, split)]
            except DataError as error:
                found.append(FoundSplit(known.title, split, 0, 0, str(error)))
                continue
            missing = len(complete) - sum(complete)
            problem = f"{missing} frame(s) without label or images" if missing else ""
            found.append(FoundSplit(known.title, split, len(complete), sum(complete), problem))
    return found


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split as they lie on disk.

    fingerprint  of all of them, see ``data_fingerprint``
    read         the same of the frames that are read alone
    frames       for each frame that is read, label first: file -> its size, -1 if it is missing
    depths       of the same frames: file with the depth -> its size; no fingerprint covers it
    """

    fingerprint: str
    read: str
    frames: list[dict[Path, int]]
    depths: dict[Path, int]


def look(dataset: str, data_root: str | Path, split: str, mini: bool = False, depth: bool = False) -> SplitFiles:
    """Look at a split's files, once each. Raises DataError like ``data_fingerprint``.

    mini   only upstream's ``mini_indices`` are read
    depth  the frames' depth is read too
    """
    known, root = layout_of(dataset), Path(data_root)
    names = list(known.frame_files(root, split))  # reads the index with all its checks
    listing = known.listing(root, split)
    frames = [{file: _size(file) for file in files} for files in names]
    chosen = layout.mini_indices(len(frames)) if mini else range(len(frames))
    read = [frames[index] for index in chosen]
    listed = known.depth_files(root, split) if depth and known.depth_files is not None else []
    depths = {listed[index]: _size(listed[index]) for index in chosen} if listed else {}
    return SplitFiles(_fingerprint(listing, frames), _fingerprint(listing, read), read, depths)


def data_fingerprint(dataset: str, data_root: str | Path, split: str) -> str:
    """sha256 (hex) over the bytes that list the frames and the sizes of the images and labels that they name.

    It does not depend on where the data root lies. Reading sizes instead of contents keeps it to seconds on the
    full data set; a file that is missing counts as size -1. Raises DataError if the data set is not there, and
    for a name that is not in ``LAYOUTS``.
    """
    return look(dataset, data_root, split).fingerprint


def _fingerprint(listing: bytes, frames: Sequence[Mapping[Path, int]]) -> str:
    digest = hashlib.sha256(listing)
    for size in (size for files in frames for size in files.values()):
        digest.update(b"%d," % size)
    return digest.hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
