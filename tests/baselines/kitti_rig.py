"""One forward camera as KITTI-360 has it, with random images, depth and labels: batches for model tests."""

from __future__ import annotations

from dataclasses import replace

import torch
from grids import kitti360_grid

from baselines.interface import OccupancyBatch, OccupancyGrid

KITTI360 = kitti360_grid()
# The behaviour of toy models is tested on few voxels, 32 x 32 x 8, and small images: the scene of Symphonies has 16 x 16 x 2
# cells, and MonoScene's coarsest level 8 x 8 x 2.
SMALL = replace(KITTI360, upper=(51.2, 25.6, 10.8), voxel_size=1.6)
IMAGE = dict(width=176, height=48)
RENDERING = {"bev_reduction": 8, "image_reduction": 2}
SIZE = (1408, 376)
FOCAL, CENTRE = 552.554261, (682.049453, 238.769549)
CAMERA_TO_VELODYNE = (
    (0.04307104361, -0.08829286498, 0.995162929, 0.8043914418),
    (-0.999004371, 0.007784614041, 0.04392796942, 0.2993489574),
    (-0.01162548558, -0.9960641394, -0.08786966659, -0.1770225824),
    (0.0, 0.0, 0.0, 1.0),
)


def intrinsics(width: int, height: int) -> torch.Tensor:
    """[3, 3] of an image scaled to ``width`` x ``height``, pixels."""
    sx, sy = width / SIZE[0], height / SIZE[1]
    return torch.tensor([[FOCAL * sx, 0.0, CENTRE[0] * sx], [0.0, FOCAL * sy, CENTRE[1] * sy], [0.0, 0.0, 1.0]])


def velodyne_to_camera() -> torch.Tensor:
    """[4, 4]."""
    return torch.linalg.inv(torch.tensor(CAMERA_TO_VELODYNE, dtype=torch.float64)).float()


def kitti_batch(grid: OccupancyGrid, batch: int = 1, width: int = 352, height: int = 94, seed: int = 0) -> OccupancyBatch:
    """Random images, depth (5 to 40 m) and labels (a tenth occupied, some unknown); samples differ in camera height."""
    g = torch.Generator().manual_seed(seed)
    image = torch.eye(4)
    image[:3, :3] = intrinsics(width, height)
    extrinsics = velodyne_to_camera().repeat(batch, 1, 1, 1)
    extrinsics[:, 0, 1, 3] += 0.3 * torch.arange(batch)
    labels = torch.randint(1, grid.num_classes, (batch, *grid.shape), generator=g)
    draw = torch.rand(labels.shape, generator=g)
    labels[draw > 0.1] = grid.empty
    labels[draw > 0.9] = grid.ignore
    return OccupancyBatch(
        images=50 * torch.randn(batch, 1, 3, height, width, generator=g),
        projection=image @ extrinsics,
        intrinsics=image[:3, :3].expand(batch, 1, 3, 3),
        reference_to_camera=extrinsics,
        camera_size=(width, height),
        labels=labels,
        camera_mask=labels != grid.ignore,
        reference_to_lidar=torch.eye(4).expand(batch, 4, 4),
        meta=[{"token": str(i)} for i in range(batch)],
        depth=5 + 35 * torch.rand(batch, 1, height, width, generator=g),
    )
