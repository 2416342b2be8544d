"""What every ray backend keeps to beyond what it renders: functions of a renderer and a device that assert, for whatever process
can run it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from renderers.rays import Rays, RaySettings, SphereSampler
from renderers.rays.cases import RENDEROCC_FEWER, RayCase, random_grid, random_rays
from renderers.rays.conformance import loss_weights, ray_rejections
from renderers.rays.interface import DIFFERENTIABLE, RayRenderer
from renderers.rays.published import RENDEROCC, RENDEROCC_RANGE

FEW: RaySettings = RENDEROCC_FEWER.with_(sampler=SphereSampler((0.0, 0.0, 2.2), 39.0, 1.0, 6, 2))


def _case(device: str, rays: int) -> RayCase:
    """Rays of few samples that all see something."""
    grid = random_grid(*RENDEROCC_RANGE, seed=2, density=(9.0, 15.0), channels=5, batch=2)
    return RayCase("few samples", random_rays(rays, 4, batch=2), grid, FEW).to(device)


def _moved(case: RayCase, device: str) -> RayCase:
    """On another device, whatever the types."""

    def moved(record: Any) -> Any:
        return replace(record, **{n: v.to(device) for n, v in vars(record).items() if isinstance(v, Tensor)})

    return replace(case, rays=moved(case.rays), grid=moved(case.grid))


def _leaves(case: RayCase) -> list[Tensor]:
    return [getattr(case.grid, name).clone().requires_grad_() for name in ("density", "features")]


def bad_input(renderer: RayRenderer, device: str) -> None:
    """Refused, with the argument's name."""
    for rejection in ray_rejections():
        case = _moved(rejection.case, device)
        with pytest.raises(ValueError, match=rejection.argument):
            renderer.render(case.rays, case.grid, case.settings)


def buffers_filled_again(renderer: RayRenderer, device: str) -> None:
    """Rays change between the passes: the gradient is that of the rendering. A grid that changes is noticed by PyTorch."""
    case = _case(device, 20)
    density, features = _leaves(case)
    # A loader may hand out views: contiguous once an adapter turns them.
    turned = replace(case.rays, directions=case.rays.directions.T.contiguous().T)
    out = renderer.render(turned, replace(case.grid, density=density, features=features), case.settings)
    loss = out.features.square().sum() + out.depth.sum()
    right = torch.autograd.grad(loss, [density, features], retain_graph=True)
    assert min(float(g.abs().max()) for g in right) > 0
    for name in ("origins", "directions", "offsets", "cosines"):
        getattr(turned, name).fill_(7.0)
    turned.scene.fill_(10**9)
    for a, b in zip(torch.autograd.grad(loss, [density, features], retain_graph=True), right, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        density.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def second_derivatives(renderer: RayRenderer, device: str) -> None:
    """They are right or refused with the renderer's name; a first derivative is to be had either way."""
    case = _case(device, 6)
    for output in DIFFERENTIABLE:
        density, features = _leaves(case)
        out = renderer.render(case.rays, replace(case.grid, density=density, features=features), case.settings)
        value = getattr(out, output).sum()
        (first,) = torch.autograd.grad(value, density, retain_graph=True)
        assert first.abs().max() > 0
        try:
            (slope,) = torch.autograd.grad(value, density, create_graph=True)
            (second,) = torch.autograd.grad(slope.pow(2).sum() + 0 * density.sum(), density)
            assert renderer.second_derivatives and second.abs().max() > 0
        except NotImplementedError as error:
            assert not renderer.second_derivatives
            assert f"renderer '{renderer.name}' has no second derivatives" in str(error) and "'reference'" in str(error)


def nothing_to_render(renderer: RayRenderer, device: str) -> None:
    """No rays, and a batch of none: empty outputs, and gradients of zero."""
    for batch in (0, 2):
        rays = Rays(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
        grid = random_grid(*RENDEROCC_RANGE, seed=1, batch=batch, channels=3)
        case = RayCase("no rays", rays, grid, RENDEROCC).to(device)
        density, features = _leaves(case)
        out = renderer.render(case.rays, replace(case.grid, density=density, features=features), RENDEROCC)
        assert out.features.shape == (0, 3) and out.depth.shape == out.samples.shape == (0,)
        loss = torch.stack([getattr(out, name).sum() for name in DIFFERENTIABLE]).sum()
        for gradient in torch.autograd.grad(loss, [density, features]):
            assert gradient.shape[0] == batch and gradient.eq(0).all()


def only_what_is_asked_for(renderer: RayRenderer, device: str) -> None:
    """Each field and each output differentiated alone."""
    case = _case(device, 30)
    every = ("density", "features")
    full = _gradients(renderer, case, every, DIFFERENTIABLE)
    for field in every:
        (alone,) = _gradients(renderer, case, (field,), DIFFERENTIABLE).values()
        torch.testing.assert_close(alone, full[field], rtol=1e-5, atol=1e-5)
    by_output = [_gradients(renderer, case, every, (name,)) for name in DIFFERENTIABLE]
    for field in every:
        torch.testing.assert_close(torch.stack([g[field] for g in by_output]).sum(0), full[field], rtol=1e-4, atol=1e-4)
    assert not by_output[1]["features"].any(), "the depth does not depend on features"


def _gradients(renderer: RayRenderer, case: RayCase, fields: tuple[str, ...], outputs: tuple[str, ...]) -> dict[str, Tensor]:
    leaves = {name: getattr(case.grid, name).clone().requires_grad_() for name in fields}
    out = renderer.render(case.rays, replace(case.grid, **leaves), case.settings)
    weights = loss_weights(case, torch.ones(case.rays.count))
    loss = torch.stack([(getattr(out, name) * weights[name].to(out.alpha)).sum() for name in outputs]).sum()
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)}


CHECKS = (bad_input, buffers_filled_again, second_derivatives, nothing_to_render, only_what_is_asked_for)
