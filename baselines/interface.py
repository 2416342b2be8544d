"""What a baseline sees and returns: camera images in, semantic voxel logits out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from baselines.published import Published


@dataclass(frozen=True)
class OccupancyGrid:
    """A regular voxel grid in a reference frame.

    lower, upper  corners of the range in metres (x, y, z), a whole number of voxels apart
    voxel_size    edge of a cubic voxel in metres
    class_names   names by class id, each once; the empty class is one of them
    empty         class id of empty space
    ignore        label that is neither trained nor scored (255), no class id
    frame         "ego" (Occ3D), "lidar" (SurroundOcc) or "velodyne" (KITTI-360)
    dataset       name of the data set, for people
    published     its published constants, or their fields as a dict. With the default, none, class weights, rendering scale and
                  so on are the caller's to give. Not part of what makes two grids the same

    Raises ValueError, naming the field, for what is no such grid.
    """

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    voxel_size: float
    class_names: tuple[str, ...]
    empty: int
    ignore: int = 255
    frame: str = "ego"
    dataset: str = "unnamed"
    published: Published = field(default_factory=Published, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.published, dict):
            object.__setattr__(self, "published", Published(**self.published))
        for name, corner in (("lower", self.lower), ("upper", self.upper)):
            if len(corner) != 3 or not all(math.isfinite(value) for value in corner):
                raise ValueError(f"grid: {name} must be three finite numbers x, y, z in metres, got {corner}")
        if not (math.isfinite(self.voxel_size) and self.voxel_size > 0):
            raise ValueError(f"grid: voxel_size must be a positive number of metres, got {self.voxel_size}")
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            count = (high - low) / self.voxel_size
            if count < 0.5 or abs(count - round(count)) > 1e-3:
                raise ValueError(
                    f"grid: the range {low}..{high} m along {axis} must be a whole number of voxels of {self.voxel_size} m, "
                    f"it is {count:.6g}"
                )
        twice = sorted({name for name in self.class_names if self.class_names.count(name) > 1})
        if twice:
            raise ValueError(f"grid: class_names must differ, {', '.join(map(repr, twice))} stands more than once")
        if not 0 <= self.empty < len(self.class_names):
            raise ValueError(f"grid: empty must be a class id in 0..{len(self.class_names) - 1}, got {self.empty}")
        if 0 <= self.ignore < len(self.class_names):
            raise ValueError(f"grid: ignore must be no class id, {self.ignore} is that of {self.class_names[self.ignore]!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        sizes = [round((hi - lo) / self.voxel_size) for lo, hi in zip(self.lower, self.upper, strict=True)]
        return sizes[0], sizes[1], sizes[2]

    @property
    def num_classes(self) -> int:
        """Number of classes, the empty one included."""
        return len(self.class_names)

    def centres(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """Voxel centres [X, Y, Z, 3] in metres: lower + (index + 0.5) * voxel_size."""
        axes = [
            (torch.arange(n, device=device, dtype=dtype) + 0.5) * self.voxel_size + lo
            for n, lo in zip(self.shape, self.lower, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    def coarsened(self, factor: int) -> OccupancyGrid:
        """The grid over the same range with voxels ``factor`` times as large; the range must divide evenly."""
        if any(n % factor for n in self.shape):
            raise ValueError(f"grid {self.shape} cannot be coarsened by {factor}")
        return replace(self, voxel_size=self.voxel_size * factor)


@dataclass(frozen=True)
class OccupancyBatch:
    """A batch of B samples with V cameras each.

    images              [B, V, 3, H, W] float32, normalised as the backbone expects
    projection          [B, V, 4, 4] reference frame -> pixel of ``images`` (u*z, v*z, z, 1): what the network samples
                        its features with
    intrinsics          [B, V, 3, 3] of the label cameras (original, uncropped image), pixels
    reference_to_camera [B, V, 4, 4] reference frame -> label camera, ego-motion compensated
    camera_size         (width, height) of the label cameras' image in pixels
    labels              [B, X, Y, Z] int64 class ids (grid.ignore where unknown)
    camera_mask         [B, X, Y, Z] bool, voxels that count in evaluation
    reference_to_lidar  [B, 4, 4] reference frame -> LIDAR_TOP
    meta                one dict a sample (token, scene, frame index, ...)
    depth               [B, V, H, W] float32 metres along the camera's z axis at the pixels of ``images``, 0 where unknown; for
                        models that take it (Symphonies), None for the others
    sight               [B, X, Y, Z] bool, voxels that the label cameras see, for losses that treat the others differently;
                        None where no loss does
    """

    images: Tensor
    projection: Tensor
    intrinsics: Tensor
    reference_to_camera: Tensor
    camera_size: tuple[int, int]
    labels: Tensor
    camera_mask: Tensor
    reference_to_lidar: Tensor
    meta: list[dict[str, Any]] = field(default_factory=list)
    depth: Tensor | None = None
    sight: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> OccupancyBatch:
        """The same batch with every tensor on ``device``."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class OccupancyPrediction:
    """What a model says of a batch.

    logits    one [B, C, X, Y, Z] a scale, coarse to fine; the last one is the answer
    features  [B, F, X, Y, Z] voxel features behind the last logits, or None
    """

    logits: tuple[Tensor, ...]
    features: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """[B, X, Y, Z] int64 arg-max class of the finest logits."""
        return self.logits[-1].argmax(dim=1)
