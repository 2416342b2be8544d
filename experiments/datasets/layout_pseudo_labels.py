"""GaussianFlowOcc's pseudo labels of nuScenes' images: names, paths and formats. No torch.

    grounded_sam_nusc/<scene>/<token>.npy  int8 [6, h, w] classes 1..16 of Occ3D; 0 and -1: sky, or nothing was found
    metric_3d_nusc/<scene>/<token>.npy     float16 [6, h, w] metres along the camera's axis, 0: unknown

of the training split's key frames, both at the size of the images (h 900, w 1600), each in an order of cameras of its own
(``SEMANTIC_CAMERAS``, ``DEPTH_CAMERAS``); <scene> and <token> are the key frame's names of Occ3D's labels. (boschresearch/
GaussianFlowOcc groundedsam/generate_grounded_sam.py, tools/generate_m3d_nusc.py, mmdet3d/datasets/pipelines/loading.py:382-475)

A file may also be a compact <token>.npz with the same values, exactly:

    cameras  text [6], the order of the others' first axis
    source   text, what made it
    classes  uint8 [6, h, w], as above without -1; of a file of classes
    planes   uint8 [2, 6, h, w], the high and the low bytes of the differences, modulo 2**16, of a row's neighbours (the first
             pixel's to 0) in the bits of the float16 of above; of a file of depth
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.dataset import PartFiles
from experiments.datasets.layout import either
from experiments.datasets.unpickle import DataError
from renderers.arrays import ArrayFileError, read_npy, read_npz

SEMANTIC, DEPTH = "grounded_sam_nusc", "metric_3d_nusc"
FOLDERS = (SEMANTIC, DEPTH)
EXACT = "pseudo_exact"
"""Folder below the root of a generated world in which the same folders hold the same without the errors of models."""

SEMANTIC_CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT", "CAM_FRONT_RIGHT")
"""generate_grounded_sam.py:299; upstream's loader brings them into the order of its configuration."""
DEPTH_CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
"""generate_m3d_nusc.py:26; upstream's loader takes them as they are, which is right for this one order alone."""
STORED = {SEMANTIC: SEMANTIC_CAMERAS, DEPTH: DEPTH_CAMERAS}

PREPARATIONS = {"pseudo-semantics": SEMANTIC, "pseudo-depth": DEPTH}
TOY, TOY_VERSION = "pseudo-toy", 1
"""Preparation of the generated world's; raise the version with every change to what it writes."""
GET = (
    "python -m experiments.data prepare pseudo-semantics, and pseudo-depth, make them with Grounded SAM and a model of metric "
    "depth, as GaussianFlowOcc's groundedsam/ and tools/generate_m3d_nusc.py do; what those wrote is read too"
)
TAKERS = (
    "Pseudo labels of images are only read by models that learn from them, as GaussianFlowOcc does; the other rows run without."
)
FARTHEST = 40.0
"""Metres beyond which pixels teach nothing: neither depth nor class (loading.py:400-475)."""
LAST_CLASS = 16


def path_of(data_root: str | Path, label: Path, folder: str) -> Path:
    """Where a key frame's pseudo labels lie: the compact file if it is there alone, else the published one.

    label   the key frame's own, gts/<scene>/<token>/labels.npz
    folder  ``SEMANTIC`` or ``DEPTH``
    """
    published = Path(data_root, folder, label.parent.parent.name, f"{label.parent.name}.npy")
    return either(published, published.with_suffix(".npz"))


