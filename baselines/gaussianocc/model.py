"""GaussianOcc's second stage (arXiv:2408.11447): a grid of all space as Gaussians, taught by what cameras show next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from baselines.gaussianocc.config import check_choices
from baselines.gaussianocc.encoder import ImageEncoder
from baselines.gaussianocc.lifting import ContractedGrid, lifted
from baselines.gaussianocc.losses import Teaching, compared_by, semantic_loss, total_variation
from baselines.gaussianocc.recipe import RECIPE, WEIGHTS, Volume
from baselines.gaussianocc.rendering import RASTER, Seen, cast, gaussians, opacities, splatted
from baselines.gaussianocc.volume import VolumeDecoder
from baselines.images import check_images
from baselines.interface import (
    ImageSupervision,
    Neighbours,
    OccupancyBatch,
    OccupancyGrid,
    OccupancyPrediction,
    RenderedDepth,
)
from baselines.model import OccupancyModel
from baselines.options import check_class_weights
from baselines.photometric.losses import smoothness
from baselines.photometric.pose import PoseNetwork, camera_motion
from baselines.photometric.scales import check_scales, scaled_loss
from renderers import Cameras, Renderer, get
from renderers.rays.regularisers import binary_entropy, distortion, one_sided_entropy

NEAREST = 0.1  # metres of rendered depth
FARTHEST, FARTHEST_OF_VOLUMES = 80.0, 200.0
FAINTEST = 1 / 255  # alpha by which depth is divided at least
NOTHING = -1  # class of pixels that teach nothing
AIR = 1.0
"""Logit of free space where a training starts from biases: a vertex is solid by a quarter. At the published start, a half,
nothing behind the nearest vertices is seen, and a short training has no time to clear them away; at a twentieth what is near is
seen through for as long, and images do not tell of what is near from afar (voxels taught by one frame alone, without a network,
60 steps: AbsRel 0.30 at a fifth, at a twentieth 0.40)."""


@MODELS.register_module()
class GaussianOcc(OccupancyModel):
    """An image network, its features at the vertices of a contracted grid, and a 3D network that says what is there.

    grid            occupancy grid (an OccupancyGrid, or its fields as a dict)
    resnet, widths, channels  of ``ImageEncoder``; ``channels`` go to the 3D network
    planes          half the 3D network's channels
    shape           vertices of the contracted grid along x, y, z, multiples of 4
    pose            arguments of ``PoseNetwork``
    scale           metres, standard deviation of a Gaussian near by; times ``scale_factor``
    residual        see ``Hourglasses``; False, as published
    gain            logits are the 3D network's answer times this, 1 as published. Its last normalisation starts as much
                    smaller, so that logits start alike, and learn as much faster
    poses           "learned": how the vehicle moved is said by a network that does not learn here; "sensors": by sensors
    drifting_poses  the pose network goes on counting what it normalises by, as published, although it does not learn (Q15);
                    poses are the same either way, as it always normalises by the images at hand
    volume          "prob" or "density": volumes are rendered, and ``renderer`` names a backend that renders rays; None: Gaussians
    legacy_fov_y    the vertical field of view is taken for the horizontal one, as published (Q2); only of Gaussians
    half_spaces     each camera sees those of its half space alone, as published
    published_lift  see ``lifted`` (Q10)
    class_weights   of the cross entropy, one a class of the grid (Q17); None: all alike
    weights         of the losses on classes, of entropy and of the regulariser where ``teaching`` has none; None: as published
    photometric, scales  how images are compared and at which sizes, where ``teaching`` does not say it: fields of Photometric
                    but for smoothness, and numbers by which the size is divided
    normalise_depth  rendered depth is divided by alpha, where ``teaching`` does not say it
    teaching        fields of Teaching
    renderer        name of the backend that renders

    Parameters have the published names, below ``encoder``, ``depth`` and ``pose_network``. Reads ``neighbours`` and ``semantics``
    of a training batch; pixels that the neighbours' mask leaves out teach neither classes nor depth. Any batch size; what
    follows the image network runs in float32, also under autocast. Raises ValueError for sizes that do not fit together.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        resnet: dict[str, Any],
        widths: tuple[int, int, int, int],
        channels: int,
        planes: int,
        shape: tuple[int, int, int],
        pose: dict[str, Any],
        scale: float = 0.2,
        scale_factor: float = 1.0,
        residual: bool = False,
        gain: float = 1.0,
        poses: str = "learned",
        drifting_poses: bool = True,
        volume: Volume | None = None,
        legacy_fov_y: bool = True,
        half_spaces: bool = True,
        published_lift: bool = True,
        class_weights: Sequence[float] | None = None,
        weights: tuple[float, float, float] | None = None,
        photometric: dict[str, Any] | None = None,
        scales: Sequence[int] = (1,),
        normalise_depth: bool = False,
        teaching: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        # No loss of voxels is taken, which would know weights.
        super().__init__(grid, camera_seed=camera_seed, loss={"class_weights": (1.0,) * grid.num_classes})
        check_choices(poses, volume)
        if not scale * scale_factor > 0:
            raise ValueError(f"scale and scale_factor must be positive, got {scale} and {scale_factor}")
        if not gain > 0:
            raise ValueError(f"gain must be positive, got {gain}")
        self.teaching = Teaching(**(teaching or {}))
        check_class_weights(class_weights, grid.num_classes)
        self.space = ContractedGrid.of(grid, tuple(shape))  # type: ignore[arg-type]
        self.scale, self.volume, self.half_spaces, self.published_lift = scale * scale_factor, volume, half_spaces, published_lift
        self.raster = RASTER.with_(legacy_fov_y=legacy_fov_y)
        self.drifting_poses = drifting_poses
        chosen = self.teaching.normalise_depth
        self.normalises_depth = normalise_depth if chosen is None else chosen
        self.weights = tuple(WEIGHTS[volume or "splats"] if weights is None else weights)
        self.photometric = compared_by({**(photometric or {}), **self.teaching.photometric})
        self.scales = tuple(scales if self.teaching.scales is None else self.teaching.scales)
        check_scales(self.scales)
        self._renderer = renderer
        self.encoder = ImageEncoder(resnet, tuple(widths), channels)  # type: ignore[arg-type]
        self.depth = VolumeDecoder(self.space, channels, planes, grid.num_classes, volume is None, residual)
        self.gain = gain
        with torch.no_grad():
            self.depth.last.weight /= gain
            self.depth.last.bias /= gain
        self.pose_network: PoseNetwork | None = None
        if poses == "learned":
            self.pose_network = PoseNetwork(**pose)
            self.pose_network.requires_grad_(False)
        self.register_buffer("vertices", self.space.vertices(), persistent=False)
        kept = None if class_weights is None else torch.tensor([float(weight) for weight in class_weights])
        self.register_buffer("class_weights", kept, persistent=False)

    @property
    def backend(self) -> Renderer:
        """The renderer of Gaussians in use; raises RendererUnavailable or UnknownRenderer if it cannot be had."""
        return get(self._renderer)

    @property
    def departures(self) -> dict[str, tuple[object, object]]:
        """Settings in use that differ from those asked for: name -> (asked for, used)."""
        return self.backend.departures(self.raster) if self.volume is None else {}

    @property
    def farthest(self) -> float:
        """Largest rendered depth in metres."""
        if self.teaching.farthest is not None:
            return self.teaching.farthest
        return FARTHEST if self.volume is None else FARTHEST_OF_VOLUMES

    def train(self, mode: bool = True) -> GaussianOcc:
        """``OccupancyModel.train``; without ``drifting_poses`` the pose network stays as it is loaded."""
        super().train(mode)
        if self.pose_network is not None and not self.drifting_poses:
            self.pose_network.eval()
        return self

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Give the logits of the classes these first biases [C], and that of free space one that leaves the air clear."""
        if len(bias) != self.grid.num_classes:
            raise ValueError(f"a bias for each of the {self.grid.num_classes} classes is needed, got {len(bias)}")
        start = [*bias]
        start[self.grid.empty] = AIR
        last = self.depth.last.bias
        with torch.no_grad():
            last.copy_(last.new_tensor(start) / self.gain)

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits [B, C, X, Y, Z] (one scale), with the depth that is rendered in the views of a batch with ``lidar``. Raises
        ValueError for images of the wrong shape."""
        logits = self.logits(batch)
        with torch.autocast(logits.device.type, enabled=False):
            voxels = self.space.at_voxels(logits, self.grid)
            return OccupancyPrediction((voxels,), depth=None if batch.lidar is None else self.rendered_depth(logits, batch))

    def rendered_depth(self, logits: Tensor, batch: OccupancyBatch) -> RenderedDepth:
        """Depth as it is warped, in the views of the batch's ``lidar``."""
        assert batch.lidar is not None
        to_view = batch.lidar.to_view
        cameras = Cameras(to_view @ batch.intrinsics, batch.reference_to_camera, *batch.lidar.size)
        return RenderedDepth(self.depth_of(self.rendered(logits, cameras)), to_view)

    def logits(self, batch: OccupancyBatch) -> Tensor:
        """[B, C, X, Y, Z] at the vertices of the contracted grid."""
        check_images(batch, most_cameras=batch.images.shape[1])
        height, width = batch.images.shape[-2:]
        if height % 4 or width % 4:
            raise ValueError(f"images must have multiples of 4 pixels across and down, got {width}x{height}")
        features = self.encoder(batch.images.flatten(0, 1)).float().unflatten(0, batch.images.shape[:2])
        with torch.autocast(batch.images.device.type, enabled=False):
            seen = lifted(features, batch.projection, (width, height), self.vertices, self.published_lift)
            return self.gain * self.depth(seen)

    def rendered(self, logits: Tensor, cameras: Cameras) -> Seen:
        """What cameras see of logits at the vertices."""
        if self.volume is not None:
            generator = self.camera_generator() if self.training else None
            return cast(logits, self.grid.empty, self.space, cameras, self._renderer, self.volume, generator)
        cloud = gaussians(logits, self.grid.empty, self.vertices, self.scale, self.grid.upper[0], FARTHEST)
        return splatted(cloud, cameras, self.backend, self.backend.native(self.raster), self.half_spaces)

    def depth_of(self, seen: Seen) -> Tensor:
        """[B, V, h, w] metres, as warped and as measured."""
        depth = seen.depth / seen.alpha.clamp(min=FAINTEST) if self.normalises_depth else seen.depth
        return depth.clamp(NEAREST, self.farthest)

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """The weighted losses of ``Teaching`` by name.

        Raises ValueError as ``extract``, and for a batch without ``semantics``, or ``neighbours`` where images are warped.
        """
        shown = self._checked_semantics(batch)
        neighbours = self._checked_neighbours(batch) if self.teaching.photometric_weight else None
        logits = self.logits(batch)
        with torch.autocast(logits.device.type, enabled=False):
            return self._losses(logits, shown, self._classes(shown, batch.neighbours), neighbours)

    def _classes(self, shown: ImageSupervision, neighbours: Neighbours | None) -> Tensor:
        """[B, V, h, w] what the batch's own pixels teach; NOTHING also where the vehicle itself is seen, by its mask."""
        unlabelled = self.grid.empty if self.teaching.unlabelled == "free" else NOTHING
        target = shown.unlabelled_as(unlabelled, self.grid.ignore).semantic[:, -1]
        if neighbours is None or neighbours.mask is None:
            return target
        mask = neighbours.mask.to(shown.intrinsics)
        compared = resampled(mask, neighbours.intrinsics, shown.intrinsics[:, -1], target.shape[-2:]) > 0.5
        return torch.where(compared, target, NOTHING)

    def _losses(
        self, logits: Tensor, shown: ImageSupervision, classes: Tensor, neighbours: Neighbours | None
    ) -> dict[str, Tensor]:
        teaching = self.teaching
        height, width = shown.semantic.shape[-2:]
        seen = self.rendered(logits, Cameras(shown.intrinsics[:, -1], shown.reference_to_camera[:, -1], width, height))
        semantic, entropy, regulariser = teaching.weights(self.weights)
        losses: dict[str, Tensor] = {}
        if semantic:
            losses["loss_semantic"] = semantic * semantic_loss(seen.logits, classes, self.class_weights)
        if neighbours is not None:
            size = neighbours.current.shape[-2:]
            depth = resampled(self.depth_of(seen), shown.intrinsics[:, -1], neighbours.intrinsics, size)
            motion, generator = self.motion(neighbours), self.camera_generator()
            error = scaled_loss(depth, neighbours, motion, self.photometric, self.scales, generator)
            losses["loss_photometric"] = teaching.photometric_weight * error
            if teaching.smoothness_weight:
                losses["loss_smoothness"] = teaching.smoothness_weight * smoothness(depth, neighbours.current)
        if seen.rays is None:
            if entropy:
                losses["loss_entropy"] = entropy * one_sided_entropy(opacities(logits, self.grid.empty))
            if regulariser:
                losses["loss_variation"] = regulariser * total_variation(logits)
        else:
            if entropy:
                losses["loss_entropy"] = entropy * binary_entropy(seen.rays.transmittance)
            if regulariser:
                losses["loss_distortion"] = regulariser * distortion(seen.rays)
        return losses

    @torch.no_grad()
    def motion(self, neighbours: Neighbours) -> Tensor:
        """[B, T, V, 4, 4] cameras when they took their images -> the same cameras at the neighbours' moments, metres."""
        if self.pose_network is None:
            return neighbours.camera_motion
        return camera_motion(self.pose_network(neighbours), neighbours.camera_to_ego)

    def _checked_semantics(self, batch: OccupancyBatch) -> ImageSupervision:
        shown = batch.semantics
        if shown is None:
            raise ValueError("GaussianOcc needs the batch's 'semantics' to be trained")
        known = shown.semantic[shown.semantic != self.grid.ignore]
        wrong = known[(known < 0) | (known >= self.grid.num_classes)]
        if wrong.numel():
            raise ValueError(
                f"semantics: classes must be within 0..{self.grid.num_classes - 1} or {self.grid.ignore}, got {int(wrong[0])}"
            )
        return shown

    def _checked_neighbours(self, batch: OccupancyBatch) -> Neighbours:
        if batch.neighbours is None:
            raise ValueError("GaussianOcc needs the batch's 'neighbours' to be trained by images")
        return batch.neighbours


def resampled(maps: Tensor, intrinsics: Tensor, others: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [B, V, h, w] of cameras with ``intrinsics`` [B, V, 3, 3] as they are at the pixels of images of ``size`` (height,
    width) of the same cameras with ``others`` [B, V, 3, 3]: bilinear, the border's value beyond it."""
    height, width = size
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5
    scale = torch.stack([intrinsics[..., axis, axis] / others[..., axis, axis] for axis in (0, 1)], dim=-1)
    shift = intrinsics[..., :2, 2] - scale * others[..., :2, 2]
    u = scale[..., 0, None] * columns + shift[..., 0, None]
    v = scale[..., 1, None] * rows + shift[..., 1, None]
    shape = (*maps.shape[:2], height, width)
    across = 2 * u[..., None, :].expand(shape) / maps.shape[-1] - 1
    down = 2 * v[..., None].expand(shape) / maps.shape[-2] - 1
    places = torch.stack([across, down], dim=-1)
    flat = F.grid_sample(maps.flatten(0, 1)[:, None], places.flatten(0, 1), padding_mode="border", align_corners=False)
    return flat[:, 0].unflatten(0, maps.shape[:2])
