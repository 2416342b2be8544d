"""What a baseline sees and returns: camera images in, semantic voxel logits out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

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


Part = TypeVar("Part", bound="BatchPart")


class BatchPart:
    """Base of the frozen dataclasses of tensors that a batch may have besides: moved and joined as a whole. What is no tensor is
    the same in all samples."""

    def to(self: Part, device: torch.device | str, non_blocking: bool = False) -> Part:
        """The same part with every tensor on ``device``."""
        return replace(self, **{name: value.to(device, non_blocking=non_blocking) for name, value in self._tensors().items()})  # type: ignore[type-var]

    @classmethod
    def joined(cls: type[Part], parts: Sequence[Part], sizes: Sequence[int]) -> Part:
        """One part of several batches of ``sizes`` samples, in order."""
        columns = [part._tensors() for part in parts]
        return replace(parts[0], **{name: torch.cat([tensors[name] for tensors in columns]) for name in columns[0]})  # type: ignore[type-var]

    def one(self: Part, index: int) -> Part:
        """The part of sample ``index`` alone."""
        return replace(self, **{name: value[index : index + 1] for name, value in self._tensors().items()})  # type: ignore[type-var]

    def check(self, images: Tensor) -> None:
        """Raise ValueError, naming the field, if this is no part of a batch with these images [B, V, 3, H, W]."""
        raise NotImplementedError

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)}  # type: ignore[arg-type]

    def _expect(self, **shapes: list[int]) -> None:
        for name, shape in shapes.items():
            if list(getattr(self, name).shape) != shape:
                raise ValueError(f"{type(self).__name__}: {name} must be {shape}, got {list(getattr(self, name).shape)}")


@dataclass(frozen=True)
class CameraChain(BatchPart):
    """How a point of the reference frame comes to a pixel of ``images``, link by link, for networks that are told of their
    cameras and that lift pixels (lift-splat):

        image . intrinsics . inverse(camera_to_reference) . inverse(reference)

    intrinsics           [B, V, 3, 3] of the camera's own image, pixels
    camera_to_reference  [B, V, 4, 4] camera when its image was taken -> reference frame before augmentation, metres; with
                         the vehicle's motion between that moment and the reference frame's in it
    image                [B, V, 3, 3] pixel (u, v, 1) of the camera's own image -> pixel of ``images``: scale, crop, mirroring,
                         rotation in the image plane; affine
    reference            [B, 3, 3] reference frame before augmentation -> reference frame of labels, rays and ``History``
                         (mirrored, rotated, scaled); the identity where frames are not augmented
    """

    intrinsics: Tensor
    camera_to_reference: Tensor
    image: Tensor
    reference: Tensor

    def check(self, images: Tensor) -> None:
        b, v = images.shape[:2]
        self._expect(intrinsics=[b, v, 3, 3], camera_to_reference=[b, v, 4, 4], image=[b, v, 3, 3], reference=[b, 3, 3])

    def projection(self) -> Tensor:
        """[B, V, 4, 4] reference frame -> pixel of ``images`` (u*z, v*z, z, 1), multiplied in float64."""
        from_reference = torch.linalg.inv(self.camera_to_reference.double())
        from_augmented = _square4(torch.linalg.inv(self.reference.double()))[:, None]
        to_pixel = _square4(self.image.double() @ self.intrinsics.double())
        return (to_pixel @ from_reference @ from_augmented).to(self.intrinsics.dtype)


def _square4(matrix: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4, 4] that leaves the fourth coordinate alone."""
    out = torch.eye(4, dtype=matrix.dtype, device=matrix.device).repeat(*matrix.shape[:-2], 1, 1)
    out[..., :3, :3] = matrix
    return out


@dataclass(frozen=True)
class History(BatchPart):
    """Earlier images of the same cameras, as input of networks that look back. Newest first; in place of frames from before
    a scene's first readers give the key frame itself, as published.

    images      [B, T, V, 3, H, W] float32, size, normalisation and augmentation those of the batch's ``images``
    projection  [B, T, V, 4, 4] the batch's own reference frame (augmented, at the time of the key frame) -> pixel of
                ``images`` of t frames ago (u*z, v*z, z, 1): what does not move lands where that image shows it
    to_reference  [B, T, 4, 4] reference frame of t frames ago, augmented as the batch's own is -> the batch's own, metres
    """

    images: Tensor
    projection: Tensor
    to_reference: Tensor

    def check(self, images: Tensor) -> None:
        b, v, _, h, w = images.shape
        if self.images.dim() != 6 or not self.images.shape[1]:
            raise ValueError(f"History: images must be [B, T, V, 3, H, W] with T of at least 1, got {list(self.images.shape)}")
        t = self.images.shape[1]
        self._expect(images=[b, t, v, 3, h, w], projection=[b, t, v, 4, 4], to_reference=[b, t, 4, 4])


