"""The voxel grids of the data sets."""

from __future__ import annotations

from baselines.interface import OccupancyGrid
from experiments.datasets import layout_kitti360
from experiments.datasets.layout import OCC3D_CLASSES
from experiments.datasets.layout_surroundocc import SURROUNDOCC_CLASSES


def occ3d_grid(coarsen: int = 1) -> OccupancyGrid:
    """Occ3D-nuScenes: 200x200x16 voxels of 0.4 m in the ego frame, free = 17; ``coarsen`` enlarges the voxels."""
    grid = OccupancyGrid(
        lower=(-40.0, -40.0, -1.0),
        upper=(40.0, 40.0, 5.4),
        voxel_size=0.4,
        class_names=OCC3D_CLASSES,
        empty=OCC3D_CLASSES.index("free"),
        frame="ego",
        dataset="occ3d",
    )
    return grid if coarsen == 1 else grid.coarsened(coarsen)


def surroundocc_grid(coarsen: int = 1) -> OccupancyGrid:
    """SurroundOcc-nuScenes: 200x200x16 voxels of 0.5 m in the frame of LIDAR_TOP (x right, y forward), empty = 0."""
    grid = OccupancyGrid(
        lower=(-50.0, -50.0, -5.0),
        upper=(50.0, 50.0, 3.0),
        voxel_size=0.5,
        class_names=SURROUNDOCC_CLASSES,
        empty=SURROUNDOCC_CLASSES.index("empty"),
        frame="lidar",
        dataset="surroundocc",
    )
    return grid if coarsen == 1 else grid.coarsened(coarsen)


def kitti360_grid(coarsen: int = 1) -> OccupancyGrid:
    """SSCBench-KITTI-360: 256x256x32 voxels of 0.2 m in the velodyne frame (x forward, y left), empty = 0."""
    grid = OccupancyGrid(
        lower=(0.0, -25.6, -2.0),
        upper=(51.2, 25.6, 4.4),
        voxel_size=0.2,
        class_names=layout_kitti360.CLASSES,
        empty=layout_kitti360.CLASSES.index("empty"),
        frame="velodyne",
        dataset="kitti360",
    )
    return grid if coarsen == 1 else grid.coarsened(coarsen)


GRIDS = {"occ3d": occ3d_grid, "surroundocc": surroundocc_grid, "kitti360": kitti360_grid}
"""By data set."""
