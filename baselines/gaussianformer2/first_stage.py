"""GaussianFormer-2's first stage: where along the rays of pixels something is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from baselines.checkpoints import load_fcos3d_pretrain
from baselines.gaussianformer2.anchors import space_of
from baselines.gaussianformer2.config import check_rays
from baselines.gaussianformer2.rays import Rays, draws, half_mirrored, ray_loss, ray_targets
from baselines.gaussianformer2.recipe import FIRST_STAGE
from baselines.images import check_images, imagenet_rgb
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel


@MODELS.register_module()
class GaussianFormer2Init(OccupancyModel):
    """Images -> a distribution along the ray of each pixel -> the voxels that have a point drawn of it.

    grid                   of the data set; of its classes nothing is said: all that is occupied is of the first one
    ray_backbone, ray_neck, bins, depth_range, nothing_is_farthest, imagenet_images, mirrored_images
                           as GaussianFormer2's
    camera_seed            seed of the drawn points

    Parameters have the second stage's names. Raises ValueError for bins that cannot be.
    """

    checkpoint_names = FIRST_STAGE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        ray_backbone: dict[str, Any],
        ray_neck: dict[str, Any],
        bins: int,
        depth_range: tuple[float, float],
        imagenet_images: bool = True,
        mirrored_images: bool = True,
        nothing_is_farthest: bool = True,
        camera_seed: int = 0,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        super().__init__(grid, camera_seed=camera_seed, loss={"class_weights": (1.0,) * grid.num_classes})
        check_rays(bins, depth_range)
        self.imagenet_images, self.mirrored_images = imagenet_images, mirrored_images
        self.lifter = Rays(ray_backbone, ray_neck, bins, depth_range, nothing_is_farthest)

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Nothing is classified."""

    def rays(self, batch: OccupancyBatch) -> tuple[Tensor, Tensor]:
        """Logits [B, V, h, w, D + 1] and points [B, V, h, w, D, 3]. Raises ValueError for images of the wrong shape."""
        check_images(batch, batch.images.shape[1])
        logits = self.lifter(imagenet_rgb(batch.images) if self.imagenet_images else batch.images)
        return logits, self.lifter.points(batch, (logits.shape[2], logits.shape[3]))

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits [B, C, X, Y, Z] of nought and one, without a gradient."""
        logits, points = self.rays(batch)
        grid, space = self.grid, space_of(self.grid, (0.0, 1.0))
        occupied = torch.zeros(batch.batch_size, *grid.shape, dtype=torch.bool, device=logits.device)
        size = torch.tensor(grid.shape, device=logits.device)
        for own, ray_logits, ray_points, generator in zip(occupied, logits, points, draws(self, batch.batch_size), strict=True):
            drawn = self.lifter.drawn(ray_logits, ray_points, space, generator)
            x, y, z = ((drawn - drawn.new_tensor(grid.lower)) / grid.voxel_size).long().minimum(size - 1).unbind(-1)
            own[x, y, z] = True
        something = next(number for number in range(grid.num_classes) if number != grid.empty)
        classes = torch.where(occupied, something, grid.empty)
        return OccupancyPrediction((F.one_hot(classes, grid.num_classes).permute(0, 4, 1, 2, 3).float(),))

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``loss_rays``."""
        logits, points = self.rays(half_mirrored(self, batch) if self.mirrored_images else batch)
        return {"loss_rays": ray_loss(logits, ray_targets(points, batch.labels, self.grid))}


def load_fcos3d_backbone(model: GaussianFormer2Init, path: Path) -> list[str]:
    """Start the backbone from FCOS3D's, as ``load_fcos3d_pretrain`` does, and with its errors."""
    return load_fcos3d_pretrain(model.lifter.initialize_backbone, path)
