"""GaussianFormer-2's superposition of Gaussians against the plain formula in float64, compiled and in PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from voxel_rig import FIELDS, GRID, Inputs, a_grid, away, check_gradients, covariances, differentiated, double, largest, some

from baselines.gaussianflowocc.lanes import own_axes
from baselines.gaussianformer2 import aggregation
from baselines.gaussianformer2.aggregation import FAINTEST, class_probabilities, reach_of, superposed
from baselines.interface import OccupancyGrid


def plain(inputs: Inputs, grid: OccupancyGrid, multiplier: float) -> tuple[Tensor, Tensor]:
    """The published formulas, every voxel with every Gaussian."""
    means, quaternions, scales, opacities, logits = (inputs[name] for name in FIELDS)
    covariance = covariances(quaternions, scales)
    reach = (scales.detach().float().amax(1) * multiplier / grid.voxel_size).ceil().clamp_min(1)
    near = away(means, grid) <= reach[:, None, None, None]
    d = grid.centres(dtype=means.dtype)[None] - means[:, None, None, None]
    g = (-0.5 * torch.einsum("nxyzi,nij,nxyzj->nxyz", d, torch.linalg.inv(covariance), d)).exp() * near
    normal = g / ((2 * math.pi) ** 1.5 * torch.linalg.det(covariance).sqrt())[:, None, None, None]
    weight = opacities[:, None, None, None] * normal
    total = weight.sum(0)[..., None]
    mixed = torch.einsum("nxyz,nk->xyzk", weight, logits.softmax(1))
    heard = total > FAINTEST
    classes = torch.where(heard, mixed / torch.where(heard, total, 1), 1 / logits.shape[1])
    return classes, (1 - g).prod(0)


def ours(inputs: Inputs, grid: OccupancyGrid = GRID, multiplier: float = 3.0) -> tuple[Tensor, Tensor]:
    return class_probabilities(*(inputs[name] for name in FIELDS), grid, multiplier)


@pytest.mark.parametrize(("multiplier", "channels"), [(0.1, 1), (2.0, 17), (5.0, 7)])
def test_the_op_is_the_published_formula_and_its_gradients(target: str, multiplier: float, channels: int) -> None:
    inputs = some(channels=channels, seed=channels)
    got, gradients = differentiated(ours, inputs, GRID, multiplier)
    right, right_gradients = differentiated(plain, double(inputs), GRID, multiplier)
    assert 0 < largest(1 - right[1]) <= 1
    for value, expected in zip(got, right, strict=True):
        assert value.dtype == torch.float32
        assert largest(value - expected) <= 2e-5
    check_gradients(gradients, right_gradients, 5e-4)


@pytest.mark.parametrize("pairs", [1, 1 << 20])
def test_pytorch_is_the_published_formula(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    """With one Gaussian at a time, and with all of a reach together."""
    monkeypatch.setattr(aggregation, "PAIRS", pairs)
    inputs = double(some(seed=3))
    got, gradients = differentiated(ours, inputs)
    right, right_gradients = differentiated(plain, inputs, GRID, 3.0)
    for value, expected in zip(got, right, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)  # the centres of a grid are those of float32 ranges
    for name, gradient in right_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-4 * max(1.0, largest(gradient)), rtol=0)


def test_gradients_in_float64() -> None:
    inputs = {name: value.requires_grad_() for name, value in double(some(count=4, channels=2, seed=4)).items()}
    inputs["scales"] = (inputs["scales"].detach() + 0.2).requires_grad_()
    small = a_grid((3, 4, 2))
    assert torch.autograd.gradcheck(lambda *fields: class_probabilities(*fields, small, 20.0), [inputs[name] for name in FIELDS])


def test_the_same_bits_for_any_number_of_threads(target: str, threads: None) -> None:
    grid = a_grid((11, 13, 21))
    inputs = some(count=300, channels=17, grid=grid)
    reach = reach_of(inputs["scales"], 3.0, grid)
    given = {"means": inputs["means"], "axes": own_axes(inputs["quaternions"], inputs["scales"]), "rows": inputs["features"]}

    def run(leaves: Inputs) -> tuple[Tensor, Tensor]:
        return superposed(leaves["means"], leaves["axes"], leaves["rows"], grid, reach)

    torch.set_num_threads(1)
    one, gradients = differentiated(run, given)
    for number in (2, 5):
        torch.set_num_threads(number)
        again, same = differentiated(run, given)
        assert all(a.equal(b) for a, b in zip(one, again, strict=True))
        assert all(gradients[name].equal(same[name]) for name in given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_reaches_space_is_empty_and_classes_are_alike(dtype: torch.dtype) -> None:
    inputs = {name: value.to(dtype) for name, value in some(count=1, channels=4).items()}
    inputs["means"] = torch.tensor([[-1.4, 0.0, 0.0]], dtype=dtype)
    inputs["scales"] = torch.full((1, 3), 0.4, dtype=dtype)
    (classes, empty), gradients = differentiated(ours, inputs, GRID, 2.0)
    assert (empty[4:] == 1).all() and (classes[4:] == 0.25).all()
    assert empty[0, 3, 1] < 0.9
    torch.testing.assert_close(classes[0, 3, 1], inputs["features"][0].softmax(0))
    torch.testing.assert_close(classes.sum(-1), torch.ones(GRID.shape, dtype=dtype))
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert largest(gradients["opacities"]) < 1e-5, "of one Gaussian alone the opacity says nothing"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_on_a_centre_and_scales_that_vanish(dtype: torch.dtype) -> None:
    inputs = {name: value.to(dtype) for name, value in some(count=2, channels=3).items()}
    inputs["means"] = GRID.centres(dtype=dtype)[4, 3, 2].expand(2, 3).contiguous()
    inputs["scales"] = torch.tensor([[0.4, 0.3, 0.5], [0.0, 0.0, 0.0]], dtype=dtype)
    (classes, empty), gradients = differentiated(ours, inputs)
    assert empty[4, 3, 2] < 1e-12 and classes.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing(dtype: torch.dtype) -> None:
    inputs = {name: value.to(dtype) for name, value in some(count=0, channels=3).items()}
    (classes, empty), gradients = differentiated(ours, inputs)
    assert (empty == 1).all() and classes.shape == (*GRID.shape, 3) and (classes == 1 / torch.tensor(3.0, dtype=dtype)).all()
    assert all(gradients[name].shape == inputs[name].shape for name in FIELDS)


def test_reach() -> None:
    scales = torch.tensor([[0.01, 0.1, 0.05], [0.5, 0.2, 0.1], [1e30, 1.0, 1.0]])
    assert reach_of(scales, 3.0, GRID).tolist() == [1, 4, 1 << 20]


def test_wrong_arguments_are_named() -> None:
    good = some(count=4)
    wrong = [("means", good["means"] * float("nan")), ("scales", -good["scales"]), ("opacities", good["opacities"][:, None])]
    for name, value in wrong:
        with pytest.raises(ValueError, match=f"^{name}"):
            ours(good | {name: value})
    with pytest.raises(ValueError, match="^logits must be"):
        ours(good | {"features": good["opacities"]})
    with pytest.raises(ValueError, match="multiplier must be positive, got 0"):
        ours(good, GRID, 0.0)


def test_second_derivatives_are_refused() -> None:
    inputs = {name: value.requires_grad_() for name, value in some(count=4).items()}
    with pytest.raises(NotImplementedError, match="superposed has no second derivatives"):
        torch.autograd.grad(ours(inputs)[1].square().sum(), inputs["means"], create_graph=True)
