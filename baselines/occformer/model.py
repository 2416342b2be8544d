"""OccFormer (arXiv:2304.05316): a lifted volume, a transformer of two paths on it, and queries that become classes and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mmdet3d.registry import MODELS
from mmengine.dist import get_rank
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.images import build_image_network, check_images, imagenet_rgb
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.lss.geometry import camera_vector
from baselines.lss.network import check_sizes as check_lifting
from baselines.model import OccupancyModel
from baselines.occformer.decoder import LEVELS, MaskHead, VolumeDecoder, scores
from baselines.occformer.encoder import HEAD_WIDTH, REDUCTION, OccupancyEncoder, bottleneck_groups
from baselines.occformer.losses import Teaching, scene, set_losses
from baselines.occformer.recipe import RECIPE
from baselines.occformer.view import DEFORMED_GROUPS, VolumeView

FAINTEST = 1e-6  # added to a voxel's scores before their logarithm
_POINTS = 1  # tells the draws of an iteration's voxels from those of its cameras


@dataclass(frozen=True, kw_only=True)
class MaskPrediction(OccupancyPrediction):
    """What the queries say besides, before the first layer and after each.

    classes  [B, Q, C + 1] logits, the last of no class
    masks    [B, Q, x, y, z] logits, at half the grid
    shares   [B, V, D, h, w] of the depths, of the images' features
    """

    classes: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    shares: Tensor


@MODELS.register_module()
class OccFormer(OccupancyModel):
    """Images -> backbone -> neck -> depth, told of the camera -> lift, splat -> encoder -> attention among scales -> queries.

    grid           occupancy grid (an OccupancyGrid, or its fields as a dict); the volume has voxels twice as large
    backbone       mmdet backbone, a config for mmdet's registry; its outputs go to ``neck``
    neck           a neck that joins them, with ``out_channels`` of each (SECONDFPN)
    rgb            images enter as red, green, blue over ImageNet's deviations; False: as loaders give them
    coarsest       pixels per cell of the backbone's coarsest map. Images are made a multiple of it by zeros to the right and
                   below, as is the depth that teaches
    depth          (first, end, step) of the depths in metres
    reduction      pixels of an image per cell of the neck's output
    widths, blocks  channels and blocks of the encoder's four stages; the volume is as wide as the first
    window         side of the attention's windows
    groups         of the volume's norms
    dim            channels of the scales that attend to each other, of queries and of mask features
    heads, points, layers
                   attention heads, sampling points of a head and scale, layers of the attention among scales
    queries, decoder_layers, decoder_heads
                   how many there are
    drop_path, dropout, depth_dropout
                   of the blocks, after the ASPP of the blocks, and after that of the depth network
    checkpointing  the encoder's stages are computed anew in the backward pass
    corners        masks have the grid's resolution with both's outermost voxels in one place, as published, which is half a voxel
                   off at the ends of the range; False: with the same faces
    late_depths    see VolumeView
    published_rounding  of the splat, see ``voxel_numbers``
    teaching       fields of ``Teaching``
    lss_depth_weight    of the loss on the depths; at 0 it is left out
    gaussrender    fields of GaussRenderConfig to train with rendered losses, None for none
    renderer       name of the renderer backend for that

    ``camera_seed`` is that of OccupancyModel, and so is ``loss``, of which ``class_weights`` are read where queries are weighted
    by class, and ``in_sight``: the share of the voxels that teach masks that is drawn among those in sight. Reads ``chain`` of
    a batch, and ``depth`` in training, unless its loss has no weight or only rendered images teach. Any number of cameras, any
    batch size. Everything after the neck runs in float32, also under autocast.

    Logits are log(score + 1e-6) of what the queries say of each voxel (``scores``). Rendering takes them for logits, and the
    features of masks at the grid's resolution; upstream has no rendering. Parameters have the published names: 167,773,192
    on SurroundOcc's 17 classes, of which 167,445,448 are trained, and 202,678,748 for KITTI-360's one camera.

    Otherwise than published: frames are neither scaled by 5 % nor turned upside down; nuScenes' sparse targets, of LiDAR points,
    are not reproduced, all data sets are taught as SemanticKITTI; the vector of a camera has 27 numbers for one camera too
    (published 33: an intrinsic matrix's fourth column, zero in KITTI-360, and a shift of the reference frame, which is not
    augmented here); all weights decay alike (published: not those of norms and codes). Raises ValueError for sizes that do not
    fit together.
    """

    checkpoint_names = RECIPE.checkpoints

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        neck: dict[str, Any],
        rgb: bool,
        coarsest: int,
        depth: tuple[float, float, float],
        reduction: int,
        widths: tuple[int, int, int, int],
        blocks: tuple[int, int, int, int],
        window: int,
        groups: int,
        dim: int,
        heads: int,
        points: int,
        layers: int,
        queries: int,
        decoder_layers: int,
        decoder_heads: int,
        drop_path: float,
        dropout: float,
        depth_dropout: float,
        checkpointing: bool,
        corners: bool,
        late_depths: bool,
        published_rounding: bool,
        teaching: dict[str, Any] | None = None,
        lss_depth_weight: float = 1.0,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        super().__init__(grid, camera_seed=camera_seed, loss=loss)
        self.teaching = Teaching(**(teaching or {}))
        inputs = sum(neck["out_channels"])
        check_lifting(reduction, reduction, 0, depth)
        _check_widths(grid, inputs, widths, blocks, groups, dim, heads, decoder_heads, queries)
        self.rgb, self.coarsest, self.corners = rgb, coarsest, corners
        self.lss_depth_weight = lss_depth_weight
        self.img_backbone, self.img_neck = build_image_network(backbone, neck)
        self.img_view_transformer = VolumeView(
            grid.coarsened(2), inputs, widths[0], depth, reduction, depth_dropout, published_rounding, late_depths
        )
        self.img_bev_encoder_backbone = OccupancyEncoder(widths, blocks, groups, window, drop_path, dropout, checkpointing)
        self.img_bev_encoder_neck = VolumeDecoder(widths, dim, groups, heads, points, layers)
        self.pts_bbox_head = MaskHead(grid.num_classes, dim, decoder_heads, queries, decoder_layers)
        weights = self.occupancy_loss.class_weights
        weights = weights / weights[grid.empty] if self.teaching.class_weighted else torch.ones_like(weights)
        weights = torch.cat([weights, weights.new_tensor([self.teaching.no_object])])
        self.register_buffer("query_weights", weights, persistent=False)
        if gaussrender is not None:
            plugin = GaussRender(grid, renderer=renderer, feature_channels=dim, config=GaussRenderConfig(**gaussrender))
            self.attach_rendering(plugin, self)

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Classes start alike: a query stands for a class that is present, however many voxels that has. Raises ValueError for a
        number of biases that is not that of the classes."""
        if len(bias) != self.grid.num_classes:
            raise ValueError(f"a bias for each of the {self.grid.num_classes} classes is needed, got {len(bias)}")
        nn.init.zeros_(self.pts_bbox_head.cls_embed.bias)

    def extract(self, batch: OccupancyBatch) -> MaskPrediction:
        """Logits [B, C, X, Y, Z], and with rendering features [B, dim, X, Y, Z].

        Raises ValueError for images of the wrong shape, and for a batch without ``chain``.
        """
        asked = self._asked(batch)
        assert asked.features is not None
        with torch.autocast(batch.images.device.type, enabled=False):
            logits = (scores(asked.classes[-1], self._at_grid(asked.masks[-1])) + FAINTEST).log()
            features = None if self.gaussrender is None else self._at_grid(asked.features)
        return replace(asked, logits=(logits,), features=features)

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """See OccupancyModel. Logits of all voxels, which rendering alone reads, are not made without it."""
        if self.gaussrender is None:
            return self.occupancy_losses(self._asked(batch), batch)
        return super().loss(batch)

    def _asked(self, batch: OccupancyBatch) -> MaskPrediction:
        """What the queries say, without logits; the features are those of masks, at half the grid."""
        check_images(batch, most_cameras=batch.images.shape[1])
        if batch.chain is None:
            raise ValueError("OccFormer needs the batch's 'chain': how its cameras' pixels come about")
        images = _padded(batch.images, self.coarsest)
        if self.rgb:
            images = imagenet_rgb(images)
        size = images.shape[-1], images.shape[-2]
        (features,) = self.img_neck(self.img_backbone(images.flatten(0, 1)))
        with torch.autocast(images.device.type, enabled=False):
            features = features.float().unflatten(0, images.shape[:2])
            volume, shares = self.img_view_transformer(features, camera_vector(batch.chain), batch.chain.projection(), size, None)
            mask_features, levels = self.img_bev_encoder_neck(self.img_bev_encoder_backbone(volume))
            classes, masks = self.pts_bbox_head(mask_features, levels)
        return MaskPrediction((), mask_features, classes=tuple(classes), masks=tuple(masks), shares=shares)

    def _at_grid(self, volume: Tensor) -> Tensor:
        return F.interpolate(volume, size=self.grid.shape, mode="trilinear", align_corners=self.corners)

    def occupancy_losses(self, prediction: OccupancyPrediction, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_mask`` and ``loss_dice`` of the last layer's queries, of those before with ``_layer0`` (the first
        queries), ``_layer1``, ... behind the name, and ``loss_lss_depth``.

        Raises ValueError for a batch without ``depth``, unless that loss has no weight.
        """
        assert isinstance(prediction, MaskPrediction)
        losses: dict[str, Tensor] = {}
        if self.lss_depth_weight:
            if batch.depth is None:
                raise ValueError(
                    "OccFormer's lss_depth loss needs the batch's 'depth', of LiDAR points in the images or estimated"
                )
            depth = _padded(batch.depth, self.coarsest)
            losses["loss_lss_depth"] = self.lss_depth_weight * self.img_view_transformer.depth_loss(prediction.shares, depth)
        labels = batch.labels.long()
        if self.teaching.masked:
            labels = labels.masked_fill(~batch.camera_mask, self.grid.ignore)
        in_sight, ignore = self.occupancy_loss.in_sight, self.grid.ignore
        seen = self.occupancy_loss.seen(labels, batch.sight)
        scenes = [
            scene(own.flatten(), visible.flatten(), in_sight, ignore, self.teaching.balance)
            for own, visible in zip(labels, seen, strict=True)
        ]
        generator = self._point_generator(labels.device)
        for number, (classes, masks) in enumerate(zip(prediction.classes, prediction.masks, strict=True)):
            last = number == len(prediction.masks) - 1
            with torch.autocast(labels.device.type, enabled=False):
                terms = set_losses(
                    classes, masks, scenes, self.grid.shape, self.query_weights, self.corners, self.teaching, generator
                )
            losses |= {f"loss_{name}" if last else f"loss_{name}_layer{number}": value for name, value in terms.items()}
        return losses

    def _point_generator(self, device: torch.device) -> torch.Generator:
        """For this iteration's draws of voxels, on the device."""
        entropy = (self.camera_seed, get_rank(), self.iteration, _POINTS)
        seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        return torch.Generator(device).manual_seed(int(seed[0]) >> 1)


