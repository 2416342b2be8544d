"""RenderOcc (arXiv:2309.09502): a volume of density and classes, taught by the LiDAR points that rays through it meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

import baselines.lss.images  # noqa: F401  registers the backbones
from baselines.images import build_mmdet, check_images
from baselines.interface import CameraChain, History, OccupancyBatch, OccupancyGrid, OccupancyPrediction, RaySupervision
from baselines.lss.geometry import camera_vector
from baselines.lss.images import ImageNeck
from baselines.lss.view import StereoView, ViewTransformer
from baselines.lss.volumes import Conv3D, Neck3D, ResNet3D
from baselines.model import OccupancyModel
from baselines.renderocc.losses import Teaching, ray_losses, taught_rays, voxel_losses
from baselines.renderocc.rendering import Caster, Scene, caster
from baselines.renderocc.splats import splatter

# Loaders give images in the order blue, green, red less ImageNet's mean. ImageNet's mean and deviation, red, green, blue:
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

NUM_STAGES = 3
"""Of the network on the volume: at the grid's resolution, a half and a quarter of it."""


@dataclass(frozen=True)
class Volume:
    """What the network says of a batch.

    density   [B, X, Y, Z, 2] what is rendered and thresholded, and what the loss on voxels sets against it
    semantic  [B, X, Y, Z, C-1] logits of the classes but the empty one, in the order of their ids
    features  [B, F, X, Y, Z]
    shares    [B, V, D, h, w] of the depths, of the key frame's image features
    """

    density: Tensor
    semantic: Tensor
    features: Tensor
    shares: Tensor


