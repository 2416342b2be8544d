"""Camera frames with voxel labels, whatever their layout on disk: decoding, caching, augmentation, joining to batches."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from baselines.interface import (
    BatchPart,
    History,
    ImageSupervision,
    LidarDepth,
    Neighbours,
    OccupancyBatch,
    OccupancyGrid,
    RaySupervision,
)
from experiments.datasets.augmentation import Augmentation, Pixels, check_turns, read_pixels, warped_depth
from experiments.datasets.geometry import pinhole as pinhole
from experiments.datasets.layout import CAMERAS, mini_indices
from experiments.datasets.layout_image_semantics import UNLABELLED
from experiments.datasets.moments import Moment, Timeline
from experiments.datasets.parts import CameraFrame, Geometry, Shot, camera_chain, history, neighbours, single, square4
from experiments.datasets.sight import in_sight
from experiments.datasets.transforms import ImageTransform, coarsen_labels, distort, read_depth
from experiments.datasets.unpickle import DataError, refusing

Frame = TypeVar("Frame")
_RAYS, _VIEWS = 1, 2  # tell the draws of a frame's rays and views from that of its augmentation
Labels = tuple[NDArray[np.uint8], NDArray[np.bool_]]


@dataclass(frozen=True)
class Calibration:
    """The V cameras of a frame, float64.

    pinholes             [V, 3, 3] intrinsics in pixels of images of ``image_size``
    features             [V, 4, 4] reference frame -> camera, with which the network samples its features
    labels               [V, 4, 4] reference frame -> label camera, ego-motion compensated
    reference_to_lidar   [4, 4]
    image_size           (width, height) that the intrinsics are for, or None for the size of the image files
    """

    pinholes: NDArray[np.float64]
    features: NDArray[np.float64]
    labels: NDArray[np.float64]
    reference_to_lidar: NDArray[np.float64]
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for what in ("features", "labels", "reference_to_lidar"):
            _check_rigid(getattr(self, what), f"a camera ({what})" if what != "reference_to_lidar" else "the lidar")

    def scaled_pinholes(self, width: int, height: int) -> NDArray[np.float64]:
        """The intrinsics for images of width x height; raises ValueError if those have another shape."""
        if self.image_size is None:
            return self.pinholes
        own_width, own_height = self.image_size
        if width * own_height != height * own_width:
            raise ValueError(f"it is {width}x{height}; the calibration is for {own_width}x{own_height}, or that scaled evenly")
        scaled = self.pinholes.copy()
        scaled[:, :2] *= width / own_width
        return scaled


_APART = 1e3  # metres that no sensor of a car is from its reference frame


def _check_rigid(transforms: NDArray[np.float64], what: str) -> None:
    """Raises ValueError where one of [..., 4, 4] does not only rotate and move, or moves too far."""
    rotations = transforms[..., :3, :3]
    if not np.isfinite(transforms).all() or np.abs(rotations @ np.swapaxes(rotations, -1, -2) - np.eye(3)).max() > 1e-3:
        raise ValueError(f"{what} has no rotation")
    if (np.linalg.det(rotations) < 0).any():
        raise ValueError(f"{what} mirrors")
    if np.abs(transforms[..., :3, 3]).max() > _APART:
        raise ValueError(f"{what} is {np.abs(transforms[..., :3, 3]).max():.3g} m away")


def _mirrored(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.flip(array, -1))


class OccupancyFrames(Dataset[OccupancyBatch], Generic[Frame]):
    """Frames of a split as ``OccupancyBatch`` of one sample; ``collate`` joins them.

    data_root           folder with the data set in its official layout
    split               its name in that layout
    image               size, normalisation and distortion of the network's input
    coarsen             labels and grid with voxels that many times as large
    mini                the 20 % of the frames that upstream's ``is_mini`` takes
    label_camera_width  width in pixels to which the label cameras are scaled, or None for the images' own size
    augment             photometric distortion, mirroring or BEVDet's (training); drawn from (seed, draw, index)
    mirror              half of the augmented frames are mirrored left to right: image, depth and labels, but not the
                        cameras, as Symphonies does (hustvl/Symphonies ssc_pl/data/datasets/kitti_360.py); that is exact
                        only for a camera in the middle, looking straight ahead (KITTI-360's principal point is 22 pixels off)
    bevdet              augmented frames are as BEVDet's family takes them: each view resized, cropped, flipped and rotated, the
                        reference frame's axes turned round (``Augmentation``). All of the batch follows, cameras too, but
                        for ``meta``
    flips               False: that without flips and without axes turned round
    seed                seed of the augmentation
    cache               keep decoded images and labels in memory; for small data sets only
    depth               fill the batch's ``depth``, at the size of the network's input
    sight               fill the batch's ``sight``: the labels' own mask where they have one of the cameras, else cast
    chain               fill the batch's ``chain``
    history             fill the batch's ``history`` with these key frames of the scene, all earlier (-1: the one before), each
                        augmented as the batch's images are; past the scene's beginning with its first frame
    neighbours          fill the batch's ``neighbours`` with these camera frames (-1: the one right before, 1: the next one); they
                        are not distorted, but else augmented as the batch's images are
    rays                fill the batch's ``rays`` from these, the batch's own (0) first; where the scene ends there are fewer
    ray_count           rays that are drawn of a frame, from (seed, draw, index); 0: all
    even_rays           all rays are as likely to be drawn, see ``Recipe.even_rays``
    views               fill the batch's ``views`` from these key frames, the batch's own (0) among them
    view_count          moments besides the own that are drawn of a frame, from (seed, draw, index), among those that its scene
                        has; 0: all. Where there are fewer, the first ones are not valid
    view_size           (width, height) of the label maps, None for that of the network's input
    semantics           fill the batch's ``semantics``, with label maps of ``view_size``
    exact_views         take a generated world's exact labels, not those with errors like the ones of models
    lidar               fill the batch's ``lidar``, with views of ``view_size``
    follow              ``meta`` holds besides: "previous", the token of the scene's key frame before, None for its first one, and
                        "to_global", [4, 4] float64 reference frame -> global frame. Frames of the split that ``mini`` leaves
                        out are there too, behind the others: from ``len`` to ``reachable``

    Other key frames are those that the split's list has of the scene, in order of time, also where ``mini`` leaves them out.
    Items are addressed by an index or by a pair (index, draw), where ``draw`` (say, the epoch; see ``TrainSampler``)
    picks the augmentation; an index alone means draw 0. ``meta`` holds at least: token, scene, index, image_paths.

    A subclass lists its frames and reads one: ``_list``, ``_image_paths``, ``_calibration``, ``_read_labels``, ``_meta``,
    ``_depth_paths`` where there is depth, ``_moment`` and ``_to_global`` where there are poses, ``_read_rays`` where there are
    rays, ``_read_views`` where there are labels of images, ``_read_semantics`` where there are GaussianOcc's, ``_camera_frames``
    and ``_compared`` where there are images between key frames, ``_read_lidar`` where there is lidar.

    Raises DataError, naming the file, for whatever is missing or damaged, and where a part is asked of a data set that does not
    have it, mirroring of one with several cameras, or ``bevdet`` of one whose grid does not lie about 0.
    """

    camera_names: tuple[str, ...] = CAMERAS
    """The V cameras, in the order of the batches."""

    get_depth = ""
    """What brings the depth; empty for a data set without."""

    has_camera_mask = False
    """Whether the mask of the voxels that count says which ones the cameras see."""

    has_moments = False
    """Whether frames have poses and time stamps, and so others before and after them."""

    has_rays = False
    """Whether there are rays with known surfaces."""

    has_views = False
    """Whether there are labels of the cameras' images."""

    has_neighbours = False
    """Whether there are images right before and after those of the frames."""

    has_semantics = False
    """Whether there are GaussianOcc's labels of the cameras' images."""

    has_labels = True
    """Whether there are voxel labels; where there are none, all voxels are unknown and none counts."""

    has_lidar = False
    """Whether there are lidar points in the images, which rendered depth can be measured by."""

    has_ray_origins = False
    """Whether ``meta`` holds "ray_origins", from which RayIoU casts its rays."""

    own_mask = "voxels with a known label"
    """What the mask of ``labels`` is called where numbers are shown."""

    def __init__(
        self,
        data_root: str | Path,
        split: str,
        *,
        image: ImageTransform | None = None,
        coarsen: int = 1,
        mini: bool = False,
        label_camera_width: int | None = None,
        augment: bool = False,
        mirror: bool = False,
        bevdet: bool = False,
        flips: bool = True,
        seed: int = 0,
        cache: bool = False,
        depth: bool = False,
        sight: bool = False,
        chain: bool = False,
        history: tuple[int, ...] = (),
        neighbours: tuple[int, ...] = (),
        rays: tuple[int, ...] = (),
        ray_count: int = 0,
        even_rays: bool = False,
        views: tuple[int, ...] = (),
        view_count: int = 0,
        view_size: tuple[int, int] | None = None,
        semantics: bool = False,
        exact_views: bool = False,
        lidar: bool = False,
        follow: bool = False,
    ) -> None:
        asked = {"depth": depth, "history": history, "neighbours": neighbours, "rays": rays, "views": views}
        asked |= {"lidar": lidar, "order of time": follow, "semantics": semantics, "labels to see the voxels in sight by": sight}
        has = {"depth": bool(self.get_depth), "rays": self.has_rays, "views": self.has_views}
        has |= dict.fromkeys(("history", "order of time"), self.has_moments)
        has |= {"lidar": self.has_lidar, "neighbours": self.has_neighbours, "semantics": self.has_semantics}
        has |= {"labels to see the voxels in sight by": self.has_labels}
        if lacking := [part for part, wanted in asked.items() if wanted and not has[part]]:
            raise DataError(f"{type(self).__name__} has no {lacking[0]}: take another data set, or a model that does not need it")
        if any(offset >= 0 for offset in history):
            raise ValueError(f"history must be of earlier key frames, -1 the one before, got {history}")
        if not set(neighbours) <= {-1, 1}:
            raise ValueError(f"neighbours must be the camera frames right before, -1, and after, 1, got {neighbours}")
        if rays and rays[0] != 0:
            raise ValueError(f"rays must be of the batch's own key frame, 0, first, got {rays}")
        if views and (0 not in views or len(set(views)) < len(views)):
            raise ValueError(f"views must be of different key frames, the batch's own, 0, among them, got {views}")
        if mirror and len(self.camera_names) > 1:
            raise DataError(f"{type(self).__name__} has {len(self.camera_names)} cameras: only frames of one can be mirrored")
        self.data_root = Path(data_root)
        self.split = split
        self.image = image or ImageTransform()
        self.coarsen = coarsen
        self.official_grid = self._official_grid()
        if bevdet and flips:
            check_turns(type(self).__name__, self.official_grid)
        self.grid = self.official_grid if coarsen == 1 else self.official_grid.coarsened(coarsen)
        self.label_camera_width = label_camera_width
        self.augment = augment
        self.mirror = mirror
        self.bevdet, self.flips = bevdet, flips
        self.seed = seed
        self.with_depth = depth
        self.with_sight = sight
        self.with_chain = chain
        self.history, self.neighbours = history, neighbours
        self.rays, self.ray_count, self.even_rays = rays, ray_count, even_rays
        self.views, self.view_count, self.exact_views = views, view_count, exact_views
        self.with_semantics = semantics
        self.with_lidar = lidar
        width, height = view_size or (self.image.width, self.image.height)
        self.view_image = ImageTransform(width=width, height=height, distort=False, stretch=self.image.stretch)
        with refusing(f"{self._index()}: split {split}", "copy or download it again"):
            self._all_frames = self._list()
        self._chosen = mini_indices(len(self._all_frames)) if mini else list(range(len(self._all_frames)))
        self._count, self._follow = len(self._chosen), follow
        if follow:
            self._chosen += sorted(set(range(len(self._all_frames))) - set(self._chosen))
        moved = follow or any(offset != 0 for offset in (*history, *rays, *views))
        with refusing(f"{self._index()}: the moments of its frames", "copy or download it again"):
            self._timeline = Timeline([self._moment(frame) for frame in self._all_frames]) if moved else None
        self._predecessors = self.predecessors() if follow else []
        self._pixels: dict[int, Pixels] | None = {} if cache else None
        self._depth: dict[int, NDArray[np.float32]] | None = {} if cache else None
        self._labels: dict[int, Labels] | None = {} if cache else None
        self._sight: dict[int, NDArray[np.bool_]] | None = {} if cache else None
        self._views: dict[int, Any] | None = {} if cache else None
        self._semantics: dict[int, NDArray[np.uint8]] | None = {} if cache else None
        self._beside: dict[tuple[int, int], NDArray[np.uint8]] | None = {} if cache else None

    @abstractmethod
    def _official_grid(self) -> OccupancyGrid:
        """The grid of the label files."""

    @abstractmethod
    def _list(self) -> list[Frame]:
        """All frames of the split in the published order."""

    @abstractmethod
    def _image_paths(self, frame: Frame) -> list[Path]:
        """The images of the V cameras, in the order of ``_calibration``."""

    def _depth_paths(self, frame: Frame) -> list[Path]:
        """The depth of the V cameras."""
        raise NotImplementedError

    def _moment(self, frame: Frame) -> Moment:
        """When the frame was taken."""
        raise NotImplementedError

    def _to_global(self, frame: Frame) -> NDArray[np.float64]:
        """[4, 4] reference frame of a frame -> global frame."""
        raise NotImplementedError

    def _read_rays(
        self, shown: list[tuple[int, NDArray[np.float64]]], geometry: Geometry, generator: np.random.Generator, count: int
    ) -> RaySupervision:
        """``count`` rays (0: all) of frames, the batch's own first: each its position in ``_list``, and [4, 4] its reference
        frame -> that of the batch, which ``geometry`` changes."""
        raise NotImplementedError

    def _read_views(self, shown: list[tuple[int, int] | None], pixels: Pixels, geometry: Geometry) -> ImageSupervision:
        """Labels of the images of moments: each its position in ``_list`` and its key frames from the own one, which is the last;
        None where the scene has none. ``pixels`` are the own ones, ``geometry`` changes the reference frame."""
        raise NotImplementedError

    def _read_semantics(self, frame: Frame, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Class ids [V, h, w] of the pixels of a frame's images of ``size`` (width, height), 255 where unlabelled."""
        raise NotImplementedError

    def _camera_frames(self, frame: Frame, offset: int) -> list[CameraFrame | None]:
        """The images of the V cameras ``offset`` camera frames later, None where there is none."""
        raise NotImplementedError

    def _compared(self, frame: Frame, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """[V, h, w] pixels of the frame's images of ``size`` (width, height) that do not show the vehicle, None for all."""
        return None

    def _read_lidar(self, position: int, size: tuple[int, int], to_label: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Points in the images of a frame, as ``LidarDepth`` has them: places, cells, depth, camera.

        size      (width, height) of the camera's own images
        to_label  [3, 3] pixel of the camera's own image -> pixel of the label camera
        """
        raise NotImplementedError

    def count_rays(self) -> None:
        """Draw rays by how many of each class there are in this split, not in the published data set. Raises DataError for a file
        that is missing or damaged."""
        raise NotImplementedError

    @abstractmethod
    def _calibration(self, frame: Frame) -> Calibration:
        """The frame's cameras."""

    @abstractmethod
    def _read_labels(self, frame: Frame) -> Labels:
        """Class ids and the mask of the voxels that count in evaluation, [X, Y, Z] on the official grid."""

    @abstractmethod
    def _meta(self, index: int, frame: Frame) -> dict[str, Any]:
        """What the batch says about the frame."""

    def __len__(self) -> int:
        return self._count

    @property
    def reachable(self) -> int:
        """Number of frames that can be addressed: those of ``len``, and behind them what has only to be looked at before."""
        return len(self._chosen)

    def predecessors(self) -> list[int | None]:
        """For each reachable frame the index of the one before it in its scene; ``follow`` alone knows."""
        assert self._follow and self._timeline is not None
        index = {position: number for number, position in enumerate(self._chosen)}
        before = [self._timeline.at(position, -1) for position in self._chosen]
        return [None if position is None else index[position] for position in before]

    def __getitem__(self, key: int | tuple[int, int]) -> OccupancyBatch:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        position = self._chosen[index]
        with refusing(f"{self._index()}: frame {position}", "copy or download the file again"):
            return self._sample(index, draw, position)

    def _index(self) -> Path:
        """What lists the split's frames."""
        return self.data_root

    def _sample(self, index: int, draw: int, position: int) -> OccupancyBatch:
        frame = self._all_frames[position]
        generator = np.random.default_rng((self.seed, draw, index))
        turned = self.augment and self.bevdet
        augmentation = Augmentation.drawn(generator, len(self.camera_names), self.flips) if turned else None
        pixels = self._read_pixels(position, augmentation)
        geometry = pixels.geometry
        depth = self._depth_of(position, pixels) if self.with_depth else None
        labels, counted = self.labels(index)
        cameras = self._calibration(frame)
        scale = (self.label_camera_width or pixels.width) / pixels.width
        pinholes = self._pinholes(frame, cameras, pixels)
        intrinsics = pinholes.copy()
        intrinsics[:, :2] *= scale
        size = (round(pixels.width * scale), int(pixels.height * scale))
        sight = self._in_sight(index, intrinsics, cameras.labels, size) if self.with_sight else None
        images = self._network_input(pixels.images, generator)
        matrices = {
            "projection": square4(geometry.image) @ square4(pinholes) @ cameras.features @ geometry.before(),
            "intrinsics": intrinsics,
            "reference_to_camera": cameras.labels @ geometry.before(),
            "reference_to_lidar": cameras.reference_to_lidar @ geometry.before(),
        }
        if mirrored := self.augment and self.mirror and bool(generator.integers(2)):
            geometry = geometry.mirrored(self.image.width)
            images, depth = _mirrored(images), None if depth is None else _mirrored(depth)
        labels, counted = geometry.turned(labels), geometry.turned(counted)
        sight = None if sight is None else geometry.turned(sight)
        parts: dict[str, Any] = dict(self._history(position, augmentation, mirrored, generator))
        if self.neighbours:
            parts["neighbours"] = self._neighbours(position, pixels, augmentation)
        if self.with_chain:
            parts["chain"] = camera_chain(pinholes, cameras.labels, geometry)
        if self.rays:
            parts["rays"] = self._drawn_rays(position, geometry, np.random.default_rng((self.seed, draw, index, _RAYS)))
        if self.views:
            shown = self._drawn_moments(position, np.random.default_rng((self.seed, draw, index, _VIEWS)))
            parts["views"] = self._read_views(shown, pixels, geometry)
        if self.with_semantics:
            parts["semantics"] = self._image_semantics(position, pixels, geometry)
        if self.with_lidar:
            parts["lidar"] = self._lidar(position, pixels, np.diag([scale, scale, 1.0]))
        tensors: dict[str, Any] = {n: torch.from_numpy(value.astype(np.float32))[None] for n, value in matrices.items()}
        return OccupancyBatch(
            images=torch.from_numpy(images)[None],
            **tensors,
            camera_size=size,
            labels=torch.from_numpy(labels.astype(np.int64))[None],
            camera_mask=torch.from_numpy(counted)[None],
            meta=[self._meta(index, frame) | (self._place_in_scene(index) if self._follow else {})],
            depth=None if depth is None else torch.from_numpy(depth)[None],
            sight=None if sight is None else torch.from_numpy(sight)[None],
            **parts,
        )

    def _place_in_scene(self, index: int) -> dict[str, Any]:
        before = self._predecessors[index]
        previous = None if before is None else self._meta(before, self._frame(before))["token"]
        return {"previous": previous, "to_global": self._to_global(self._frame(index))}

    def _history(
        self, position: int, augmentation: Augmentation | None, mirrored: bool, generator: np.random.Generator
    ) -> dict[str, History]:
        """The part of that name, if it is asked for."""
        if not self.history or self._timeline is None:
            return {}
        earlier = [self._timeline.back(position, offset) for offset in self.history]
        shots = [self._shot(other, self._read_pixels(other, augmentation), mirrored, generator) for other in earlier]
        return {"history": history(shots, self._to_global(self._all_frames[position]))}

    def _neighbours(self, position: int, pixels: Pixels, augmentation: Augmentation | None) -> Neighbours:
        frame = self._all_frames[position]
        beside = [self._camera_frames(frame, offset) for offset in self.neighbours]
        images = [
            self._read_beside(position, offset, pixels, augmentation, found)
            for offset, found in zip(self.neighbours, beside, strict=True)
        ]
        cameras, mask = self._calibration(frame), self._compared(frame, (pixels.width, pixels.height))
        return neighbours(
            pixels.images,
            np.stack(images),
            pixels.geometry.image @ self._pinholes(frame, cameras, pixels),
            square4(pixels.geometry.reference) @ np.linalg.inv(cameras.features),
            beside,
            None if mask is None else self._changed_mask(mask, pixels),
        )

    def _read_beside(
        self, position: int, offset: int, pixels: Pixels, augmentation: Augmentation | None, found: list[CameraFrame | None]
    ) -> NDArray[np.uint8]:
        """[V, h, w, 3] the images of camera frames, and the frame's own where there is none."""
        kept = None if augmentation else self._beside
        if kept is not None and (position, offset) in kept:
            return kept[position, offset]
        own = self._image_paths(self._all_frames[position])
        paths = [path if one is None else one.path for path, one in zip(own, found, strict=True)]
        read = read_pixels(paths, self.image, augmentation)
        if (read.width, read.height) != (pixels.width, pixels.height):
            raise DataError(
                f"image {paths[0]} is {read.width}x{read.height}, that of its key frame {own[0]} {pixels.width}x{pixels.height}"
            )
        if kept is not None:
            kept[position, offset] = read.images
        return read.images

    def _changed_mask(self, mask: NDArray[np.bool_], pixels: Pixels) -> NDArray[np.bool_]:
        """At the size of the network's input, [V, h, w]: what mostly lies on pixels that count."""
        known, size = mask.astype(np.float32), (self.image.width, self.image.height)
        if pixels.augmented:
            return np.stack([warped_depth(*pair, *size) for pair in zip(known, pixels.geometry.image, strict=True)]) > 0.5
        return np.stack([self.image.apply_to_map(one, cv2.INTER_LINEAR) for one in known]) > 0.5

    def _image_semantics(self, position: int, pixels: Pixels, geometry: Geometry) -> ImageSupervision:
        frame = self._all_frames[position]
        cameras = self._calibration(frame)
        maps = None if self._semantics is None else self._semantics.get(position)
        if maps is None:
            read = self._read_semantics(frame, (pixels.width, pixels.height))
            maps = np.stack([self.view_image.apply_to_map(one, cv2.INTER_NEAREST_EXACT) for one in read])
            maps[maps == UNLABELLED] = self.grid.ignore
            if self._semantics is not None:
                self._semantics[position] = maps
        matrix = self.view_image.matrix(pixels.width, pixels.height)
        return ImageSupervision(
            intrinsics=single(matrix @ self._pinholes(frame, cameras, pixels))[:, None],
            reference_to_camera=single(cameras.labels @ geometry.before())[:, None],
            steps=torch.zeros(1, 1, dtype=torch.int64),
            semantic=torch.from_numpy(maps.astype(np.int64))[None, None],
            depth=torch.zeros(1, 1, *maps.shape),
            valid=torch.ones(1, 1, dtype=torch.bool),
        )

    def _shot(self, position: int, pixels: Pixels, mirrored: bool, distorted: np.random.Generator) -> Shot:
        """A frame's images as the network takes them."""
        frame = self._all_frames[position]
        cameras = self._calibration(frame)
        geometry = pixels.geometry
        images = self._network_input(pixels.images, distorted)
        if mirrored:
            geometry, images = geometry.mirrored(self.image.width), _mirrored(images)
        pinholes = self._pinholes(frame, cameras, pixels)
        return Shot(images, pinholes, cameras.labels, self._to_global(frame), geometry)

    def _lidar(self, position: int, pixels: Pixels, to_label: NDArray[np.float64]) -> LidarDepth:
        to_view = self._view_matrix(pixels) @ np.linalg.inv(to_label)
        points = self._read_lidar(position, (pixels.width, pixels.height), to_label)
        return LidarDepth(
            places=torch.from_numpy(points["places"].astype(np.float32)),
            cells=torch.from_numpy(points["cells"].astype(np.int64)),
            depth=torch.from_numpy(points["depth"].astype(np.float32)),
            camera=torch.from_numpy(points["camera"].astype(np.int64)),
            scene=torch.zeros(len(points["depth"]), dtype=torch.int64),
            to_view=single(np.broadcast_to(to_view, (len(self.camera_names), 3, 3))),
            size=(self.view_image.width, self.view_image.height),
        )

    def _view_matrix(self, pixels: Pixels) -> NDArray[np.float64]:
        """[3, 3] pixel of the camera's own image -> pixel of a view of ``view_size``."""
        try:
            return self.view_image.matrix(pixels.width, pixels.height)
        except ValueError as error:
            raise DataError(f"views of {self.view_image.width}x{self.view_image.height}: {error}") from None

    def _drawn_rays(self, position: int, geometry: Geometry, generator: np.random.Generator) -> RaySupervision:
        shown = [(position, np.eye(4))]
        if others := [offset for offset in self.rays if offset]:
            assert self._timeline is not None
            from_global = np.linalg.inv(self._to_global(self._all_frames[position]))
            for other in self._timeline.shown("rays", position, others):
                shown.append((other, from_global @ self._to_global(self._all_frames[other])))
        return self._read_rays(shown, geometry, generator, self.ray_count)

    def _drawn_moments(self, position: int, generator: np.random.Generator) -> list[tuple[int, int] | None]:
        """Positions of the moments that ``views`` shows with the key frames to them, in order of time, but the own one last."""
        others = sorted(offset for offset in self.views if offset)
        able = []
        if self._timeline is not None:
            able = [(other, step) for step in others if (other := self._timeline.at(position, step)) is not None]
        count = min(self.view_count or len(others), len(others))
        drawn = able
        if count < len(able):
            drawn = [able[number] for number in np.sort(generator.choice(len(able), count, replace=False))]
        return [*[None] * (count - len(drawn)), *drawn, (position, 0)]

    def labels(self, index: int) -> Labels:
        """Class ids and mask of the voxels that count, [X, Y, Z], of a frame, without reading its images."""
        if self._labels is not None and index in self._labels:
            return self._labels[index]
        labels, counted = self._read_labels(self._frame(index))
        if self.coarsen > 1:
            labels, counted = coarsen_labels(
                labels, counted, self.coarsen, self.grid.empty, self.grid.num_classes, self.grid.ignore
            )
        if self._labels is not None:
            self._labels[index] = labels, counted
        return labels, counted

    def other_masks(self, index: int) -> dict[str, NDArray[np.bool_]]:
        """Masks [X, Y, Z] of voxels that count in other protocols than the data set's own, each under its name for people; none
        where the labels have no other."""
        return {}

    def meta(self, index: int) -> dict[str, Any]:
        """What the batch says about a frame, without reading its images."""
        with refusing(f"{self._index()}: frame {self._chosen[index]}", "copy or download the file again"):
            return self._meta(index, self._frame(index))

    def names(self, index: int) -> tuple[str, ...]:
        """What files of predictions call a frame, its token first."""
        return (str(self.meta(index)["token"]),)

    def _coarse_mask(self, labels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the official grid on the grid of ``labels``, as that of the data set itself."""
        if self.coarsen == 1:
            return mask
        return coarsen_labels(labels, mask, self.coarsen, self.grid.empty, self.grid.num_classes, self.grid.ignore)[1]

    def _in_sight(
        self, index: int, intrinsics: NDArray[np.float64], to_camera: NDArray[np.float64], size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        labels, counted = self.labels(index)
        if self.has_camera_mask:
            return counted
        if self._sight is not None and index in self._sight:
            return self._sight[index]
        occupied = (labels != self.grid.empty) & (labels != self.grid.ignore)
        sight = in_sight(occupied, intrinsics, to_camera, size, self.grid.lower, self.grid.voxel_size)
        if self._sight is not None:
            self._sight[index] = sight
        return sight

    def check_source(self, index: int) -> None:
        """Raises DataError if a frame's label is not what its data set's raw form says; nothing where there is none."""

    def check_part(self, part: str, index: int) -> None:
        """Raises DataError if the files that a part of the batch has of a frame cannot be read."""
        position = self._chosen[index]
        if part == "depth":
            self.depth(index)
        elif part == "lidar":
            pixels = self._read_pixels(position)
            self._read_lidar(position, (pixels.width, pixels.height), np.eye(3))
        elif part == "views":
            pixels = self._read_pixels(position)
            self._read_views([(position, 0)], pixels, pixels.geometry)
        elif part == "semantics":
            pixels = self._read_pixels(position)
            self._read_semantics(self._all_frames[position], (pixels.width, pixels.height))
        elif part == "neighbours":
            pixels = self._read_pixels(position)
            frame = self._all_frames[position]
            self._compared(frame, (pixels.width, pixels.height))
            for offset in (-1, 1):
                self._read_beside(position, offset, pixels, None, self._camera_frames(frame, offset))
        else:
            self._drawn_rays(position, Geometry(np.eye(3), np.eye(3)), np.random.default_rng(0))

    def depth(self, index: int) -> NDArray[np.float32]:
        """Depth [V, h, w] in metres of a frame at the size of the network's input, 0 where unknown."""
        position = self._chosen[index]
        return self._depth_of(position, self._read_pixels(position))

    def _depth_of(self, position: int, pixels: Pixels) -> NDArray[np.float32]:
        kept = None if pixels.augmented else self._depth
        if kept is not None and position in kept:
            return kept[position]
        depth = self._read_depth(position, pixels)
        if kept is not None:
            kept[position] = depth
        return depth

    def _read_depth(self, position: int, pixels: Pixels) -> NDArray[np.float32]:
        """Depth [V, h, w] in metres at the pixels of a frame's images."""
        paths = self._depth_paths(self._all_frames[position])
        depths = [read_depth(path, pixels.width, pixels.height, self.get_depth) for path in paths]
        if pixels.augmented:
            size = self.image.width, self.image.height
            return np.stack([warped_depth(*pair, *size) for pair in zip(depths, pixels.geometry.image, strict=True)])
        return np.stack([self.image.apply_to_depth(depth) for depth in depths])

    def _frame(self, index: int) -> Frame:
        return self._all_frames[self._chosen[index]]

    def _pinholes(self, frame: Frame, cameras: Calibration, pixels: Pixels) -> NDArray[np.float64]:
        try:
            return cameras.scaled_pinholes(pixels.width, pixels.height)
        except ValueError as error:
            raise DataError(f"image {self._image_paths(frame)[0]}: {error}") from None

    def _read_pixels(self, position: int, augmentation: Augmentation | None = None) -> Pixels:
        kept = None if augmentation else self._pixels
        if kept is not None and position in kept:
            return kept[position]
        pixels = read_pixels(self._image_paths(self._all_frames[position]), self.image, augmentation)
        if kept is not None:
            kept[position] = pixels
        return pixels

    def _network_input(self, images: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.float32]:
        views, height, width, _ = images.shape
        out = np.empty((views, 3, height, width), dtype=np.float32)
        for view, image in enumerate(images):
            if self.augment and self.image.distort:
                out[view] = self.image.normalise(distort(image.astype(np.float32), generator))
            else:
                out[view] = self.image.normalise(image)
        return out


def collate(samples: list[OccupancyBatch]) -> dict[str, OccupancyBatch]:
    """``{"batch": OccupancyBatch}`` of all samples in order; raises DataError if their cameras differ in size."""
    first = samples[0]
    if len(samples) == 1:
        return {"batch": first}
    for sample in samples[1:]:
        if sample.camera_size != first.camera_size:
            raise DataError(
                f"frames {first.meta[0]['token']} and {sample.meta[0]['token']} have images of different size "
                f"({first.camera_size}, {sample.camera_size}): use a batch size of 1"
            )
    joined: dict[str, Any] = {}
    for name, one in ((field.name, getattr(first, field.name)) for field in fields(first)):
        values = [getattr(sample, name) for sample in samples]
        if isinstance(one, Tensor):
            joined[name] = torch.cat(values)
        elif isinstance(one, BatchPart):
            joined[name] = type(one).joined(values, [sample.batch_size for sample in samples])
    meta = [entry for sample in samples for entry in sample.meta]
    return {"batch": OccupancyBatch(camera_size=first.camera_size, meta=meta, **joined)}
