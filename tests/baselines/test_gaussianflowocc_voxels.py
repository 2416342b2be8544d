"""From what GaussianFlowOcc's Gaussians add to voxels to classes, against the published rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grids import occ3d_grid
from torch import Tensor

from baselines.gaussianflowocc.voxelise import voxelise
from baselines.gaussianflowocc.voxels import ReadOut, voxel_logits
from baselines.interface import OccupancyGrid

GRID = OccupancyGrid((-2.0, -1.0, -1.0), (2.0, 2.0, 1.0), 0.5, ("a", "b", "none", "c"), empty=2)  # 8 x 6 x 4


def test_no_gaussians_leave_empty_voxels() -> None:
    nothing = (torch.zeros(0, 3), torch.zeros(0, 4), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3))
    occupancy, semantics = voxelise(*nothing, GRID, 2)
    assert not occupancy.any() and not semantics.any() and semantics.shape == (8, 6, 4, 3)
    logits = voxel_logits(occupancy, semantics, GRID, (0, 1, 3), ReadOut())
    assert bool((logits.argmax(0) == GRID.empty).all())


def published_classes(occupancy: Tensor, semantics: Tensor, z_cut: int | None, grid: OccupancyGrid, classes: list[int]) -> Tensor:
    """Section by section as upstream's test does it."""
    density = occupancy.clone()
    density[density < 1e-3] = 0
    if z_cut is not None:
        density[..., z_cut:] = 0
    named = torch.tensor(classes)[semantics.argmax(dim=-1)]
    return torch.where(density < 0.05, grid.empty, named)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e6])
def test_the_largest_logit_is_the_published_class(size: float) -> None:
    """On the published grid, for logits of any size: at the threshold, beside it, with equal logits, and above the cut."""
    grid = occ3d_grid()
    grid = replace(grid, lower=(-2.0, -2.0, -1.0), upper=(2.0, 2.0, 5.4))  # 10 x 10 x 16
    g = torch.Generator().manual_seed(1)
    occupancy = torch.rand(grid.shape, generator=g) * 0.1
    threshold = torch.tensor(0.05)
    occupancy[0, 0], occupancy[0, 1] = threshold, torch.nextafter(threshold, torch.tensor(0.0))
    occupancy[1] = 0.9
    semantics = torch.randn(*grid.shape, 16, generator=g) * size
    semantics[2] = 0  # the first class is the largest
    classes = list(range(1, 17))
    logits = voxel_logits(occupancy, semantics, grid, tuple(classes), ReadOut())
    assert logits.argmax(0).equal(published_classes(occupancy, semantics, 11, grid, classes))
    uncut = voxel_logits(occupancy, semantics, grid, tuple(classes), ReadOut(ceiling=None))
    assert uncut.argmax(0).equal(published_classes(occupancy, semantics, None, grid, classes))
    assert not (uncut.argmax(0) == 0).any() and (uncut.argmax(0)[..., 11:] != 17).any()


def test_the_cut_is_in_metres_on_every_grid() -> None:
    coarse = occ3d_grid(2)
    occupied, semantics = torch.ones(coarse.shape), torch.zeros(*coarse.shape, 16)
    labels = voxel_logits(occupied, semantics, coarse, tuple(range(1, 17)), ReadOut()).argmax(0)
    assert (labels != 17).any(0).any(0).tolist() == [True] * 6 + [False] * 2  # middles at 3.4 m and at 4.2 m


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"threshold": 1.1}, {"faint": -0.1}])
def test_bad_read_outs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReadOut(**wrong)
