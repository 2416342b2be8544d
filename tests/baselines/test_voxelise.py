"""Gaussians into voxels against the plain formula in float64, compiled and in PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from voxel_rig import FIELDS, GRID, Inputs, a_grid, away, check_gradients, covariances, differentiated, double, largest, some

from baselines.gaussianflowocc.lanes import LEAST_SCALE
from baselines.gaussianflowocc.voxelise import voxelise
from baselines.interface import OccupancyGrid


def plain(inputs: Inputs, grid: OccupancyGrid, neighbourhood: int) -> tuple[Tensor, Tensor]:
    """The formula over all voxels at once: Sigma^-1, and a mask of who is a candidate of whom."""
    means, quaternions, scales, opacities, features = (inputs[name] for name in FIELDS)
    inverse = torch.linalg.inv(covariances(quaternions, scales))
    centres = grid.centres(dtype=means.dtype)
    near = away(means, grid) <= neighbourhood
    d = centres[None] - means[:, None, None, None]
    g = (-0.5 * torch.einsum("nxyzi,nij,nxyzj->nxyz", d, inverse, d)).exp() * near
    return torch.einsum("n,nxyz->xyz", opacities, g), torch.einsum("nk,nxyz->xyzk", features, g)


def ours(inputs: Inputs, grid: OccupancyGrid = GRID, neighbourhood: int = 4) -> tuple[Tensor, Tensor]:
    return voxelise(*(inputs[name] for name in FIELDS), grid, neighbourhood)


@pytest.mark.parametrize("neighbourhood", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("channels", [1, 6, 16, 17])
def test_the_op_is_the_plain_formula_and_its_gradients(target: str, neighbourhood: int, channels: int) -> None:
    inputs = some(channels=channels, seed=neighbourhood)
    got, gradients = differentiated(ours, inputs, GRID, neighbourhood)
    right, right_gradients = differentiated(plain, double(inputs), GRID, neighbourhood)
    assert largest(right[0]) > 0.5 or neighbourhood == 0
    for value, expected in zip(got, right, strict=True):
        assert value.dtype == torch.float32
        assert largest(value - expected) <= 1e-5 * max(1.0, largest(expected))
    check_gradients(gradients, right_gradients, 1e-4)


@pytest.mark.parametrize("neighbourhood", [0, 1, 4])
def test_pytorch_is_the_plain_formula(neighbourhood: int) -> None:
    inputs = double(some(seed=3))
    got, gradients = differentiated(ours, inputs, GRID, neighbourhood)
    right, right_gradients = differentiated(plain, inputs, GRID, neighbourhood)
    for value, expected in zip(got, right, strict=True):
        torch.testing.assert_close(value, expected, atol=2e-7, rtol=1e-7)  # the centres of a grid are those of float32 ranges
    for name, gradient in right_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-6 * max(1.0, largest(gradient)), rtol=0)


def test_gradients_in_float64() -> None:
    inputs = {name: value.requires_grad_() for name, value in double(some(count=5, channels=2, seed=4)).items()}
    inputs["scales"] = (inputs["scales"].detach() + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda *fields: voxelise(*fields, a_grid((3, 4, 2)), 2), [inputs[name] for name in FIELDS])


def test_a_grid_of_more_than_two_vectors_and_the_same_bits_for_any_number_of_threads(target: str, threads: None) -> None:
    grid = a_grid((11, 13, 21))
    inputs = some(count=300, channels=17, grid=grid)
    torch.set_num_threads(1)
    one, gradients = differentiated(ours, inputs, grid, 4)
    right, _ = differentiated(plain, double(inputs), grid, 4)
    assert all(largest(a - b) <= 1e-5 * max(1.0, largest(b)) for a, b in zip(one, right, strict=True))
    for number in (2, 5):
        torch.set_num_threads(number)
        again, same = differentiated(ours, inputs, grid, 4)
        assert all(a.equal(b) for a, b in zip(one, again, strict=True))
        assert all(gradients[name].equal(same[name]) for name in FIELDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outside_of_the_grid(dtype: torch.dtype) -> None:
    inputs = {name: value.to(dtype) for name, value in some(count=4).items()}
    # The voxel before the first, whose neighbours are in; one that is a voxel too far; far away; and beyond what int32 holds.
    inputs["means"] = torch.tensor([[-1.8, 0.0, 0.0], [-3.4, 0.0, 0.0], [0.0, 0.0, 1e4], [1e30, -1e30, 0.0]], dtype=dtype)
    inputs["scales"] = torch.full((4, 3), 0.5, dtype=dtype)
    (occupancy, semantics), gradients = differentiated(ours, inputs, GRID, 4)
    right, _ = differentiated(plain, {name: value[:1].double() for name, value in inputs.items()}, GRID, 4)
    assert largest(occupancy - right[0]) < 1e-5 and largest(semantics - right[1]) < 1e-5
    assert occupancy[:4].any() and not occupancy[4:].any(), "the base is one before the grid"
    for gradient in gradients.values():
        assert gradient[0].any() and not gradient[1:].any() and gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing(dtype: torch.dtype) -> None:
    inputs = {name: value.to(dtype) for name, value in some(count=0, channels=3).items()}
    (occupancy, semantics), gradients = differentiated(ours, inputs)
    assert occupancy.shape == GRID.shape and semantics.shape == (*GRID.shape, 3)
    assert not occupancy.any() and not semantics.any()
    assert all(gradients[name].shape == inputs[name].shape for name in FIELDS)
    featureless = voxelise(*(some(channels=0)[name].to(dtype) for name in FIELDS), GRID)
    assert featureless[0].any() and featureless[1].shape == (*GRID.shape, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-30, LEAST_SCALE / 2])
def test_scales_that_vanish(dtype: torch.dtype, scale: float) -> None:
    inputs = {name: value.to(dtype) for name, value in some(count=3).items()}
    centre = GRID.centres(dtype=dtype)[4, 3, 2]
    inputs["means"] = torch.stack([centre, centre + 0.1, centre])
    inputs["scales"] = torch.tensor([[scale] * 3, [scale] * 3, [0.3, 0.3, scale]], dtype=dtype)
    inputs["quaternions"] = torch.tensor([[1.0, 0, 0, 0]] * 3, dtype=dtype)
    (occupancy, semantics), gradients = differentiated(ours, inputs)
    assert occupancy.isfinite().all() and semantics.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    o = inputs["opacities"]
    torch.testing.assert_close(occupancy[4, 3, 2], o[0] + o[2])  # on the centre, besides it, and a disc in the centre's plane
    assert occupancy[3:6, 2:5, 2].all() and not occupancy[..., [0, 1, 3, 4]].any()
    assert not gradients["scales"][:2].any() and not gradients["scales"][2, 2], "below the least there is no gradient"
    assert gradients["scales"][2, :2].all()


def test_wrong_arguments_are_named() -> None:
    good = some(count=4)
    nan = good["means"].clone()
    nan[1, 1] = float("nan")
    wrong: list[tuple[str, Tensor]] = [
        ("means", nan),
        ("means", good["means"][:, :2]),
        ("quaternions", good["quaternions"][:3]),
        ("quaternions", good["quaternions"] * torch.tensor([1.0, 1, 0, 1])[:, None]),
        ("scales", good["scales"].log()),
        ("scales", good["scales"][:, :1]),
        ("opacities", good["opacities"][:, None]),
        ("opacities", good["opacities"].double()),
        ("features", good["features"].long()),
        ("features", good["opacities"]),
    ]
    for name, value in wrong:
        with pytest.raises(ValueError, match=f"^{name}"):
            ours(good | {name: value})
    with pytest.raises(ValueError, match="neighbourhood must be 0 or more voxels, got -1"):
        ours(good, GRID, -1)


def test_second_derivatives_are_refused() -> None:
    inputs = {name: value.requires_grad_() for name, value in some(count=4).items()}
    with pytest.raises(NotImplementedError, match="voxelise has no second derivatives"):
        torch.autograd.grad(ours(inputs)[0].square().sum(), inputs["means"], create_graph=True)
