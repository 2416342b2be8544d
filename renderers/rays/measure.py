"""Time, memory and agreement of one ray backend on one workload, in this process; as ``renderers.measure`` does for splats.

Agreement: of rays drawn with a fixed seed, against the reference renderer in float64 (``renderers.rays.conformance``).
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import torch

from renderers import registry
from renderers.cpu import StageTimes
from renderers.measure import PeakMemory, Result, Round, medians, now, repeated
from renderers.rays.cases import RayCase
from renderers.rays.conformance import differentiated, loss_weights, undecided
from renderers.rays.cpu import CpuRayRenderer, native
from renderers.rays.interface import RayRenderer
from renderers.rays.reference import ReferenceRayRenderer
from renderers.workloads import RayWorkload, Source

COMPARED = 1024  # rays


def measure(name: str, workload: RayWorkload, source: Source, device: str, repeat: int | None) -> Result:
    """All of it for the backend ``name``; repeat: repetitions, None for as many as fit into some seconds."""
    renderer = registry.get(name, "rays")
    scene = workload.build(source)
    case = scene.case.to(device)
    step = _Step(renderer, case, device)
    peak = PeakMemory(device)
    step.run()
    peak_mb = peak.megabytes()
    times = StageTimes() if isinstance(renderer, CpuRayRenderer) else None
    if isinstance(renderer, CpuRayRenderer):
        renderer.times = times
    forward, backward, rounds = repeated(step.run, repeat, times)
    errors, cosines, compared, left_out = agreement(renderer, scene.case, device)
    return Result(
        "measured",
        forward_ms=statistics.median(forward),
        forward_range_ms=(min(forward), max(forward)),
        backward_ms=statistics.median(backward),
        backward_range_ms=(min(backward), max(backward)),
        repeats=len(forward),
        peak_mb=peak_mb,
        max_abs_error=max(errors[key] for key in ("features", "alpha", "depth")),
        grad_cosine=min(cosines.values()),
        errors=errors,
        cosines=cosines,
        pixels=compared,
        undecided=left_out,
        scene=_facts(case, scene.label),
        stages=_stages(rounds, case.grid.channels) if rounds else None,
    )


def _facts(case: RayCase, label: str) -> dict[str, Any]:
    return {
        "rays": case.rays.count,
        "samples": len(case.settings.sampler.distances()),
        "grid": "x".join(map(str, case.grid.density.shape[1:])),
        "channels": case.grid.channels,
        "label": label,
    }


class _Step:
    """One forward and backward pass; holds the inputs and the gradients of features, depth and transmittance."""

    def __init__(self, renderer: RayRenderer, case: RayCase, device: str) -> None:
        self._renderer, self._case, self._device = renderer, case, device
        self._leaves = [getattr(case.grid, name).detach().requires_grad_() for name in ("density", "features")]
        like, r = case.grid.density, case.rays.count
        self._gradients = [like.new_full((r, case.grid.channels), 0.1), like.new_ones(r), like.new_ones(r)]

    def run(self) -> tuple[float, float]:
        """Milliseconds of the forward and the backward pass."""
        start = now(self._device)
        density, features = self._leaves
        out = self._renderer.render(
            self._case.rays, replace(self._case.grid, density=density, features=features), self._case.settings
        )
        middle = now(self._device)
        torch.autograd.grad([out.features, out.depth, out.transmittance], self._leaves, self._gradients)
        return 1e3 * (middle - start), 1e3 * (now(self._device) - middle)


def agreement(renderer: RayRenderer, case: RayCase, device: str) -> tuple[dict[str, float], dict[str, float], int, float]:
    """Errors of features, alpha, depth (as a part of the largest) and of gradients (relative to their largest entry), cosines of
    gradients, rays compared, and the share left out.

    All rays are rendered by the backend in one call, and their loss counts the compared ones alone.
    """
    drawn = torch.randperm(case.rays.count, generator=torch.Generator().manual_seed(7))[:COMPARED]
    few = case.part(drawn)
    close = undecided(few)
    weights = loss_weights(few, ~close)
    right, right_gradients = differentiated(ReferenceRayRenderer(), few.to(dtype=torch.float64), weights)
    everywhere = loss_weights(case, torch.zeros(case.rays.count))
    for name, weight in weights.items():
        everywhere[name][drawn] = weight
    ours, gradients = differentiated(renderer, case.to(device), everywhere)

    def error(name: str) -> float:
        difference = (getattr(ours, name)[drawn] - getattr(right, name))[~close]
        largest = float(right.depth.abs().max()) if name == "depth" else 1.0
        return float(difference.abs().max()) / max(largest, 1.0)

    errors = {name: error(name) for name in ("features", "alpha", "depth")}
    cosines = {}
    for name, gradient in right_gradients.items():
        errors[f"gradient of {name}"] = float((gradients[name] - gradient).abs().max() / gradient.abs().max())
        cosines[name] = float(torch.nn.functional.cosine_similarity(gradients[name].flatten(), gradient.flatten(), dim=0))
    return errors, cosines, int((~close).sum()), float(close.double().mean())


def _stages(rounds: list[Round], channels: int) -> dict[str, Any]:
    """Medians in ms by stage, counts, and the rates of a forward pass: 16 flop a cell and channel, density included (``blend_``
    as for splats), and the bytes of voxels that are read."""
    found = medians(rounds, native.STAGES)
    there, back = rounds[0]
    found["counts"] = {name: int(there.get(name, 0)) for name in native.COUNTS[:2]} | {"records": int(back.get("records", 0))}
    cells, samples = there.get("cells", 0.0), there.get("samples", 0.0)
    found["blend_gflop"] = 16 * (cells * channels + samples) / 1e9
    found["read_gb"] = 32 * cells * (channels + 1) / 1e9
    if found["forward_ms"].get("march"):
        found["blend_gflops"] = 1e3 * found["blend_gflop"] / found["forward_ms"]["march"]
        found["read_gbs"] = 1e3 * found["read_gb"] / found["forward_ms"]["march"]
    return found
