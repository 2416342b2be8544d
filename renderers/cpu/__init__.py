"""Compiled CPU renderer: every setting of the contract, any number of channels in one pass, exact gradients.

Design, arithmetic and measurements are in README.md beside this file. Semantics: ``renderers.reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from renderers.cpu import images, native
from renderers.cpu.toolchain import BuildError
from renderers.interface import Availability, Cameras, Gaussians, RasterSettings, Renderer, Rendering, SettingNotSupported


@dataclass
class StageTimes:
    """Where the time goes: seconds by stage and counts, summed over the calls since it was made.

    forward, backward  {"project", "sort", "bin", "blend", "reduce": seconds, "visible": Gaussians that touch a view,
                       "pairs": (bin, Gaussian) pairs, "needed_pairs": those with gradient slots, "weights":
                       (pixel, Gaussian) weights that entered the matrix product of the forward pass}
    """

    forward: dict[str, float] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def add(totals: dict[str, float], values: Tensor, names: tuple[str, ...] = native.STAGES + native.COUNTS) -> None:
        """Add an op's numbers, as many as ``names``, to ``totals``."""
        for name, value in zip(names, values.tolist(), strict=True):
            totals[name] = totals.get(name, 0.0) + value


class CpuRenderer(Renderer):
    """Multi-threaded, vectorised C++ op with its own backward pass; float32 on the CPU.

    target  instruction set, one of ``toolchain.targets()``; None: that of OCC_CPU_TARGET, else the widest that the processor has
    times   collects seconds by stage, if given

    Uses ``torch.get_num_threads()`` threads; results and gradients are the same bits for any number of them.
    """

    name = "cpu"

    def __init__(self, target: str | None = None, times: StageTimes | None = None) -> None:
        self.target = target or native.default_target()
        self.times = times
        native.library(self.target)

    @classmethod
    def availability(cls) -> Availability:
        """Compiles the op if that has not been done; a few seconds, once."""
        try:
            native.library(native.default_target())
        except BuildError as error:
            return Availability(False, error.reason, error.remedy)
        except OSError as error:
            return Availability(False, f"the compiled op does not load: {error}", "run `python -m renderers.cpu.build` again")
        return Availability(True)

    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering:
        g = gaussians
        if g.means.device.type != "cpu":
            raise SettingNotSupported("cpu", "device", str(g.means.device), "move the tensors to the CPU or take a GPU renderer")
        if g.means.dtype != torch.float32:
            raise SettingNotSupported("cpu", "dtype", g.means.dtype, "it computes in float32; pass .float() or take 'reference'")
        job = _Job(self.target, self.times, cameras.width, cameras.height, settings)
        views = (cameras.intrinsics, cameras.world_to_camera, visible, cameras.time_index)
        given = (g.means, g.scales, g.quaternions, g.opacities, g.features, settings.background)
        features, depth, alpha = _Splat.apply(job, views, *given)
        if settings.depth == "expected":
            depth = depth / alpha.clamp_min(1e-10)
        return Rendering(features, depth, alpha)


@dataclass(frozen=True)
class _Job:
    """What a call needs besides tensors, which are saved for the backward pass so that PyTorch notices their change."""

    target: str
    times: StageTimes | None
    width: int
    height: int
    settings: RasterSettings


Views = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Intrinsics, world_to_camera, visible, time_index (int64)."""


class _Splat(torch.autograd.Function):
    """(job, views, means, scales, quaternions, opacities, features, background) -> features, depth, alpha [B, V, H, W(, C)]."""

    @staticmethod
    def forward(
        ctx: Any,
        job: _Job,
        views: Views,
        means: Tensor,
        scales: Tensor,
        quaternions: Tensor | None,
        opacities: Tensor,
        features: Tensor,
        background: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape = (*views[0].shape[:2], job.height, job.width)
        outputs = (images.empty(*shape, features.shape[-1]), images.empty(*shape), images.empty(*shape))
        given = (means, scales, quaternions, opacities, features, background, *views)
        inputs = [None if t is None else t.detach().contiguous() for t in given]
        stages = None if job.times is None else torch.zeros(len(native.STAGES + native.COUNTS), dtype=torch.float64)
        call, keep = _call(job, inputs, stages)
        call.out_features, call.out_depth, call.out_alpha = map(native.pointer, outputs)
        kept = native.forward(job.target, call, keep=any(ctx.needs_input_grad[2:7]))
        del keep
        if job.times is not None and stages is not None:
            StageTimes.add(job.times.forward, stages)
        ctx.job = job
        ctx.set_materialize_grads(False)
        transparent = outputs[2] if background is not None and background.requires_grad else None
        inputs[8] = None  # visible: what is kept are those that are
        ctx.save_for_backward(*inputs, transparent, *kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, alpha, kept = ctx.saved_tensors[:10], ctx.saved_tensors[10], ctx.saved_tensors[11:]
        job: _Job = ctx.job
        grad_features, grad_depth, grad_alpha = (None if g is None else g.contiguous() for g in grads)
        if grad_features is None and grad_depth is None and grad_alpha is None:
            return (None,) * 8
        wanted = ctx.needs_input_grad[2:7]
        results = [images.zeros_like(t) if want and t is not None else None for t, want in zip(inputs, wanted, strict=False)]
        stages = None if job.times is None else torch.zeros(len(native.STAGES + native.COUNTS), dtype=torch.float64)
        call, keep = _call(job, inputs, stages)
        call.grad_features, call.grad_depth, call.grad_alpha = map(native.pointer, (grad_features, grad_depth, grad_alpha))
        names = ("grad_means", "grad_scales", "grad_quaternions", "grad_opacities", "grad_payload")
        for name, result in zip(names, results, strict=True):
            setattr(call, name, native.pointer(result))
        if kept:
            native.backward(job.target, call, kept)
        del keep
        if job.times is not None and stages is not None:
            StageTimes.add(job.times.backward, stages)
        behind = None
        if alpha is not None and grad_features is not None:
            behind = torch.einsum("bvhw,bvhwc->c", 1 - alpha, grad_features)
        return None, None, *results, behind


def _call(job: _Job, inputs: Sequence[Tensor | None], stages: Tensor | None) -> tuple[native.Call, list[Tensor | None]]:
    """The call's structure without outputs, and the tensors that must outlive it."""
    means, scales, _, _, features, _, intrinsics, *_ = inputs
    assert means is not None and scales is not None and features is not None and intrinsics is not None
    s = job.settings
    keep = [*inputs, stages]
    call = native.Call()
    call.batch, call.views, call.count, call.features = *intrinsics.shape[:2], means.shape[-2], features.shape[-1]
    call.times = means.shape[1] if means.dim() == 4 else 0
    call.width, call.height, call.scale_columns = job.width, job.height, scales.shape[-1]
    for name in ("near", "far", "low_pass", "alpha_min", "alpha_max", "transmittance_min"):
        setattr(call.settings, name, float(getattr(s, name)))
    call.settings.tile_size = int(s.tile_size)
    call.settings.tile3sigma = s.extent == "tile3sigma"
    call.settings.principal_clamp = s.clamp == "principal"
    call.settings.clamp_gradient = s.clamp_gradient
    call.settings.legacy_fov_y = s.legacy_fov_y
    names = "means scales quaternions opacities payload background intrinsics world_to_camera visible time_index stages"
    for name, tensor in zip(names.split(), keep, strict=True):
        setattr(call, name, native.pointer(tensor))
    return call, keep
