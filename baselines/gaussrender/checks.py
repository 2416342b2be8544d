"""What callers may get wrong, told in one line."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid
from renderers import Cameras


def check_labels(labels: Tensor, grid: OccupancyGrid) -> None:
    """Raise ValueError unless labels are integers [B, X, Y, Z] of the grid's classes or ``grid.ignore``."""
    if labels.dim() != 4 or list(labels.shape[1:]) != list(grid.shape):
        raise ValueError(f"labels must be [B, {', '.join(map(str, grid.shape))}], got {list(labels.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must hold integer class ids, got {labels.dtype}")
    wrong = ((labels < 0) | (labels >= grid.num_classes)) & (labels != grid.ignore)
    if bool(wrong.any()):
        raise ValueError(
            f"labels hold {int(labels[wrong][0])}, which is neither one of {grid.num_classes} classes nor the ignore "
            f"label {grid.ignore}"
        )


def check_logits(logits: Tensor, grid: OccupancyGrid, batch: int) -> None:
    """Raise ValueError unless logits are [B, C, X, Y, Z] of the grid."""
    expected = [batch, grid.num_classes, *grid.shape]
    if list(logits.shape) != expected:
        raise ValueError(f"logits must be {expected} [B,C,X,Y,Z], got {list(logits.shape)}")


def check_cameras(cameras: Cameras, batch: int) -> None:
    """Raise ValueError unless there is at least one camera for each of ``batch`` samples."""
    views = cameras.views
    for name, value, size in (("intrinsics", cameras.intrinsics, 3), ("world_to_camera", cameras.world_to_camera, 4)):
        if list(value.shape) != [batch, views, size, size] or views == 0:
            raise ValueError(f"cameras.{name} must be [{batch}, V, {size}, {size}] with V > 0, got {list(value.shape)}")


def cameras_on(cameras: Cameras, device: torch.device) -> Cameras:
    """The cameras in float32 on ``device``."""
    return Cameras(
        cameras.intrinsics.to(device, torch.float32),
        cameras.world_to_camera.to(device, torch.float32),
        cameras.width,
        cameras.height,
    )
