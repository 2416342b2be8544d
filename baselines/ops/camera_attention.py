"""Attention of 3D tokens to the cameras that see them: every camera samples around the tokens' projected anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.ops.deform_attn import deformable_attention


def project(
    points: Tensor,
    lower: tuple[float, float, float],
    upper: tuple[float, float, float],
    projection: Tensor,
    image_size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Anchors in each camera's image.

    points      [1, D, N, 3] in 0..1 of the box with corners ``lower``, ``upper`` (metres, reference frame)
    projection  [B, V, 4, 4] reference frame -> pixel (u*z, v*z, z, 1)
    image_size  (width, height) in pixels

    Returns positions [B, V, N, D, 2] in 0..1 of the image, x first, and bool [B, V, N, D]: in front of the camera and
    inside the image. Positions of points behind a camera are far outside.
    """
    corner = points.new_tensor(lower)
    world = points[0] * (points.new_tensor(upper) - corner) + corner
    matrix = projection.to(points.dtype)[:, :, None, None]
    rotated = (matrix[..., :3, :3] @ world.transpose(0, 1)[..., None]).squeeze(-1) + matrix[..., :3, 3]
    depth = rotated[..., 2:]
    position = rotated[..., :2] / depth.clamp(min=1e-5) / points.new_tensor(image_size)
    inside = (position > 0).all(dim=-1) & (position < 1).all(dim=-1) & (depth[..., 0] > 1e-5)
    return position, inside


@dataclass(frozen=True)
class CameraViews:
    """Which tokens each camera sees; cameras of all samples in one axis of length B * V.

    index    [B*V, M] token number, 0 where padded (M = most tokens seen by one camera)
    valid    [B*V, M] bool, False where padded
    anchors  [B*V, M, D, 2] anchor positions (x, y) in 0..1 of the image, far outside where padded
    cameras  [B, N] number of cameras that see each token, at least 1
    """

    index: Tensor
    valid: Tensor
    anchors: Tensor
    cameras: Tensor


def camera_views(position: Tensor, inside: Tensor) -> CameraViews:
    """Collect, for each camera, the tokens with at least one anchor in its image (from ``project``).

    Every sample has its own selection. (The released code applies that of the first sample to the whole batch,
    image_ca.py:132-134, which is the same for its batches of one.)
    """
    batch, views, tokens, depth = inside.shape
    seen = inside.any(dim=-1).flatten(0, 1)
    counts = seen.sum(dim=-1)
    most = int(counts.max())
    index = seen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, :most]
    valid = torch.arange(most, device=seen.device) < counts[:, None]
    index = index * valid
    gathered = position.flatten(0, 1).gather(1, index[:, :, None, None].expand(-1, -1, depth, 2))
    anchors = gathered.masked_fill(~valid[:, :, None, None], -10.0)
    return CameraViews(index, valid, anchors, seen.view(batch, views, tokens).sum(dim=1).clamp(min=1))


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
