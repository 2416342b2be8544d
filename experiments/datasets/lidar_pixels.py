"""Lidar points in images, as RenderOcc publishes them: rays that are supervised, sparse depth of the images, and points that
rendered depth is measured by.

Draws rays as pmj110119/RenderOcc does (mmdet3d/datasets/ray.py, nuscenes_dataset_occ.py:87-131), but for this: rays go through
the points themselves, not through the middles of their pixels; a frame that the scene does not have adds none, where upstream
takes the key frame's a second time; rays of no weight are never drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from baselines.interface import RaySupervision
from experiments.datasets.augmentation import Pixels
from experiments.datasets.frames import Frame, OccupancyFrames
from experiments.datasets.layout_lidar_pixels import GET, NUM_CLASSES, depth_path, read_depths, read_points
from experiments.datasets.parts import Geometry, Matrices

# Points of each class in nuScenes' training set (nuscenes_dataset_occ.py:87-92), and those classes whose rays teach at their own
# moment alone. Upstream's choice: "others" and barriers are among them, bicycles and motorcycles are not.
POINTS = (
    2854504, 7291443, 141614, 4239939, 32248552, 1583610, 364372, 2346381, 582961, 4829021, 14073691, 191019309, 6249651,
    55095657, 58484771, 193834360, 131378779,
)  # fmt: skip
DYNAMIC = (0, 1, 3, 4, 5, 7, 9, 10)
AUXILIARY = 0.3
"""Weight of rays of other moments than the key frame's."""


@dataclass(frozen=True)
class RaySet:
    """Rays of one moment in the frame of its cameras' reference.

    origins, directions  [n, 3]; a direction is that of one metre along the camera's axis
    depth                [n] metres along the camera's axis
    classes              [n]
    """

    origins: Matrices
    directions: Matrices
    depth: NDArray[np.float32]
    classes: NDArray[np.int64]


def draw_weights(
    classes: NDArray[np.int64], own: NDArray[np.bool_], points: Sequence[int] | NDArray[np.int64] = POINTS
) -> NDArray[np.float64]:
    """[n] with which rays are drawn: rare classes more, and other moments less, of things that may have moved not at all.

    points  [17] points of each class in the training set; what does not occur counts as once
    """
    counts = np.maximum(points, 1)
    balance = np.exp(0.005 * (counts.max() / counts - 1))
    other = np.where(np.isin(classes, DYNAMIC), 0.0, AUXILIARY)
    weights: NDArray[np.float64] = balance[classes] * np.where(own, 1.0, other)
    return weights


