"""Image features -> three plane features (valeoai/GaussRender src/model/head/tpvformer_head.py and encoder/)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models.layers import LearnedPositionalEncoding
from torch import Tensor, nn

from baselines.interface import OccupancyGrid
from baselines.ops.camera_attention import CameraViews, camera_views, project
from baselines.tpvformer.attention import DeformableAttention3D, HybridAttention, ImageCrossAttention
from baselines.tpvformer.geometry import (
    PLANES,
    TPVShape,
    reference_points_2d,
    reference_points_3d,
)


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes of the encoder's layers; the fields are arguments of ``TPVFormer``, and ``levels`` that of feature maps."""

    num_layers: int
    dim: int
    heads: int
    levels: int
    points: tuple[int, int, int]
    anchors: tuple[int, int, int]
    self_points: int
    dropout: float


class TPVFormerLayer(nn.Module):
    """Self-attention of the hw plane, image cross-attention, feed-forward, each followed by a LayerNorm."""

    def __init__(self, s: EncoderSizes) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(
            [
                HybridAttention(s.dim, s.heads, s.self_points, s.dropout),
                ImageCrossAttention(s.dim, s.heads, s.levels, s.points, s.anchors, s.dropout),
            ]
        )
        self.ffns = nn.ModuleList([FFN(embed_dims=s.dim, feedforward_channels=2 * s.dim, num_fcs=2, ffn_drop=s.dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(s.dim) for _ in range(3))

    def forward(
        self,
        planes: Sequence[Tensor],
        position: Tensor,
        reference: Tensor,
        shape: TPVShape,
        tokens: Tensor,
        levels: Sequence[tuple[int, int]],
        views: Sequence[CameraViews],
    ) -> list[Tensor]:
        """Planes 3 x [B, N, F] in and out; the other arguments as in the attentions."""
        hybrid, image = self.attentions
        hw = hybrid(planes[0], position, reference, (shape.h, shape.w))
        query = self.norms[0](torch.cat([hw, *planes[1:]], dim=1))
        query = self.norms[1](image(query, shape.tokens, tokens, levels, views))
        query = self.norms[2](self.ffns[0](query))
        return list(query.split(list(shape.tokens), dim=1))


class TPVFormerEncoder(nn.Module):
    """The layers, with the reference points as buffers ``ref_2d_*`` and ``ref_3d_*`` (published ones included)."""

    def __init__(self, grid: OccupancyGrid, shape: TPVShape, sizes: EncoderSizes) -> None:
        super().__init__()
        self.shape, self.lower, self.upper = shape, grid.lower, grid.upper
        extent = tuple(hi - lo for lo, hi in zip(grid.lower, grid.upper, strict=True))
        for name, points_3d in reference_points_3d(shape, extent, sizes.anchors).items():
            self.register_buffer(f"ref_3d_{name}", points_3d)
        for name, points_2d in reference_points_2d(shape).items():
            self.register_buffer(f"ref_2d_{name}", points_2d)
        self.layers = nn.ModuleList(TPVFormerLayer(sizes) for _ in range(sizes.num_layers))

    @torch.no_grad()
    def views(self, projection: Tensor, image_size: tuple[int, int]) -> list[CameraViews]:
        """What each camera sees of each plane; projection [B, V, 4, 4], image_size (width, height) in pixels."""
        anchors = [getattr(self, f"ref_3d_{name}") for name in PLANES]
        return [camera_views(*project(a, self.lower, self.upper, projection, image_size)) for a in anchors]

    def forward(
        self,
        planes: Sequence[Tensor],
        position: Tensor,
        tokens: Tensor,
        levels: Sequence[tuple[int, int]],
        views: Sequence[CameraViews],
    ) -> list[Tensor]:
        """Planes 3 x [B, N, F] in and out; tokens [B*V, S, F] of feature maps with shapes ``levels``."""
        out = list(planes)
        for layer in self.layers:
            out = layer(out, position, self.ref_2d_hw, self.shape, tokens, levels, views)
        return out


class TPVFormerHead(nn.Module):
    """Learned plane queries refined by the encoder.

    Starts as published: Xavier-uniform for every matrix (embeddings included), the attentions' own start, and unit
    normals for the camera and level codes (tpvformer_head.py:59-73).
    """

    def __init__(self, grid: OccupancyGrid, shape: TPVShape, num_cameras: int, sizes: EncoderSizes) -> None:
        super().__init__()
        self.shape = shape
        dim, levels = sizes.dim, sizes.levels
        hw, zh, wz = shape.tokens
        self.positional_encoding = LearnedPositionalEncoding(dim // 2, row_num_embed=shape.h, col_num_embed=shape.w)
        self.register_buffer("tpv_mask_hw", torch.zeros(1, shape.h, shape.w))
        self.encoder = TPVFormerEncoder(grid, shape, sizes)
        self.level_embeds = nn.Parameter(torch.empty(levels, dim))
        self.cams_embeds = nn.Parameter(torch.empty(num_cameras, dim))
        self.tpv_embedding_hw = nn.Embedding(hw, dim)
        self.tpv_embedding_zh = nn.Embedding(zh, dim)
        self.tpv_embedding_wz = nn.Embedding(wz, dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, (HybridAttention, DeformableAttention3D)):
                module.init_sampling()
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.cams_embeds)

    def forward(self, features: Sequence[Tensor], projection: Tensor, image_size: tuple[int, int]) -> list[Tensor]:
        """Planes hw, zh, wz, each [B, tokens, F].

        features    one [B, V, F, h, w] a level, fine to coarse
        projection  [B, V, 4, 4] reference frame -> pixel of the images
        image_size  (width, height) of the images in pixels
        """
        batch, cameras = features[0].shape[:2]
        codes = self.cams_embeds[:cameras, None] + self.level_embeds[:, None, None]
        tokens = torch.cat([level.flatten(3).transpose(2, 3) + code for level, code in zip(features, codes, strict=True)], dim=2)
        planes = [
            embedding.weight.expand(batch, -1, -1)
            for embedding in (self.tpv_embedding_hw, self.tpv_embedding_zh, self.tpv_embedding_wz)
        ]
        position = self.positional_encoding(self.tpv_mask_hw).flatten(2).transpose(1, 2)
        shapes = [(level.shape[-2], level.shape[-1]) for level in features]
        views = self.encoder.views(projection, image_size)
        return self.encoder(planes, position, tokens.flatten(0, 1), shapes, views)
