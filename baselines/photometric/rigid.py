"""Motions of rigid bodies: rotations by axis and angle, and what goes with them."""

from __future__ import annotations

import torch
from torch import Tensor

SHORTEST = 1e-7  # added to the length of a rotation's axis before it divides


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """[..., 3, 3] of ``axis_angle`` [..., 3]: radians about an axis, the vector's length about its direction."""
    angle = torch.linalg.vector_norm(axis_angle, dim=-1, keepdim=True)
    x, y, z = (axis_angle / (angle + SHORTEST)).unbind(-1)
    nought = torch.zeros_like(x)
    cross = torch.stack([nought, -z, y, z, nought, -x, -y, x, nought], dim=-1).unflatten(-1, (3, 3))
    sine, cosine = angle.sin()[..., None], angle.cos()[..., None]
    return torch.eye(3).to(axis_angle) + sine * cross + (1 - cosine) * (cross @ cross)


def rigid(rotation: Tensor, shift: Tensor) -> Tensor:
    """[..., 4, 4] that rotates by ``rotation`` [..., 3, 3], then moves by ``shift`` [..., 3]."""
    upper = torch.cat([rotation, shift[..., None]], dim=-1)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, last], dim=-2)


def inverse(motion: Tensor) -> Tensor:
    """The motion [..., 4, 4] back; a rotation's transpose is its inverse."""
    back = motion[..., :3, :3].transpose(-2, -1)
    return rigid(back, -(back @ motion[..., :3, 3:])[..., 0])
