"""Occ3D-nuScenes in its official layout: info pickles, six images and one ``labels.npz`` a frame.

Frames and matrices follow GaussRender (valeoai/GaussRender dataset/occ3d_nuscenes.py): the grid lies in the ego
frame at the lidar's time.
"""

from __future__ import annotations

import random
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from baselines.interface import OccupancyBatch, OccupancyGrid
from experiments.datasets.geometry import lidar_to_ego, lidar_to_global, ray_origins, rigid
from experiments.datasets.grids import occ3d_grid
from experiments.datasets.layout import CAMERAS, field, info_path, label_path, read_infos, resolve
from experiments.datasets.transforms import ImageTransform, coarsen_labels, distort, read_image
from experiments.datasets.unpickle import DataError

MINI_SHARE = 0.2
MINI_SEED = 2025


def mini_indices(count: int) -> list[int]:
    """The 20 % of ``count`` frames that upstream's ``is_mini`` takes, in its order (at least one).

    Drawn as GaussRender dataset/nuscenes.py:42-70 draws them; for 28,130 and 6,019 frames the result equals the
    lists that it ships (dataset/indices/*.json). A private generator leaves the global one alone.
    """
    return random.Random(MINI_SEED).sample(range(count), max(1, int(count * MINI_SHARE)))


def read_labels(path: Path, grid: OccupancyGrid) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Class ids and camera mask [X, Y, Z] of a ``labels.npz``; raises DataError naming the file."""
    if not path.is_file():
        raise DataError(
            f"label {path} is missing: unpack Occ3D's gts.tar.gz (github.com/Tsinghua-MARS-Lab/Occ3D) in the data root"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels, visible = arrays["semantics"], arrays["mask_camera"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"label {path} cannot be read ({error}): copy or download it again") from error
    for name, array in (("semantics", labels), ("mask_camera", visible)):
        if array.shape != grid.shape or array.dtype.kind not in "biu":
            raise DataError(f"label {path}: {name} is {array.dtype} {list(array.shape)}, expected integers {list(grid.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= grid.num_classes:
        bad = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise DataError(f"label {path} holds class {bad}, Occ3D's classes are 0..{grid.num_classes - 1}")
    return labels.astype(np.uint8), visible.astype(bool)


@dataclass(frozen=True)
class _Pixels:
    """What is decoded once a frame: images [6, h, w, 3] uint8 and the size of the files' images."""

    images: NDArray[np.uint8]
    native_width: int
    native_height: int


