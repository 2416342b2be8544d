"""GaussianOcc's depth maps of nuScenes' images: names and format. No torch.

    nuscenes/depth_full/samples/CAM_*/<image>.npy   [900, 1600] metres along the camera's axis, 0 where no point of the key
                                                    frame's sweep is; a point lies in the pixel that its place is rounded to

``depth_full`` of the data root is found too. GaussianOcc's tool writes float32 of both splits, 5.8 MB an image, and measures
rendered depth by those of the validation split (GANWANSHUI/GaussianOcc tools/export_gt_depth_nusc.py). What else reads
lidar points in images reads these where RenderOcc's files (``layout_lidar_pixels``) are not there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.layout import either
from experiments.datasets.unpickle import DataError
from renderers.arrays import ArrayFileError, read_npy

FOLDER = "depth_full"
GET = (
    "python -m experiments.data prepare gaussianocc makes it from nuScenes' lidar, as GaussianOcc's export_gt_depth_nusc.py does"
)
FARTHEST = 1e4
"""Metres beyond which there is no point."""


def path_of(data_root: str | Path, image: Path) -> Path:
    """Where the depth map of an image lies."""
    name = Path("samples", image.parent.name, f"{image.stem}.npy")
    return either(Path(data_root, "nuscenes", FOLDER, name), Path(data_root, FOLDER, name))


def read_map(path: Path, size: tuple[int, int], get: str = GET) -> NDArray[np.float32]:
    """[h, w] of an image of ``size`` (width, height); raises DataError naming the file if it is missing
    (``get`` says what brings it), damaged, of another size, or holds what is no depth."""
    if not path.is_file():
        raise DataError(f"depth map {path} is missing: {get}")
    try:
        stored = read_npy(path)
    except (OSError, ArrayFileError) as error:
        raise DataError(f"depth map {path} cannot be read ({error}): delete the file; {get}") from error
    if stored.dtype.kind not in "iuf" or stored.ndim != 2:
        raise DataError(
            f"depth map {path} is {stored.dtype} {list(stored.shape)[:8]}, expected metres [h, w]: delete the file; {get}"
        )
    if stored.shape != (size[1], size[0]):
        raise DataError(
            f"depth map {path} is {stored.shape[1]}x{stored.shape[0]}, its image is {size[0]}x{size[1]}: delete the file; {get}"
        )
    if not np.isfinite(stored).all():
        raise DataError(f"depth map {path} has NaN or infinite values: delete the file; {get}")
    for wrong in (stored.min(initial=0), stored.max(initial=0)):
        if not 0 <= wrong <= FARTHEST:
            raise DataError(f"depth map {path} has a depth of {wrong:g} m; 0 is where there is none: delete the file; {get}")
    return stored.astype(np.float32)


def points_of(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (u, v, depth) [n, 3] of a map [h, w], row by row: the places that its points were rounded to."""
    v, u = np.nonzero(depth)
    return np.column_stack([u, v, depth[v, u]]).astype(np.float32)


def map_of(pixels: NDArray[np.float64], size: tuple[int, int], cut: bool = False) -> NDArray[np.float32]:
    """[h, w] of an image of ``size`` from rows (u, v, depth) [n, 3], those behind the camera left out before; of several points
    in a pixel the last one counts. Places are rounded as GaussianOcc does, or their fractions cut off as TRI-ML/dgp does
    (dgp/utils/camera.py)."""
    width, height = size
    # Beyond what fits: whatever is far off is outside.
    place = (np.trunc if cut else np.rint)(np.clip(pixels[:, :2], -1e6, 1e6)).astype(np.int64)
    inside = ((place >= 0) & (place < (width, height))).all(axis=1)
    out = np.zeros((height, width), np.float32)
    u, v = place[inside].T
    flat = v * width + u
    # The last of equal places: numpy does not promise the order of writes.
    last = len(flat) - 1 - np.unique(flat[::-1], return_index=True)[1]
    out.ravel()[flat[last]] = pixels[inside, 2][last]
    return out
