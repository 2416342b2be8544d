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
