"""MonoScene (arXiv:2112.00726): semantic scene completion from one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.images import check_images, imagenet_rgb
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel
from baselines.monoscene.config import check_sizes
from baselines.monoscene.image_network import ImageNetwork
from baselines.monoscene.losses import cell_labels, relation_loss, relations
from baselines.monoscene.projection import lines_of_sight
from baselines.monoscene.recipe import RECIPE
from baselines.monoscene.volume import SceneNetwork
from baselines.symphonies.geometry import frustums
from baselines.symphonies.losses import voxel_losses


@dataclass(frozen=True)
class RelatedPrediction(OccupancyPrediction):
    """relations  [B, 4, N, M] logits of the relations between coarse cells and blocks of them (``losses.relations``)."""

    relations: Tensor | None = None


@MODELS.register_module()
class MonoScene(OccupancyModel):
    """Image -> U-Net -> maps of several scales; voxels take the features of their pixels -> 3D U-Net -> classes.

    It is the network of astra-vision/MonoScene as hustvl/Symphonies trains it (ssc_pl/models/segmentors/monoscene.py), which has
    SSCBench-KITTI-360. 149,447,539 parameters at the published size.

    grid               occupancy grid (an OccupancyGrid, or its fields as a dict)
    backbone           mmdet backbone with outputs of strides 2, 4, 8, 16, 32, ``in_channels`` wide
    width              of the coarsest map in the image's decoder, a multiple of 32; that of the backbone's is published
    padded_bottleneck  True: the 1 x 1 convolution of the coarsest map is padded by one pixel, as published (after AdaBins). The
                       map then has a border of nothing but the bias, and is squeezed with it into the size of the next finer
                       one. False: it is not
    dim                channels of a cell where the scene is filled in; doubled twice on the way down, divided by volume_scale in
                       the head
    view_scales        scales of the image that cells look at
    volume_scale       1 or 2: how many voxels of the grid an edge of the cells that are filled in spans
    unknown_unrelated  True: the relation loss takes a cell whose label is unknown for one that has no relation to any other, as
                       published. False: its pairs do not count
    frustum_size       the image is cut into frustum_size^2 parts for the frustum loss
    gaussrender        fields of GaussRenderConfig to train with rendered losses, None for none
    renderer           name of the renderer backend for that

    ``camera_seed`` is that of OccupancyModel, and so is ``loss``, of which the losses here take the class weights alone. One
    camera; images of any size, any batch size (published: one a GPU, batch norm over four of them). Geometry and losses are in
    float32, also under autocast.

    What else is published is mended: a mirrored frame is seen by a mirrored camera (upstream's voxels look at the pixels of the
    frame as it was, and its coarse cells stay), and a relation that no pair of a batch has does not make the loss NaN.

    Rendering is of the map before the last convolution, at the grid's resolution, in training only. Raises ValueError for sizes
    that do not fit.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        in_channels: tuple[int, int, int, int, int],
        width: int,
        padded_bottleneck: bool,
        dim: int,
        view_scales: tuple[int, ...],
        volume_scale: int,
        unknown_unrelated: bool,
        frustum_size: int,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        check_sizes(grid, in_channels, width, dim, view_scales, volume_scale, frustum_size)
        super().__init__(grid, camera_seed=camera_seed, loss=loss)
        self.scene = grid.coarsened(volume_scale)
        self.view_scales = tuple(view_scales)
        self.cell_factor = 4 * volume_scale
        self.unknown_unrelated = unknown_unrelated
        self.frustum_size = frustum_size
        self.encoder = ImageNetwork(backbone, in_channels, width, dim, self.view_scales, padded_bottleneck)
        self.decoder = SceneNetwork(dim, self.scene.shape, grid.num_classes, volume_scale)
        if gaussrender is not None:
            channels = dim // volume_scale
            plugin = GaussRender(grid, renderer=renderer, feature_channels=channels, config=GaussRenderConfig(**gaussrender))
            self.attach_rendering(plugin, self.decoder)

    def classifiers(self) -> tuple[nn.Module, ...]:
        return (self.decoder.ssc_head.conv_cls,)

    def extract(self, batch: OccupancyBatch) -> RelatedPrediction:
        """Logits, features [B, dim / volume_scale, X, Y, Z] behind them, and relations of the coarse cells.

        Raises ValueError for images or projections of the wrong shape, and for more than one camera.
        """
        check_images(batch, most_cameras=1)
        rgb = imagenet_rgb(batch.images[:, 0])
        maps = self.encoder(rgb)
        with torch.autocast(rgb.device.type, enabled=False):
            volume = lines_of_sight(maps, self.view_scales, self.scene, batch.projection[:, 0].float(), _size(batch))
        found = self.decoder(volume)
        return RelatedPrediction((found.logits.float(),), found.features.float(), relations=found.relations)

    def occupancy_losses(self, prediction: OccupancyPrediction, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``loss_ce``, ``loss_sem_scal``, ``loss_geo_scal``, ``loss_frustum`` and ``loss_relation``, all of weight 1."""
        assert isinstance(prediction, RelatedPrediction) and prediction.relations is not None
        grid, labels = self.grid, batch.labels.long()
        parts = frustums(grid, batch.projection[:, 0].float(), _size(batch), self.frustum_size)
        weights = self.occupancy_loss.class_weights
        terms = voxel_losses(prediction.logits[-1], labels, parts, self.frustum_size**2, weights, grid.empty, grid.ignore)
        cells = cell_labels(labels, self.cell_factor, grid.num_classes, grid.empty, grid.ignore)
        truth = relations(cells, grid.num_classes, grid.empty, grid.ignore)
        counted = None if self.unknown_unrelated else (cells != grid.ignore).flatten(1)
        terms["relation"] = relation_loss(prediction.relations, truth, counted)
        return {f"loss_{name}": value for name, value in terms.items()}


def _size(batch: OccupancyBatch) -> tuple[int, int]:
    """(width, height) of the images."""
    return batch.images.shape[-1], batch.images.shape[-2]
