"""Image and label transforms: decode, resize and crop, photometric distortion, normalisation, label pooling."""

from __future__ import annotations

import os
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray
from PIL import Image

from experiments.datasets.unpickle import DataError
from renderers.arrays import ArrayFileError, read_npy

Float = NDArray[np.float32]
_MAX_PIXELS = 1 << 26  # of a camera's image
_MAX_DEPTH = 1e6  # metres; estimated depth is far beyond what a camera sees where the disparity is nearly none
Kind = TypeVar("Kind", np.uint8, np.float32)


@dataclass(frozen=True)
class ImageTransform:
    """How a camera image becomes the network's input; the defaults are the published ones (1600x896).

    The image is scaled to ``width``, then its top rows are cut so that ``height`` rows remain
    (GaussRender dataset/pipeline.py:92-161 with its released settings: no flip, no rotation).

    width, height  network input in pixels
    mean, std      per channel in the order blue, green, red; no swap to RGB (model_tpvformer.py:36-39)
    distort        photometric distortion in training
    stretch        the image is scaled to ``height`` too, by another factor, and nothing is cut
    """

    width: int = 1600
    height: int = 896
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    distort: bool = True
    stretch: bool = False

    def matrix(self, native_width: int, native_height: int) -> NDArray[np.float64]:
        """[3, 3] from native pixels to pixels of the network's input (scale, then shift by the cut rows).

        Raises ValueError if the scaled image has fewer rows than ``height``.
        """
        rows = self._scaled_rows(native_width, native_height)
        scale_x, scale_y = self.width / native_width, rows / native_height
        cut = rows - self.height
        return np.array([[scale_x, 0.0, 0.0], [0.0, scale_y, -float(cut)], [0.0, 0.0, 1.0]])

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop of a native [h, w, 3] image to [height, width, 3]."""
        native_height, native_width = image.shape[:2]
        rows = self._scaled_rows(native_width, native_height)
        return resized(image, self.width, rows)[rows - self.height :]

    def apply_to_depth(self, depth: Float) -> Float:
        """Resize (to the nearest pixel) and crop of a native [h, w] depth image to [height, width], as ``apply``."""
        return self.apply_to_map(depth, cv2.INTER_NEAREST_EXACT)

    def apply_to_map(self, values: NDArray[Kind], interpolation: int) -> NDArray[Kind]:
        """The same of any native [h, w] image of one channel, with one of OpenCV's interpolations."""
        native_height, native_width = values.shape
        rows = self._scaled_rows(native_width, native_height)
        if (native_width, native_height) != (self.width, rows):
            values = cv2.resize(values, (self.width, rows), interpolation=interpolation)  # type: ignore[assignment]
        return values[rows - self.height :]

    def normalise(self, image: NDArray[Any]) -> Float:
        """(image - mean) / std of a [h, w, 3] image as [3, h, w] float32."""
        planes = np.empty((3, *image.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.subtract(image[..., channel], np.float32(self.mean[channel]), out=planes[channel])
            if self.std[channel] != 1.0:
                planes[channel] /= np.float32(self.std[channel])
        return planes

    def _scaled_rows(self, native_width: int, native_height: int) -> int:
        if self.stretch:
            return self.height
        # Rows are cut down to whole ones as upstream; the matrix uses the scale that really results.
        rows = native_height * self.width // native_width
        if rows < self.height:
            raise ValueError(
                f"a {native_width}x{native_height} image scaled to width {self.width} has {rows} rows, "
                f"fewer than the {self.height} that the network takes"
            )
        return rows


def resized(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """A [h, w, 3] image as [height, width, 3]; pixels are averaged where it shrinks, else interpolated."""
    native_height, native_width = image.shape[:2]
    if (native_width, native_height) == (width, height):
        return image
    interpolation = cv2.INTER_AREA if width < native_width else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=interpolation)  # type: ignore[return-value]


def read_image(path: Path) -> NDArray[np.uint8]:
    """A colour image [h, w, 3] uint8, channels blue, green, red; raises DataError if it is missing or damaged."""
    if not path.is_file():
        raise DataError(f"image {path} is missing: check the data root, or download this part of the data set again")
    try:
        with Image.open(path) as header:  # the decoder would take the memory for what it names before it finds nothing
            width, height = header.size
        if width * height > _MAX_PIXELS:
            raise ValueError(f"it says that it has {width}x{height} pixels")
        image, said = _decoded(path)
        if wrong := _CORRUPT.search(said):
            if "remature end" in said:
                raise DataError(f"image {path} is cut off: copy or download it again")
            raise ValueError(wrong.group().strip())
    except DataError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise DataError(f"image {path} cannot be decoded ({why}): copy or download it again") from None
    if image is None:
        raise DataError(f"image {path} cannot be decoded: copy or download it again")
    return image  # type: ignore[return-value]


_CORRUPT = re.compile(r"(Corrupt JPEG data: (?!\d+ extraneous)|Premature end of JPEG).*")
_STREAM = threading.Lock()


def _decoded(path: Path) -> tuple[Any, str]:
    """The image, None where there is none, and what its decoder says: it fills with grey what a file lacks, and tells the
    standard error stream alone."""
    with _STREAM:
        sys.stderr.flush()
        try:
            own = os.dup(2)
        except OSError:  # there is no such stream
            return cv2.imread(str(path), cv2.IMREAD_COLOR), ""
        heard = os.memfd_create("decoder")
        try:
            os.dup2(heard, 2)
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        finally:
            os.dup2(own, 2)
            os.close(own)
            said = os.pread(heard, 1 << 16, 0).decode(errors="replace")
            os.close(heard)
    if said and not _CORRUPT.search(said):
        sys.stderr.write(said)  # of OpenCV on something else, or of another thread
    return image, said


def read_depth(path: Path, width: int, height: int, source: str) -> Float:
    """Depth [height, width] float32 in metres, 0 where unknown, of an image of that size.

    A file with more rows or columns (estimated on a padded image) is cut at the bottom and the right, as Symphonies does.
    Raises DataError for a file that is missing (``source`` says what brings it), damaged, too small, or with values that
    are no depth.
    """
    if not path.is_file():
        raise DataError(f"depth {path} is missing: {source}")
    try:
        stored = read_npy(path)
    except (OSError, ArrayFileError) as error:
        raise DataError(f"depth {path} cannot be read ({error}): make or copy it again") from error
    if stored.dtype.kind not in "iuf" or stored.ndim != 2:
        raise DataError(f"depth {path} is {stored.dtype} {list(stored.shape)}, expected numbers [{height}, {width}]")
    if stored.shape[0] < height or stored.shape[1] < width:
        raise DataError(f"depth {path} is {stored.shape[1]}x{stored.shape[0]}, smaller than its {width}x{height} image")
    depth = np.ascontiguousarray(stored[:height, :width], dtype=np.float32)
    if not np.isfinite(depth).all() or depth.min() < 0:
        raise DataError(f"depth {path} has NaN, infinite or negative values: metres are expected, and 0 where depth is unknown")
    if depth.max(initial=0.0) > _MAX_DEPTH:
        raise DataError(f"depth {path} has {depth.max():g} m: metres are expected, and 0 where depth is unknown")
    return depth


def distort(image: Float, random: np.random.Generator) -> Float:
    """Photometric distortion of a [h, w, 3] float32 BGR image with values in 0..255, not clipped.

    Each with probability 1/2: brightness +U(-32, 32); contrast *U(0.5, 1.5), before or after the HSV steps with
    equal chance; saturation *U(0.5, 1.5); hue +U(-18, 18) degrees; channel permutation
    (GaussRender dataset/pipeline.py:207-295; the same ranges as SurroundOcc and DETR3D).
    """

    def coin() -> bool:
        return bool(random.integers(2))

    if coin():
        image = image + np.float32(random.uniform(-32.0, 32.0))
    contrast_first = coin()
    contrast = np.float32(random.uniform(0.5, 1.5)) if coin() else None
    if contrast_first and contrast is not None:
        image = image * contrast
    hsv: Float = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), dtype=np.float32)
    if coin():
        hsv[..., 1] *= np.float32(random.uniform(0.5, 1.5))
    if coin():
        hue = hsv[..., 0] + np.float32(random.uniform(-18.0, 18.0))
        hue[hue > 360.0] -= 360.0
        hue[hue < 0.0] += 360.0
        hsv[..., 0] = hue
    distorted: Float = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), dtype=np.float32)
    if not contrast_first and contrast is not None:
        distorted *= contrast
    return distorted[..., random.permutation(3)] if coin() else distorted


