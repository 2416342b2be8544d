"""Blocks that refine Gaussians: attention to the images, convolution among each other, and new attributes.

Reproduces huang-yh/GaussianFormer model/encoder/gaussian_encoder/{gaussian_encoder,deformable_module}.py with the order of
operations of config/prob.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from baselines.gaussianflowocc.lanes import own_axes
from baselines.gaussianformer2.anchors import ROTATION, AnchorEncoder, Refinement, Space, layers, share
from baselines.gaussianformer2.sparse import SparseConvolutions
from baselines.ops.deform_attn import deformable_attention

FIXED = ((0, 0, 0), (0.45, 0, 0), (-0.45, 0, 0), (0, 0.45, 0), (0, -0.45, 0), (0, 0, 0.45), (0, 0, -0.45))
"""Key points of a Gaussian, in deviations along its own axes."""
LEARNED_REACH = 6.0
"""Deviations between the least and the largest place of a learned key point."""
NEAREST = 1e-5  # metres along a camera's axis from which on a point is seen
ORDER = (
    *("identity", "deformable", "add", "norm"),
    *("identity", "ffn", "add", "norm"),
    *("identity", "spconv", "add", "norm"),
    *("identity", "ffn", "add", "norm"),
    "refine",
)
"""Of a block; published names count all of them."""


@dataclass(frozen=True)
class Views:
    """What V cameras show, in L levels.

    value       [B, S, G, D] pixels of all levels of all cameras, one camera after the other; G groups of channels
    shapes      (height, width) of those V L maps
    projection  [B, V, 4, 4] reference frame -> pixel of the images (u*z, v*z, z, 1)
    size        (width, height) of the images in pixels
    """

    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    projection: Tensor
    size: tuple[int, int]


def views_of(levels: Sequence[Tensor], projection: Tensor, size: tuple[int, int], groups: int) -> Views:
    """Of maps [B, V, F, h, w], one a level."""
    pixels = torch.cat([level.flatten(3) for level in levels], dim=3).permute(0, 1, 3, 2)
    shapes = tuple((level.shape[-2], level.shape[-1]) for level in levels) * levels[0].shape[1]
    return Views(pixels.flatten(1, 2).unflatten(-1, (groups, -1)), shapes, projection, size)


class KeyPoints(nn.Module):
    """Anchors and their features -> key points [B, N, P, 3] in metres: the fixed ones, then ``learned`` ones."""

    def __init__(self, dim: int, learned: int, space: Space) -> None:
        super().__init__()
        self.space = space
        self.number = len(FIXED) + learned
        self.learnable_fc = nn.Linear(dim, 3 * learned)

    def forward(self, features: Tensor, anchors: Tensor) -> Tensor:
        fixed = features.new_tensor(FIXED).expand(*features.shape[:2], -1, -1)
        learned = (share(self.learnable_fc(features)) - 0.5).unflatten(-1, (-1, 3)) * LEARNED_REACH
        own = torch.cat([fixed, learned], dim=2) * self.space.scales(anchors)[:, :, None]
        turned = own_axes(anchors[..., ROTATION].flatten(0, 1), torch.ones_like(own[:, :, 0]).flatten(0, 1))
        return own @ turned.mT.unflatten(0, own.shape[:2]) + self.space.metres(anchors)[:, :, None]


class ImageAttention(nn.Module):
    """Features of anchors from what the images show at their key points: a weight for each camera, level, point and group, which
    together are one softmax over those in sight. Of what no camera sees nothing.

    dropout  of single weights before the softmax, as if they were out of sight
    """

    def __init__(self, dim: int, groups: int, levels: int, learned: int, space: Space, dropout: float) -> None:
        super().__init__()
        self.levels, self.groups = levels, groups
        self.kps_generator = KeyPoints(dim, learned, space)
        self.camera_encoder = nn.Sequential(*layers(dim, 1, 2, 12))
        self.weights_fc = nn.Linear(dim, groups * levels * self.kps_generator.number)
        self.output_proj = nn.Linear(dim, dim)
        self.attn_drop = nn.Dropout(dropout)

    def forward(self, features: Tensor, anchors: Tensor, codes: Tensor, views: Views) -> Tensor:
        places, inside = self.places(self.kps_generator(features, anchors), views)
        weights = self.weights(features + codes, inside, views)
        points = torch.where(inside[..., None], places, -10.0)[:, :, None, :, None]  # [B, N, 1, V, 1, P, 2]
        locations = points.expand(-1, -1, self.groups, -1, self.levels, -1, -1).flatten(3, 4)
        return self.output_proj(deformable_attention(views.value, views.shapes, locations, weights))

    def places(self, points: Tensor, views: Views) -> tuple[Tensor, Tensor]:
        """[B, N, V, P, 2] in 0..1 of the image of each camera, and bool [B, N, V, P]: in sight; of points [B, N, P, 3]."""
        matrix = views.projection[:, None, :, None, :3]  # [B, 1, V, 1, 3, 4]
        rays = (matrix[..., :3] @ points[:, :, None, :, :, None])[..., 0] + matrix[..., 3]
        depth = rays[..., 2:]
        places = rays[..., :2] / depth.clamp_min(NEAREST) / points.new_tensor(views.size)
        inside = (depth[..., 0] > NEAREST) & ((places > 0) & (places < 1)).all(dim=-1)
        return places, inside

    def weights(self, queries: Tensor, inside: Tensor, views: Views) -> Tensor:
        """[B, N, G, V L, P] of queries [B, N, F] with points in sight where ``inside`` [B, N, V, P]."""
        cameras = self.camera_encoder(views.projection[:, :, :3].flatten(2))
        raw = self.weights_fc(queries[:, :, None] + cameras[:, None]).unflatten(-1, (self.levels, -1, self.groups))
        raw = raw.permute(0, 1, 5, 2, 3, 4)  # [B, N, G, V, L, P]
        counts = inside[:, :, None, :, None].expand_as(raw)
        if self.training and self.attn_drop.training and self.attn_drop.p > 0:
            counts = counts & (self.attn_drop(torch.ones_like(raw)) > 0)
        counts = counts.flatten(3)
        seen = counts.any(dim=-1, keepdim=True)
        held = raw.flatten(3).masked_fill(~counts, -torch.inf).masked_fill(~seen, 0.0)
        return (held.softmax(dim=-1) * seen).view(*raw.shape[:3], -1, raw.shape[-1])


class GaussianEncoder(nn.Module):
    """Anchors [B, N, 11 + K] -> those of the last block.

    dim, classes  width of features, logits of classes
    blocks        how often ``ORDER``
    cell, kernel  of the convolutions, metres and cells
    dropout       of the feed-forward layers

    Starts as published: Xavier-uniform for matrices and kernels outside of the refinements, and attention that begins with equal
    weights.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        space: Space,
        blocks: int,
        groups: int,
        levels: int,
        learned_points: int,
        cell: float,
        kernel: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.anchor_encoder = AnchorEncoder(dim, classes)

        def made(operation: str) -> nn.Module:
            if operation == "deformable":
                return ImageAttention(dim, groups, levels, learned_points, space, attention_dropout)
            if operation == "spconv":
                return SparseConvolutions(dim, space, cell, kernel)
            if operation == "ffn":
                return FFN(dim, 4 * dim, ffn_drop=dropout, add_identity=False)
            if operation == "refine":
                return Refinement(dim, classes, space)
            return nn.LayerNorm(dim) if operation == "norm" else nn.Identity()

        self.layers = nn.ModuleList(made(operation) for _ in range(blocks) for operation in ORDER)
        for layer in self.layers:
            if not isinstance(layer, Refinement):
                for parameter in layer.parameters():
                    if parameter.dim() > 1:
                        nn.init.xavier_uniform_(parameter)
            if isinstance(layer, ImageAttention):
                nn.init.zeros_(layer.weights_fc.weight)
                nn.init.zeros_(layer.weights_fc.bias)
                nn.init.zeros_(layer.output_proj.bias)

    def refinements(self) -> list[Refinement]:
        """One a block."""
        return [layer for layer in self.layers if isinstance(layer, Refinement)]

    def forward(self, anchors: Tensor, features: Tensor, views: Views) -> Tensor:
        """``features`` [B, N, F] are what the first block begins with."""
        codes, before = self.anchor_encoder(anchors), features
        for number, layer in enumerate(self.layers):
            operation = ORDER[number % len(ORDER)]
            if operation == "identity":
                before = features
            elif operation == "add":
                features = features + before
            elif operation == "deformable":
                features = layer(features, anchors, codes, views)
            elif operation == "spconv":
                features = layer(features, anchors)
            elif operation == "refine":
                anchors = layer(features, anchors, codes)
                if number != len(self.layers) - 1:
                    codes = self.anchor_encoder(anchors)
            else:
                features = layer(features)
        return anchors
