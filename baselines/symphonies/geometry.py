"""Where voxels fall in the image and where pixels fall in the scene.

Reproduces hustvl/Symphonies ssc_pl/utils/helper.py:66-130 (``vox2pix``), ssc_pl/models/utils/utils.py:102-118
(``pix2vox``) and ssc_pl/models/decoders/symphonies_decoder.py:159-180. Pixels are whole numbers there: a projection is
rounded (half to even), a pixel is projected back from its number. One 4 x 4 matrix, reference frame -> (u*z, v*z, z, 1),
takes the place of K and the camera's pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid

FAR_PIXEL = 1.0e6  # projections of points close to the camera's plane are cut off here


@dataclass(frozen=True)
class SceneViews:
    """How the N = X * Y * Z cells of the scene and the H * W pixels of one camera belong together, for B samples.

    pixels    [B, N, 2] (x, y) of each cell in 0..1 of the image; meaningful for cells in the image
    seen      one int64 [n] a sample: cells in the image
    proposed  one int64 [n] a sample: cells that hold a point of the depth map
    cells     [B, H, W, 3] int64 (x, y, z) cell that each pixel's depth points to, which may lie outside the scene
    """

    pixels: Tensor
    seen: list[Tensor]
    proposed: list[Tensor]
    cells: Tensor


def project(points: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel numbers [B, N, 2] (x, y), whole float32 numbers, and depths [B, N] of points.

    points      [N, 3] metres, reference frame
    projection  [B, 4, 4] reference frame -> (u*z, v*z, z, 1)
    """
    placed = points @ projection[:, :3, :3].transpose(1, 2) + projection[:, None, :3, 3]
    depth = placed[..., 2]
    divisor = torch.where(depth.abs() < 1e-6, depth.new_tensor(1e-6), depth)
    return (placed[..., :2] / divisor[..., None]).clamp(-FAR_PIXEL, FAR_PIXEL).round(), depth


def inside(pixels: Tensor, depth: Tensor, image_size: tuple[int, int]) -> Tensor:
    """bool [B, N]: in front of the camera and in the image of (width, height)."""
    return ((pixels >= 0) & (pixels < pixels.new_tensor(image_size))).all(dim=-1) & (depth > 0)


def scene_views(
    scene: OccupancyGrid, downsample_z: int, projection: Tensor, depth: Tensor, image_size: tuple[int, int]
) -> SceneViews:
    """The relations of a scene of cells twice (or once) as large as the voxels, with ``downsample_z`` of them in a column.

    scene       the grid before cells are put together along z
    projection  [B, 4, 4] reference frame -> (u*z, v*z, z, 1)
    depth       [B, H, W] metres along the camera's axis, 0 where unknown: such a pixel proposes no cell

    The pixel of a cell is the mean of its parts' pixels, cut to a whole number, and a cell is seen if a part is.
    """
    x, y, z = scene.shape
    shape = (x, y, z // downsample_z)
    points = scene.centres(projection.device).flatten(0, 2)
    parts, distance = project(points, projection)
    seen = inside(parts, distance, image_size).unflatten(1, (-1, downsample_z)).any(dim=-1)
    pixels = (parts.unflatten(1, (-1, downsample_z)).mean(dim=2).trunc() + 0.5) / parts.new_tensor(image_size)

    cells = cells_of_pixels(scene, downsample_z, projection, depth)
    known = (depth > 0) & (cells >= 0).all(dim=-1) & (cells < cells.new_tensor(shape)).all(dim=-1)
    hit = torch.zeros(len(depth), x * y * shape[2], dtype=torch.bool, device=depth.device)
    numbers = (cells[..., 0] * y + cells[..., 1]) * shape[2] + cells[..., 2]
    for sample, number, valid in zip(hit, numbers, known, strict=True):
        sample[number[valid]] = True
    in_image, proposed = ([sample.nonzero()[:, 0] for sample in mask] for mask in (seen, hit))
    return SceneViews(pixels, in_image, proposed, cells)


def cells_of_pixels(scene: OccupancyGrid, downsample_z: int, projection: Tensor, depth: Tensor) -> Tensor:
    """int64 [B, H, W, 3]: the cell that each pixel's depth points to, cut towards zero as published.

    A cell's whole numbers are its centre, so that cell i reaches from i to i + 1 centres, half a cell further than it is.
    """
    height, width = depth.shape[1:]
    row, column = torch.meshgrid(
        torch.arange(height, device=depth.device), torch.arange(width, device=depth.device), indexing="ij"
    )
    # The inverse in float64: a pixel matrix mixes numbers of very different size.
    inverse = projection.double().inverse().to(depth.dtype)
    at = torch.stack([column * depth, row * depth, depth], dim=-1)
    points = at.flatten(1, 2) @ inverse[:, :3, :3].transpose(1, 2) + inverse[:, None, :3, 3]
    cells = (points - points.new_tensor(scene.lower)) / scene.voxel_size - 0.5
    return (cells / cells.new_tensor([1, 1, downsample_z])).trunc().long().unflatten(1, (height, width))


def frustums(grid: OccupancyGrid, projection: Tensor, image_size: tuple[int, int], size: int) -> Tensor:
    """int64 [B, X, Y, Z]: the part of the image, of ``size`` x ``size`` numbered row by row, that a voxel falls in; -1: none.

    (ssc_pl/utils/helper.py:133-199)
    """
    pixels, depth = project(grid.centres(projection.device).flatten(0, 2), projection)
    part = (pixels * size / pixels.new_tensor(image_size)).floor()
    number = part[..., 1] * size + part[..., 0]
    return number.where(inside(pixels, depth, image_size), number.new_tensor(-1)).long().unflatten(1, grid.shape)
