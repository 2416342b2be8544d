"""The check of any ray backend against ``reference`` in double precision, output by output and gradient by gradient.

    for name in RAY_CASES:
        assert (result := check(renderer, RAY_CASES[name]())).ok, str(result)

Rays whose value hangs on a decision that float32 rounding can turn either way (a transmittance against its stop, a weight against
its threshold) are left out; their share is reported and bounded.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from renderers.conformance import MOST_UNDECIDED, TOLERANCE, Comparison, Difference, Tolerance, gradient_differences, largest
from renderers.rays.cases import RAY_CASES, RayCase, RayRejection, ray_rejections
from renderers.rays.interface import DIFFERENTIABLE, RayRenderer, RayRendering
from renderers.rays.reference import ReferenceRayRenderer, chunks, densities, march, place
from renderers.rays.samplers import SkipAccumulated, SkipPerAxis

__all__ = ["RAY_CASES", "RayCase", "RayRejection", "check", "differentiated", "loss_weights", "ray_rejections", "undecided"]

SLACK = 1e-4  # relative, how far float32 can be off in a transmittance or a weight
WAY_SLACK = 1e-9  # relative, double precision in positions
FIELDS = ("density", "features")


def check(
    renderer: RayRenderer,
    case: RayCase,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tolerance: Tolerance = TOLERANCE,
) -> Comparison:
    """Render ``case`` with ``renderer`` and with ``reference`` in float64, and compare all that comes out.

    Metres are compared as a part of the largest distance of a sample, or of its square; the gradients are those of a fixed random
    weighting of all outputs. Rays known without a renderer are compared too.
    """
    close = undecided(case)
    weights = loss_weights(case, ~close)
    ours, our_gradients = differentiated(renderer, case.to(device, dtype), weights)
    right, right_gradients = differentiated(ReferenceRayRenderer(), case.to(dtype=torch.float64), weights)
    found = []
    # Without a threshold, how many weights are more than 0 is a matter of the smallest number that there is.
    for name in (*DIFFERENTIABLE, "samples") if case.settings.weight_min > 0 else DIFFERENTIABLE:
        value, expected = getattr(ours, name)[~close], getattr(right, name)[~close]
        far = max(1.0, largest(expected)) if name in ("depth", "spaced_squares", "spread") else 1.0
        bound = {"features": tolerance.features, "depth": tolerance.depth, "samples": 0.0}.get(name, tolerance.alpha)
        found.append(Difference(name, largest(value - expected) / far, bound))
    found += gradient_differences(our_gradients, right_gradients, tolerance)
    for ray in case.known:
        known = torch.tensor([*ray.features, ray.depth, ray.alpha, ray.transmittance], dtype=torch.float64)
        sums = [getattr(ours, name)[ray.ray][None] for name in ("depth", "alpha", "transmittance")]
        found.append(Difference(f"ray {ray.ray}", largest(torch.cat([ours.features[ray.ray], *sums]) - known), 1e-5))
    share = float(close.double().mean()) if close.numel() else 0.0
    found.append(Difference("undecided rays", share, MOST_UNDECIDED))
    return Comparison(case.name, renderer.name, {}, share, tuple(found))


@torch.no_grad()
def undecided(case: RayCase) -> Tensor:
    """[R] bool: rays in which float32 may decide otherwise than float64, and so differ by more than rounding."""
    double = case.to(dtype=torch.float64)
    parts = []
    for rays in chunks(double.rays, double.settings) if double.rays.count else []:
        samples = place(rays, double.settings)
        density = densities(samples, rays, double.grid)
        decided = march(samples, density, double.settings).decisions
        close = torch.zeros(rays.count, dtype=torch.bool)
        for sign in (-1, 1):
            s, part, way = double.settings, 1 + sign * SLACK, 1 + sign * WAY_SLACK
            limits = {name: getattr(s, name) * part for name in ("alpha_min", "weight_min", "transmittance_min")}
            skip = s.skip
            if isinstance(skip, SkipAccumulated):
                skip = SkipAccumulated(skip.distance * way)
            elif isinstance(skip, SkipPerAxis):
                skip = SkipPerAxis(tuple(v * way for v in skip.distances))  # type: ignore[arg-type]
            other = s.with_(**limits, skip=skip)
            moved = place(rays, other)
            close |= (march(moved, density * (1 + sign * 1e-6), other).decisions != decided).any(1)
        parts.append(close)
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)


def loss_weights(case: RayCase, counted: Tensor) -> dict[str, Tensor]:
    """What each output counts for in the loss whose gradients are compared (float64): random, zero where not counted [R]."""
    generator = torch.Generator().manual_seed(20240817)
    scales = {"depth": 0.1, "spaced_squares": 1e-3, "spread": 1e-2}
    weights = {}
    for name in DIFFERENTIABLE:
        shape = (case.rays.count, case.grid.channels) if name == "features" else (case.rays.count,)
        drawn = scales.get(name, 1.0) * torch.randn(shape, generator=generator, dtype=torch.float64)
        weights[name] = drawn * counted.double().reshape(-1, *(1,) * (len(shape) - 1))
    return weights


def differentiated(renderer: RayRenderer, case: RayCase, weights: dict[str, Tensor]) -> tuple[RayRendering, dict[str, Tensor]]:
    """The rendering and the gradients of its weighted sum, both as float64 on the CPU."""
    leaves = {name: getattr(case.grid, name).detach().clone().requires_grad_() for name in FIELDS}
    out = renderer.render(case.rays, replace(case.grid, **leaves), case.settings)
    loss = torch.stack([(getattr(out, n) * w.to(out.alpha)).sum() for n, w in weights.items()]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    double = RayRendering(*(getattr(out, n).detach().double().cpu() for n in (*DIFFERENTIABLE, "samples")))
    return double, {name: g.double().cpu() for name, g in zip(leaves, gradients, strict=True)}
