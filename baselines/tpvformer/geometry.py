"""Reference points of the three planes and where cameras see them.

The box is the occupancy range. Planes are named hw, zh, wz; **w runs along x, h along y**, z along z, so that tokens are
numbered h * W + w, z * H + h and w * Z + z (valeoai/GaussRender
src/model/encoder/tpvformer_encoder/tpvformer_encoder.py:42-208).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PLANES = ("hw", "zh", "wz")


@dataclass(frozen=True)
class TPVShape:
    """Cells along h (y), w (x) and z."""

    h: int
    w: int
    z: int

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Tokens of the planes hw, zh, wz."""
        return self.h * self.w, self.z * self.h, self.w * self.z


def _grid(rows: int, columns: int) -> Tensor:
    """[1, rows * columns, 1, 2] cell centres (column, row) in 0..1, columns fastest."""
    y = torch.linspace(0.5, rows - 0.5, rows) / rows
    x = torch.linspace(0.5, columns - 0.5, columns) / columns
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], dim=-1)[None, :, None]


def _pillar(grid: Tensor, length: float, points: int) -> Tensor:
    """[1, points, N, 3] of (column, row, pillar); the pillar starts and ends half a metre inside its length."""
    plane = grid[:, :, 0].expand(points, -1, -1)
    along = torch.linspace(0.5, length - 0.5, points) / length
    return torch.cat([plane, along[:, None, None].expand(points, plane.shape[1], 1)], dim=-1)[None]


def reference_points_2d(shape: TPVShape) -> dict[str, Tensor]:
    """Cell centres of each plane, [1, tokens, 1, 2] (column, row) in 0..1."""
    return {
        "hw": _grid(shape.h, shape.w),
        "zh": _grid(shape.z, shape.h),
        "wz": _grid(shape.w, shape.z),
    }


def reference_points_3d(shape: TPVShape, extent: tuple[float, float, float], anchors: tuple[int, int, int]) -> dict[str, Tensor]:
    """Anchors of each plane's cells, [1, anchors, tokens, 3] (x, y, z) in 0..1 of the box.

    extent   edge lengths of the box in metres (x, y, z)
    anchors  number of anchors along the axis that each plane lacks
    """
    grids = reference_points_2d(shape)
    length_x, length_y, length_z = extent
    return {
        "hw": _pillar(grids["hw"], length_z, anchors[0]),
        "zh": _pillar(grids["zh"], length_x, anchors[1])[..., [2, 0, 1]],
        "wz": _pillar(grids["wz"], length_y, anchors[2])[..., [1, 2, 0]],
    }


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
class PlaneViews:
    """Which tokens of a plane each camera sees; cameras of all samples in one axis of length B * V.

    index    [B*V, M] token number, 0 where padded (M = most tokens seen by one camera)
    valid    [B*V, M] bool, False where padded
    anchors  [B*V, M, D, 2] anchor positions in 0..1 of the image, far outside where padded
    cameras  [B, N] number of cameras that see each token, at least 1
    """

    index: Tensor
    valid: Tensor
    anchors: Tensor
    cameras: Tensor


def plane_views(position: Tensor, inside: Tensor) -> PlaneViews:
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
    return PlaneViews(index, valid, anchors, seen.view(batch, views, tokens).sum(dim=1).clamp(min=1))
