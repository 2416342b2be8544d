"""BEVDet's occupancy model (BEVStereo4DOCC of HuangJunJie2017/BEVDet): a lift-splat network and a classifier of its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from baselines.bevdetocc.recipe import RECIPE
from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.lss.network import LiftSplat, voxel_layers


@dataclass(frozen=True, kw_only=True)
class LiftedPrediction(OccupancyPrediction):
    """shares  [B, V, D, h, w] of the depths, of the images' features"""

    shares: Tensor


@MODELS.register_module()
class BEVDetOcc(LiftSplat):
    """A lift-splat network, then two layers that say the class of each voxel.

    grid              occupancy grid (an OccupancyGrid, or its fields as a dict)
    neck              with ``out_channels``
    class_weights     of the cross entropy, one a class of the grid; None, as published: all alike
    lss_depth_weight  of the loss on the depths; at 0 it is left out
    gaussrender       fields of GaussRenderConfig to train with rendered losses too, None for none
    renderer          name of the renderer backend for that

    The others are those of LiftSplat, and so is what it reads of a batch, ``depth`` in training, unless its loss has no weight or
    only rendered images teach. Rendering is of the features that the two layers read. Parameters have the published names; the
    rendering's, which are not published, are at the top. Raises ValueError for sizes that do not fit together.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        neck: dict[str, Any],
        depth: tuple[float, float, float] = (1.0, 45.0, 0.5),
        reduction: int = 16,
        stereo_reduction: int = 4,
        aspp: int = 96,
        adjacent: int = 1,
        channels: int = 32,
        volume_blocks: tuple[int, int, int] = (1, 2, 4),
        dropout: float = 0.5,
        swapped_channels: bool = True,
        published_rounding: bool = True,
        class_weights: Sequence[float] | None = None,
        lss_depth_weight: float = 0.05,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        weights = tuple(class_weights) if class_weights is not None else (1.0,) * grid.num_classes
        super().__init__(
            grid,
            backbone,
            neck,
            neck["out_channels"],
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
            loss={"class_weights": weights, "in_sight": 1.0},
        )
        self.lss_depth_weight = lss_depth_weight
        self.predicter = nn.Sequential(*voxel_layers(channels, grid.num_classes))  # the published spelling
        if gaussrender is not None:
            plugin = GaussRender(grid, renderer=renderer, feature_channels=channels, config=GaussRenderConfig(**gaussrender))
            self.attach_rendering(plugin, self)

    def classifiers(self) -> tuple[nn.Module, ...]:
        return (self.predicter[-1],)

    def extract(self, batch: OccupancyBatch) -> LiftedPrediction:
        """Logits [B, C, X, Y, Z] and features [B, channels, X, Y, Z]; errors as in ``lifted``."""
        lifted = self.lifted(batch)
        with torch.autocast(batch.images.device.type, enabled=False):
            logits = self.predicter(lifted.features.movedim(1, -1)).movedim(-1, 1)
        return LiftedPrediction((logits,), lifted.features, shares=lifted.shares)

    def occupancy_losses(self, prediction: OccupancyPrediction, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``loss_ce``, the mean cross entropy over the voxels of the camera mask (bevdet_occ.py, ``loss_single`` with
        ``use_mask``), and ``loss_lss_depth``.

        Raises ValueError for a batch without ``depth``, unless that loss has no weight.
        """
        assert isinstance(prediction, LiftedPrediction)
        labels = batch.labels.long()
        masked = self.occupancy_loss.seen(labels, batch.camera_mask)
        losses = {"loss_ce": self.occupancy_loss.cross_entropy(prediction.logits[-1], masked, labels)}
        if self.lss_depth_weight:
            losses["loss_lss_depth"] = self.lss_depth_weight * self.depth_loss(prediction.shares, batch)
        return losses