def read_classes(path: Path, cameras: Sequence[str], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Classes [V, h, w] of the cameras, by name, 0 where unknown, of images of ``size`` (width, height).

    Raises DataError naming the file if it is missing or damaged, of another size, or holds what is no class.
    """
    stored, order = _read(path, SEMANTIC, "iu", size)
    lowest, highest = int(stored.min()), int(stored.max())
    if lowest < -1 or highest > LAST_CLASS:
        wrong = lowest if lowest < -1 else highest
        raise DataError(f"pseudo label {path} holds class {wrong}, known: 1..{LAST_CLASS}, and 0 or -1 for unknown: {_again()}")
    return np.maximum(stored, 0).astype(np.uint8)[_places(path, order, cameras)]


def read_metres(path: Path, cameras: Sequence[str], size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth [V, h, w] in metres of the cameras, by name, 0 where unknown; like ``read_classes``."""
    stored, order = _read(path, DEPTH, "f", size)
    if not np.isfinite(stored).all():
        raise DataError(f"pseudo label {path} has NaN or infinite values: {_again()}")
    if stored.min() < 0:
        raise DataError(f"pseudo label {path} has a depth of {stored.min():g} m; 0 is what is unknown: {_again()}")
    return stored[_places(path, order, cameras)].astype(np.float32)


def _read(path: Path, folder: str, kinds: str, size: tuple[int, int]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The array of a file, and the order of its cameras."""
    if not path.is_file():
        raise DataError(f"pseudo label {path} is missing: {GET}")
    try:
        stored, order = _unpacked(path, folder) if path.suffix == ".npz" else (read_npy(path), STORED[folder])
    except (OSError, ArrayFileError) as error:
        raise DataError(f"pseudo label {path} cannot be read ({error}): {_again()}") from error
    width, height = size
    if stored.dtype.kind not in kinds or stored.ndim != 3:
        what = "whole numbers" if kinds == "iu" else "floating point numbers"
        raise DataError(f"pseudo label {path} is {stored.dtype} {list(stored.shape)}, expected {what} [6, {height}, {width}]")
    if len(stored) != len(order):
        raise DataError(f"pseudo label {path} is of {len(stored)} cameras, expected {len(order)}: {', '.join(order)}: {_again()}")
    if stored.shape[1:] != (height, width):
        raise DataError(
            f"pseudo label {path} is {stored.shape[2]}x{stored.shape[1]}, its images are {width}x{height}: labels of the images' "
            f"own size are needed; {_again()}"
        )
    return stored, order


def _places(path: Path, order: tuple[str, ...], cameras: Sequence[str]) -> list[int]:
    if lacking := [name for name in cameras if name not in order]:
        raise DataError(f"pseudo label {path} lacks {', '.join(lacking)}, it is of {', '.join(order)}: {_again()}")
    return [order.index(name) for name in cameras]


def _again() -> str:
    return f"delete the file; {GET}"


def _unpacked(path: Path, folder: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The array of a compact file, as the published one has it, and the order of its cameras."""
    arrays = read_npz(path)
    key = "classes" if folder == SEMANTIC else "planes"
    if lacking := [name for name in ("cameras", key) if name not in arrays]:
        raise ArrayFileError(f"it has no array {lacking[0]}")
    names = arrays["cameras"]
    if names.dtype.kind != "U" or names.ndim != 1 or len(set(names.tolist())) != len(names):
        raise ArrayFileError("its cameras are no list of different names")
    stored = arrays[key]
    if folder == DEPTH:
        if stored.dtype != np.uint8 or stored.ndim != 4 or len(stored) != 2:
            raise ArrayFileError(f"its planes are {stored.dtype} {list(stored.shape)[:8]}, expected uint8 [2, 6, h, w]")
        differences = (stored[0].astype(np.uint16) << 8) | stored[1]
        stored = np.cumsum(differences, axis=-1, dtype=np.uint16).view(np.float16)
    return stored, tuple(names.tolist())


def source_of(path: Path) -> str:
    """What made a compact file, as it says; "" for one that says nothing, or is not there."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("source.npy") as file:
            return str(np.lib.format.read_array(file, allow_pickle=False))
    except (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return ""


def write(path: Path, array: NDArray[Any], compact: bool, source: str) -> None:
    """Write classes or depth [6, h, w], in the published order of cameras, of the folder that ``path`` (published or compact)
    lies in; it is there complete, or not at all, and in one form alone."""
    folder = path.parent.parent.name
    published = path.with_suffix(".npy")
    target = path.with_suffix(".npz") if compact else published
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    array = array.astype(np.int8 if folder == SEMANTIC else np.float16)
    try:
        with temporary.open("wb") as file:
            if compact:
                packed = {"classes": np.maximum(array, 0).astype(np.uint8)} if folder == SEMANTIC else {"planes": _planes(array)}
                np.savez_compressed(file, cameras=np.array(STORED[folder]), source=np.array(source), **packed)
            else:
                np.save(file, array)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    target.with_suffix(".npy" if compact else ".npz").unlink(missing_ok=True)


def _planes(depth: NDArray[np.float16]) -> NDArray[np.uint8]:
    bits = np.ascontiguousarray(depth).view(np.uint16)
    differences = np.diff(bits, axis=-1, prepend=np.uint16(0))
    return np.stack([differences >> 8, differences & 0xFF]).astype(np.uint8)


def part_files() -> dict[str, PartFiles]:
    """The files of ``views`` of a data set of nuScenes' images with Occ3D's labels."""

    def files(root: Path, split: str, frames: list[list[Path]]) -> list[list[Path]]:
        own = FOLDERS if split == "train" else ()
        return [[path_of(root, label, folder) for folder in own] for label, *_ in frames]

    return {"views": PartFiles(files, GET, TAKERS, made=TOY)}
