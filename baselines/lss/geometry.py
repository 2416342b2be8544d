"""Where pixels at given depths are. Reproduces BEVDet's mmdet3d/models/necks/view_transformer.py:87-153, 546-574, 713-734.

Geometry is a projection [B, V, 4, 4] from the reference frame to pixels (u*z, v*z, z, 1) of the network's images: augmentation of
images and of the reference frame is in it (``CameraChain.projection``), and what inverts it undoes both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.interface import CameraChain

VECTOR_LENGTH = 27
"""Numbers of ``camera_vector``."""

_BEHIND = 1e-3  # metres: what is nearer along the axis than that is not in the image


def depth_bins(bounds: tuple[float, float, float]) -> Tensor:
    """The depths [D] of (first, end, step) in metres; the end is not among them."""
    first, end, step = bounds
    return torch.arange(round((end - first) / step), dtype=torch.float32) * step + first


def pixel_grid(size: tuple[int, int], reduction: int, device: torch.device) -> Tensor:
    """[h, w, 2] pixels (u, v) that the cells of a map stand for, h and w 1/``reduction`` of an image of ``size`` (width, height).

    As published the first and last cell stand for the first and last pixel, not for the middle of what they cover.
    """
    u, v = (torch.linspace(0, extent - 1, extent // reduction, device=device) for extent in size)
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def unproject(projection: Tensor, pixels: Tensor, depths: Tensor) -> Tensor:
    """Points [B, V, D, h, w, 3] in the reference frame, metres.

    projection  [B, V, 4, 4] reference frame -> pixel
    pixels      [h, w, 2]
    depths      [D] metres along the camera's axis
    """
    return _along_rays(torch.linalg.inv(projection.double())[..., :3, :], pixels, depths)


def reproject(current: Tensor, other: Tensor, pixels: Tensor, depths: Tensor) -> tuple[Tensor, Tensor]:
    """Where another image has what the current one may show at a pixel: pixels [B, V, D, h, w, 2], and whether it is in front
    of that camera [B, V, D, h, w].

    current, other  [B, V, 4, 4] one reference frame -> pixel of the two images
    """
    points = _along_rays((other.double() @ torch.linalg.inv(current.double()))[..., :3, :], pixels, depths)
    front = points[..., 2] >= _BEHIND
    return points[..., :2] / points[..., 2:].where(front[..., None], points.new_ones(())), front


def _along_rays(matrix: Tensor, pixels: Tensor, depths: Tensor) -> Tensor:
    """matrix [B, V, 3, 4] applied to (u*d, v*d, d, 1) -> [B, V, D, h, w, 3] in the precision of the pixels."""
    matrix = matrix.to(pixels.dtype)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    rays = torch.einsum("bvij,hwj->bvhwi", matrix[..., :3], homogeneous)
    return depths[:, None, None, None] * rays[:, :, None] + matrix[..., 3][:, :, None, None, None]


def camera_vector(chain: CameraChain) -> Tensor:
    """What a depth network is told of a camera, [B, V, 27]: fx, fy, cx, cy; the first two rows of ``chain.image``; the entries
    00, 01, 10, 11, 22 of ``chain.reference``; the first three rows of ``chain.camera_to_reference``."""
    k, image, reference = chain.intrinsics, chain.image, chain.reference[:, None].expand(-1, chain.image.shape[1], -1, -1)
    numbers = [k[..., 0, 0], k[..., 1, 1], k[..., 0, 2], k[..., 1, 2]]
    numbers += [image[..., row, column] for row in range(2) for column in range(3)]
    numbers += [reference[..., row, column] for row, column in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 2))]
    return torch.cat([torch.stack(numbers, dim=-1), chain.camera_to_reference[..., :3, :].flatten(-2)], dim=-1)
