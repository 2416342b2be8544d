"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, eq. 2-3), the sampling step only.

out[b, q, h] = sum over levels l and points p of weights[b, q, h, l, p] * bilinear(value_l[b, :, h], location), where a
location (x, y) in 0..1 falls on pixel (x * W_l - 0.5, y * H_l - 0.5) and everything outside the map is zero. Projections,
offsets and softmax are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numba
import torch
import torch.nn.functional as F
from torch import Tensor

from renderers.interface import first_derivative_only

Shapes = Sequence[tuple[int, int]]


def deformable_attention(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, backend: str | None = None) -> Tensor:
    """Weighted bilinear samples of multi-level values.

    value      [B, S, H, D], the levels' pixels row by row, one level after the other; S = sum of h * w over ``shapes``
    shapes     (height, width) of each of the L levels
    locations  [B, Q, H, L, P, 2] (x, y), 0..1 inside the map
    weights    [B, Q, H, L, P]
    backend    "mmcv" (its CUDA op), "numba" (compiled CPU loops) or "grid_sample" (PyTorch, any device); None takes
               the fastest that runs on the tensors' device

    Returns [B, Q, H * D]. Raises ValueError for shapes that do not fit together or a backend that cannot run here.
    """
    _check(value, shapes, locations, weights)
    name = backend or _fastest(value)
    if name not in _BACKENDS:
        raise ValueError(f"unknown deformable attention backend '{name}' (known: {', '.join(_BACKENDS)})")
    return _BACKENDS[name](value, shapes, locations, weights)


def _check(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> None:
    pixels = sum(h * w for h, w in shapes)
    if value.dim() != 4 or value.shape[1] != pixels:
        raise ValueError(f"value must be [B, {pixels}, heads, D] for levels {list(shapes)}, got {list(value.shape)}")
    batch, _, heads, _ = value.shape
    tail = [heads, len(shapes), *locations.shape[4:]]
    if locations.dim() != 6 or locations.shape[-1] != 2 or list(locations.shape[2:]) != tail or len(locations) != batch:
        raise ValueError(f"locations must be [{batch}, Q, {heads}, {len(shapes)}, points, 2], got {list(locations.shape)}")
    if weights.shape != locations.shape[:-1]:
        raise ValueError(f"weights must be {list(locations.shape[:-1])}, got {list(weights.shape)}")


def _fastest(value: Tensor) -> str:
    if value.device.type == "cpu" and value.dtype in (torch.float32, torch.float64):
        return "numba"
    if value.is_cuda and _mmcv_runs_on_cuda():
        return "mmcv"
    return "grid_sample"


@cache
def _mmcv_runs_on_cuda() -> bool:
    """Whether mmcv was built with its CUDA op (its CPU build has no deformable attention at all)."""
    try:
        device = torch.device("cuda", torch.cuda.current_device())
        _mmcv(
            torch.zeros(1, 1, 1, 8, device=device),
            [(1, 1)],
            torch.zeros(1, 1, 1, 1, 1, 2, device=device),
            torch.zeros(1, 1, 1, 1, 1, device=device),
        )
    except (ImportError, RuntimeError):
        return False
    return True


def _mmcv(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    if not value.is_cuda:
        raise ValueError(f"mmcv's deformable attention runs on CUDA only, the values are on {value.device}")
    sizes = torch.tensor(shapes, dtype=torch.long, device=value.device)
    starts = torch.tensor(_starts(shapes), dtype=torch.long, device=value.device)
    # mmcv splits the batch into equal steps, so the step must divide it.
    step = max(s for s in range(1, min(64, len(value)) + 1) if len(value) % s == 0)
    out = MultiScaleDeformableAttnFunction.apply(
        value.contiguous(), sizes, starts, locations.contiguous(), weights.contiguous(), step
    )
    return first_derivative_only(out, "deformable attention backend 'mmcv'", "take 'grid_sample'")


def _starts(shapes: Shapes) -> list[int]:
    starts = [0]
    for h, w in shapes[:-1]:
        starts.append(starts[-1] + h * w)
    return starts


def _grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    total = value.new_zeros(batch * heads, dim, queries)
    for level, pixels in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        h, w = shapes[level]
        maps = pixels.permute(0, 2, 3, 1).reshape(batch * heads, dim, h, w)
        grid = locations[:, :, :, level].permute(0, 2, 1, 3, 4).reshape(batch * heads, queries, points, 2) * 2 - 1
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = weights[:, :, :, level].permute(0, 2, 1, 3).reshape(batch * heads, 1, queries, points)
        total = total + (samples * share).sum(dim=-1)
    return total.reshape(batch, heads * dim, queries).transpose(1, 2)


class _Numba(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        from baselines.ops import _msda_numba

        value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
        ctx.save_for_backward(value, shapes, starts, locations, weights)
        out = value.new_zeros(value.shape[0], locations.shape[1], value.shape[2], value.shape[3])
        _with_torch_threads(_msda_numba.forward, value, shapes, starts, locations, weights, out)
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from baselines.ops import _msda_numba

        value, shapes, starts, locations, weights = ctx.saved_tensors
        grads = torch.zeros_like(value), torch.zeros_like(locations), torch.zeros_like(weights)
        grad = grad.contiguous().view(value.shape[0], locations.shape[1], value.shape[2], value.shape[3])
        _with_torch_threads(_msda_numba.backward, value, shapes, starts, locations, weights, grad, *grads)
        return grads[0], None, None, grads[1], grads[2]


def _with_torch_threads(kernel: Callable[..., None], *tensors: Tensor) -> None:
    """Run a numba kernel on as many threads as PyTorch may use."""
    threads = torch.get_num_threads()
    before = numba.get_num_threads()  # the first time this starts numba's threads, as many as cores, and OpenMP's with them
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
    try:
        kernel(*(t.detach().numpy() for t in tensors))
    finally:
        numba.set_num_threads(before)


def _numba(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    if value.device.type != "cpu":
        raise ValueError(f"the numba deformable attention runs on the CPU only, the values are on {value.device}")
    sizes, starts = torch.tensor(shapes, dtype=torch.long), torch.tensor(_starts(shapes), dtype=torch.long)
    out = _Numba.apply(value, sizes, starts, locations.to(value.dtype), weights.to(value.dtype))
    return first_derivative_only(out, "deformable attention backend 'numba'", "take 'grid_sample'")


_BACKENDS: dict[str, Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]] = {
    "mmcv": _mmcv,
    "numba": _numba,
    "grid_sample": _grid_sample,
}
