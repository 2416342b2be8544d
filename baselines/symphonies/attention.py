"""The attentions of Symphonies and the transformer layers around them.

Reproduces hustvl/Symphonies ssc_pl/models/layers/{transformer,deform_squeeze_attn}.py (arXiv:2306.15670). Parameters have
the published names.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import MultiScaleDeformableAttention
from torch import Tensor, nn

from baselines.ops import deformable_attention
from baselines.ops.deform_attn import Shapes


class DeformableAttention(MultiScaleDeformableAttention):
    """mmcv's module (parameters and start) computed by this suite's operator, which also has a compiled CPU path.

    As in mmcv the result contains the query itself, as it was before its position was added.
    """

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference_points: Tensor,
        spatial_shapes: Shapes,
        query_pos: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        """query [B, Q, F] + attention [B, Q, F].

        value             [B, S, F], the pixels of all levels
        reference_points  [B, Q, L, 2] (x, y) in 0..1 of the map
        spatial_shapes    (height, width) of each of the L levels
        query_pos         [B, Q, F], added for offsets and weights only
        unused            what else mmdet's encoder hands to its attention: keys, masks and ratios of padded images
        """
        placed = query if query_pos is None else query + query_pos
        spread = (self.num_heads, self.num_levels, self.num_points)
        size = query.new_tensor([(w, h) for h, w in spatial_shapes])[:, None]
        offsets = self.sampling_offsets(placed).unflatten(-1, (*spread, 2))
        weights = self.attention_weights(placed).unflatten(-1, (self.num_heads, -1)).softmax(dim=-1).unflatten(-1, spread[1:])
        locations = reference_points[:, :, None, :, None] + offsets / size
        sampled = deformable_attention(
            self.value_proj(value).unflatten(-1, (self.num_heads, -1)), spatial_shapes, locations, weights
        )
        return self.dropout(self.output_proj(sampled)) + query


class FoldedAttention(nn.Module):
    """Deformable attention to a volume whose heights are folded into its x axis: row x * Z + z, column y.

    published_fold  True: a reference point at height z moves by (z - 1/2) / Z along the folded axis, as published
                    (deform_squeeze_attn.py:82-86), which is X / Z cells too far at either end; weights are trained with
                    it. False: by (z - 1/2) / X, within its own cell
    """

    def __init__(self, dim: int, heads: int, points: int, dropout: float, published_fold: bool) -> None:
        super().__init__()
        self.published_fold = published_fold
        self.attns = nn.ModuleList([_deformable(dim, heads, 1, points, dropout)])

    def forward(self, query: Tensor, volume: Tensor, reference: Tensor, query_pos: Tensor | None = None) -> Tensor:
        """query [B, Q, F] + attention. volume [B, X, Y, Z, F]; reference [B, Q, 3] (x, y, z) in 0..1 of the volume."""
        _, x, y, z, _ = volume.shape
        row, column, height = reference.unbind(dim=-1)
        row = row + (height - 0.5) / (z if self.published_fold else x)
        points = torch.stack([column, row], dim=-1)[:, :, None]
        return self.attns[0](query, volume.transpose(2, 3).flatten(1, 3), points, [(x * z, y)], query_pos)


def _deformable(dim: int, heads: int, levels: int, points: int, dropout: float) -> DeformableAttention:
    return DeformableAttention(dim, heads, levels, points, dropout=dropout, batch_first=True)


def _feedforward(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))


class _Layer(nn.Module):
    """Pre-norm attention with a residual, then, unless ``feedforward`` is False, the same for a feed-forward."""

    def __init__(self, dim: int, attention: nn.Module, feedforward: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        if feedforward:
            self.norm2 = nn.LayerNorm(dim)
            self.ffn = _feedforward(dim)

    def _finish(self, query: Tensor) -> Tensor:
        return query + self.ffn(self.norm2(query)) if hasattr(self, "ffn") else query


class AttentionLayer(_Layer):
    """Ordinary attention of queries to keys; keys are not normalised, and have no position."""

    def __init__(self, dim: int, heads: int, feedforward: bool = True) -> None:
        super().__init__(dim, nn.MultiheadAttention(dim, heads, batch_first=True), feedforward)

    def forward(self, query: Tensor, key: Tensor, query_pos: Tensor | None = None) -> Tensor:
        """query [B, Q, F], key (and value) [B, K, F], query_pos [B, Q, F] -> [B, Q, F]."""
        placed = self.norm1(query)
        if query_pos is not None:
            placed = placed + query_pos
        return self._finish(query + self.attn(placed, key, key, need_weights=False)[0])


class MapAttentionLayer(_Layer):
    """Deformable attention to feature maps. The normalised query is added too: q + norm(q) + attention, as published."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, dropout: float) -> None:
        super().__init__(dim, _deformable(dim, heads, levels, points, dropout), feedforward=True)

    def forward(
        self, query: Tensor, pixels: Tensor, shapes: Shapes, reference: Tensor, query_pos: Tensor | None = None
    ) -> Tensor:
        """query [B, Q, F], pixels [B, S, F] of levels with ``shapes``, reference [B, Q, 2] (x, y) in 0..1 -> [B, Q, F]."""
        points = reference[:, :, None].expand(-1, -1, len(shapes), -1)
        return self._finish(query + self.attn(self.norm1(query), pixels, points, shapes, query_pos))


class VolumeAttentionLayer(_Layer):
    """The same for a folded volume."""

    def __init__(self, dim: int, heads: int, points: int, dropout: float, published_fold: bool, feedforward: bool = True) -> None:
        super().__init__(dim, FoldedAttention(dim, heads, points, dropout, published_fold), feedforward)

    def forward(self, query: Tensor, volume: Tensor, reference: Tensor, query_pos: Tensor | None = None) -> Tensor:
        """query [B, Q, F], volume [B, X, Y, Z, F], reference [B, Q, 3] (x, y, z) in 0..1 -> [B, Q, F]."""
        return self._finish(query + self.attn(self.norm1(query), volume, reference, query_pos))