@dataclass(frozen=True)
class Neighbours(BatchPart):
    """What the same cameras showed one camera frame earlier and later, at their own rate (12 Hz in nuScenes), for losses that
    warp: a pixel of ``current`` at a depth along its camera's axis is a point of that camera, which ``camera_motion`` and
    ``intrinsics`` bring to a pixel of ``images``, as far as nothing moves by itself:

        image of t  ~  intrinsics . camera_motion . depth . inverse(intrinsics) . pixel of ``current``

    images         [B, T, V, 3, H, W] float32 in 0..1, red, green, blue, without normalisation and distortion of colours; size,
                   crop and mirroring those of the batch's ``images``; T moments in the order in which they were asked for
                   (``Recipe.frames``), -1, 1 unless a recipe says otherwise
    current        [B, V, 3, H, W] the batch's own images likewise
    intrinsics     [B, V, 3, 3] for pixels of ``current`` and of ``images``, pixel centres at +0.5
    camera_to_ego  [B, V, 4, 4] camera -> reference frame of the labels, metres, as if all cameras had taken their images at once:
                   the cameras of the batch's ``projection``, and for Occ3D their mounting alone
    camera_motion  [B, T, V, 4, 4] camera when it took ``current`` -> the same when it took ``images``, metres, from sensors;
                   cameras take their images one after the other, so that each has a motion of its own. That of the vehicle
                   between the same two moments is camera_to_ego . camera_motion . inverse(camera_to_ego)
    valid          [B, T, V] bool; False where the camera has no such image, at the ends of a scene: there the image is
                   ``current``, the motion the identity
    mask           [B, V, H, W] bool, pixels of ``current`` that may be compared, which others show the vehicle itself; None where
                   all may
    """

    images: Tensor
    current: Tensor
    intrinsics: Tensor
    camera_to_ego: Tensor
    camera_motion: Tensor
    valid: Tensor
    mask: Tensor | None = None

    def check(self, images: Tensor) -> None:
        b, v, _, h, w = images.shape
        if self.images.dim() != 6 or not self.images.shape[1]:
            found = list(self.images.shape)
            raise ValueError(f"Neighbours: images must be [B, T, V, 3, H, W] with T of at least 1, got {found}")
        t = self.images.shape[1]
        self._expect(images=[b, t, v, 3, h, w], current=[b, v, 3, h, w], intrinsics=[b, v, 3, 3])
        self._expect(camera_to_ego=[b, v, 4, 4], camera_motion=[b, t, v, 4, 4], valid=[b, t, v])
        if self.mask is not None:
            self._expect(mask=[b, v, h, w])
        for name, value in (("valid", self.valid), ("mask", self.mask)):
            if value is not None and value.dtype != torch.bool:
                raise ValueError(f"Neighbours: {name} must be bool, got {value.dtype}")


@dataclass(frozen=True)
class ImageSupervision(BatchPart):
    """What is known of the cameras' images at several moments, pixel by pixel, for losses that render: T moments of each sample,
    the batch's own last. Label maps are never augmented, whatever the batch's ``images`` are; the reference frame may be:

        intrinsics . reference_to_camera

    intrinsics           [B, T, V, 3, 3] for pixels of the label maps, pixel centres at +0.5
    reference_to_camera  [B, T, V, 4, 4] the batch's own reference frame (augmented, at the time of its key frame) -> camera when
                         it took its image at that moment, metres: what does not move lands where the map shows it
    steps                [B, T] int64 key frames from the batch's own to the moment, negative for an earlier one; 0 for the own
    semantic             [B, T, V, h, w] int64 class id of what the pixel shows; grid.ignore where unknown. The sky is unknown in
                         ``views``, and of the empty class in ``semantics``
    depth                [B, T, V, h, w] float32 metres along the camera's z axis, 0 where unknown
    valid                [B, T] bool; False where the scene has no such moment. Its maps are unknown everywhere, its cameras the
                         own, its steps 0

    Unlabelled pixels: GaussianOcc takes them for the sky, since -1 finds the last entry of its table of classes
    (``unlabelled_as(grid.empty, grid.ignore)``); its class weights were counted with that.
    """

    intrinsics: Tensor
    reference_to_camera: Tensor
    steps: Tensor
    semantic: Tensor
    depth: Tensor
    valid: Tensor

    def check(self, images: Tensor) -> None:
        b, v = images.shape[:2]
        if self.semantic.dim() != 5 or not self.semantic.shape[1]:
            found = list(self.semantic.shape)
            raise ValueError(f"ImageSupervision: semantic must be [B, T, V, h, w] with T of at least 1, got {found}")
        t, h, w = self.semantic.shape[1], *self.semantic.shape[3:]
        self._expect(semantic=[b, t, v, h, w], depth=[b, t, v, h, w], steps=[b, t], valid=[b, t])
        self._expect(intrinsics=[b, t, v, 3, 3], reference_to_camera=[b, t, v, 4, 4])
        for name, kind in (("steps", torch.int64), ("semantic", torch.int64), ("valid", torch.bool)):
            if getattr(self, name).dtype != kind:
                raise ValueError(f"ImageSupervision: {name} must be {str(kind)[6:]}, got {getattr(self, name).dtype}")
        # Values are looked at where they are made, not on a GPU, which would have to be waited for.
        if self.depth.device.type == "cpu":
            if not (bool(torch.isfinite(self.depth).all()) and bool((self.depth >= 0).all())):
                raise ValueError("ImageSupervision: depth must be finite and not negative, 0 where it is unknown")
            if bool((self.steps[:, -1] != 0).any()) or not bool(self.valid[:, -1].all()):
                raise ValueError("ImageSupervision: the last moment must be the batch's own, steps 0 and valid")

    def unlabelled_as(self, class_id: int, ignore: int) -> ImageSupervision:
        """The same with unknown pixels of moments that are there taken to be of a class."""
        unknown = (self.semantic == ignore) & self.valid[:, :, None, None, None]
        return replace(self, semantic=torch.where(unknown, class_id, self.semantic))


