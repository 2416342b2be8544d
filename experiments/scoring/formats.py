"""Files of predictions as published systems write them: which ones there are in a folder, and the class ids that one holds.

A file says by its content which format it has; by its name, or that of its folder, which frame it is of. Nothing in it is run.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.datasets.unpickle import DataError, load_infos
from experiments.predictions import PredictionFileError, SavedPrediction, load
from renderers.arrays import ArrayFileError, read_npy, read_npz

SUFFIXES = (".npz", ".npy", ".pkl")
DEEPEST = 4  # folders below the named one in which files are looked for

OURS = "npz of experiments.predict"
DENSE = {
    "pred": "npz with 'pred' (SparseOcc, GaussianOcc)",
    "arr_0": "npz with 'arr_0' (GaussianFlowOcc, SparseOcc's --format-only, Occ3D's challenge)",
    "semantics": "npz with 'semantics' (as Occ3D's labels)",
}
"""Name of the array with the class ids -> format."""
ROWS = "npy with rows x, y, z, class (SurroundOcc)"
PICKLES = {"pred": "pkl with 'pred' (Symphonies)", "y_pred": "pkl with 'y_pred' (MonoScene, SSCBench)"}

UNREADABLE, OTHER_FORMAT, OTHER_GRID, OUT_OF_RANGE = "unreadable", "of another format", "of another grid", "with other class ids"


class BadPrediction(ValueError):
    """A file that cannot be scored. kind: in which way; the message says what is in it and does not name it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Content:
    """What a file holds.

    format  one of those above
    labels  [X, Y, Z] uint8 class ids
    ours    all of it, where it is of this project
    """

    format: str
    labels: NDArray[np.uint8]
    ours: SavedPrediction | None = None


def files_in(folder: Path) -> list[Path]:
    """The files of predictions in a folder, in order of their names: those in it, or where there are none, those the least number
    of folders below it. What else systems write besides lies deeper, or has other endings."""
    level = [folder]
    for _ in range(DEEPEST):
        entries = sorted((entry for place in level for entry in os.scandir(place)), key=lambda entry: entry.path)
        found = [Path(entry.path) for entry in entries if _is_prediction(entry)]
        if found:
            return found
        level = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return []


def _is_prediction(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(SUFFIXES) and not entry.name.startswith(".") and not entry.is_dir()


def names_of(path: Path) -> tuple[str, ...]:
    """What a file may be called after, the surest first: <drive>/<frame>.pkl, <token>.npz, <token>/labels.npz, and SurroundOcc's
    <lidar file>./pred.npy."""
    above = path.parent.name
    return f"{above}/{path.stem}", path.stem, above, above.rstrip(".")


def read(path: Path, official: OccupancyGrid) -> Content:
    """The content of a file for a data set with this grid; raises BadPrediction.

    Ours may have the grid with larger voxels, which the caller looks at; all others have the official one.
    """
    try:
        if path.suffix == ".npy":
            return Content(ROWS, _scattered(read_npy(path), official))
        if path.suffix == ".pkl":
            content = load_infos(path)
            return _dense(content if isinstance(content, dict) else {}, PICKLES, official)
        arrays = read_npz(path)
        if {"format", "predicted"} <= arrays.keys():
            ours = load(path)
            return Content(OURS, _class_ids(ours.predicted, ours.grid), ours)
        return _dense(arrays, DENSE, official)
    except BadPrediction:
        raise
    except (OSError, ArrayFileError, DataError, PredictionFileError) as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadPrediction(UNREADABLE, text.removeprefix(f"{path} ")) from error


def token_of_ours(path: Path) -> tuple[str, str]:
    """The frame's token and what made the prediction, without reading the rest of one of our files; raises BadPrediction."""
    try:
        arrays = read_npz(path, ("format", "token", "source"))
    except (OSError, ArrayFileError) as error:
        raise BadPrediction(UNREADABLE, str(error)) from error
    if len(arrays) < 3:
        raise BadPrediction(OTHER_FORMAT, f"it is no {OURS}, as others in its folder are")
    return str(arrays["token"]), str(arrays["source"])


def _dense(arrays: dict[str, Any], formats: dict[str, str], grid: OccupancyGrid) -> Content:
    found = [name for name in formats if name in arrays]
    if len(found) != 1:
        known = ", ".join(repr(name) for name in formats)
        what = f"both {' and '.join(map(repr, found))}" if found else f"none of {known}"
        raise BadPrediction(
            OTHER_FORMAT, f"it has {what}, but {', '.join(map(repr, sorted(map(str, arrays)))) or 'nothing'}"[:300]
        )
    stored = arrays[found[0]]
    if not isinstance(stored, np.ndarray):
        raise BadPrediction(OTHER_FORMAT, f"its {found[0]!r} is a {type(stored).__name__}, no array")
    # Upstream's readers take a flat array, and one with an axis of length 1 before, for the grid (ray_metrics.py of SparseOcc).
    if stored.shape in ((int(np.prod(grid.shape)),), (1, *grid.shape)):
        stored = stored.reshape(grid.shape)
    if stored.shape != grid.shape:
        raise BadPrediction(OTHER_GRID, f"it is {list(stored.shape)[:8]}, the data set's grid is {list(grid.shape)}")
    return Content(formats[found[0]], _class_ids(stored, grid))


def _class_ids(stored: NDArray[Any], grid: OccupancyGrid) -> NDArray[np.uint8]:
    if stored.dtype.kind not in "iuf":
        raise BadPrediction(OUT_OF_RANGE, f"it holds {stored.dtype}, no class ids")
    wrong = ~((stored >= 0) & (stored < grid.num_classes))
    if stored.dtype.kind == "f":
        wrong |= stored != np.floor(stored)
    if wrong.any():
        raise BadPrediction(OUT_OF_RANGE, f"it holds {stored[wrong][0]}, the classes are 0..{grid.num_classes - 1}")
    return np.ascontiguousarray(stored, dtype=np.uint8)


def _scattered(rows: NDArray[Any], grid: OccupancyGrid) -> NDArray[np.uint8]:
    """What SurroundOcc draws (generate_output of its detector): rows of an occupied voxel's centre in metres and its class."""
    if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind != "f":
        raise BadPrediction(OTHER_FORMAT, f"it is {rows.dtype} {list(rows.shape)[:8]}, no rows x, y, z in metres and class")
    places = (rows[:, :3].astype(np.float64) - grid.lower) / grid.voxel_size - 0.5
    voxels = np.round(np.nan_to_num(places, nan=-1.0)).astype(np.int64)
    off = ~((np.abs(places - voxels) < 0.01) & (voxels >= 0) & (voxels < grid.shape)).all(axis=1)
    if off.any():
        raise BadPrediction(OTHER_GRID, f"{rows[off][0, :3].tolist()} m is no centre of a voxel of the data set's grid")
    labels = np.full(grid.shape, grid.empty, np.uint8)
    labels[tuple(voxels.T)] = _class_ids(rows[:, 3], grid)
    return labels
