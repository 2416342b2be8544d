"""TPVFormer (Tri-Perspective View, arXiv:2302.07817) as trained by valeoai/GaussRender (src/model/segmentor)."""

from __future__ import annotations

from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import nn

from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.images import build_image_network, image_features
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel
from baselines.tpvformer.aggregator import TPVAggregator
from baselines.tpvformer.geometry import TPVShape
from baselines.tpvformer.head import EncoderSizes, TPVFormerHead
from baselines.tpvformer.recipe import RECIPE


@MODELS.register_module()
class TPVFormer(OccupancyModel):
    """Images -> backbone -> neck -> three planes -> voxels.

    grid           occupancy grid (an OccupancyGrid, or its fields as a dict); every axis a multiple of ``upsampling``
    backbone       mmdet backbone, a config for mmdet's registry; its outputs go to ``neck``
    neck           mmdet neck with ``dim`` output channels
    dim, heads     width of tokens and number of attention heads
    num_layers     encoder layers
    num_cameras    most cameras a batch can have (each camera position has a learned code)
    anchors        anchors of a token of the planes hw, zh, wz
    points         sampling points of a token a level and head, a multiple of ``anchors``
    self_points    sampling points of the hw plane's self-attention
    upsampling     voxels per plane cell along each axis
    hidden, out    widths of the voxel decoder; ``out`` is the width of the features that are rendered
    dropout        probability after both attentions and twice in each feed-forward
    checkpointing  recompute voxel features in the backward pass
    gaussrender    fields of GaussRenderConfig to train with rendered losses, None for none
    renderer       name of the renderer backend for that

    ``dropout_epochs``, ``camera_seed`` and ``loss`` are those of OccupancyModel. Everything after the neck runs in float32, also
    under autocast. GridMask is not applied: the released configuration asks for it, and the code never does
    (bev_segmentor.py:12-22). Raises ValueError for a grid that ``upsampling`` does not divide.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        neck: dict[str, Any],
        dim: int = 256,
        heads: int = 8,
        num_layers: int = 3,
        num_cameras: int = 6,
        anchors: tuple[int, int, int] = (4, 32, 32),
        points: tuple[int, int, int] = (8, 64, 64),
        self_points: int = 4,
        upsampling: int = 2,
        hidden: int = 512,
        out: int = 256,
        dropout: float = 0.1,
        dropout_epochs: int | None = None,
        checkpointing: bool = False,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        super().__init__(grid, dropout_epochs=dropout_epochs, camera_seed=camera_seed, loss=loss)
        if any(n % upsampling for n in grid.shape):
            raise ValueError(f"grid {grid.shape} is not a multiple of the up-sampling {upsampling}")
        if dim % heads or dim % 2:
            raise ValueError(f"dim {dim} must be even and a multiple of the number of heads {heads}")
        x, y, z = (n // upsampling for n in grid.shape)
        shape = TPVShape(h=y, w=x, z=z)
        self.num_cameras = num_cameras
        self.img_backbone, self.img_neck = build_image_network(backbone, neck)
        sizes = EncoderSizes(num_layers, dim, heads, neck["num_outs"], points, anchors, self_points, dropout)
        self.head = TPVFormerHead(grid, shape, num_cameras, sizes)
        self.aggregator = TPVAggregator(shape, upsampling, dim, hidden, out, grid.num_classes, checkpointing)
        if gaussrender is not None:
            plugin = GaussRender(grid, renderer=renderer, feature_channels=out, config=GaussRenderConfig(**gaussrender))
            self.attach_rendering(plugin, self.aggregator)

    def classifiers(self) -> tuple[nn.Module, ...]:
        return (self.aggregator.classifier,)

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits [B, C, X, Y, Z] (one scale) and the decoder's voxel features [B, out, X, Y, Z].

        Raises ValueError for images or projections of the wrong shape or more cameras than the model has codes for.
        """
        maps = image_features(self.img_backbone, self.img_neck, batch, self.num_cameras)
        height, width = batch.images.shape[-2:]
        with torch.autocast(batch.images.device.type, enabled=False):
            planes = self.head(maps, batch.projection, (width, height))
            logits, features = self.aggregator(planes)
        return OccupancyPrediction((logits,), features)


def trainable_parameters(model: nn.Module) -> int:
    """Number of parameters that are trained, each counted once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