class RayScene(nn.Module):
    """Constants that published weights carry along; here they are checked on loading, and not read."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        for name, value in scene.published_buffers().items():
            self.register_buffer(name, torch.tensor(value))


@MODELS.register_module()
class RenderOcc(OccupancyModel):
    """Images of three moments -> backbone -> neck -> depth, told of camera and stereo -> lift, splat -> 3D network -> voxels.

    grid               occupancy grid (an OccupancyGrid, or its fields as a dict)
    backbone           a stereo backbone (``baselines.lss.images``), a config for mmdet's registry, with two maps for the neck
    image_channels     channels of those two maps together, and of the neck's output
    depth              (first, end, step) of the depths in metres
    reduction          pixels of an image per cell of the neck's output
    stereo_reduction   and of the backbone's stereo map; a power of two times that is ``reduction``
    aspp               channels of each branch of the depth network's ASPP
    adjacent           earlier frames whose volumes stand beside the key frame's; stereo takes one more. ``history`` must have
                       as many, adjacent + 1
    channels           of the volume
    volume_blocks      residual blocks of the 3D network's three stages
    dropout            after the ASPP
    threshold          density above which a voxel is occupied (Q3); None: that of empty space, which voxels teach
    final_softplus     the density is not negative
    swapped_channels   images enter as blue, green, red, of which red's, green's and blue's mean and deviation are taken, as the
                       released weights were trained; False: as red, green, blue (Q17)
    published_rounding  of the splat, see ``voxel_numbers`` (Q13)
    class_weights      of the cross entropies, one a class of the grid; what the empty one's is does not matter. None: all alike
    teaching           fields of Teaching
    renderer           name of a backend that renders rays, or such a function
    splats             rays are read from splatted images, one a camera and moment, and ``renderer`` names a backend that renders
                       Gaussians (``baselines.renderocc.splats``); False: rays are rendered, as published
    splat_size         (width, height) of those images in pixels

    ``camera_seed`` is that of OccupancyModel. Reads ``chain`` and ``history`` of a batch, in training ``rays`` too, and ``depth``
    unless its loss has no weight. Any batch size. Earlier frames have no gradient. Everything after the neck runs in float32,
    also under autocast. Parameters have the published names. Raises ValueError for sizes that do not fit together.

    A prediction's logits are those of the classes and, for the empty one, the largest of them plus what the density lacks to the
    threshold: the largest is what the published code says.
    """

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        image_channels: tuple[int, int],
        depth: tuple[float, float, float] = (1.0, 45.0, 0.5),
        reduction: int = 16,
        stereo_reduction: int = 4,
        aspp: int = 96,
        adjacent: int = 1,
        channels: int = 32,
        volume_blocks: tuple[int, int, int] = (1, 2, 4),
        dropout: float = 0.5,
        threshold: float | None = 8.5,
        final_softplus: bool = True,
        swapped_channels: bool = True,
        published_rounding: bool = True,
        class_weights: Sequence[float] | None = None,
        teaching: dict[str, Any] | None = None,
        renderer: str | Caster = "reference",
        splats: bool = False,
        splat_size: tuple[int, int] = (800, 450),
        camera_seed: int = 0,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        weights = tuple(class_weights) if class_weights is not None else (1.0,) * grid.num_classes
        super().__init__(grid, camera_seed=camera_seed, loss={"class_weights": weights})
        _check_sizes(reduction, stereo_reduction, adjacent, depth)
        self.adjacent = adjacent
        self.reduction = reduction
        self.threshold = threshold
        self.swapped_channels = swapped_channels
        self.teaching = Teaching(**(teaching or {}))
        self.scene = Scene.of(grid)
        if splats and self.teaching.needs_samples:
            raise ValueError(
                "splats have no samples along a ray: teaching needs depth_transform='along', contraction=False and "
                "distortion_weight=0"
            )
        if not isinstance(renderer, str):
            self.cast = renderer
        else:
            self.cast = splatter(renderer, grid, splat_size) if splats else caster(renderer, grid, self.teaching)

        self.img_backbone = build_mmdet(backbone)
        self.img_neck = ImageNeck(*image_channels)
        self.img_view_transformer = ViewTransformer(
            grid, image_channels[1], channels, depth, reduction, stereo_reduction, aspp, 5.0, published_rounding, dropout
        )
        self.pre_process_net = ResNet3D(channels, (1,), (channels,), (1,))
        widths = [channels << stage for stage in range(NUM_STAGES)]
        self.img_bev_encoder_backbone = ResNet3D((adjacent + 1) * channels, volume_blocks, widths, (1, 2, 2))
        self.img_bev_encoder_neck = Neck3D(sum(widths), channels)
        self.final_conv = Conv3D(channels, channels, 3, norm=False)
        self.density_mlp = nn.Sequential(*_mlp(channels, 2), *([nn.Softplus()] if final_softplus else []))
        self.semantic_mlp = nn.Sequential(*_mlp(channels, grid.num_classes - 1))
        occupied = [weight for number, weight in enumerate(weights) if number != grid.empty]
        self.semantic_loss = nn.CrossEntropyLoss(weight=torch.tensor(occupied))
        self.nerf_head = RayScene(self.scene)

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits [B, C, X, Y, Z] and features [B, channels, X, Y, Z].

        Raises ValueError for images of the wrong shape, and for a batch without ``chain`` or ``history`` or with too short a one.
        """
        volume = self.volume(batch)
        return OccupancyPrediction((self.logits(volume),), volume.features)

    def volume(self, batch: OccupancyBatch) -> Volume:
        """The network's output; errors as in ``extract``."""
        chain, history = self._parts(batch)
        projection, vector = chain.projection(), camera_vector(chain)
        volumes = []
        with torch.no_grad():
            oldest = history.projection.shape[1] - 1
            earlier = self._stereo_view(history.images[:, oldest], history.projection[:, oldest])
            for frame in reversed(range(oldest)):
                lifted, _, earlier = self._lift(history.images[:, frame], history.projection[:, frame], vector, earlier)
                volumes.append(lifted)
        if torch.is_autocast_enabled(batch.images.device.type):
            torch.clear_autocast_cache()  # weights that were cast without a gradient
        lifted, shares, _ = self._lift(batch.images, projection, vector, earlier)
        with torch.autocast(batch.images.device.type, enabled=False):
            joined = torch.cat([*volumes, lifted], dim=1)
            features = self.final_conv(self.img_bev_encoder_neck(self.img_bev_encoder_backbone(joined)))
            voxels = features.movedim(1, -1)
            return Volume(self.density_mlp(voxels), self.semantic_mlp(voxels), features, shares)

    def _lift(self, images: Tensor, projection: Tensor, vector: Tensor, earlier: StereoView) -> tuple[Tensor, Tensor, StereoView]:
        """Volume [B, channels, X, Y, Z], shares of the depths, and what the next newer frame compares itself with."""
        shape, size = images.shape[:2], (images.shape[-1], images.shape[-2])
        stereo, *maps = self.img_backbone(self._normalised(images).flatten(0, 1))
        features = self.img_neck(maps)
        with torch.autocast(images.device.type, enabled=False):
            current = StereoView(stereo.float().unflatten(0, shape), projection)
            cost = self.img_view_transformer.compare(current, earlier, size)
            features = features.float().unflatten(0, shape)
            lifted, shares = self.img_view_transformer(features, vector, projection, size, cost)
            return self.pre_process_net(lifted)[0], shares, current

    def _stereo_view(self, images: Tensor, projection: Tensor) -> StereoView:
        stereo = self.img_backbone.first_stage(self._normalised(images).flatten(0, 1))
        return StereoView(stereo.float().unflatten(0, images.shape[:2]), projection)

    def _normalised(self, images: Tensor) -> Tensor:
        """[..., 3, H, W] as loaders give them -> as the backbone was trained with."""
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        if self.swapped_channels:
            return (images + mean.flip(0) - mean) / deviation
        return images.flip(-3) / deviation

    def _parts(self, batch: OccupancyBatch) -> tuple[CameraChain, History]:
        check_images(batch, most_cameras=batch.images.shape[1])
        if batch.chain is None:
            raise ValueError("RenderOcc needs the batch's 'chain': how its cameras' pixels come about")
        wanted = self.adjacent + 1
        if batch.history is None or batch.history.images.shape[1] != wanted:
            found = "none" if batch.history is None else batch.history.images.shape[1]
            raise ValueError(f"RenderOcc needs the batch's 'history' of {wanted} earlier frames, got {found}")
        if any(extent % self.reduction for extent in batch.images.shape[-2:]):
            raise ValueError(
                f"images must be a multiple of {self.reduction} pixels high and wide, got "
                f"{batch.images.shape[-2]} x {batch.images.shape[-1]}"
            )
        return batch.chain, batch.history

    def logits(self, volume: Volume) -> Tensor:
        """[B, C, X, Y, Z] of all classes, see the class."""
        occupied, unoccupied = volume.density.unbind(-1)
        lacking = (unoccupied if self.threshold is None else self.threshold) - occupied
        empty = volume.semantic.detach().amax(dim=-1) + lacking
        before, after = volume.semantic[..., : self.grid.empty], volume.semantic[..., self.grid.empty :]
        return torch.cat([before, empty[..., None], after], dim=-1).permute(0, 4, 1, 2, 3)

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """The weighted losses of ``Teaching`` by name, ``loss_lss_depth`` and those on voxels with them.

        Raises ValueError as ``extract``, and for a batch without ``rays`` or ``depth`` where those teach.
        """
        teaching = self.teaching
        volume = self.volume(batch)
        losses = self._rendered_losses(volume, batch) if teaching.renders else {}
        if teaching.lss_depth_weight:
            if batch.depth is None:
                raise ValueError("RenderOcc's lss_depth loss needs the batch's 'depth', of LiDAR points in the images")
            losses["loss_lss_depth"] = teaching.lss_depth_weight * self.img_view_transformer.depth_loss(
                volume.shares, batch.depth
            )
        if teaching.voxels != "none":
            counted = batch.labels != self.grid.ignore
            counted = counted & batch.camera_mask if teaching.voxels == "seen" else counted
            losses |= voxel_losses(
                volume.density,
                volume.semantic,
                batch.labels.long(),
                counted,
                self.grid.empty,
                self.semantic_loss.weight,
                teaching.voxel_weight,
            )
        return losses

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Give the classes but the empty one these first biases [C]; how dense a voxel is, rays say from the first one on."""
        if len(bias) != self.grid.num_classes:
            raise ValueError(f"a bias for each of the {self.grid.num_classes} classes is needed, got {len(bias)}")
        last = self.semantic_mlp[-1]
        with torch.no_grad():
            last.bias.copy_(last.bias.new_tensor([value for number, value in enumerate(bias) if number != self.grid.empty]))

    def _rendered_losses(self, volume: Volume, batch: OccupancyBatch) -> dict[str, Tensor]:
        """Means over the samples that have rays, each of its own means over its rays."""
        rays = self._checked_rays(batch)
        terms: list[dict[str, Tensor]] = []
        for scene in range(batch.batch_size):
            chosen = taught_rays(rays, scene, self.teaching.farthest)
            if not len(chosen):
                continue
            directions, depth, classes = rays.directions[chosen], rays.depth[chosen], rays.semantic[chosen]
            length = directions.norm(dim=-1)
            rendered = self.cast(
                volume.density[scene, ..., 0], volume.semantic[scene], rays.origins[chosen], directions / length[:, None]
            )
            target = depth * length if self.teaching.depth_target == "range" else depth
            classes = classes - (classes > self.grid.empty).long()
            weights = rays.weight[chosen], self.semantic_loss.weight
            terms.append(ray_losses(rendered, target, classes, *weights, self.scene.radius, self.teaching))
        if not terms:
            return {"loss_render_depth": (volume.density.sum() + volume.semantic.sum()) * 0}
        return {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}

    def _checked_rays(self, batch: OccupancyBatch) -> RaySupervision:
        rays = batch.rays
        if rays is None:
            raise ValueError("RenderOcc needs the batch's 'rays' to be trained")
        wrong = (rays.semantic < 0) | (rays.semantic >= self.grid.num_classes) | (rays.semantic == self.grid.empty)
        if bool(wrong.any()):
            raise ValueError(
                f"rays: semantic must be a class id in 0..{self.grid.num_classes - 1} other than {self.grid.empty} "
                f"({self.grid.class_names[self.grid.empty]}), got {int(rays.semantic[wrong][0])}"
            )
        return rays


def _mlp(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, 2 * inputs), nn.Softplus(), nn.Linear(2 * inputs, outputs)


def _check_sizes(reduction: int, stereo_reduction: int, adjacent: int, depth: tuple[float, float, float]) -> None:
    ratio = reduction // stereo_reduction
    if reduction != ratio * stereo_reduction or ratio < 1 or ratio & (ratio - 1):
        raise ValueError(f"reduction {reduction} must be stereo_reduction {stereo_reduction} times a power of two")
    if adjacent < 0:
        raise ValueError(f"adjacent must be a number of earlier frames, got {adjacent}")
    first, end, step = depth
    if not (0 < first < end and step > 0) or abs((end - first) / step - round((end - first) / step)) > 1e-6:
        raise ValueError(f"depth must be (first, end, step), a whole number of steps from a positive first to end, got {depth}")
