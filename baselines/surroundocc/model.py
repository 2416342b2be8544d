"""SurroundOcc (arXiv:2303.09551) as valeoai/GaussRender trained it: its network, their losses and protocol."""

from __future__ import annotations

from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import nn

from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.images import build_image_network, image_features
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel
from baselines.surroundocc.head import SurroundOccHead
from baselines.surroundocc.recipe import RECIPE
from baselines.surroundocc.volume import VolumeSizes


@MODELS.register_module()
class SurroundOcc(OccupancyModel):
    """Images -> backbone -> neck -> a volume of queries for each feature map -> deconvolutions -> voxels at every scale.

    grid           occupancy grid (an OccupancyGrid, or its fields as a dict); every axis a multiple of 2^n for n volumes
    backbone       mmdet backbone, a config for mmdet's registry; its outputs go to ``neck``
    neck           mmdet neck with one output a volume
    dims           width of each volume's tokens, fine to coarse
    layers         attention layers of each volume
    points         sampling points of a token and head of each volume
    feedforward    hidden width of each volume's feed-forward
    widths         channels of the supervised scales, coarse to fine: one more than there are volumes. The last is the
                   width of the features that are rendered
    heads, groups  attention heads, and groups of every GroupNorm
    num_cameras    most cameras a batch can have (each camera position has a learned code)
    dropout        probability after the attention and twice in each feed-forward
    classifier_bias  whether the classifiers have one, which the published ones have not
    gaussrender    fields of GaussRenderConfig to train with rendered losses of the finest scale, None for none
    renderer       name of the renderer backend for that

    ``dropout_epochs``, ``camera_seed`` and ``loss`` are those of OccupancyModel. Everything after the neck runs in float32, also
    under autocast. Losses are GaussRender's at every scale (``OccupancyLoss``: half the weight for each coarser one), not
    those of the SurroundOcc paper; GridMask is not applied. Parameters have the published names below ``img_backbone``,
    ``img_neck`` and ``head`` (GaussRender's name; ``pts_bbox_head`` in SurroundOcc's own weights, which is translated on
    loading). Raises ValueError for sizes that do not fit together.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        neck: dict[str, Any],
        dims: tuple[int, ...] = (128, 256, 512),
        layers: tuple[int, ...] = (1, 3, 6),
        points: tuple[int, ...] = (2, 4, 8),
        feedforward: tuple[int, ...] = (256, 512, 1024),
        widths: tuple[int, ...] = (256, 128, 64, 32),
        heads: int = 8,
        groups: int = 16,
        num_cameras: int = 6,
        dropout: float = 0.1,
        dropout_epochs: int | None = None,
        classifier_bias: bool = False,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        super().__init__(grid, dropout_epochs=dropout_epochs, camera_seed=camera_seed, loss=loss)
        _check_sizes(grid, neck, dims, layers, points, feedforward, widths, heads, groups)
        self.num_cameras = num_cameras
        self.img_backbone, self.img_neck = build_image_network(backbone, neck)
        x, y, z = grid.shape
        volumes = [
            VolumeSizes((x >> i, y >> i, z >> i), *sizes)
            for i, sizes in enumerate(zip(dims, layers, points, feedforward, strict=True), start=1)
        ]
        self.head = SurroundOccHead(
            grid, volumes, neck["out_channels"], widths, heads, groups, num_cameras, dropout, classifier_bias
        )
        if gaussrender is not None:
            plugin = GaussRender(grid, renderer=renderer, feature_channels=widths[-1], config=GaussRenderConfig(**gaussrender))
            self.attach_rendering(plugin, self.head)

    def classifiers(self) -> tuple[nn.Module, ...]:
        return tuple(layer for layer in self.head.occ if layer.bias is not None)

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits of every scale, coarse to fine, and the finest scale's features [B, widths[-1], X, Y, Z].

        Raises ValueError for images or projections of the wrong shape or more cameras than the model has codes for.
        """
        levels = image_features(self.img_backbone, self.img_neck, batch, self.num_cameras)
        height, width = batch.images.shape[-2:]
        with torch.autocast(batch.images.device.type, enabled=False):
            logits, features = self.head(levels, batch.projection, (width, height))
        return OccupancyPrediction(logits, features)


def _check_sizes(
    grid: OccupancyGrid,
    neck: dict[str, Any],
    dims: tuple[int, ...],
    layers: tuple[int, ...],
    points: tuple[int, ...],
    feedforward: tuple[int, ...],
    widths: tuple[int, ...],
    heads: int,
    groups: int,
) -> None:
    count = len(dims)
    if not len(layers) == len(points) == len(feedforward) == len(widths) - 1 == neck["num_outs"] == count > 0:
        raise ValueError(
            f"{count} volumes need as many layers, points, feedforward widths and outputs of the neck, and one more of widths; "
            f"got {len(layers)}, {len(points)}, {len(feedforward)}, {neck['num_outs']} and {len(widths)}"
        )
    if any(n % 2**count for n in grid.shape):
        raise ValueError(f"grid {grid.shape} is not a multiple of {2**count}, which {count} volumes need")
    if any(dim % heads for dim in dims) or any(width % groups for width in (*dims, *widths)):
        raise ValueError(f"dims {dims} must be multiples of {heads} heads, dims and widths {widths} of {groups} groups")
