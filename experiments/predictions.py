"""Predictions as files, one frame each: npz arrays without pickles, read and written here. No model, no data set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from camera_occupancy_bench.files import WriteError, replacing
from renderers.arrays import ArrayFileError, read_npz

FORMAT = 1


class PredictionFileError(ValueError):
    """A file of predictions that cannot be read or written; the message names it and the way out."""


@dataclass(frozen=True)
class SavedPrediction:
    """A frame with what a model says of it and what is true.

    grid                 of the labels
    predicted, true      [X, Y, Z] uint8 class ids; ``grid.ignore`` where the truth is unknown
    camera_mask          [X, Y, Z] bool, voxels that count in evaluation
    intrinsics           [V, 3, 3] of the label cameras, pixels
    reference_to_camera  [V, 4, 4] grid frame -> label camera, OpenCV axes
    camera_size          (width, height) of the label cameras in pixels
    projection           [V, 4, 4] grid frame -> pixel of the network's input
    camera_names         V names
    image_paths          V paths of the input images, which are not copied
    token, scene         of the frame
    index                of the frame in its split
    source               what made the prediction: table, preset, cell
    """

    grid: OccupancyGrid
    predicted: NDArray[np.uint8]
    true: NDArray[np.uint8]
    camera_mask: NDArray[np.bool_]
    intrinsics: NDArray[np.float64]
    reference_to_camera: NDArray[np.float64]
    camera_size: tuple[int, int]
    projection: NDArray[np.float64]
    camera_names: tuple[str, ...]
    image_paths: tuple[str, ...]
    token: str
    scene: str
    index: int
    source: str


def save(prediction: SavedPrediction, path: Path) -> None:
    """Write one frame; raises PredictionFileError if ``path`` cannot be written."""
    grid = prediction.grid
    content = {
        "format": np.array(FORMAT),
        "predicted": prediction.predicted.astype(np.uint8),
        "true": prediction.true.astype(np.uint8),
        "camera_mask": prediction.camera_mask.astype(bool),
        "grid_lower": np.array(grid.lower),
        "grid_upper": np.array(grid.upper),
        "voxel_size": np.array(grid.voxel_size),
        "class_names": np.array(grid.class_names),
        "empty": np.array(grid.empty),
        "ignore": np.array(grid.ignore),
        "frame": np.array(grid.frame),
        "dataset": np.array(grid.dataset),
        "intrinsics": prediction.intrinsics,
        "reference_to_camera": prediction.reference_to_camera,
        "camera_size": np.array(prediction.camera_size),
        "projection": prediction.projection,
        "camera_names": np.array(prediction.camera_names),
        "image_paths": np.array(prediction.image_paths),
        "token": np.array(prediction.token),
        "scene": np.array(prediction.scene),
        "index": np.array(prediction.index),
        "source": np.array(prediction.source),
    }
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **content)
    except WriteError as error:
        raise PredictionFileError(f"{error} with --out") from error


def load(path: Path) -> SavedPrediction:
    """Read one frame; raises PredictionFileError, naming the file, for anything that ``save`` did not write."""
    again = "write it again with `python -m experiments.predict`"
    try:
        arrays = read_npz(path)
    except FileNotFoundError as error:
        raise PredictionFileError(f"{path} does not exist; make it with `python -m experiments.predict`") from error
    except (OSError, ArrayFileError) as error:
        raise PredictionFileError(f"{path} is not a readable npz file ({error}); {again}") from error
    try:
        if int(arrays["format"]) != FORMAT:
            raise PredictionFileError(f"{path} has format {int(arrays['format'])}, this program reads {FORMAT}; {again}")
        loaded = _from_arrays(arrays)
    except KeyError as error:
        raise PredictionFileError(f"{path} holds no array {error}: it is not a prediction of this program; {again}") from error
    except PredictionFileError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the arrays may be
        raise PredictionFileError(f"{path} holds arrays of another kind ({error}); {again}") from error
    shape, views = loaded.grid.shape, len(loaded.camera_names)
    expected = {
        "predicted": shape,
        "true": shape,
        "camera_mask": shape,
        "intrinsics": (views, 3, 3),
        "reference_to_camera": (views, 4, 4),
        "projection": (views, 4, 4),
        "image_paths": (views,),
    }
    for name, wanted in expected.items():
        if arrays[name].shape != wanted:
            raise PredictionFileError(f"{path}: {name} is {list(arrays[name].shape)}, expected {list(wanted)}; {again}")
    return loaded


def _from_arrays(arrays: dict[str, NDArray[np.generic]]) -> SavedPrediction:
    def floats(name: str) -> NDArray[np.float64]:
        return arrays[name].astype(np.float64)

    def words(name: str) -> tuple[str, ...]:
        return tuple(str(word) for word in arrays[name])

    lower, upper = floats("grid_lower").tolist(), floats("grid_upper").tolist()
    edge = float(floats("voxel_size"))
    if len(lower) != 3 or len(upper) != 3 or not np.isfinite([*lower, *upper]).all():
        raise ValueError("the grid's corners are no points")
    if not (math.isfinite(edge) and edge > 0) or max(high - low for low, high in zip(lower, upper, strict=True)) > 4096 * edge:
        raise ValueError(f"the grid has voxels of {edge:g} m between {lower} and {upper}")
    for name in ("intrinsics", "reference_to_camera", "projection"):
        if not np.isfinite(floats(name)).all():
            raise ValueError(f"{name} has NaN or infinite values")
    grid = OccupancyGrid(
        lower=(lower[0], lower[1], lower[2]),
        upper=(upper[0], upper[1], upper[2]),
        voxel_size=edge,
        class_names=words("class_names"),
        empty=int(arrays["empty"].item()),
        ignore=int(arrays["ignore"].item()),
        frame=str(arrays["frame"]),
        dataset=str(arrays["dataset"]),
    )
    width, height = (int(value) for value in floats("camera_size"))
    if not (0 < width <= 1 << 14 and 0 < height <= 1 << 14):
        raise ValueError(f"the cameras have {width}x{height} pixels")
    for name in ("predicted", "true"):
        labels = arrays[name]
        if (
            labels.dtype.kind not in "biu"
            or not np.isin(labels, (*range(len(words("class_names"))), int(arrays["ignore"]))).all()
        ):
            raise ValueError(f"{name} holds other than class ids")
    return SavedPrediction(
        grid=grid,
        predicted=arrays["predicted"].astype(np.uint8),
        true=arrays["true"].astype(np.uint8),
        camera_mask=arrays["camera_mask"].astype(bool),
        intrinsics=floats("intrinsics"),
        reference_to_camera=floats("reference_to_camera"),
        camera_size=(width, height),
        projection=floats("projection"),
        camera_names=words("camera_names"),
        image_paths=words("image_paths"),
        token=str(arrays["token"]),
        scene=str(arrays["scene"]),
        index=int(arrays["index"].item()),
        source=str(arrays["source"]),
    )
