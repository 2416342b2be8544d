"""One geometry for all parts of a frame, and the parts of a batch that follow from cameras and poses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.interface import CameraChain, History, Neighbours

Matrices = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """How the images and the reference frame of a frame were changed; what all parts of its batch follow, so that a point is
    found again in each of them. (The batch's own ``projection`` and label cameras leave out ``mirrored``, as was published.)

    image      [V, 3, 3], or [3, 3] for all views, pixel (u, v, 1) of the camera's own image -> pixel of the network's
    reference  [3, 3] reference frame -> that of the labels
    """

    image: Matrices
    reference: Matrices

    def mirrored(self, width: int) -> Geometry:
        """The same, of network images of that width that are mirrored left to right, with the labels' y axis turned round."""
        flip = np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        return Geometry(flip @ self.image, np.diag([1.0, -1.0, 1.0]) @ self.reference)

    def before(self) -> Matrices:
        """[4, 4] reference frame of the labels -> the one before it was changed."""
        return np.linalg.inv(square4(self.reference))

    def turned(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Voxels [X, Y, Z] of the reference frame, of a grid with its middle at 0 along the axes that are turned round, as they
        lie in the frame of the labels."""
        axes = [axis for axis in range(3) if self.reference[axis, axis] < 0]
        return np.ascontiguousarray(np.flip(voxels, axes)) if axes else voxels

    def projection(self, pinholes: Matrices, to_camera: Matrices) -> Matrices:
        """[V, 4, 4] labels' reference frame -> pixel (u*z, v*z, z, 1) of the network's images.

        pinholes   [V, 3, 3] for pixels of the cameras' own images
        to_camera  [V, 4, 4] reference frame -> camera
        """
        return square4(self.image @ pinholes) @ to_camera @ self.before()


@dataclass(frozen=True)
class Shot:
    """What the V cameras showed at one moment.

    images      [V, 3, H, W] float32, as the network takes them, and augmented if the frame is
    pinholes    [V, 3, 3] for pixels of the cameras' own images
    to_camera   [V, 4, 4] reference frame of that moment -> camera when it took its image
    to_global   [4, 4] reference frame of that moment -> global frame
    geometry    of its images
    """

    images: NDArray[np.float32]
    pinholes: Matrices
    to_camera: Matrices
    to_global: Matrices
    geometry: Geometry

    def from_reference(self, to_global: Matrices) -> Matrices:
        """[V, 4, 4] reference frame of another moment, which lies like that in the global frame -> this one's cameras."""
        return self.to_camera @ (np.linalg.inv(self.to_global) @ to_global)


@dataclass(frozen=True)
class CameraFrame:
    """An image that a camera took beside one of a frame's.

    path    of the image
    motion  [4, 4] camera when it took the frame's image -> the same camera when it took this one, metres
    """

    path: Path
    motion: Matrices


def square4(matrix: Matrices) -> Matrices:
    """[..., 3, 3] -> [..., 4, 4] that leaves the fourth coordinate alone."""
    out = np.zeros((*matrix.shape[:-2], 4, 4))
    out[..., :3, :3], out[..., 3, 3] = matrix, 1.0
    return out


def camera_chain(pinholes: Matrices, to_camera: Matrices, geometry: Geometry) -> CameraChain:
    """The links of a frame's cameras, from the reference frame of the labels to the pixels of the network's images."""
    links = {
        "intrinsics": pinholes,
        "camera_to_reference": np.linalg.inv(to_camera),
        "image": np.broadcast_to(geometry.image, pinholes.shape),
        "reference": geometry.reference,
    }
    return CameraChain(**{name: single(value) for name, value in links.items()})


def history(earlier: list[Shot], to_global: Matrices) -> History:
    """Earlier moments as the network's input, newest first, of a frame whose reference lies in the global frame like that."""
    projections = [shot.geometry.projection(shot.pinholes, shot.from_reference(to_global)) for shot in earlier]
    to_own = np.linalg.inv(to_global)
    moves = [square4(shot.geometry.reference) @ to_own @ shot.to_global @ shot.geometry.before() for shot in earlier]
    return History(single(np.stack([shot.images for shot in earlier])), single(np.stack(projections)), single(np.stack(moves)))


def neighbours(
    current: NDArray[np.uint8],
    images: NDArray[np.uint8],
    intrinsics: Matrices,
    camera_to_ego: Matrices,
    beside: list[list[CameraFrame | None]],
    mask: NDArray[np.bool_] | None,
) -> Neighbours:
    """Of ``beside``, [T][V] what there is of each moment, with images [T, V, h, w, 3] blue, green, red as the [V, h, w, 3] of
    the key frame."""
    motion = [[np.eye(4) if one is None else one.motion for one in moment] for moment in beside]
    return Neighbours(
        images=_colours(images),
        current=_colours(current),
        intrinsics=single(intrinsics),
        camera_to_ego=single(camera_to_ego),
        camera_motion=single(np.array(motion)),
        valid=torch.tensor([[[one is not None for one in moment] for moment in beside]]),
        mask=None if mask is None else torch.from_numpy(mask)[None],
    )


def _colours(images: NDArray[np.uint8]) -> Tensor:
    """float32 [1, ..., 3, h, w] in 0..1, red, green, blue, of [..., h, w, 3] blue, green, red."""
    return single(np.moveaxis(images[..., ::-1], -1, -3)) / 255


def single(array: NDArray[Any]) -> Tensor:
    """float32 [1, ...] of an array [...]: a batch of one sample."""
    return torch.from_numpy(np.array(array, dtype=np.float32))[None]
