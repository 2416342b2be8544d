"""The voxel grids of the data sets and their published constants, for tests."""

from baselines.published import Published
from experiments.datasets.dataset_kitti360 import DATASET as KITTI360
from experiments.datasets.dataset_occ3d import DATASET as OCC3D
from experiments.datasets.dataset_surroundocc import DATASET as SURROUNDOCC

occ3d_grid, surroundocc_grid, kitti360_grid = OCC3D.grid, SURROUNDOCC.grid, KITTI360.grid


def published(name: str) -> Published:
    """Of a data set; none for an unknown name."""
    return next((dataset.published for dataset in (OCC3D, SURROUNDOCC, KITTI360) if dataset.name == name), Published())
