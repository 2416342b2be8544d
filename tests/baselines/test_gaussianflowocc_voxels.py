"""From GaussianFlowOcc's Gaussians to voxels and classes, against the formula for each pair."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grids import occ3d_grid
from torch import Tensor
from torch.nn import functional as F

from baselines.gaussianflowocc.voxels import ReadOut, splat_to_voxels, voxel_logits
from baselines.interface import OccupancyGrid

GRID = OccupancyGrid((-2.0, -1.0, -1.0), (2.0, 2.0, 1.0), 0.5, ("a", "b", "none", "c"), empty=2)  # 8 x 6 x 4
Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def gaussians(count: int = 12, dtype: torch.dtype = torch.float64) -> Arguments:
    """Inside the grid, at its faces and outside of it."""
    g = torch.Generator().manual_seed(0)
    means = (torch.rand(count, 3, generator=g, dtype=dtype) - 0.5) * torch.tensor([5.0, 4.0, 3.0], dtype=dtype)
    means[0] = torch.tensor([-2.0, 2.0, 0.0], dtype=dtype)
    quaternions = F.normalize(torch.randn(count, 4, generator=g, dtype=dtype), dim=-1)
    scales = 0.1 + torch.rand(count, 3, generator=g, dtype=dtype)
    return (
        means,
        quaternions,
        scales,
        torch.rand(count, generator=g, dtype=dtype),
        torch.randn(count, 3, generator=g, dtype=dtype),
    )


def plain(arguments: Arguments, neighbourhood: int, grid: OccupancyGrid = GRID) -> tuple[Tensor, Tensor]:
    """Voxel by voxel and Gaussian by Gaussian, covariances inverted as matrices."""
    means, quaternions, scales, opacities, logits = arguments
    occupancy, semantics = means.new_zeros(grid.shape), means.new_zeros(*grid.shape, logits.shape[1])
    centres = grid.centres(dtype=means.dtype)
    for n in range(len(means)):
        w, x, y, z = quaternions[n].tolist()
        cross = means.new_tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = torch.eye(3, dtype=means.dtype) + 2 * w * cross + 2 * cross @ cross  # Rodrigues
        inverse = torch.linalg.inv(rotation @ torch.diag(scales[n] ** 2) @ rotation.T)
        home = ((means[n] - means.new_tensor(grid.lower)) / grid.voxel_size).floor()
        for voxel in torch.cartesian_prod(*(torch.arange(size) for size in grid.shape)):
            if (voxel - home).abs().max() > neighbourhood:
                continue
            d = centres[tuple(voxel)] - means[n]
            share = torch.exp(-0.5 * d @ inverse @ d)
            occupancy[tuple(voxel)] += opacities[n] * share
            semantics[tuple(voxel)] += logits[n] * share
    return occupancy.clamp(0, 1), semantics


@pytest.mark.parametrize("neighbourhood", [0, 1, 2])
def test_voxels_are_sums_over_gaussians_around(neighbourhood: int) -> None:
    found = splat_to_voxels(*gaussians(), GRID, neighbourhood)
    for own, expected in zip(found, plain(gaussians(), neighbourhood), strict=True):
        torch.testing.assert_close(own, expected)
    assert found[0].max() <= 1 and found[1].any()


def test_gradients_are_those_of_the_formula() -> None:
    means, quaternions, scales, opacities, logits = (value[:3].clone() for value in gaussians())
    means = torch.tensor([[0.1, 0.2, 0.1], [-0.6, 0.3, -0.2], [1.3, 1.1, 0.4]], dtype=torch.float64)
    inputs = [value.requires_grad_() for value in (means, quaternions, scales, opacities * 0.1, logits)]
    assert torch.autograd.gradcheck(lambda *given: splat_to_voxels(*given, GRID, 1), inputs)


def test_an_underflown_scale_and_a_mean_far_away_leave_numbers() -> None:
    """Scales that a sigmoid let underflow, means beyond what an index holds: nothing is NaN, gradients neither."""
    means, quaternions, scales, opacities, logits = (value.float() for value in gaussians())
    scales[0], scales[1, 0], means[2] = 0, 1e-38, torch.tensor([1e20, -1e20, 0.0])
    inputs = [value.requires_grad_() for value in (means, quaternions, scales, opacities, logits)]
    occupancy, semantics = splat_to_voxels(*inputs, GRID, 2)
    (occupancy.sum() + semantics.sum()).backward()
    assert all(bool(torch.isfinite(value).all()) for value in (occupancy, semantics))
    assert all(value.grad is not None and bool(torch.isfinite(value.grad).all()) for value in inputs)


def test_no_gaussians_leave_empty_voxels() -> None:
    occupancy, semantics = splat_to_voxels(*(value[:0] for value in gaussians()), GRID, 2)
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