@dataclass(frozen=True)
class RaySupervision(BatchPart):
    """What is known along R rays of all samples together: ``origins + depth * directions`` is on a surface.

    origins     [R, 3] metres, reference frame of the labels (augmented)
    directions  [R, 3] same frame, per metre of ``depth``; of a camera's depth along its z axis they are longer than 1
    depth       [R] float32 metres, positive
    semantic    [R] int64 class id of the surface, never the empty one
    weight      [R] float32, how much the ray counts in means over rays; 1 where all count alike
    scene       [R] int64 sample of the batch that the ray belongs to
    """

    origins: Tensor
    directions: Tensor
    depth: Tensor
    semantic: Tensor
    weight: Tensor
    scene: Tensor

    @classmethod
    def joined(cls, parts: Sequence[RaySupervision], sizes: Sequence[int]) -> RaySupervision:
        one = super().joined(parts, sizes)
        before = [sum(sizes[:number]) for number in range(len(sizes))]
        return replace(one, scene=torch.cat([part.scene + first for part, first in zip(parts, before, strict=True)]))

    def one(self, index: int) -> RaySupervision:
        own = self.scene == index
        chosen = {name: value[own] for name, value in self._tensors().items()}
        return replace(self, **chosen | {"scene": torch.zeros_like(chosen["scene"])})

    def check(self, images: Tensor) -> None:
        r = len(self.origins)
        self._expect(origins=[r, 3], directions=[r, 3], depth=[r], semantic=[r], weight=[r], scene=[r])
        for name in ("semantic", "scene"):
            if getattr(self, name).dtype != torch.int64:
                raise ValueError(f"RaySupervision: {name} must be int64, got {getattr(self, name).dtype}")
        # Values are looked at where they are made, not on a GPU, which would have to be waited for.
        if self.scene.device.type == "cpu" and r:
            if not 0 <= int(self.scene.min()) <= int(self.scene.max()) < len(images):
                raise ValueError(
                    f"RaySupervision: scene must be within 0..{len(images) - 1}, "
                    f"got {int(self.scene.min())}..{int(self.scene.max())}"
                )
            if not (bool(torch.isfinite(self.depth).all()) and bool((self.depth > 0).all())):
                raise ValueError("RaySupervision: depth must be positive and finite; leave out rays without")
            lines = torch.cat([self.origins, self.directions], dim=1)
            if not bool(torch.isfinite(lines).all()) or not bool(self.directions.any(dim=1).all()):
                raise ValueError("RaySupervision: origins and directions must be finite, and no direction 0; leave out such rays")


