"""RenderOcc (arXiv:2309.09502): a volume of density and classes, taught by the LiDAR points that rays through it meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction, RaySupervision
from baselines.lss.network import LiftSplat, voxel_layers
from baselines.renderocc.losses import Teaching, check_splats, ray_losses, taught_rays, voxel_losses
from baselines.renderocc.rendering import Caster, Scene, caster
from baselines.renderocc.splats import splatter

FOG = 2.5
"""What first densities lack to the threshold, where a training starts from biases. Air that no ray crosses keeps about this, so
that it must not be within the network's own noise: after the toy preset's 400 steps, validation mIoU was 4.7 from rays alone;
with 0.5 it was 0.9 after 150, with much air that counted as occupied."""


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
class RenderOcc(LiftSplat):
    """A lift-splat network, then what is rendered of its voxels.

    grid               occupancy grid (an OccupancyGrid, or its fields as a dict)
    image_channels     channels of the backbone's two maps for the neck together, and of the neck's output
    threshold          density above which a voxel is occupied (Q3); None: that of empty space, which voxels teach
    final_softplus     the density is not negative
    class_weights      of the cross entropies, one a class of the grid; what the empty one's is does not matter. None: all alike
    teaching           fields of Teaching
    renderer           name of a backend that renders rays, or such a function
    splats             rays are read from splatted images, one a camera and moment, and ``renderer`` names a backend that renders
                       Gaussians (``baselines.renderocc.splats``); False: rays are rendered, as published
    splat_size         (width, height) of those images in pixels

    The others are those of LiftSplat (``swapped_channels``: Q17, ``published_rounding``: Q13), and so is what it reads of a
    batch, in training ``rays`` too, and ``depth`` unless its loss has no weight. Parameters have the published names. Raises
    ValueError for sizes that do not fit together.

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
        super().__init__(
            grid,
            backbone,
            dict(type="ImageNeck", inputs=image_channels[0], outputs=image_channels[1]),
            image_channels[1],
            depth,
            reduction,
            stereo_reduction,
            aspp,
            adjacent,
            channels,
            volume_blocks,
            dropout,
            swapped_channels,
            published_rounding,
            camera_seed,
            loss={"class_weights": weights},
        )
        self.threshold = threshold
        self.teaching = Teaching(**(teaching or {}))
        self.scene = Scene.of(grid)
        if splats:
            check_splats(self.teaching)
        if not isinstance(renderer, str):
            self.cast = renderer
        else:
            self.cast = splatter(renderer, grid, splat_size) if splats else caster(renderer, grid, self.teaching)
        self.density_mlp = nn.Sequential(*voxel_layers(channels, 2), *([nn.Softplus()] if final_softplus else []))
        self.semantic_mlp = nn.Sequential(*voxel_layers(channels, grid.num_classes - 1))
        occupied = [weight for number, weight in enumerate(weights) if number != grid.empty]
        self.semantic_loss = nn.CrossEntropyLoss(weight=torch.tensor(occupied))
        self.nerf_head = RayScene(self.scene)

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits [B, C, X, Y, Z] and features [B, channels, X, Y, Z]; errors as in ``lifted``."""
        volume = self.volume(batch)
        return OccupancyPrediction((self.logits(volume),), volume.features)

    def volume(self, batch: OccupancyBatch) -> Volume:
        """The network's output; errors as in ``lifted``."""
        lifted = self.lifted(batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            voxels = lifted.features.movedim(1, -1)
            return Volume(self.density_mlp(voxels), self.semantic_mlp(voxels), lifted.features, lifted.shares)

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
            losses["loss_lss_depth"] = teaching.lss_depth_weight * self.depth_loss(volume.shares, batch)
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
        """Give the classes but the empty one these first biases [C], and densities one below the threshold: a fog that dims a
        ray by some hundredths on its way. At the published start, a density of 0.7, a ray passes as if nothing were there."""
        if len(bias) != self.grid.num_classes:
            raise ValueError(f"a bias for each of the {self.grid.num_classes} classes is needed, got {len(bias)}")
        last = self.semantic_mlp[-1]
        with torch.no_grad():
            last.bias.copy_(last.bias.new_tensor([value for number, value in enumerate(bias) if number != self.grid.empty]))
            if self.threshold is not None:
                self.density_mlp[2].bias[0] = self.threshold - FOG

    def _rendered_losses(self, volume: Volume, batch: OccupancyBatch) -> dict[str, Tensor]:
        """Means over the samples that have rays, each of its own means over its rays."""
        rays = self._checked_rays(batch)
        terms: list[dict[str, Tensor]] = []
        with torch.autocast(batch.images.device.type, enabled=False):
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
