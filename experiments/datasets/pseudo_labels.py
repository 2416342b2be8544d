"""Pseudo labels of the cameras' images, as GaussianFlowOcc publishes them, as a part of the batch.

Read as boschresearch/GaussianFlowOcc does (mmdet3d/datasets/pipelines/loading.py:382-475): scaled to the width of the label maps,
classes by the nearest pixel and depth between pixels, and cut at the top; what is farther than 40 m teaches nothing. But for
this: cameras are found by name in both kinds of files, where upstream's depth fits one order of cameras alone; transforms are
multiplied in float64; the nearest pixel is that of the middles, and between known and unknown depth there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from baselines.interface import ImageSupervision
from experiments.datasets.augmentation import Pixels
from experiments.datasets.frames import Frame
from experiments.datasets.layout_pseudo_labels import (
    DEPTH,
    EXACT,
    FARTHEST,
    SEMANTIC,
    TOY,
    path_of,
    read_classes,
    read_metres,
)
from experiments.datasets.lidar_pixels import LidarPixelFrames
from experiments.datasets.parts import Geometry, single
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError


@dataclass(frozen=True)
class LabelMaps:
    """What is known of the V images of one moment, at the size of the label maps.

    semantic  [V, h, w] uint8 class ids, the grid's ``ignore`` where unknown
    depth     [V, h, w] metres, 0 where unknown
    """

    semantic: NDArray[np.uint8]
    depth: NDArray[np.float32]


def scaled_depth(depth: NDArray[np.float32], image: ImageTransform) -> NDArray[np.float32]:
    """Depth [h, w] at another size, between the middles of its pixels; 0 where one of them is."""
    scaled = image.apply_to_map(depth, cv2.INTER_LINEAR)
    if (known := depth > 0).all():
        return scaled
    return np.where(image.apply_to_map(known.astype(np.float32), cv2.INTER_LINEAR) > 1 - 1e-6, scaled, np.float32(0))


def label_maps(classes: NDArray[np.uint8], depth: NDArray[np.float32], image: ImageTransform, ignore: int) -> LabelMaps:
    """Of classes and depth [V, h, w] at the images' own size."""
    scaled = np.stack([scaled_depth(one, image) for one in depth])
    semantic = np.stack([image.apply_to_map(one, cv2.INTER_NEAREST_EXACT) for one in classes])
    far = scaled > FARTHEST
    return LabelMaps(np.where(far | (semantic == 0), np.uint8(ignore), semantic), np.where(far, np.float32(0), scaled))


class PseudoLabelFrames(LidarPixelFrames[Frame]):
    """Frames of a data set of nuScenes' images with Occ3D's classes, with ``views`` from files of pseudo labels."""

    has_views = True

    def _label_path(self, frame: Frame) -> Path:
        """The frame's label file, whose folders name scene and token."""
        raise NotImplementedError

    def _read_views(self, shown: list[tuple[int, int] | None], pixels: Pixels, geometry: Geometry) -> ImageSupervision:
        own, _ = shown[-1] or (-1, 0)
        to_global = self._to_global(self._all_frames[own])
        maps, intrinsics, to_camera = [], [], []
        for entry in shown:
            position = own if entry is None else entry[0]
            frame = self._all_frames[position]
            cameras = self._calibration(frame)
            relative = np.linalg.inv(self._to_global(frame)) @ to_global if position != own else np.eye(4)
            to_camera.append(cameras.labels @ relative @ geometry.before())
            intrinsics.append(self._view_matrix(pixels) @ self._pinholes(frame, cameras, pixels))
            maps.append(self._unknown(len(cameras.labels)) if entry is None else self._maps(position, pixels))
        return ImageSupervision(
            intrinsics=single(np.stack(intrinsics)),
            reference_to_camera=single(np.stack(to_camera)),
            steps=torch.tensor([[0 if entry is None else entry[1] for entry in shown]]),
            semantic=torch.from_numpy(np.stack([one.semantic for one in maps]).astype(np.int64))[None],
            depth=single(np.stack([one.depth for one in maps])),
            valid=torch.tensor([[entry is not None for entry in shown]]),
        )

    def _unknown(self, views: int) -> LabelMaps:
        shape = views, self.view_image.height, self.view_image.width
        return LabelMaps(np.full(shape, self.grid.ignore, np.uint8), np.zeros(shape, np.float32))

    def _maps(self, position: int, pixels: Pixels) -> LabelMaps:
        if self._views is not None and position in self._views:
            return self._views[position]
        root = self.data_root / EXACT if self.exact_views else self.data_root
        if not root.is_dir():
            raise DataError(f"{root} is missing: only generated worlds have exact pseudo labels, made by prepare {TOY}")
        label, size = self._label_path(self._all_frames[position]), (pixels.width, pixels.height)
        classes = read_classes(path_of(root, label, SEMANTIC), self.camera_names, size)
        depth = read_metres(path_of(root, label, DEPTH), self.camera_names, size)
        maps = label_maps(classes, depth, self.view_image, self.grid.ignore)
        if self._views is not None:
            self._views[position] = maps
        return maps