@dataclass(frozen=True)
class LidarDepth(BatchPart):
    """Lidar points in the images of the label cameras, which the depth that a model renders is measured by, and at which no model
    looks; and the views in which a model renders it that has none of its own.

    places   [P, 2] float32 pixels (u, v) of the label cameras, pixel centres at +0.5
    cells    [P, 2] int64 column and row of the label camera's pixel that has the point's depth in a dense map, as the data set
             makes such maps; of several points in one pixel the last one counts
    depth    [P] float32 metres along the camera's z axis, positive
    camera   [P] int64 the point's camera
    scene    [P] int64 its sample of the batch
    to_view  [B, V, 3, 3] pixel (u, v, 1) of the label camera -> pixel of the view: scale and crop
    size     (width, height) of the views in pixels
    """

    places: Tensor
    cells: Tensor
    depth: Tensor
    camera: Tensor
    scene: Tensor
    to_view: Tensor
    size: tuple[int, int]

    @classmethod
    def joined(cls, parts: Sequence[LidarDepth], sizes: Sequence[int]) -> LidarDepth:
        before = [sum(sizes[:number]) for number in range(len(sizes))]
        scenes = [part.scene + first for part, first in zip(parts, before, strict=True)]
        return replace(super().joined(parts, sizes), scene=torch.cat(scenes))

    def one(self, index: int) -> LidarDepth:
        own = self.scene == index
        chosen = {name: value[own] for name, value in self._tensors().items() if name != "to_view"}
        return replace(self, **chosen | {"scene": torch.zeros_like(chosen["scene"])}, to_view=self.to_view[index : index + 1])

    def check(self, images: Tensor) -> None:
        (b, v), p = images.shape[:2], len(self.depth)
        self._expect(places=[p, 2], cells=[p, 2], depth=[p], camera=[p], scene=[p], to_view=[b, v, 3, 3])
        for name in ("cells", "camera", "scene"):
            if getattr(self, name).dtype != torch.int64:
                raise ValueError(f"LidarDepth: {name} must be int64, got {getattr(self, name).dtype}")
        # Values are looked at where they are made, not on a GPU, which would have to be waited for.
        if self.scene.device.type == "cpu" and p:
            for name, count in (("scene", b), ("camera", v)):
                values = getattr(self, name)
                if not 0 <= int(values.min()) <= int(values.max()) < count:
                    raise ValueError(
                        f"LidarDepth: {name} must be within 0..{count - 1}, got {int(values.min())}..{int(values.max())}"
                    )
            if not (bool(torch.isfinite(self.depth).all()) and bool((self.depth > 0).all())):
                raise ValueError("LidarDepth: depth must be positive and finite; leave out points without")
            if not bool(torch.isfinite(self.places).all()):
                raise ValueError("LidarDepth: places must be finite; leave out points that no camera sees")


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
    chain, history, rays, neighbours, views
                        parts that some models take, None for the others
    semantics           what the batch's own images show by GaussianOcc's pseudo labels, without depth; None for other models
    lidar               where models are to render depth, and what that is measured by; None where it is not measured

    Raises ValueError, naming the field, for a part that does not belong to the images.
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
    chain: CameraChain | None = None
    history: History | None = None
    rays: RaySupervision | None = None
    neighbours: Neighbours | None = None
    views: ImageSupervision | None = None
    semantics: ImageSupervision | None = None
    lidar: LidarDepth | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            if isinstance(part := getattr(self, f.name), BatchPart):
                part.check(self.images)

    @property
    def batch_size(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> OccupancyBatch:
        """The same batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), (Tensor, BatchPart))
        }
        return replace(self, **moved)

    def one(self, index: int) -> OccupancyBatch:
        """Sample ``index`` alone, as a batch of one."""
        chosen: dict[str, Any] = {}
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), Tensor):
                chosen[f.name] = value[index : index + 1]
            elif isinstance(value, BatchPart):
                chosen[f.name] = value.one(index)
        return replace(self, **chosen, meta=self.meta[index : index + 1])


@dataclass(frozen=True)
class RenderedDepth(BatchPart):
    """Depth that a model renders of what the label cameras see, all of their images or a part.

    depth    [B, V, h, w] metres along each camera's z axis
    to_view  [B, V, 3, 3] pixel (u, v, 1) of the label camera -> pixel of ``depth``, pixel centres at +0.5; scale and crop
    """

    depth: Tensor
    to_view: Tensor

    def check(self, images: Tensor) -> None:
        b, v = images.shape[:2]
        if self.depth.dim() != 4:
            raise ValueError(f"RenderedDepth: depth must be [B, V, h, w], got {list(self.depth.shape)}")
        self._expect(depth=[b, v, *self.depth.shape[2:]], to_view=[b, v, 3, 3])


@dataclass(frozen=True)
class OccupancyPrediction:
    """What a model says of a batch.

    logits    one [B, C, X, Y, Z] a scale, coarse to fine; the last one is the answer
    features  [B, F, X, Y, Z] voxel features behind the last logits, or None
    depth     rendered for a batch with ``lidar`` by models whose recipe says that they do (``Recipe.renders_depth``), or None
    motion    [B, T, 4, 4] vehicle at the batch's moment -> vehicle at those of its ``neighbours``, metres, of models that say how
              it moved, or None
    """

    logits: tuple[Tensor, ...]
    features: Tensor | None = None
    depth: RenderedDepth | None = None
    motion: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """[B, X, Y, Z] int64 arg-max class of the finest logits."""
        return self.logits[-1].argmax(dim=1)
