"""A frame's images at the network's size: as they are, or with the augmentation that lift-splat models are trained with.

That is HuangJunJie2017/BEVDet's, which RenderOcc takes over (mmdet3d/datasets/pipelines/loading.py, configs/renderocc): of the
images (IDA) and of the bird's eye view (BDA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.datasets.parts import Geometry, Matrices
from experiments.datasets.transforms import Float, ImageTransform, read_image, resized
from experiments.datasets.unpickle import DataError

RESIZE = (-0.06, 0.11)
"""What the scale of a camera's own image is changed by."""
ROTATION = 5.4
"""Degrees to either side."""


@dataclass(frozen=True)
class Augmentation:
    """One frame's draw, of V views.

    resize     [V] is added to the scale that brings the camera's own image to the network's width
    left       [V] 0 to 1, the place of the crop's left edge among those possible; its bottom is the image's
    flip       [V] bool, the crop is flipped left to right
    rotation   [V] degrees that it is then rotated about its middle, counter-clockwise as one sees it
    reference  [3] -1 where an axis of the reference frame is turned round, else 1
    """

    resize: NDArray[np.float64]
    left: NDArray[np.float64]
    flip: NDArray[np.bool_]
    rotation: NDArray[np.float64]
    reference: NDArray[np.float64]

    @classmethod
    def drawn(cls, generator: np.random.Generator, views: int, flips: bool = True) -> Augmentation:
        """As published: x and y axes are turned round half of the time each, the frame is neither rotated nor scaled. Without
        ``flips`` no image is flipped and no axis turned round; all else is drawn the same."""
        drawn = cls(
            resize=generator.uniform(*RESIZE, views),
            left=generator.random(views),
            flip=generator.integers(2, size=views).astype(bool),
            rotation=generator.uniform(-ROTATION, ROTATION, views),
            reference=np.append(1.0 - 2.0 * generator.integers(2, size=2), 1.0),
        )
        return drawn if flips else replace(drawn, flip=np.zeros(views, bool), reference=np.ones(3))

    def geometry(self, image: ImageTransform, width: int, height: int) -> Geometry:
        """Of views whose own images are width x height; raises ValueError if the network's are too narrow for the draws."""
        narrowest = image.width + round(RESIZE[0] * width)
        if height * narrowest < max(width, height):  # no row or no column
            raise ValueError(
                f"the network takes {image.width} of its {width} columns, too few to be resized by {RESIZE[0]:.0%} of them: "
                "take larger images, or a recipe without this augmentation"
            )
        views = zip(self.resize, self.left, self.flip, np.deg2rad(self.rotation), strict=True)
        return Geometry(np.stack([_view(image, width, height, *view) for view in views]), np.diag(self.reference))


def _view(
    image: ImageTransform, width: int, height: int, resize: float, left: float, flip: bool, rotation: float
) -> NDArray[np.float64]:
    """[3, 3] from a camera's own pixels to the network's."""
    # Whole rows and columns, and the scale that really results, as without augmentation.
    columns = image.width + round(resize * width)
    rows = height * columns // width
    scale = np.diag([columns / width, rows / height, 1.0])
    cut = np.eye(3)
    cut[:2, 2] = -int(left * max(0, columns - image.width)), image.height - rows
    mirror = np.array([[-1.0, 0.0, image.width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) if flip else np.eye(3)
    cos, sin = np.cos(rotation), np.sin(rotation)
    turn = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    middle = np.array([image.width / 2, image.height / 2])
    turn[:2, 2] = middle - turn[:2, :2] @ middle
    matrix: NDArray[np.float64] = turn @ mirror @ cut @ scale
    return matrix


@dataclass(frozen=True)
class Pixels:
    """What is decoded of a frame.

    images         [V, h, w, 3] uint8 at the network's size
    width, height  of the files' images
    geometry       of the images, ``image`` [V, 3, 3]
    augmented      whether they are
    """

    images: NDArray[np.uint8]
    width: int
    height: int
    geometry: Geometry
    augmented: bool


def read_pixels(paths: Sequence[Path], image: ImageTransform, augmentation: Augmentation | None) -> Pixels:
    """The views' images; raises DataError, naming one that is missing, damaged, of another size than the first, or too small."""
    out = np.empty((len(paths), image.height, image.width, 3), dtype=np.uint8)
    size: tuple[int, int] | None = None
    geometry: Geometry | None = None
    for view, path in enumerate(paths):
        native = read_image(path)
        height, width = native.shape[:2]
        if size not in (None, (width, height)):
            raise DataError(f"image {path} is {width}x{height}, the cameras before it {size[0]}x{size[1]}")  # type: ignore[index]
        size = width, height
        try:
            plain = image.matrix(width, height)
            if augmentation is None:
                geometry = Geometry(np.broadcast_to(plain, (len(paths), 3, 3)), np.eye(3))
                out[view] = image.apply(native)
            else:
                geometry = augmentation.geometry(image, width, height)
                out[view] = warped(native, geometry.image[view], image.width, image.height)
        except ValueError as error:
            raise DataError(f"image {path}: {error}") from None
    assert size is not None and geometry is not None
    return Pixels(out, *size, geometry, augmentation is not None)


def warped(image: NDArray[np.uint8], matrix: Matrices, width: int, height: int) -> NDArray[np.uint8]:
    """[height, width, 3] of a [h, w, 3] image whose pixels the affine ``matrix`` brings there; black where there is none.

    It is resized first, as images are without augmentation, so that what shrinks is averaged.
    """
    scale = np.linalg.norm(matrix[:2, :2], axis=0)
    rows, columns = (round(share * count) for share, count in zip(scale[::-1], image.shape, strict=False))
    shifted = _between_centres(matrix @ np.diag([*(1.0 / scale), 1.0]))
    return cv2.warpAffine(resized(image, columns, rows), shifted, (width, height), flags=cv2.INTER_LINEAR)  # type: ignore[return-value]


def warped_depth(depth: Float, matrix: Matrices, width: int, height: int) -> Float:
    """The same of a depth image [h, w]: the nearest pixel's, 0 where there is none."""
    return cv2.warpAffine(depth, _between_centres(matrix), (width, height), flags=cv2.INTER_NEAREST)  # type: ignore[return-value]


def _between_centres(matrix: Matrices) -> Matrices:
    """[2, 3] of a [3, 3] matrix of pixels whose first centre is (0.5, 0.5), for OpenCV, whose first is (0, 0)."""
    half = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
    return (np.linalg.inv(half) @ matrix @ half)[:2]


def check_turns(reader: str, grid: OccupancyGrid) -> None:
    """Raises DataError for a grid whose x or y axis cannot be turned round, because its middle is not at 0."""
    for axis, low, high in zip("xy", grid.lower, grid.upper, strict=False):
        if abs(low + high) > 1e-6 * grid.voxel_size:
            raise DataError(
                f"{reader}: the grid of {grid.dataset} goes from {low} to {high} m along {axis}; BEVDet's augmentation turns "
                "axes round, and so needs one with its middle at 0: take another data set, or a recipe without this augmentation"
            )
