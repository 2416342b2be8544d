"""Rendered depth against lidar points in the images, in the three ways in which it was published.

Seven numbers (Eigen et al., Depth map prediction from a single image, 2014): with d of lidar and p rendered, both in metres along
the camera's axis, the means of |p - d| / d and of (p - d)^2 / d (m), the roots of the means of (p - d)^2 (m) and of
(ln p - ln d)^2, and the shares of points with max(p / d, d / p) below 1.25, 1.25^2 and 1.25^3. No depth is scaled to fit.

points   GaussianFlowOcc, ``tools/eval_depth.py --exact`` (mmdet3d/apis/test_depth.py:34-92): points up to 40 m away, all of all
         frames in one mean; what is rendered is taken between the middles of pixels, 0 beyond those at the border, and counts as
         0.001 m at least and 80 m at most
frames   GaussianFlowOcc, the same without --exact (:94-140): the numbers of each frame, then their mean over frames; places are
         stretched so that an image's corners are the middles of the pixels there
cameras  GaussianOcc (runner.py:443-447, 527-556; utils/loss_metric.py:145-164): what is rendered is resized to the size of a
         dense map of lidar depth; its pixels from 0.1 m to the data set's limit (``Published.lidar_limit``: 80 m in nuScenes,
         200 m in DDAD; without one, all) count, and what is rendered counts as within that; the numbers of each image, then their
         mean over the images of a camera in which there is such a pixel, then over cameras

Beside them stands what no image is needed for: the Abs Rel, GaussianOcc's way, of the one depth that fits these very frames best
if it is said of every pixel. A prediction that is not clearly below has learned no depth.

Points outside of what a model renders do not count, and frames and images without any are left out of means.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from baselines.interface import LidarDepth, OccupancyGrid, RenderedDepth
from experiments.metrics.counts import array, doubles
from experiments.metrics.registry import LIDAR_NUMBERS

Array = NDArray[np.float64]
Sums = dict[str, NDArray[Any]]

POINTS, FRAMES, CAMERAS, CONSTANTS = "lidar points", "lidar frames", "lidar cameras", "lidar constants"
"""Keys of sums: [8], [8], [V, 8] and [V, 401]. The last column says how many there are of what the others are sums over."""

NEAREST, FARTHEST, LIDAR_FARTHEST = 1e-3, 80.0, 40.0  # metres
DENSE_NEAREST = 0.1
STEP = 1.25
SINGLE_DEPTHS = np.arange(1, 401) / 10  # metres, of which the best one is looked for


NUMBERS = tuple(LIDAR_NUMBERS)


def depth_sums(rendered: RenderedDepth, lidar: LidarDepth, grid: OccupancyGrid) -> Sums:
    """What a frame contributes; both of one sample, on any device."""
    depth = doubles(rendered.depth)[0]
    to_view = doubles(rendered.to_view)[0]
    places, cells, metres = doubles(lidar.places), doubles(lidar.cells), doubles(lidar.depth)
    camera = array(lidar.camera)
    limit = math.inf if grid.published.lidar_limit is None else grid.published.lidar_limit
    plain, stretched, true = [], [], []
    cameras, constants = np.zeros((len(depth), len(NUMBERS) + 1)), np.zeros((len(depth), len(SINGLE_DEPTHS) + 1))
    for view, image in enumerate(depth):
        own = camera == view
        near = own & (metres <= LIDAR_FARTHEST)
        x, y = _moved(to_view[view], places[near])
        inside = _inside(x, y, image)
        x, y, size = x[inside], y[inside], (image.shape[1], image.shape[0])
        plain.append(_between(image, x - 0.5, y - 0.5, clamped=False))
        stretched.append(_between(image, x / size[0] * (size[0] - 1), y / size[1] * (size[1] - 1), clamped=False))
        true.append(metres[near][inside])
        rendered_dense, dense = _of_dense(image, to_view[view], cells[own], metres[own], limit)
        cameras[view] = _means(rendered_dense, dense, DENSE_NEAREST, limit)
        if len(dense):
            constants[view] = [*np.abs(SINGLE_DEPTHS[:, None] / dense - 1).mean(axis=1), 1.0]
    gathered = np.concatenate(true)
    pooled = _means(np.concatenate(plain), gathered, NEAREST, FARTHEST)
    return {
        POINTS: np.append(pooled[:-1] * len(gathered), len(gathered)),
        FRAMES: _rooted(_means(np.concatenate(stretched), gathered, NEAREST, FARTHEST)),
        CAMERAS: _rooted(cameras),
        CONSTANTS: constants,
    }


def _of_dense(image: Array, to_view: Array, cells: Array, metres: Array, limit: float) -> tuple[Array, Array]:
    """Rendered and true depth at the pixels of a dense map that count."""
    # Of several points in a pixel the last one is that which was written last.
    _, last = np.unique(cells[::-1], axis=0, return_index=True)
    last = np.sort(len(cells) - 1 - last)
    cells, metres = cells[last], metres[last]
    x, y = _moved(to_view, cells + 0.5)
    counted = _inside(x, y, image) & (metres > DENSE_NEAREST) & (metres < limit)
    return _between(image, x[counted] - 0.5, y[counted] - 0.5, clamped=True), metres[counted]


def _means(rendered: Array, true: Array, nearest: float, farthest: float) -> Array:
    """[8] means of the seven over points, squares where a root is to be taken, and 1; zeros where there is no point."""
    if not len(true):
        return np.zeros(len(NUMBERS) + 1)
    p = np.clip(rendered, nearest, farthest)
    ratio = np.maximum(p / true, true / p)
    error, log = p - true, np.log(p) - np.log(true)
    within = [(ratio < STEP**power).mean() for power in (1, 2, 3)]
    means = [(np.abs(error) / true).mean(), (error**2 / true).mean(), (error**2).mean(), (log**2).mean(), *within]
    return np.array([*means, 1.0])


def _rooted(means: Array) -> Array:
    out = means.copy()
    for name in ("rmse", "rmse_log"):
        out[..., NUMBERS.index(name)] **= 0.5
    return out


def _moved(matrix: Array, places: Array) -> tuple[Array, Array]:
    x, y = (places @ matrix[:2, :2].T + matrix[:2, 2]).T
    return x, y


def _inside(x: Array, y: Array, image: Array) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (x > 0) & (y > 0) & (x < image.shape[1]) & (y < image.shape[0])
    return inside


def _between(image: Array, x: Array, y: Array, clamped: bool) -> Array:
    """Values at places in pixels, 0 the middle of the first one, from the four pixels around; beyond the border there is 0, or if
    ``clamped`` what is at the border."""
    if clamped:
        x, y = np.clip(x, 0, image.shape[1] - 1), np.clip(y, 0, image.shape[0] - 1)
    padded = np.pad(image, 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    u, v = x - left, y - top
    left, top = left + 1, top + 1  # of the padded one
    right, bottom = np.minimum(left + 1, padded.shape[1] - 1), np.minimum(top + 1, padded.shape[0] - 1)
    above = (1 - u) * padded[top, left] + u * padded[top, right]
    below = (1 - u) * padded[bottom, left] + u * padded[bottom, right]
    mixed: Array = (1 - v) * above + v * below
    return mixed


# --- Scores ------------------------------------------------------------------------------------------------------------


def by_camera(sums: Sums, grid: OccupancyGrid, number: str) -> float:
    """GaussianOcc's mean over cameras of means over images; NaN where no pixel counts, or nothing was rendered."""
    means = [row[:-1] / row[-1] for row in sums.get(CAMERAS, ()) if row[-1]]
    return float(np.mean(means, axis=0)[NUMBERS.index(number)]) if means else float("nan")


def best_constant(sums: Sums, grid: OccupancyGrid) -> float:
    """The least Abs Rel, by camera, that one of SINGLE_DEPTHS has for all pixels of all frames; NaN likewise."""
    means = [row[:-1] / row[-1] for row in sums.get(CONSTANTS, ()) if row[-1]]
    return float(np.mean(means, axis=0).min()) if means else float("nan")


def by_frame(sums: Sums, grid: OccupancyGrid, number: str) -> float:
    """GaussianFlowOcc's mean over frames; NaN likewise."""
    return _mean(sums.get(FRAMES), number)


def by_point(sums: Sums, grid: OccupancyGrid, number: str) -> float:
    """GaussianFlowOcc's number of all points of all frames; NaN likewise."""
    return _mean(None if POINTS not in sums else _pooled(sums[POINTS]), number)


def _pooled(row: Array) -> Array:
    return _rooted(row / max(row[-1], 1.0))


def _mean(row: Array | None, number: str) -> float:
    return float("nan") if row is None or not row[-1] else float(row[NUMBERS.index(number)] / row[-1])
