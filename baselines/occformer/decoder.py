"""OccFormer's volumes to masks: attention among the voxels of three scales, then queries that become classes and masks.

Reproduces zhangyp15/OccFormer projects/mmdet3d_plugin/occformer/necks/multiscale_deformattn_3d.py and
mask2former/mask2former_occ.py (Mask2Former, arXiv:2112.01527); parameters have its names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.transformer import BaseTransformerLayer, MultiheadAttention
from mmengine.model import caffe2_xavier_init
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.occformer.attention import VolumeAttention, middles, sine_code

LEVELS = 3
"""Scales that attend: all but the finest."""


class TransformerLayers(nn.Module):
    """Layers in a list, under the published names."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)


class VolumeDecoder(nn.Module):
    """The encoder's four scales -> features of masks at the finest one, and the three others after they attended to each other.

    widths  channels of the scales, fine to coarse
    dim     of all outputs
    """

    def __init__(self, widths: Sequence[int], dim: int, groups: int, heads: int, points: int, layers: int) -> None:
        super().__init__()
        fine, *coarse = widths
        kind = dict(type="Conv3d")
        norm = dict(type="GN", num_groups=groups)
        self.input_convs = nn.ModuleList(
            ConvModule(width, dim, 1, conv_cfg=kind, norm_cfg=norm, act_cfg=None, bias=True) for width in reversed(coarse)
        )
        attention = dict(type=VolumeAttention, embed_dims=dim, num_heads=heads, num_levels=LEVELS, num_points=points)
        self.encoder = TransformerLayers(
            [
                BaseTransformerLayer(
                    attn_cfgs=attention,
                    ffn_cfgs=dict(type="FFN", embed_dims=dim, feedforward_channels=4 * dim),
                    operation_order=("self_attn", "norm", "ffn", "norm"),
                    batch_first=True,
                )
                for _ in range(layers)
            ]
        )
        self.level_encoding = nn.Embedding(LEVELS, dim)
        self.lateral_convs = nn.ModuleList([ConvModule(fine, dim, 1, conv_cfg=kind, norm_cfg=norm, act_cfg=None, bias=False)])
        self.output_convs = nn.ModuleList([ConvModule(dim, dim, 3, padding=1, conv_cfg=kind, norm_cfg=norm, bias=False)])
        self.mask_feature = nn.Conv3d(dim, dim, 1)
        for own in self.input_convs:
            nn.init.xavier_uniform_(own.conv.weight)
            nn.init.zeros_(own.conv.bias)
        for conv in (self.lateral_convs[0].conv, self.output_convs[0].conv, self.mask_feature):
            caffe2_xavier_init(conv)
        for layer in self.encoder.layers:
            layer.attentions[0].start()

    def forward(self, volumes: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """[B, widths[i], X_i, Y_i, Z_i], fine to coarse -> [B, dim, X_0, Y_0, Z_0]; the others [B, dim, ...], coarse to fine."""
        fine, *coarse = volumes
        levels = [conv(volume) for conv, volume in zip(self.input_convs, reversed(coarse), strict=True)]
        shapes = [_shape(level) for level in levels]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        device, dim = tokens.device, tokens.shape[2]
        own = self.level_encoding.weight
        codes = torch.cat([sine_code(shape, dim, device) + level for shape, level in zip(shapes, own, strict=True)])
        places = torch.cat([middles(shape, device) for shape in shapes]).to(tokens).expand(len(tokens), -1, -1)
        for layer in self.encoder.layers:
            tokens = layer(tokens, query_pos=codes, reference_points=places, shapes=shapes)
        split = tokens.split([x * y * z for x, y, z in shapes], dim=1)
        out = [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(split, shapes, strict=True)]
        above = F.interpolate(out[-1], size=fine.shape[2:], mode="trilinear", align_corners=False)
        return self.mask_feature(self.output_convs[0](self.lateral_convs[0](fine) + above)), out


def _shape(volume: Tensor) -> tuple[int, int, int]:
    x, y, z = volume.shape[2:]
    return int(x), int(y), int(z)


class QueryLayers(TransformerLayers):
    """Layers of queries, and the norm before what is read of them."""

    def __init__(self, dim: int, heads: int, layers: int) -> None:
        attention = dict(type=MultiheadAttention, embed_dims=dim, num_heads=heads)
        super().__init__(
            [
                BaseTransformerLayer(
                    attn_cfgs=attention,
                    ffn_cfgs=dict(type="FFN", embed_dims=dim, feedforward_channels=8 * dim),
                    operation_order=("cross_attn", "norm", "self_attn", "norm", "ffn", "norm"),
                    batch_first=True,
                )
                for _ in range(layers)
            ]
        )
        self.post_norm = nn.LayerNorm(dim)


class MaskHead(nn.Module):
    """Queries attend to the voxels within their own masks, scale after scale; each becomes a class, or none, and a mask.

    classes  of the grid, the empty one included
    """

    def __init__(self, classes: int, dim: int, heads: int, queries: int, layers: int) -> None:
        super().__init__()
        self.heads = heads
        self.transformer_decoder = QueryLayers(dim, heads, layers)
        self.query_embed = nn.Embedding(queries, dim)
        self.query_feat = nn.Embedding(queries, dim)
        self.level_embed = nn.Embedding(LEVELS, dim)
        self.cls_embed = nn.Linear(dim, classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim)
        )

    def forward(self, features: Tensor, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [B, Q, classes + 1], the last of no class, and logits of masks [B, Q, X, Y, Z]; both of the first queries, and
        after each layer.

        features  [B, dim, X, Y, Z]
        levels    [B, dim, x, y, z], coarse to fine
        """
        batch, dim = features.shape[:2]
        shapes = [_shape(level) for level in levels]
        keys = [level.flatten(2).transpose(1, 2) + own for level, own in zip(levels, self.level_embed.weight, strict=True)]
        codes = [sine_code(shape, dim, features.device) for shape in shapes]
        query = self.query_feat.weight.expand(batch, -1, -1)
        place = self.query_embed.weight.expand(batch, -1, -1)
        classes, masks = [], []
        for number, layer in enumerate((None, *self.transformer_decoder.layers)):
            if layer is not None:
                level = (number - 1) % LEVELS
                query = layer(
                    query,
                    key=keys[level],
                    value=keys[level],
                    query_pos=place,
                    key_pos=codes[level],
                    attn_masks=[self._hidden(masks[-1], shapes[level]), None],
                )
            own = self.transformer_decoder.post_norm(query)
            classes.append(self.cls_embed(own))
            masks.append(torch.einsum("bqc,bcxyz->bqxyz", self.mask_embed(own), features))
        return classes, masks

    @torch.no_grad()
    def _hidden(self, masks: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """[B * heads, Q, x * y * z] bool, where queries do not look: voxels with no part in their mask, unless all are such.

        A coarse voxel belongs to a mask if any within it does (the paper's preserve-pooling)."""
        hidden = F.adaptive_max_pool3d(masks, shape).flatten(2) < 0
        hidden = hidden & ~hidden.all(dim=-1, keepdim=True)
        return hidden.repeat_interleave(self.heads, dim=0)


def scores(classes: Tensor, masks: Tensor) -> Tensor:
    """[B, C, X, Y, Z], not negative: what the queries [B, Q, C + 1] with masks [B, Q, X, Y, Z], both logits, say of each voxel.

    Sums over the queries of the share of a class times that of the voxel in the mask; those of no class are left out."""
    return torch.einsum("bqc,bqxyz->bcxyz", classes.softmax(dim=-1)[..., :-1], masks.sigmoid())
