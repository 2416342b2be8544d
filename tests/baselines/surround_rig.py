"""Six cameras around a vehicle and random images and labels: batches for model tests."""

from __future__ import annotations

import math

import torch
from grids import published

from baselines.interface import OccupancyBatch, OccupancyGrid

# Yaw (degrees, counter-clockwise from +x) and focal length over image width, as nuScenes' rig roughly has them.
RIG = ((0, 0.79), (-55, 0.79), (55, 0.79), (180, 0.5), (110, 0.79), (-110, 0.79))


def toy_grid() -> OccupancyGrid:
    """Occ3D's range in voxels of 0.8 m: 100 x 100 x 8."""
    names = tuple(f"class {i}" for i in range(17)) + ("free",)
    return OccupancyGrid(
        (-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), 0.8, names, empty=17, dataset="occ3d", published=published("occ3d")
    )


def world_to_camera(yaw: float, height: float = 1.5) -> torch.Tensor:
    """[4, 4] reference frame (x forward, y left, z up) -> camera looking along ``yaw`` degrees, 1 m from the axis."""
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    rotation = torch.tensor([[s, -c, 0.0], [0.0, 0.0, -1.0], [c, s, 0.0]])
    out = torch.eye(4)
    out[:3, :3] = rotation
    out[:3, 3] = -rotation @ torch.tensor([c, s, height])
    return out


def surround_batch(
    grid: OccupancyGrid, batch: int = 1, width: int = 200, height: int = 112, cameras: int = 6, seed: int = 0
) -> OccupancyBatch:
    """Random images and labels (a tenth occupied) under the rig; samples differ in camera height."""
    g = torch.Generator().manual_seed(seed)
    intrinsics = torch.stack(
        [torch.tensor([[f * width, 0.0, width / 2], [0.0, f * width, height / 2], [0.0, 0.0, 1.0]]) for _, f in RIG[:cameras]]
    ).expand(batch, -1, -1, -1)
    extrinsics = torch.stack(
        [torch.stack([world_to_camera(yaw, 1.5 + 0.3 * b) for yaw, _ in RIG[:cameras]]) for b in range(batch)]
    )
    image = torch.eye(4).expand(batch, cameras, 4, 4).clone()
    image[..., :3, :3] = intrinsics
    labels = torch.randint(0, grid.num_classes, (batch, *grid.shape), generator=g)
    labels[torch.rand(labels.shape, generator=g) > 0.1] = grid.empty
    return OccupancyBatch(
        images=torch.randn(batch, cameras, 3, height, width, generator=g),
        projection=image @ extrinsics,
        intrinsics=intrinsics,
        reference_to_camera=extrinsics,
        camera_size=(width, height),
        labels=labels,
        camera_mask=torch.ones_like(labels, dtype=torch.bool),
        reference_to_lidar=torch.eye(4).expand(batch, 4, 4),
        meta=[{"token": str(i)} for i in range(batch)],
    )
