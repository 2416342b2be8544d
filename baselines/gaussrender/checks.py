"""What callers may get wrong, told in one line."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from baselines.gaussrender.views import in_image
from baselines.interface import OccupancyGrid
from renderers import Cameras
from renderers.interface import validate_cameras

WIDEST = 20.0  # image edge over focal length; no pinhole camera sees 169 degrees in both directions


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


def check_cameras(grid: OccupancyGrid, cameras: Cameras) -> Tensor:
    """[B, V]: the share of the grid's voxels that each of V cameras sees, to be looked at before a training.

    The six cameras of a nuScenes car see 14 to 25 % each of Occ3D's grid. ``experiments.cell.figures.sight`` draws
    what they see over their images. Raises ValueError for cameras that are none, whose intrinsics are not in pixels, or of
    which a sample's see nothing; warns (UserWarning) of poses that seem to be camera to reference frame.
    """
    check_camera_values(cameras, cameras.intrinsics.shape[0])
    cameras = cameras_on(cameras, cameras.intrinsics.device)
    seen = in_image(grid.centres(cameras.intrinsics.device).flatten(0, 2), cameras)
    check_something_seen(seen)
    return seen.float().mean(dim=-1)


def check_something_seen(seen: Tensor) -> None:
    """Raise ValueError if the cameras of a sample see no voxel; seen [B, V, N] bool of the cameras where they stand."""
    blind = ~seen.flatten(1).any(dim=1)
    if bool(blind.any()):
        raise ValueError(
            f"no camera of sample {int(blind.nonzero()[0])} sees any voxel: cameras.world_to_camera must lead from the grid's "
            "frame, in metres, to the camera's (x right, y down, z ahead), and cameras.intrinsics be for width x height"
        )


def check_camera_values(cameras: Cameras, batch: int) -> None:
    """Raise ValueError unless these are pinhole cameras in pixels, at least one a sample; warn of poses that seem inverted."""
    check_camera_shapes(cameras, batch)
    validate_cameras(cameras)
    focal = cameras.intrinsics.detach()[..., [0, 1], [0, 1]]
    edges = focal.new_tensor([cameras.width, cameras.height])
    normalised = (edges > WIDEST * focal).all(dim=-1)
    if bool(normalised.any()):
        fx, fy = focal[normalised][0].tolist()
        raise ValueError(
            f"cameras.intrinsics must be in pixels, focal lengths {fx:.4g} and {fy:.4g} are too short for an image of "
            f"{cameras.width}x{cameras.height}: multiply normalised ones by its width (first row) and height (second row)"
        )
    # Where z is up, images of upright cameras have -z at the bottom. Inverted, a pose has the axes of its transpose.
    pose = cameras.world_to_camera.detach()
    if bool((pose[..., 1, 2] > -0.5).any()) and bool((pose[..., 2, 1] < -0.7).all()):
        warnings.warn(
            "cameras.world_to_camera seem to lead from the cameras to the reference frame: not all cameras are upright, but "
            "inverted they are; if so, pass torch.linalg.inv(poses)",
            stacklevel=2,
        )


def check_camera_shapes(cameras: Cameras, batch: int) -> None:
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
