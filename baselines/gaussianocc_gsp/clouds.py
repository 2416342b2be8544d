"""Gaussians from pixels, and what several cameras see in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.interface import Neighbours
from baselines.photometric.rigid import inverse, rigid, rotation_matrix
from baselines.photometric.warping import back_projected, in_sight, moved, projected
from renderers import Cameras, Gaussians, RasterSettings, Renderer

LARGEST = 1.0
"""Largest standard deviation of a Gaussian, in pixels of the image that it comes from; chosen here. Of opaque Gaussians that
reach into their neighbours the nearest one hides the others, so that surfaces are drawn shifted: larger ones find depths too
small."""

OPAQUE = 2.0
"""What is added to the logits of opacities, so that surfaces are opaque at first; chosen here."""


@dataclass(frozen=True)
class Cloud:
    """A Gaussian a pixel, [B, V, h, w], in its camera's frame; activations are choices of this project.

    depth      [B, V, h, w] metres along the camera's z axis
    scales     [B, V, h, w, 3] metres: that of a pixel at this depth, times ``LARGEST`` x sigmoid
    rotations  [B, V, h, w, 4] quaternions (w, x, y, z), the identity plus what the network says
    opacities  [B, V, h, w] sigmoid
    """

    depth: Tensor
    scales: Tensor
    rotations: Tensor
    opacities: Tensor


def depth_of(raw: Tensor, depth_range: tuple[float, float]) -> Tensor:
    """[B, V, h, w] metres of ``raw`` [B, V, 9, h, w]: its logarithm goes from the nearest to the farthest with a sigmoid."""
    nearest, farthest = depth_range
    return nearest * (farthest / nearest) ** raw[:, :, 0].sigmoid()


def cloud(raw: Tensor, intrinsics: Tensor, depth_range: tuple[float, float]) -> Cloud:
    """Attributes of ``raw`` [B, V, 9, h, w]; ``intrinsics`` [B, V, 3, 3] are for its pixels."""
    depth = depth_of(raw, depth_range)
    focal = (intrinsics[..., 0, 0].abs() * intrinsics[..., 1, 1].abs()).sqrt()
    pixel = (depth / focal[..., None, None])[..., None]
    rotations = raw[:, :, 4:8].movedim(2, -1)
    still = rotations.new_tensor([1.0, 0.0, 0.0, 0.0])
    return Cloud(
        depth=depth,
        scales=pixel * LARGEST * raw[:, :, 1:4].movedim(2, -1).sigmoid(),
        rotations=F.normalize(still + rotations.tanh() / 2, dim=-1),
        opacities=(raw[:, :, 8] + OPAQUE).sigmoid(),
    )


def resized(intrinsics: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """``intrinsics`` [..., 3, 3] of an image resized from (height, width) ``before`` to ``after``."""
    scale = intrinsics.new_tensor([after[1] / before[1], after[0] / before[0], 1.0])
    return intrinsics * scale[:, None]


def quaternion(rotation: Tensor) -> Tensor:
    """[..., 4] (w, x, y, z) of rotations [..., 3, 3]."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotation.unbind(-2))
    rows = [
        [1 + a + e + i, h - f, c - g, d - b],
        [h - f, 1 + a - e - i, b + d, c + g],
        [c - g, b + d, 1 - a + e - i, f + h],
        [d - b, c + g, f + h, 1 - a - e + i],
    ]
    outer = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)  # 4 q q^T
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    row = outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4))[..., 0, :]
    return F.normalize(row, dim=-1)


def composed(first: Tensor, second: Tensor) -> Tensor:
    """The quaternion [..., 4] that rotates by ``second``, then by ``first``."""
    a, b = first[..., :1], first[..., 1:]
    c, d = second[..., :1], second[..., 1:]
    real = a * c - (b * d).sum(dim=-1, keepdim=True)
    return torch.cat([real, a * d + c * b + torch.linalg.cross(b, d)], dim=-1)