class Occ3DNuScenes(Dataset[OccupancyBatch]):
    """Occ3D-nuScenes frames as ``OccupancyBatch`` of one sample; ``collate`` joins them.

    data_root           folder with the info pickles, ``gts/`` and ``nuscenes/samples/``
    split               "train" or "val"
    image               size, normalisation and distortion of the network's input
    coarsen             labels and grid with voxels that many times as large
    mini                the 20 % of the frames that upstream's ``is_mini`` takes
    label_camera_width  width in pixels to which the label cameras are scaled, or None for the images' own size
    augment             photometric distortion (training); drawn from (seed, draw, index)
    seed                seed of the distortion
    static_projection   True, as published: image features are sampled with the static calibration (ego -> camera),
                        which ignores the ego motion between lidar and camera time; False: with the compensated one,
                        which the label cameras use in any case
    cache               keep decoded images and labels in memory; for small data sets only

    Items are addressed by an index or by a pair (index, draw), where ``draw`` (say, the epoch; see ``TrainSampler``)
    picks the distortion; an index alone means draw 0. ``meta`` holds: token, scene, frame_idx, index, image_paths,
    lidar_path, ray_origins ([n, 3] float64, ego frame, for RayIoU).

    Raises DataError, naming the file, for whatever is missing or damaged.
    """

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
        seed: int = 0,
        static_projection: bool = True,
        cache: bool = False,
    ) -> None:
        self.data_root = Path(data_root)
        self.split = split
        self.image = image or ImageTransform()
        self.coarsen = coarsen
        self.grid = occ3d_grid(coarsen)
        self.label_camera_width = label_camera_width
        self.augment = augment
        self.seed = seed
        self.static_projection = static_projection
        self.pickle = info_path(data_root, split)
        self._infos = read_infos(data_root, split)
        self._chosen = mini_indices(len(self._infos)) if mini else list(range(len(self._infos)))
        # RayIoU looks at every key frame of a scene, also at those that ``mini`` leaves out.
        self._scenes: dict[str, list[int]] = {}
        for position, info in enumerate(self._infos):
            self._scenes.setdefault(str(field(info, "scene_name", self.pickle)), []).append(position)
        self._pixels: dict[int, _Pixels] | None = {} if cache else None
        self._labels: dict[int, tuple[NDArray[np.uint8], NDArray[np.bool_]]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, key: int | tuple[int, int]) -> OccupancyBatch:
        index, draw = key if isinstance(key, tuple) else (key, 0)
        info = self._info(index)
        pixels = self._read_pixels(index)
        labels, visible = self.labels(index)
        matrices = self._matrices(info, pixels)
        scale = (self.label_camera_width or pixels.native_width) / pixels.native_width
        matrices["intrinsics"][:, :2] *= scale
        return OccupancyBatch(
            images=torch.from_numpy(self._network_input(pixels.images, index, draw))[None],
            **{name: torch.from_numpy(value.astype(np.float32))[None] for name, value in matrices.items()},
            camera_size=(round(pixels.native_width * scale), int(pixels.native_height * scale)),
            labels=torch.from_numpy(labels.astype(np.int64))[None],
            camera_mask=torch.from_numpy(visible)[None],
            meta=[self._meta(index, info)],
        )

    def labels(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Class ids and camera mask [X, Y, Z] of a frame, without reading its images."""
        if self._labels is not None and index in self._labels:
            return self._labels[index]
        labels, visible = read_labels(label_path(self.data_root, self._info(index), self.pickle), occ3d_grid())
        if self.coarsen > 1:
            labels, visible = coarsen_labels(labels, visible, self.coarsen, self.grid.empty, self.grid.num_classes)
        if self._labels is not None:
            self._labels[index] = labels, visible
        return labels, visible

    def _info(self, index: int) -> dict[str, Any]:
        return self._infos[self._chosen[index]]

    def _read_pixels(self, index: int) -> _Pixels:
        if self._pixels is not None and index in self._pixels:
            return self._pixels[index]
        paths = self._image_paths(self._info(index))
        images = np.empty((len(paths), self.image.height, self.image.width, 3), dtype=np.uint8)
        size: tuple[int, int] | None = None
        for view, path in enumerate(paths):
            native = read_image(path)
            height, width = native.shape[:2]
            if size not in (None, (width, height)):
                raise DataError(f"image {path} is {width}x{height}, the cameras before it {size[0]}x{size[1]}")  # type: ignore[index]
            size = width, height
            try:
                images[view] = self.image.apply(native)
            except ValueError as error:
                raise DataError(f"image {path}: {error}") from None
        assert size is not None
        pixels = _Pixels(images, *size)
        if self._pixels is not None:
            self._pixels[index] = pixels
        return pixels

    def _network_input(self, images: NDArray[np.uint8], index: int, draw: int) -> NDArray[np.float32]:
        views, height, width, _ = images.shape
        out = np.empty((views, 3, height, width), dtype=np.float32)
        generator = np.random.default_rng((self.seed, draw, index))
        for view, image in enumerate(images):
            if self.augment and self.image.distort:
                out[view] = self.image.normalise(distort(image.astype(np.float32), generator))
            else:
                out[view] = self.image.normalise(image)
        return out

    def _image_paths(self, info: dict[str, Any]) -> list[Path]:
        cameras = field(info, "cams", self.pickle)
        entries = [field(cameras, name, self.pickle) for name in CAMERAS]
        return [resolve(self.data_root, field(entry, "data_path", self.pickle)) for entry in entries]

    def _matrices(self, info: dict[str, Any], pixels: _Pixels) -> dict[str, NDArray[np.float64]]:
        """projection, intrinsics (native pixels), reference_to_camera, reference_to_lidar of a frame, float64."""
        to_input = np.eye(4)
        to_input[:3, :3] = self.image.matrix(pixels.native_width, pixels.native_height)
        projections, intrinsics, extrinsics = [], [], []
        name = "lidar"
        try:
            ego_to_lidar = np.linalg.inv(lidar_to_ego(info))
            for name in CAMERAS:
                camera = info["cams"][name]
                pinhole = np.eye(4)
                pinhole[:3, :3] = camera["cam_intrinsic"]
                if not np.isfinite(pinhole).all():
                    raise ValueError("cam_intrinsic has NaN or infinite values")
                to_ego = rigid(camera["sensor2ego_rotation"], camera["sensor2ego_translation"])
                to_lidar = rigid(camera["sensor2lidar_rotation"], camera["sensor2lidar_translation"])
                compensated = np.linalg.inv(to_lidar) @ ego_to_lidar
                features = np.linalg.inv(to_ego) if self.static_projection else compensated
                projections.append(to_input @ pinhole @ features)
                intrinsics.append(pinhole[:3, :3])
                extrinsics.append(compensated)
        except (KeyError, ValueError, np.linalg.LinAlgError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)
            token = info.get("token", "?")
            raise DataError(f"{self.pickle}: calibration of {name} in frame {token} is unusable: {problem}") from error
        return {
            "projection": np.stack(projections),
            "intrinsics": np.stack(intrinsics),
            "reference_to_camera": np.stack(extrinsics),
            "reference_to_lidar": ego_to_lidar,
        }

    def _meta(self, index: int, info: dict[str, Any]) -> dict[str, Any]:
        scene = str(info["scene_name"])
        positions = self._scenes[scene]
        try:
            poses = np.stack([lidar_to_global(self._infos[position]) for position in positions])
        except (KeyError, ValueError) as error:
            raise DataError(f"{self.pickle}: a pose of {scene} is unusable: {error}") from error
        return {
            "token": field(info, "token", self.pickle),
            "scene": scene,
            "frame_idx": info.get("frame_idx"),
            "index": index,
            "image_paths": [str(path) for path in self._image_paths(info)],
            "lidar_path": str(resolve(self.data_root, info["lidar_path"])) if info.get("lidar_path") else None,
            "ray_origins": ray_origins(poses, positions.index(self._chosen[index]), lidar_to_ego(info)),
        }


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
    tensors = ("images", "projection", "intrinsics", "reference_to_camera", "labels", "camera_mask", "reference_to_lidar")
    joined = {name: torch.cat([getattr(sample, name) for sample in samples]) for name in tensors}
    meta = [entry for sample in samples for entry in sample.meta]
    return {"batch": OccupancyBatch(camera_size=first.camera_size, meta=meta, **joined)}
