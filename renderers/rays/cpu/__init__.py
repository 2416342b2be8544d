"""Compiled CPU renderer of rays: every setting of the contract, any number of channels, exact gradients.

Design, arithmetic and measurements are in ../README.md. Semantics: ``renderers.rays.reference``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from renderers.cpu import CpuRenderer, StageTimes
from renderers.cpu.native import default_target, pointer
from renderers.cpu.toolchain import BuildError
from renderers.interface import Availability, SettingNotSupported
from renderers.rays.cpu import native
from renderers.rays.interface import GridField, RayRenderer, RayRendering, Rays, RaySettings


class CpuRayRenderer(RayRenderer):
    """Multi-threaded, vectorised C++ op with its own backward pass; float32 on the CPU.

    target  instruction set, one of ``renderers.cpu.toolchain.targets()``; None: that of OCC_CPU_TARGET, else the widest that the
            processor has
    times   collects seconds by stage ("march", "scatter") and counts ("samples", "cells", "records"), if given

    Uses ``torch.get_num_threads()`` threads; results and gradients are the same bits for any number of them.
    """

    name = "cpu"

    def __init__(self, target: str | None = None, times: StageTimes | None = None) -> None:
        self.target = target or default_target()
        self.times = times
        native.library(self.target)

    @classmethod
    def availability(cls) -> Availability:
        """Compiles the op if that has not been done; a few seconds, once."""
        state = CpuRenderer.availability()  # whose op says what this processor can run
        if not state:
            return state
        try:
            native.library(default_target())
        except BuildError as error:
            return Availability(False, error.reason, error.remedy)
        except OSError as error:
            return Availability(False, f"the compiled op does not load: {error}", "run `python -m renderers.cpu.build` again")
        return Availability(True)

    def _render(self, rays: Rays, grid: GridField, settings: RaySettings) -> RayRendering:
        device, dtype = grid.density.device, grid.density.dtype
        if device.type != "cpu":
            raise SettingNotSupported("cpu", "device", str(device), "move the tensors to the CPU or take 'reference'")
        if dtype != torch.float32:
            raise SettingNotSupported("cpu", "dtype", dtype, "it computes in float32; pass .float() or take 'reference'")
        job = _Job(self.target, self.times, rays, grid, settings)
        return RayRendering(*_March.apply(job, grid.density, grid.features))


@dataclass(frozen=True)
class _Job:
    """What a call needs besides the tensors that are saved for the backward pass; the rays are the renderer's own copies."""

    target: str
    times: StageTimes | None
    rays: Rays
    grid: GridField
    settings: RaySettings


class _March(torch.autograd.Function):
    """(job, density, features) -> the fields of ``RayRendering``."""

    @staticmethod
    def forward(ctx: Any, job: _Job, density: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        r = job.rays.count
        sums = [torch.empty(r, features.shape[-1]), *(torch.empty(r) for _ in native.OUTPUTS[1:])]
        samples = torch.empty(r, dtype=torch.int64)
        inputs = [density.detach().contiguous(), features.detach().contiguous()]
        call, keep = _call(job, *inputs)
        for name, out in zip((*native.OUTPUTS, "samples"), (*sums, samples), strict=True):
            setattr(call, f"out_{name}", pointer(out))
        native.forward(job.target, call)
        _note(job, keep, "forward")
        ctx.job = job
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(samples)
        ctx.save_for_backward(*inputs)
        return *sums, samples

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, job = ctx.saved_tensors, ctx.job
        given = [None if g is None else g.contiguous() for g in grads[:-1]]
        if all(g is None for g in given):
            return None, None, None
        wanted = ctx.needs_input_grad[1:]
        results = [torch.zeros_like(t) if want else None for t, want in zip(inputs, wanted, strict=True)]
        call, keep = _call(job, *inputs)
        for name, gradient in zip(native.OUTPUTS, given, strict=True):
            setattr(call, f"grad_out_{name}", pointer(gradient))
        # Without a gradient of the rendered features those of the grid have none.
        call.grad_density = pointer(results[0])
        call.grad_features = pointer(results[1]) if given[0] is not None else None
        if call.grad_density or call.grad_features:
            native.backward(job.target, call)
        _note(job, keep, "backward")
        return None, *results


def _call(job: _Job, density: Tensor, features: Tensor) -> tuple[native.Call, dict[str, Tensor | None]]:
    """The call's structure without outputs, and the tensors that must outlive it."""
    rays = job.rays
    call = native.Call()
    call.rays, call.batch, call.channels = rays.count, density.shape[0], features.shape[-1]
    call.size[:] = density.shape[1:]
    native.describe(call, job.settings, job.grid)
    keep: dict[str, Tensor | None] = {
        "distances": job.settings.sampler.distances(),
        "origins": rays.origins,
        "directions": rays.directions,
        "offsets": rays.offsets,
        "cosines": rays.cosines,
        "scene": rays.scene,
        "density": density,
        "features": features,
        "stages": None if job.times is None else torch.zeros(len(native.STAGES + native.COUNTS), dtype=torch.float64),
    }
    for name, tensor in keep.items():
        setattr(call, name, pointer(tensor))
    assert keep["distances"] is not None
    call.samples = len(keep["distances"])
    return call, keep


def _note(job: _Job, keep: dict[str, Tensor | None], way: str) -> None:
    stages = keep["stages"]
    if job.times is not None and stages is not None:
        StageTimes.add(getattr(job.times, way), stages, native.STAGES + native.COUNTS)
