"""Multi-scale deformable attention in volumes, and sine codes of places in them.

Reproduces zhangyp15/OccFormer projects/mmdet3d_plugin/occformer/necks/multi_scale_deform_attn_3d.py and
mask2former/positional_encodings/positional_encoding.py; parameters have its names. Tokens of a volume [X, Y, Z] are in the order
(x * Y + y) * Z + z. Locations and offsets are (z, y, x), as published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Volumes = Sequence[tuple[int, int, int]]


def deformable_attention_3d(value: Tensor, shapes: Volumes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted trilinear samples of multi-level values, [B, Q, H * D].

    value      [B, S, H, D], the levels' voxels, one level after the other
    shapes     (X, Y, Z) of each of the L levels
    locations  [B, Q, H, L, P, 3] (z, y, x), 0..1 inside the volume; voxel i of n has its middle at (i + 0.5) / n
    weights    [B, Q, H, L, P]

    Outside a volume everything is zero. Raises ValueError for shapes that do not fit together.
    """
    voxels = sum(x * y * z for x, y, z in shapes)
    if value.dim() != 4 or value.shape[1] != voxels:
        raise ValueError(f"value must be [B, {voxels}, heads, D] for levels {list(shapes)}, got {list(value.shape)}")
    batch, _, heads, dim = value.shape
    tail = [heads, len(shapes), *locations.shape[4:]]
    if locations.dim() != 6 or locations.shape[-1] != 3 or list(locations.shape[2:]) != tail or len(locations) != batch:
        raise ValueError(f"locations must be [{batch}, Q, {heads}, {len(shapes)}, points, 3], got {list(locations.shape)}")
    if weights.shape != locations.shape[:-1]:
        raise ValueError(f"weights must be {list(locations.shape[:-1])}, got {list(weights.shape)}")
    queries = locations.shape[1]
    total = value.new_zeros(batch * heads, dim, queries)
    for level, part in enumerate(value.split([x * y * z for x, y, z in shapes], dim=1)):
        volume = part.permute(0, 2, 3, 1).reshape(batch * heads, dim, *shapes[level])
        grid = locations[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None] * 2 - 1  # [B * H, 1, Q, P, 3]
        samples = F.grid_sample(volume, grid, padding_mode="zeros", align_corners=False)[:, :, 0]
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        total = total + (samples * share).sum(dim=-1)
    return total.view(batch, heads * dim, queries).transpose(1, 2)


class VolumeAttention(nn.Module):
    """Deformable attention of tokens to the volumes of all levels, with their own value added, as mmcv's layers expect it."""

    def __init__(self, embed_dims: int, num_heads: int, num_levels: int, num_points: int, batch_first: bool = True) -> None:
        super().__init__()
        assert batch_first
        self.embed_dims = embed_dims
        self.spread = (num_heads, num_levels, num_points)
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, 3 * samples)
        self.attention_weights = nn.Linear(embed_dims, samples)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        self.start()

    def start(self) -> None:
        """First weights: every head looks into its own direction, each point one voxel further."""
        heads, levels, points = self.spread
        angle = torch.arange(heads, dtype=torch.float32) * (2 * math.pi / heads)
        direction = torch.stack([angle.cos(), angle.sin(), (angle.sin() + angle.cos()) / 2], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        steps = torch.arange(1, points + 1, dtype=torch.float32)
        bias = direction[:, None, None] * steps[:, None]  # [heads, 1, points, 3]
        with torch.no_grad():
            for layer in (self.sampling_offsets, self.attention_weights):
                layer.weight.zero_()
                layer.bias.zero_()
            self.sampling_offsets.bias.copy_(bias.expand(-1, levels, -1, -1).flatten())
            for layer in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(layer.weight)
                layer.bias.zero_()

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        *,
        reference_points: Tensor,
        shapes: Volumes,
        **unused: Any,
    ) -> Tensor:
        """query [B, Q, F] + attention [B, Q, F].

        value             [B, S, F], the voxels of all levels
        query_pos         [B, Q, F], added for offsets and weights only
        reference_points  [B, Q, 3] (z, y, x) in 0..1 of the volume
        shapes            (X, Y, Z) of each level
        key, identity, unused  what else mmcv's layer hands to its attention
        """
        placed = query if query_pos is None else query + query_pos
        size = query.new_tensor([(z, y, x) for x, y, z in shapes])[:, None]
        offsets = self.sampling_offsets(placed).unflatten(-1, (*self.spread, 3))
        weights = self.attention_weights(placed).unflatten(-1, (self.spread[0], -1)).softmax(dim=-1)
        sampled = deformable_attention_3d(
            self.value_proj(value).unflatten(-1, (self.spread[0], -1)),
            shapes,
            reference_points[:, :, None, None, None] + offsets / size,
            weights.unflatten(-1, self.spread[1:]),
        )
        return query + self.output_proj(sampled)


def middles(shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """[X * Y * Z, 3] (z, y, x) in 0..1, the middles of a volume's voxels."""
    x, y, z = ((torch.arange(n, device=device) + 0.5) / n for n in shape)
    return torch.stack(torch.meshgrid(x, y, z, indexing="ij"), dim=-1).flatten(0, 2).flip(-1)


def sine_code(shape: tuple[int, int, int], channels: int, device: torch.device) -> Tensor:
    """[X * Y * Z, channels] codes of a volume's voxels, a third for each of x, y, z: sines and cosines in turn of
    2 pi (i + 1) / n at wavelengths up to 10,000 times that."""
    width = channels // 3
    rate = 10_000 ** (2 * (torch.arange(width, device=device) // 2) / width)
    codes = []
    for n in shape:
        place = torch.arange(1, n + 1, device=device)[:, None] / (n + 1e-6) * (2 * math.pi) / rate
        codes.append(torch.stack([place[:, 0::2].sin(), place[:, 1::2].cos()], dim=-1).flatten(1))
    x, y, z = shape
    along = (codes[0][:, None, None], codes[1][None, :, None], codes[2][None, None])
    return torch.cat([code.expand(x, y, z, width) for code in along], dim=-1).flatten(0, 2)
