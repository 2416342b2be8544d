"""Attention of 3D tokens to the cameras that see them: every camera samples around the tokens' projected anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from baselines.ops.deform_attn import deformable_attention


class CameraViews(Protocol):
    """Which tokens each camera sees; cameras of all samples in one axis of length B * V.

    index    [B*V, M] token number, 0 where padded (M = most tokens seen by one camera)
    valid    [B*V, M] bool, False where padded
    anchors  [B*V, M, D, 2] anchor positions (x, y) in 0..1 of the image
    cameras  [B, N] number of cameras that see each token, at least 1
    """

    @property
    def index(self) -> Tensor: ...
    @property
    def valid(self) -> Tensor: ...
    @property
    def anchors(self) -> Tensor: ...
    @property
    def cameras(self) -> Tensor: ...


def sampling_directions(heads: int) -> Tensor:
    """[heads, 2] unit vectors (largest component 1) all around, the usual start of sampling offsets."""
    angle = torch.arange(heads) * (2.0 * math.pi / heads)
    grid = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return grid / grid.abs().amax(dim=-1, keepdim=True)


def attend_to_cameras(
    value: Tensor, shapes: Sequence[tuple[int, int]], offsets: Tensor, weights: Tensor, view: CameraViews
) -> Tensor:
    """What the cameras that see a token show at its points, averaged over these cameras; 0 for a token that none sees.

    value    [B*V, S, H, D'] pixels of all levels
    shapes   (height, width) of each of the L levels
    offsets  [B, N, H, L, D, P / D, 2] (x, y) in pixels of the level from each of the D anchors
    weights  [B, N, H, L, P], the P points anchor by anchor

    Returns [B, N, H * D'].
    """
    batch, tokens, heads, levels = weights.shape[:4]
    cameras, most = view.index.shape
    first = torch.arange(batch, device=value.device).repeat_interleave(cameras // batch) * tokens
    row = (view.index + first[:, None]).flatten()
    # Offsets and weights depend on the token, not on the camera: computed once, then handed to each camera.
    # (index_select and index_add add in one order on the CPU; plain indexing's backward, index_put, does not.)
    shift = offsets.flatten(2).flatten(0, 1).index_select(0, row).view(cameras, most, *offsets.shape[2:])
    share = weights.flatten(2).flatten(0, 1).index_select(0, row).view(cameras, most, heads, levels, -1)
    size = shift.new_tensor([(w, h) for h, w in shapes])[:, None, None]
    locations = view.anchors[:, :, None, None, :, None] + shift / size
    out = deformable_attention(value, shapes, locations.flatten(4, 5), share) * view.valid[..., None]
    total = out.new_zeros(batch * tokens, out.shape[-1]).index_add(0, row, out.flatten(0, 1))
    return total.view(batch, tokens, -1) / view.cameras[..., None]
