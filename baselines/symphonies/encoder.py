"""The image side of Symphonies: MaskDINO's backbone and pixel decoder, and learned instance queries.

Reproduces hustvl/Symphonies ssc_pl/models/encoders/mmdet_wrapper.py and maskdino/models/maskdino_encoder_layers.py (Mask
DINO, arXiv:2206.02777). Of MaskDINO only what Symphonies keeps exists; its predictor is dropped there too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.layers import DeformableDetrTransformerEncoder, SinePositionalEncoding
from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from baselines.images import build_mmdet
from baselines.symphonies.attention import DeformableAttention

LEVELS = 4  # strides 8 to 64


class PixelTransformer(BaseModule):
    """Deformable self-attention among the pixels of all levels (Deformable DETR's encoder)."""

    def __init__(self, channels: int, heads: int, layers: int, feedforward: int) -> None:
        super().__init__()
        attention = dict(embed_dims=channels, num_heads=heads, num_levels=LEVELS, num_points=4, dropout=0.0, batch_first=True)
        self.encoder = DeformableDetrTransformerEncoder(
            num_layers=layers,
            layer_cfg=dict(
                self_attn_cfg=attention,
                ffn_cfg=dict(embed_dims=channels, feedforward_channels=feedforward, num_fcs=2, ffn_drop=0.0),
                norm_cfg=dict(type="LN"),
            ),
        )
        self.level_embed = nn.Parameter(torch.empty(LEVELS, channels))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.level_embed)
        for layer in self.encoder.layers:
            layer.self_attn = DeformableAttention(**attention)

    def forward(self, levels: Sequence[Tensor], codes: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, F, h, w] with position codes of the same shape -> maps."""
        shapes = [(int(level.shape[2]), int(level.shape[3])) for level in levels]
        pixels = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        position = torch.cat(
            [code.flatten(2).transpose(1, 2) + own for code, own in zip(codes, self.level_embed, strict=True)], dim=1
        )
        pixels = self.encoder(
            query=pixels,
            query_pos=position,
            key_padding_mask=None,
            spatial_shapes=shapes,
            level_start_index=None,
            valid_ratios=pixels.new_ones(len(pixels), LEVELS, 2),
        )
        split = pixels.split([h * w for h, w in shapes], dim=1)
        return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(split, shapes, strict=True)]


class PixelDecoder(BaseModule):
    """Backbone maps of strides 4 to 32 -> refined maps of strides 8, 16, 32, 64.

    ``mask_features``, ``adapter_1`` and ``layer_1`` make MaskDINO's mask features, which Symphonies does not use: they are
    in the published weights, do not run here and are not trained.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, heads: int, layers: int, feedforward: int, groups: int) -> None:
        super().__init__()
        fine, *used = in_channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), nn.GroupNorm(groups, channels)) for width in used
        )
        self.input_proj.append(
            nn.Sequential(nn.Conv2d(used[-1], channels, 3, stride=2, padding=1), nn.GroupNorm(groups, channels))
        )
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        self.transformer = PixelTransformer(channels, heads, layers, feedforward)
        self.pe_layer = SinePositionalEncoding(channels // 2, normalize=True)
        norm = dict(type="GN", num_groups=groups)
        self.mask_features = nn.Conv2d(channels, channels, 1)
        self.adapter_1 = ConvModule(fine, channels, 1, bias=False, norm_cfg=norm, act_cfg=None)
        self.layer_1 = ConvModule(channels, channels, 3, padding=1, bias=False, norm_cfg=norm)
        for unused in (self.mask_features, self.adapter_1, self.layer_1):
            unused.requires_grad_(False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """[B, C_i, h, w] of the backbone's four stages -> four maps [B, channels, h, w], fine to coarse."""
        used = [*maps[1:], maps[-1]]
        levels = [project(level) for project, level in zip(self.input_proj, used, strict=True)]
        codes = [self.pe_layer(level.new_zeros(level[:, 0].shape, dtype=torch.bool)) for level in levels]
        return self.transformer(levels, codes)


class SymphoniesEncoder(BaseModule):
    """Images -> maps of strides 4 (the backbone's own), 8 and 16, and instance queries with anchors in the image.

    The names below ``model`` are those of MaskDINO in mmdet.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        in_channels: Sequence[int],
        channels: int,
        heads: int,
        layers: int,
        feedforward: int,
        groups: int,
        dim: int,
        queries: int,
    ) -> None:
        super().__init__()
        pixel_decoder = PixelDecoder(in_channels, channels, heads, layers, feedforward, groups)
        self.model = ModuleDict(
            {"backbone": build_mmdet(backbone), "panoptic_head": ModuleDict({"pixel_decoder": pixel_decoder})}
        )
        self.query_embed = nn.Embedding(queries, dim)
        self.pts_embed = nn.Embedding(queries, 2)
        self.out_projs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1), nn.BatchNorm2d(dim), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 1))
            for width in (in_channels[0], channels, channels)
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """images [B, 3, H, W], normalised for the backbone.

        Returns float32 maps [B, dim, h, w] of strides 4, 8, 16, queries [B, Q, dim] and anchors [B, Q, 2], (x, y) in 0..1.
        """
        maps = self.model["backbone"](images)
        with torch.autocast(images.device.type, enabled=False):
            maps = [level.float() for level in maps]
            refined = self.model["panoptic_head"]["pixel_decoder"](maps)
            features = [project(level) for project, level in zip(self.out_projs, (maps[0], *refined[:2]), strict=True)]
        batch = len(images)
        queries = self.query_embed.weight.expand(batch, -1, -1)
        return features, queries, self.pts_embed.weight.sigmoid().expand(batch, -1, -1)
