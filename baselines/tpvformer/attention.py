"""The two attentions of a TPVFormer layer (arXiv:2302.07817, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from baselines.ops import deformable_attention
from baselines.ops.camera_attention import CameraViews, attend_to_cameras, sampling_directions


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def _xavier(linear: nn.Linear) -> None:
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)


class HybridAttention(nn.Module):
    """Deformable self-attention on the hw plane (valeoai/GaussRender cross_view_hybrid_attention.py:18-283).

    Two queues sample the same values, the plane itself, with their own offsets and weights, and are averaged. As the
    values are the same, both queues are computed as one set of 2 * points samples with halved weights.
    """

    QUEUES = 2

    def __init__(self, dim: int, heads: int = 8, points: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        samples = heads * self.QUEUES * points
        self.sampling_offsets = nn.Linear(dim * self.QUEUES, samples * 2)
        self.attention_weights = nn.Linear(dim * self.QUEUES, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def init_sampling(self) -> None:
        """Published start: offsets fan out, one direction a head and one distance a point; weights are equal."""
        _zero(self.sampling_offsets)
        _zero(self.attention_weights)
        distance = torch.arange(1, self.points + 1)
        start = sampling_directions(self.heads)[:, None, None] * distance[:, None].expand(self.QUEUES, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.flatten())
        _xavier(self.value_proj)
        _xavier(self.output_proj)

    def forward(self, query: Tensor, position: Tensor, reference: Tensor, shape: tuple[int, int]) -> Tensor:
        """query [B, N, F] and its position code [1, N, F]; reference [1, N, 1, 2] cell centres; shape (h, w), N = h * w.

        Returns [B, N, F], the residual included.
        """
        batch, tokens, dim = query.shape
        height, width = shape
        both = torch.cat([query, query + position], dim=-1)
        value = self.value_proj(query).view(batch, tokens, self.heads, -1)
        offsets = self.sampling_offsets(both).view(batch, tokens, self.heads, 1, self.QUEUES * self.points, 2)
        weights = self.attention_weights(both).view(batch, tokens, self.heads, self.QUEUES, self.points)
        weights = (weights.softmax(dim=-1) / self.QUEUES).view(batch, tokens, self.heads, 1, -1)
        locations = reference[:, :, None, None] + offsets / offsets.new_tensor([width, height])
        out = deformable_attention(value, [shape], locations, weights)
        return query + self.dropout(self.output_proj(out))


class DeformableAttention3D(nn.Module):
    """Deformable attention of the three planes to image features (valeoai/GaussRender image_ca.py:181-470).

    Each anchor of a token has its own points (points / anchors of them, consecutive); weights sum to one over all
    levels and points of a head. The released code splits tokens of the zh and wz planes into sub-tokens for its CUDA
    op and adds their outputs, which is the sum over all points taken here at once.
    """

    def __init__(self, dim: int, heads: int, levels: int, points: tuple[int, int, int], anchors: tuple[int, int, int]) -> None:
        super().__init__()
        if any(p % a for p, a in zip(points, anchors, strict=True)):
            raise ValueError(f"points {points} must be multiples of anchors {anchors}")
        self.heads, self.levels, self.points, self.anchors = heads, levels, points, anchors
        self.sampling_offsets = nn.ModuleList(nn.Linear(dim, heads * levels * p * 2) for p in points)
        self.attention_weights = nn.ModuleList(nn.Linear(dim, heads * levels * p) for p in points)
        self.value_proj = nn.Linear(dim, dim)

    def init_sampling(self) -> None:
        """Published start: offsets fan out, one direction a head and one distance for each point of an anchor."""
        for offsets, weights, points, anchors in zip(
            self.sampling_offsets, self.attention_weights, self.points, self.anchors, strict=True
        ):
            _zero(offsets)
            _zero(weights)
            distance = torch.arange(1, points // anchors + 1).repeat(anchors)
            start = (sampling_directions(self.heads)[:, None] * distance[:, None])[:, None].expand(-1, self.levels, -1, -1)
            with torch.no_grad():
                offsets.bias.copy_(start.flatten())
        _xavier(self.value_proj)

    def forward(
        self, planes: Sequence[Tensor], tokens: Tensor, shapes: Sequence[tuple[int, int]], views: Sequence[CameraViews]
    ) -> list[Tensor]:
        """planes 3 x [B, N, F]; tokens [B*V, S, F], the image features of all levels; shapes (h, w) of the levels.

        Returns 3 x [B, N, F]: each token's outputs averaged over the cameras that see it, 0 where none does.
        """
        value = self.value_proj(tokens).unflatten(-1, (self.heads, -1))
        return [self._attend(i, plane, value, shapes, views[i]) for i, plane in enumerate(planes)]

    def _attend(self, i: int, plane: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]], view: CameraViews) -> Tensor:
        batch, tokens = plane.shape[:2]
        anchors, per_anchor = self.anchors[i], self.points[i] // self.anchors[i]
        offsets = self.sampling_offsets[i](plane).view(batch, tokens, self.heads, self.levels, anchors, per_anchor, 2)
        weights = self.attention_weights[i](plane).unflatten(-1, (self.heads, -1)).softmax(dim=-1)
        return attend_to_cameras(value, shapes, offsets, weights.unflatten(-1, (self.levels, -1)), view)


class ImageCrossAttention(nn.Module):
    """Image features into all three planes (valeoai/GaussRender image_ca.py:21-178)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        levels: int,
        points: tuple[int, int, int],
        anchors: tuple[int, int, int],
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.deformable_attention = DeformableAttention3D(dim, heads, levels, points, anchors)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.output_proj.bias)

    def forward(
        self,
        query: Tensor,
        sizes: Sequence[int],
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
        views: Sequence[CameraViews],
    ) -> Tensor:
        """query [B, N, F], the planes' tokens in a row, ``sizes`` of each; the rest as in DeformableAttention3D.

        Returns [B, N, F], the residual included.
        """
        planes = self.deformable_attention(query.split(list(sizes), dim=1), tokens, shapes, views)
        return query + self.dropout(self.output_proj(torch.cat(planes, dim=1)))