def _padded(images: Tensor, multiple: int) -> Tensor:
    """[..., H, W] with zeros to the right and below, up to a multiple."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def _check_widths(
    grid: OccupancyGrid,
    inputs: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    groups: int,
    dim: int,
    heads: int,
    decoder_heads: int,
    queries: int,
) -> None:
    if not len(widths) == len(blocks) == LEVELS + 1:
        raise ValueError(f"widths and blocks must be one of each for {LEVELS + 1} stages, got {len(widths)} and {len(blocks)}")
    inside = [width // REDUCTION for width in widths]
    if any(width % HEAD_WIDTH or width % groups or one % groups for width, one in zip(widths, inside, strict=True)) or any(
        one % bottleneck_groups(one, groups) for one in inside
    ):
        raise ValueError(f"widths {tuple(widths)} must be multiples of {HEAD_WIDTH} and of {REDUCTION} times {groups} groups")
    if dim % 6 or dim % heads or dim % decoder_heads or dim % groups:
        raise ValueError(
            f"dim {dim} must be a multiple of 6 (codes), of {heads} heads, {decoder_heads} decoder_heads and of {groups} groups"
        )
    if inputs % DEFORMED_GROUPS:
        raise ValueError(f"the neck's out_channels together must be a multiple of {DEFORMED_GROUPS}, they are {inputs}")
    if queries < grid.num_classes:
        raise ValueError(f"queries must be at least as many as the {grid.num_classes} classes, got {queries}")