def draw(weights: NDArray[np.float64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Indices of ``count`` entries, drawn one after the other by weight without putting back, in ascending order; 0: all. There
    are fewer where fewer have a weight."""
    able = np.flatnonzero(weights)
    if not count or len(able) <= count:
        return able
    # The first arrivals of independent exponential clocks are such a draw.
    arrival = generator.standard_exponential(len(able)) / weights[able]
    return np.sort(able[np.argpartition(arrival, count)[:count]])


class LidarPixelFrames(OccupancyFrames[Frame]):
    """Frames of a data set of nuScenes' images, with ``depth`` and ``rays`` from RenderOcc's files of lidar points.

    Depth is sparse: of several points in a pixel of the network's input the nearest counts. Class ids of rays are Occ3D's, which
    the data set's must be; points of a class whose id is that of the empty one are left out.
    """

    get_depth = GET
    has_rays = True
    has_lidar = True
    _points: Sequence[int] | NDArray[np.int64] = POINTS

    def count_rays(self) -> None:
        self._points = np.zeros(NUM_CLASSES, np.int64)
        for position in self._chosen[: len(self)]:
            for image in self._image_paths(self._all_frames[position]):
                self._points += np.bincount(read_points(self.data_root, image)[1], minlength=NUM_CLASSES)
        self._points[self.grid.empty : self.grid.empty + 1] = 0  # never a ray

    def _read_depth(self, position: int, pixels: Pixels) -> NDArray[np.float32]:
        points = self._depths(position, (pixels.width, pixels.height))
        size = self.image.width, self.image.height
        return np.stack([nearest(rows, matrix, *size) for rows, matrix in zip(points, pixels.geometry.image, strict=True)])

    def _depths(self, position: int, size: tuple[int, int]) -> list[NDArray[np.float32]]:
        images = self._image_paths(self._all_frames[position])
        return [read_depths(depth_path(self.data_root, path), size) for path in images]

    def _read_lidar(self, position: int, size: tuple[int, int], to_label: Matrices) -> dict[str, NDArray[Any]]:
        """In order of the files. A dense map has a point's depth at the pixel that its place is rounded to, as GaussianOcc's has
        (tools/export_gt_depth_nusc.py)."""
        points = self._depths(position, size)
        rows = np.concatenate(points).astype(np.float64)
        places = rows[:, :2] @ to_label[:2, :2].T + to_label[:2, 2]
        camera = np.repeat(np.arange(len(points)), [len(one) for one in points])
        return {"places": places, "cells": np.rint(places), "depth": rows[:, 2], "camera": camera}

    def _read_rays(
        self, shown: list[tuple[int, Matrices]], geometry: Geometry, generator: np.random.Generator, count: int
    ) -> RaySupervision:
        sets = [(self._rays_of(position), to_key) for position, to_key in shown]
        own = np.concatenate([np.full(len(rays.depth), number == 0) for number, (rays, _) in enumerate(sets)])
        classes = np.concatenate([rays.classes for rays, _ in sets])
        weights = np.ones(len(classes)) if self.even_rays else draw_weights(classes, own, self._points)
        chosen = draw(weights, count, generator)
        origins = np.concatenate([rays.origins @ to_key[:3, :3].T + to_key[:3, 3] for rays, to_key in sets])[chosen]
        directions = np.concatenate([rays.directions @ to_key[:3, :3].T for rays, to_key in sets])[chosen]
        depth = np.concatenate([rays.depth for rays, _ in sets])[chosen]
        return RaySupervision(
            origins=_float32(origins @ geometry.reference.T),
            directions=_float32(directions @ geometry.reference.T),
            depth=_float32(depth),
            semantic=torch.from_numpy(classes[chosen]),
            weight=torch.ones(len(chosen)),
            scene=torch.zeros(len(chosen), dtype=torch.int64),
        )

    def _rays_of(self, position: int) -> RaySet:
        frame = self._all_frames[position]
        cameras = self._calibration(frame)
        parts = []
        for image, pinhole, to_camera in zip(self._image_paths(frame), cameras.pinholes, cameras.labels, strict=True):
            points, classes = read_points(self.data_root, image)
            kept = classes != self.grid.empty
            points, classes = points[kept], classes[kept]
            to_reference = np.linalg.inv(to_camera)
            pixels = np.column_stack([points[:, :2], np.ones(len(points))]).astype(np.float64)
            directions = pixels @ np.linalg.inv(pinhole).T @ to_reference[:3, :3].T
            parts.append((np.broadcast_to(to_reference[:3, 3], directions.shape), directions, points[:, 2], classes))
        return RaySet(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def nearest(points: NDArray[np.float32], matrix: Matrices, width: int, height: int) -> NDArray[np.float32]:
    """[height, width] depth of points (u, v, depth) of the camera's own image, at pixels that ``matrix`` brings them to."""
    place = np.floor(points[:, :2] @ matrix[:2, :2].T + matrix[:2, 2]).astype(np.int64)
    inside = ((place >= 0) & (place < (width, height))).all(axis=1)
    u, v = place[inside].T
    depth = np.full((height, width), np.inf, np.float32)
    np.minimum.at(depth, (v, u), points[inside, 2])
    depth[np.isinf(depth)] = 0.0
    return depth


def _float32(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
