"""GaussianFormer-2 (arXiv:2412.04384): Gaussians that refine themselves from images, superposed as probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from baselines.gaussianformer2.aggregation import class_probabilities
from baselines.gaussianformer2.anchors import CLASSES, OPACITY, ROTATION, SCALE, raw_of, share, space_of
from baselines.gaussianformer2.config import check_rays, check_sizes
from baselines.gaussianformer2.encoder import GaussianEncoder, views_of
from baselines.gaussianformer2.losses import log_probabilities, voxel_losses
from baselines.gaussianformer2.rays import Lifter, draws, half_mirrored
from baselines.gaussianformer2.recipe import RECIPE
from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.images import build_image_network, image_features, imagenet_rgb
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel

RAREST = math.log(1e-4)
"""First bias of the class of noise, which no label has."""


class Superposition(nn.Module):
    """The last block's anchors -> probabilities [B, C, X, Y, Z] of the grid's classes.

    multiplier   see ``aggregation.reach_of``
    noise_class  the first class is that of the labels' noise; its probability goes to no class of the grid
    """

    zero_tensor: Tensor

    def __init__(self, grid: OccupancyGrid, scale_range: Sequence[float], multiplier: float, noise_class: bool) -> None:
        super().__init__()
        self.grid, self.space, self.multiplier = grid, space_of(grid, scale_range), multiplier
        self.classes = grid.num_classes - 1 + noise_class
        occupied = [number for number in range(grid.num_classes) if number != grid.empty]
        places = {number: place for place, number in enumerate(occupied, start=int(noise_class))} | {grid.empty: self.classes}
        self.order = [places[number] for number in range(grid.num_classes)]
        self.register_buffer("zero_tensor", torch.zeros(1))
        self.aggregator = nn.Module()
        self.aggregator.register_buffer("pc_min", torch.tensor([grid.lower]))

    def forward(self, anchors: Tensor) -> Tensor:
        means, scales = self.space.metres(anchors), self.space.scales(anchors)
        quaternions = anchors[..., ROTATION] * anchors.new_tensor([1.0, -1.0, -1.0, -1.0])  # they turn the world
        opacities, logits = share(anchors[..., OPACITY])[..., 0], anchors[..., CLASSES:]
        voxels = []
        for own in zip(means, quaternions, scales, opacities, logits, strict=True):
            classes, empty = class_probabilities(*own, self.grid, self.multiplier)
            empty = empty[..., None]
            voxels.append(torch.cat([classes * (1 - empty), empty], dim=-1))
        order = torch.tensor(self.order, device=anchors.device)
        return torch.stack(voxels).permute(0, 4, 1, 2, 3).index_select(1, order)


@MODELS.register_module()
class GaussianFormer2(OccupancyModel):
    """Images -> places of Gaussians; Gaussians and features of the images -> better Gaussians -> voxels.

    grid                 occupancy grid (an OccupancyGrid, or its fields as a dict)
    backbone, neck       mmdet backbone and neck, configs for mmdet's registry; the neck's channels are the model's width
    ray_backbone, ray_neck, bins, depth_range, nothing_is_farthest
                         those of the first stage, see ``rays``; ``nothing_is_farthest`` is Q5 of this package's table
    pixel_anchors, learned_anchors
                         Gaussians at the first stage's points, and at learned places
    scale_range          least and largest deviation in metres
    multiplier           of the largest scale of a Gaussian: how far it reaches
    groups, layers, learned_points
                         groups of channels in the attention to images, blocks, key points that are learned
    cell, kernel         of the sparse convolutions, metres and cells
    dropout, attention_dropout
                         of feed-forward layers, and of single weights of the attention
    noise_class          Q11
    imagenet_images      Q2
    mirrored_images      half of the samples are trained with all images mirrored, and what is around them as it is
    drifting_rays        Q3
    gaussrender          fields of GaussRenderConfig to train with rendered losses, None for none
    renderer             name of the renderer backend for that

    ``camera_seed``, which the drawn points follow too, and ``loss`` are those of OccupancyModel. Everything after the image
    networks runs in float32, also under autocast. Logits are logarithms of probabilities, and the voxel features the
    probabilities, which rendering takes as features. Parameters have the published names. Raises ValueError for sizes that do not
    fit together.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        neck: dict[str, Any],
        ray_backbone: dict[str, Any],
        ray_neck: dict[str, Any],
        bins: int,
        depth_range: tuple[float, float],
        pixel_anchors: int,
        learned_anchors: int,
        scale_range: tuple[float, float],
        multiplier: float,
        groups: int,
        layers: int,
        learned_points: int,
        cell: float,
        kernel: int,
        dropout: float,
        attention_dropout: float,
        noise_class: bool = True,
        imagenet_images: bool = True,
        mirrored_images: bool = True,
        drifting_rays: bool = True,
        nothing_is_farthest: bool = True,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        super().__init__(grid, camera_seed=camera_seed, loss=loss)
        check_rays(bins, depth_range)
        check_sizes(grid, neck, groups, pixel_anchors, learned_anchors, scale_range, multiplier, cell, kernel, layers)
        self.groups, self.drifting_rays = groups, drifting_rays
        self.imagenet_images, self.mirrored_images = imagenet_images, mirrored_images
        dim, space = neck["out_channels"], space_of(grid, scale_range)
        self.head = Superposition(grid, scale_range, multiplier, noise_class)
        classes = self.head.classes
        self.img_backbone, self.img_neck = build_image_network(backbone, neck)
        self.lifter = Lifter(
            ray_backbone, ray_neck, bins, depth_range, nothing_is_farthest, space, dim, classes, pixel_anchors, learned_anchors
        )
        self.encoder = GaussianEncoder(
            dim,
            classes,
            space,
            layers,
            groups,
            neck["num_outs"],
            learned_points,
            cell,
            kernel,
            dropout,
            attention_dropout,
        )
        if gaussrender is not None:
            config = GaussRenderConfig(**gaussrender)
            self.attach_rendering(
                GaussRender(grid, renderer=renderer, feature_channels=grid.num_classes, config=config), self.head
            )

    def train(self, mode: bool = True) -> GaussianFormer2:
        """``OccupancyModel.train``; without ``drifting_rays`` the first stage stays as it is loaded."""
        super().train(mode)
        if not self.drifting_rays:
            self.lifter.initialize_backbone.eval()
        return self

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Give the blocks' logits of classes these first biases [C], and scales such that Gaussians that do not overlap fill as
        much as is occupied by the bias of the empty class."""
        if len(bias) != self.grid.num_classes:
            raise ValueError(f"a bias for each of the {self.grid.num_classes} classes is needed, got {len(bias)}")
        head, grid = self.head, self.grid
        volume = math.prod(high - low for low, high in zip(grid.lower, grid.upper, strict=True))
        occupied = 1 - math.exp(bias[grid.empty]) / sum(map(math.exp, bias))
        count = len(self.lifter.instance_feature)
        width = (occupied * volume / count) ** (1 / 3) / math.sqrt(2 * math.pi)
        least, largest = head.space.scale_range
        with torch.no_grad():
            for refinement in self.encoder.refinements():
                first = refinement.last.bias
                first[CLASSES:] = RAREST
                for number, place in enumerate(head.order):
                    if number != grid.empty:
                        first[CLASSES + place] = bias[number]
                first[SCALE] = raw_of(first.new_tensor((width - least) / (largest - least)))

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits of one scale and probabilities, both [B, C, X, Y, Z]. Raises ValueError for images of the wrong shape."""
        cameras = batch.images.shape[1]
        shown = replace(batch, images=imagenet_rgb(batch.images)) if self.imagenet_images else batch
        levels = image_features(self.img_backbone, self.img_neck, shown, cameras)
        anchors = self.lifter.anchors(shown.images, batch, draws(self, batch.batch_size))
        size = (batch.images.shape[-1], batch.images.shape[-2])
        with torch.autocast(batch.images.device.type, enabled=False):
            views = views_of(levels, batch.projection.float(), size, self.groups)
            features = self.lifter.instance_feature.expand(batch.batch_size, -1, -1)
            probabilities = self.head(self.encoder(anchors, features, views))
            return OccupancyPrediction((log_probabilities(probabilities),), probabilities)

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``OccupancyModel.loss``, of half of the samples with mirrored images if it is so."""
        return super().loss(half_mirrored(self, batch) if self.mirrored_images else batch)

    def occupancy_losses(self, prediction: OccupancyPrediction, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``loss_ce`` and ``loss_lovasz`` of the probabilities."""
        assert prediction.features is not None
        return voxel_losses(prediction.features, batch.labels, batch.sight, self.occupancy_loss)