def where_exposed(motion: Tensor, valid: Tensor, camera_to_ego: Tensor, intervals: Tensor, shares: Tensor) -> Tensor:
    """[B, V, 4, 4] cameras when each exposed -> the rig at one moment, which moves evenly by the mean of what is said of it.

    motion         [B, T, 4, 4] rig when the current images were taken -> rig at each neighbour's moment, metres
    valid          [B, T] bool, neighbours that there are; without any the rig stands still
    camera_to_ego  [B, V, 4, 4] where the cameras are mounted
    intervals      [T] camera frames from the current ones to the neighbours
    shares         [V] of a camera frame, from that moment to each exposure
    """
    counts = valid.to(motion) / valid.sum(dim=1, keepdim=True).clamp(min=1)
    counts = (counts / intervals)[..., None]
    turn = (motion[..., :3, :3] - motion[..., :3, :3].mT) / 2  # of a few degrees: the sine is the angle
    axis_angle = torch.stack([turn[..., 2, 1], turn[..., 0, 2], turn[..., 1, 0]], dim=-1)
    axis_angle, shift = ((counts * one).sum(dim=1)[:, None] * shares[:, None] for one in (axis_angle, motion[..., :3, 3]))
    return inverse(rigid(rotation_matrix(axis_angle), shift)) @ camera_to_ego


@torch.no_grad()
def overlap(
    intrinsics: Tensor, camera_to_ego: Tensor, size: tuple[int, int], distances: Tensor, share: float, erosion: int
) -> Tensor:
    """[B, V, h, w] bool: pixels on whose rays more than ``share`` of the points at ``distances`` are in another camera's sight,
    and so are their neighbours within ``erosion`` pixels.

    intrinsics     [B, V, 3, 3] for images of ``size`` (height, width)
    camera_to_ego  [B, V, 4, 4]
    distances      [D] metres along the camera's z axis
    """
    b, v = intrinsics.shape[:2]
    (h, w), d = size, len(distances)
    depth = distances.view(d, 1, 1).expand(b, v, d, h, w)
    points = back_projected(depth, intrinsics[:, :, None]).flatten(2, 3)  # [B, V, D h, w, 3]
    seen = torch.zeros(b, v, d, h, w, dtype=torch.bool, device=intrinsics.device)
    to_camera = inverse(camera_to_ego)
    for turn in range(1, v):  # every camera with the one ``turn`` places on
        there = moved(points, to_camera.roll(turn, dims=1) @ camera_to_ego)
        pixels = projected(there, intrinsics.roll(turn, dims=1))
        seen |= in_sight(there, pixels, (w, h)).unflatten(2, (d, h))
    shared = seen.double().mean(dim=2) > share
    if not erosion:
        return shared
    outside = (~shared).float().flatten(0, 1)[:, None]
    spread = F.max_pool2d(F.pad(outside, (erosion,) * 4, value=0.0), 2 * erosion + 1, 1)
    return (spread[:, 0] == 0).unflatten(0, (b, v))


def splatted(
    one: Cloud, colours: Tensor, intrinsics: Tensor, camera_to_ego: Tensor, renderer: Renderer, settings: RasterSettings
) -> Tensor:
    """[B, V, C, h, w] what each camera sees of the other cameras' Gaussians at the same moment; background is 0.

    colours        [B, V, C, h, w] of the pixels
    intrinsics     [B, V, 3, 3] for them
    camera_to_ego  [B, V, 4, 4]
    """
    b, v, _, h, w = colours.shape
    turned = quaternion(camera_to_ego[..., :3, :3])[:, :, None, None].expand(b, v, h, w, 4)
    owner = torch.arange(v, device=colours.device).repeat_interleave(h * w)
    others = owner[None, :] != torch.arange(v, device=colours.device)[:, None]
    gaussians = Gaussians(
        means=moved(back_projected(one.depth, intrinsics), camera_to_ego).flatten(1, 3),
        scales=one.scales.flatten(1, 3),
        opacities=one.opacities.flatten(1, 3),
        features=colours.movedim(2, -1).flatten(1, 3),
        quaternions=composed(turned, one.rotations).flatten(1, 3),
    )
    cameras = Cameras(intrinsics, inverse(camera_to_ego), w, h)
    return renderer.render(gaussians, cameras, settings, others.expand(b, -1, -1)).features.movedim(-1, 2)


def half_sized(neighbours: Neighbours, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The current images [B, V, 3, h, w] at ``size`` (height, width), means over the pixels, and their intrinsics."""
    current = neighbours.current
    small = F.interpolate(current.flatten(0, 1), size=size, mode="area").unflatten(0, current.shape[:2])
    return small, resized(neighbours.intrinsics, (current.shape[-2], current.shape[-1]), size)
