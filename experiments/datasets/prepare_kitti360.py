"""Labels of SSCBench-KITTI-360 from its raw voxels: ``.label`` and ``.invalid`` to one ``_1_1.npy`` a frame. No torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from camera_occupancy_bench.files import replacing
from experiments.datasets import layout_kitti360 as layout
from experiments.datasets.layout_kitti360 import Frame
from experiments.datasets.unpickle import DataError

Voxel = TypeVar("Voxel", np.uint8, np.uint16)


def steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], Path]]]:
    """A split's frames as ``Preparation.steps`` says."""
    return [(is_prepared(data_root, frame), partial(prepare, data_root, frame)) for frame in layout.read_frames(data_root, split)]


def is_prepared(data_root: Path, frame: Frame) -> bool:
    """Whether the frame has a label that is complete by its header; what another tool wrote counts too."""
    try:
        stored = np.load(layout.label_path(data_root, frame), mmap_mode="r", allow_pickle=False)
    except Exception:  # noqa: BLE001 - numpy reads the header as a piece of Python, which fails in many ways
        return False
    return isinstance(stored, np.ndarray) and stored.shape == layout.SHAPE


def prepare(data_root: Path, frame: Frame) -> Path:
    """Write class ids [256, 256, 32] uint8 of a frame and return the file; it is there complete, or not at all.

    Mapping and rule as SSCBench's own pre-processing at full resolution (ai4ce/SSCBench dataset/configs/kitti360.yaml,
    preprocess.py:73-89), which writes the same values as float32. Raises DataError for a raw file that is missing or has
    another size than the grid.
    """
    classes = _classes(data_root, frame)
    target = layout.label_path(data_root, frame)
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.save(file, classes)
    return target


def check_against_raw(data_root: Path, frame: Frame, labels: NDArray[np.uint8]) -> None:
    """Raises DataError if a frame's class ids [256, 256, 32] are not those that its raw voxels give, if it has them."""
    if not all(layout.voxel_path(data_root, frame, kind).is_file() for kind in ("label", "invalid")):
        return
    classes = _classes(data_root, frame)
    wrong = labels != classes
    if wrong.any():
        has, expected = labels[wrong][0], classes[wrong][0]
        raise DataError(
            f"label {layout.label_path(data_root, frame)} is not that of its raw voxels: {int(wrong.sum())} voxels differ, the "
            f"first has class {has} where the raw voxels say {expected}; it was made with another class map or of another "
            "frame; python -m experiments.data prepare kitti360 --again makes the labels anew"
        )


def _classes(data_root: Path, frame: Frame) -> NDArray[np.uint8]:
    raw = _read(layout.voxel_path(data_root, frame, "label"), np.dtype(np.uint16))
    return layout.classes_of_voxels(raw, _read(layout.voxel_path(data_root, frame, "invalid"), np.dtype(np.uint8)))


def _read(path: Path, dtype: np.dtype[Voxel]) -> NDArray[Voxel]:
    """One value a voxel, in the order x, y, z."""
    if not path.is_file():
        raise DataError(f"{path} is missing: {layout.PUBLISHED}")
    expected = int(np.prod(layout.SHAPE)) * dtype.itemsize
    if path.stat().st_size != expected:
        raise DataError(f"{path} has {path.stat().st_size} bytes, expected {expected}: copy or download it again")
    return np.fromfile(path, dtype).reshape(layout.SHAPE)