@njit(cache=True, nogil=True)
def _pool(  # type: ignore[no-untyped-def]
    labels: NDArray[np.uint8], visible: NDArray[np.bool_], factor: int, empty: int, classes: int, ignore: int
):
    nx, ny, nz = labels.shape[0] // factor, labels.shape[1] // factor, labels.shape[2] // factor
    pooled = np.empty((nx, ny, nz), np.uint8)
    seen = np.zeros((nx, ny, nz), np.bool_)
    count = np.zeros(classes, np.int64)
    for x in range(nx):
        for y in range(ny):
            for z in range(nz):
                count[:] = 0
                any_seen, any_unknown = False, False
                for i in range(x * factor, (x + 1) * factor):
                    for j in range(y * factor, (y + 1) * factor):
                        for k in range(z * factor, (z + 1) * factor):
                            if labels[i, j, k] == ignore:
                                any_unknown = True
                            else:
                                count[labels[i, j, k]] += 1
                            any_seen |= visible[i, j, k]
                best, best_count = ignore if any_unknown else empty, 0
                for c in range(classes):
                    if c != empty and count[c] > best_count:
                        best, best_count = c, count[c]
                pooled[x, y, z] = best
                seen[x, y, z] = any_seen and best != ignore
    return pooled, seen


def coarsen_labels(
    labels: NDArray[np.uint8], visible: NDArray[np.bool_], factor: int, empty: int, classes: int, ignore: int = 255
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Labels and evaluation mask [X, Y, Z] of voxels ``factor`` times as large.

    A coarse voxel takes the most frequent occupied class among its children (the lowest id of equals). Where none is
    occupied it is ``ignore`` if any child is, else ``empty``. It counts if any child does and it is not ``ignore``.
    Labels must be below ``classes``, or ``ignore``.
    """
    if any(n % factor for n in labels.shape):
        raise ValueError(f"labels {labels.shape} cannot be coarsened by {factor}")
    highest = int(labels.max(initial=0, where=labels != ignore))
    if highest >= classes:
        raise ValueError(f"labels hold {highest}, above the highest class {classes - 1}")
    return _pool(labels, visible, factor, empty, classes, ignore)
