"""RenderOcc's files of lidar points in images: names, paths and format. No torch.

    nuscenes/depth_gt/<image file>.bin         rows (u, v, depth) of the points in an image: pixels of the image as published,
                                               metres along the camera's axis
    nuscenes/seg_gt_lidarseg/<image file>.bin  rows (u, v, class) of the same points in the same order, classes 0..16 of Occ3D

Both hold float32 (little-endian, no header) of the key frame's LIDAR_TOP sweep; <image file> ends in .jpg. What upstream's
own tools write to ``depth_gt`` and ``seg_gt_lidarseg`` of the data root is found there too. Depth without classes may also be in
GaussianOcc's maps (``layout_depth_maps``). (pmj110119/RenderOcc tools/gen_data/gen_depth_gt.py, gen_seg_gt_from_lidarseg.py)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.datasets import layout_depth_maps
from experiments.datasets.dataset import PartFiles
from experiments.datasets.layout import either
from experiments.datasets.unpickle import DataError

DEPTH, CLASSES = "depth_gt", "seg_gt_lidarseg"
PREPARATION = "renderocc"
GET = (
    f"python -m experiments.data prepare {PREPARATION} makes it from nuScenes' lidar and the lidarseg labels in "
    "nuscenes/lidarseg (nuscenes.org, Download; without these depth alone), as RenderOcc's tools/gen_data does"
)
TAKERS = (
    "Lidar points in images are only read by models that learn from rays, as RenderOcc does, and where rendered depth is "
    "measured, as GaussianFlowOcc's is; the other rows run without them."
)
ROW = 12
"""Bytes of a point."""

NUM_CLASSES = 17
MAX_DEPTH, MAX_PIXEL = 1e4, 1e5
"""Metres and pixels beyond which there is no point."""

# Class of each raw id of nuScenes-lidarseg (gen_seg_gt_from_lidarseg.py:185-192). Noise (0) and the recording car (31) are
# "others" there, and so they are here.
CLASS_OF_RAW = np.array(
    [0, 0, 7, 7, 7, 0, 7, 0, 0, 1, 0, 0, 8, 0, 2, 3, 3, 4, 5, 0, 0, 6, 9, 10, 11, 12, 13, 14, 15, 0, 16, 0], np.uint8
)


def path_of(data_root: str | Path, image: Path, folder: str) -> Path:
    """Where the points in an image lie."""
    name = f"{image.name}.bin"
    return either(Path(data_root, "nuscenes", folder, name), Path(data_root, folder, name))


def depth_path(data_root: str | Path, image: Path) -> Path:
    """Where the depth of the points in an image lies: GaussianOcc's map if it is there alone."""
    return either(path_of(data_root, image, DEPTH), layout_depth_maps.path_of(data_root, image))


def read_rows(path: Path) -> NDArray[np.float32]:
    """[n, 3] float32 of a file; raises DataError naming it if it is missing, cut off, or holds NaN or infinity."""
    if not path.is_file():
        raise DataError(f"lidar points {path} are missing: {GET}")
    if path.stat().st_size % ROW:
        raise DataError(f"lidar points {path} have {path.stat().st_size} bytes, expected rows of {ROW}: delete the file; {GET}")
    rows = np.fromfile(path, "<f4").reshape(-1, 3)
    if not np.isfinite(rows).all():
        raise DataError(f"lidar points {path} have NaN or infinite values: delete the file; {GET}")
    return rows


def read_depths(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """Rows (u, v, depth) [n, 3] of the points in an image of ``size`` (width, height); raises DataError like ``read_rows``, for
    a depth that is not positive, and for a map of another size."""
    if path.suffix == ".npy":
        return layout_depth_maps.points_of(layout_depth_maps.read_map(path, size))
    return _read_depth_rows(path)


def _read_depth_rows(path: Path) -> NDArray[np.float32]:
    rows = read_rows(path)
    for wrong in (rows[:, 2].min(initial=1.0), rows[:, 2].max(initial=1.0)):
        if not 0 < wrong <= MAX_DEPTH:
            raise DataError(f"lidar points {path} have a depth of {wrong:g} m: delete the file; {GET}")
    if np.abs(rows[:, :2]).max(initial=0.0) > MAX_PIXEL:
        raise DataError(f"lidar points {path} lie outside of every image: delete the file; {GET}")
    return rows


def read_points(data_root: str | Path, image: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows (u, v, depth) [n, 3] and classes [n] of the points in an image; raises DataError naming the file that is at fault."""
    rows = _read_depth_rows(path_of(data_root, image, DEPTH))
    path = path_of(data_root, image, CLASSES)
    classified = read_rows(path)
    if classified.shape != rows.shape or not np.array_equal(classified[:, :2], rows[:, :2]):
        raise DataError(f"lidar points {path} are others than those of {DEPTH}: delete both files; {GET}")
    classes = classified[:, 2].astype(np.int64)
    if len(classes) and ((classes != classified[:, 2]).any() or classes.min() < 0 or classes.max() >= NUM_CLASSES):
        wrong = classified[(classes != classified[:, 2]) | (classes < 0) | (classes >= NUM_CLASSES), 2][0]
        raise DataError(f"lidar points {path} hold class {wrong:g}, known: 0..{NUM_CLASSES - 1}: delete the file; {GET}")
    return rows, classes


def part_files(made: str = "") -> dict[str, PartFiles]:
    """The files of ``depth``, ``rays`` and ``lidar`` of a data set of nuScenes' images; ``made`` as in PartFiles."""

    def of(*folders: str) -> PartFiles:
        def files(root: Path, _: str, frames: list[list[Path]]) -> list[list[Path]]:
            if folders == (DEPTH,):
                return [[depth_path(root, image) for image in images] for _, *images in frames]
            return [[path_of(root, image, folder) for image in images for folder in folders] for _, *images in frames]

        return PartFiles(files, GET, TAKERS, empty=True, made=made)

    return {"depth": of(DEPTH), "rays": of(DEPTH, CLASSES), "lidar": of(DEPTH)}
