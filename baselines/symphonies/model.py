"""Symphonies (arXiv:2306.15670): semantic scene completion from one image and its depth."""

from __future__ import annotations

from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.images import check_images, imagenet_rgb
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel
from baselines.symphonies.decoder import SymphoniesDecoder
from baselines.symphonies.encoder import SymphoniesEncoder
from baselines.symphonies.geometry import frustums, scene_views
from baselines.symphonies.losses import EARLIER_WEIGHT, voxel_losses
from baselines.symphonies.recipe import RECIPE


@MODELS.register_module()
class Symphonies(OccupancyModel):
    """Image -> backbone -> pixel decoder; cells of the scene and instance queries inform each other -> voxels.

    grid              occupancy grid (an OccupancyGrid, or its fields as a dict)
    backbone          mmdet backbone with outputs of strides 4, 8, 16, 32, ``in_channels`` wide
    pixel_channels, pixel_layers, pixel_feedforward, groups
                      width, deformable layers, hidden width and norm groups of MaskDINO's pixel decoder
    image_size        (width, height) of the images
    dim, heads, points, layers, queries
                      width, attention heads, sampling points of a head and map, layers, instances of the decoder
    volume_scale, downsample_z
                      a cell spans volume_scale voxels along x and y and volume_scale * downsample_z along z; each 1 or 2
    position_fold     how codes of the cells' positions share a table, see ScenePosition
    published_fold    reference points in the folded volume are moved as published, see FoldedAttention
    dropout           after each deformable attention of the decoder
    frustum_size      the image is cut into frustum_size^2 parts for the frustum loss
    gaussrender       fields of GaussRenderConfig to train with rendered losses, None for none
    renderer          name of the renderer backend for that

    ``camera_seed`` is that of OccupancyModel, and so is ``loss``, of which the losses here take the class weights alone. One
    camera, with ``batch.depth``; any batch size (published: one). Everything after the backbone runs in float32, also under
    autocast. In training every layer predicts, all at the same scale.

    Rendering is of the map before the last 1 x 1 convolution, at the grid's resolution, in training only. (GaussRender's
    authors describe it as inserted before the final head; their code for it is not released.) Parameters have the
    published names. Raises ValueError for sizes that do not fit.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        in_channels: tuple[int, int, int, int],
        pixel_channels: int,
        pixel_layers: int,
        pixel_feedforward: int,
        groups: int,
        image_size: tuple[int, int],
        dim: int,
        heads: int,
        points: int,
        layers: int,
        queries: int,
        volume_scale: int,
        downsample_z: int,
        position_fold: tuple[int, int, int],
        published_fold: bool,
        dropout: float,
        frustum_size: int,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        super().__init__(grid, camera_seed=camera_seed, loss=loss)
        if volume_scale not in (1, 2) or downsample_z not in (1, 2):
            raise ValueError(f"volume_scale and downsample_z must be 1 or 2, got {volume_scale} and {downsample_z}")
        self.scene = grid.coarsened(volume_scale)
        x, y, z = self.scene.shape
        if z % downsample_z:
            raise ValueError(f"a scene of {z} cells in height cannot be downsampled by {downsample_z}")
        if dim % heads or pixel_channels % heads or pixel_channels % groups:
            raise ValueError(
                f"dim {dim} and pixel_channels {pixel_channels} must be multiples of {heads} heads, pixel_channels of "
                f"{groups} groups"
            )
        self.image_size = (image_size[0], image_size[1])
        self.downsample_z = downsample_z
        self.frustum_size = frustum_size
        self.encoder = SymphoniesEncoder(
            backbone, in_channels, pixel_channels, heads, pixel_layers, pixel_feedforward, groups, dim, queries
        )
        self.decoder = SymphoniesDecoder(
            dim,
            grid.num_classes,
            (x, y, z // downsample_z),
            self.image_size,
            volume_scale,
            downsample_z,
            layers,
            heads,
            levels=3,
            points=points,
            dropout=dropout,
            fold=position_fold,
            published_fold=published_fold,
        )
        if gaussrender is not None:
            plugin = GaussRender(grid, renderer=renderer, feature_channels=dim, config=GaussRenderConfig(**gaussrender))
            self.attach_rendering(plugin, self.decoder)

    def classifiers(self) -> tuple[nn.Module, ...]:
        return (self.decoder.cls_head[2],)

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits of every layer in training, else of the last; and the last one's features [B, dim, X, Y, Z].

        Raises ValueError for images, projections or depth that are missing, of the wrong shape or not finite.
        """
        check_images(batch, most_cameras=1)
        depth = self._depth(batch)
        rgb = imagenet_rgb(batch.images[:, 0])
        features, queries, anchors = self.encoder(rgb)
        with torch.autocast(rgb.device.type, enabled=False):
            projection = batch.projection[:, 0].float()
            views = scene_views(self.scene, self.downsample_z, projection, depth, self.image_size)
            logits, fine = self.decoder(features, queries, anchors, views)
        return OccupancyPrediction(logits, fine)

    def _depth(self, batch: OccupancyBatch) -> Tensor:
        width, height = self.image_size
        if list(batch.images.shape[-2:]) != [height, width]:
            raise ValueError(f"images must be {width} x {height} pixels, got {batch.images.shape[-1]} x {batch.images.shape[-2]}")
        wanted = [batch.batch_size, 1, height, width]
        if batch.depth is None:
            raise ValueError(f"Symphonies needs depth: batch.depth must be {wanted}, got None; load the data with depth=True")
        if list(batch.depth.shape) != wanted:
            raise ValueError(f"depth must be {wanted}, got {list(batch.depth.shape)}")
        if not bool(torch.isfinite(batch.depth).all()):
            raise ValueError("depth has NaN or infinite values; mark unknown depth by 0")
        return batch.depth[:, 0].float()

    def occupancy_losses(self, prediction: OccupancyPrediction, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``loss_ce``, ``_sem_scal``, ``_geo_scal``, ``_frustum`` of the answer; half of each for the layers before, with
        ``_layer1``, ``_layer2``, ... behind the name."""
        parts = frustums(self.grid, batch.projection[:, 0].float(), self.image_size, self.frustum_size)
        losses = {}
        for number, logits in enumerate(prediction.logits, start=1):
            last = number == len(prediction.logits)
            terms = voxel_losses(
                logits,
                batch.labels.long(),
                parts,
                self.frustum_size**2,
                self.occupancy_loss.class_weights,
                self.grid.empty,
                self.grid.ignore,
            )
            for name, value in terms.items():
                losses[f"loss_{name}" if last else f"loss_{name}_layer{number}"] = value * (1.0 if last else EARLIER_WEIGHT)
        return losses
