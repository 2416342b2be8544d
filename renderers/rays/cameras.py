"""Rays through the pixels of pinhole cameras, in the conventions of ``renderers.interface.Cameras``."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.interface import Cameras, validate_cameras
from renderers.rays.interface import Rays


def pixel_rays(cameras: Cameras, scene: int, view: int, pixels: Tensor) -> Rays:
    """Rays of one view through the middles of pixels [N, 2] (column, row; whole numbers): directions have z = 1 in the camera.

    Distances along them are the camera's z as they are; with ``RaySettings.unit_directions`` metres, whose z ``cosines`` gives.
    """
    validate_cameras(cameras)
    k, pose = cameras.intrinsics[scene, view], cameras.world_to_camera[scene, view]
    u, v = (pixels.to(k.dtype) + 0.5).unbind(-1)
    local = torch.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], torch.ones_like(u)], -1)
    rotation = pose[:3, :3]
    origin = -rotation.T @ pose[:3, 3]
    return Rays(
        origins=origin.expand(len(pixels), 3).contiguous(),
        directions=local @ rotation,
        scene=torch.full((len(pixels),), scene, dtype=torch.int64, device=k.device),
        cosines=1 / torch.linalg.vector_norm(local, dim=-1),
    )


def joined(parts: list[Rays]) -> Rays:
    """All rays of several sets that have the same optional fields, in their order."""

    def cat(values: list[Tensor | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        return torch.cat(given) if len(given) == len(values) else None

    origins, directions, scene = (torch.cat([getattr(p, n) for p in parts]) for n in ("origins", "directions", "scene"))
    return Rays(origins, directions, scene, cat([p.offsets for p in parts]), cat([p.cosines for p in parts]))
