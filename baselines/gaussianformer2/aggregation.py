"""From Gaussians to voxels: GaussianFormer-2's probabilistic superposition (arXiv:2412.04384, section 3.2), and its gradients.

Reproduces ``huang-yh/GaussianFormer`` model/head/gaussian_head.py:82-126 and model/head/localagg_prob. With x the centre of a
voxel, and Gaussians that reach it (``reach_of``),

    g_i = exp(-(x - m_i)' Sigma_i^-1 (x - m_i) / 2)          occupied = 1 - prod_i (1 - g_i)
    w_i = o_i (2 pi)^-3/2 det(Sigma_i)^-1/2                  classes  = sum_i w_i g_i softmax(c_i) / sum_i w_i g_i

so that opacities weigh classes alone. Where the last sum is at most ``FAINTEST`` all classes are alike.

The product and the sums are made by a compiled op on the CPU in float32, slice by slice (aggregation.cpp), and elsewhere by
PyTorch, some Gaussians at a time. 12,800 Gaussians at the middle of the published scales, which reach 13 voxels to every side of
their own, take 0.73 s forward and 1.06 s backward on 200 x 200 x 16 voxels with 17 classes, of one core of an AMD EPYC with AVX2.
g is computed as ``baselines.gaussianflowocc.voxelise`` does, from offsets in own axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.gaussianflowocc.lanes import (
    HEADERS,
    LEAST_SCALE,
    PLACES,
    GaussianOp,
    base_voxels,
    check_gaussians,
    compiled,
    own_axes,
    padded,
    voxel_centres,
)
from baselines.interface import OccupancyGrid
from renderers.cpu import images
from renderers.cpu.toolchain import Op
from renderers.interface import first_derivative_only

FAINTEST = 1e-9
FARTHEST = 1 << 20  # voxels; further than any grid is wide
OP = GaussianOp(
    "class_probabilities",
    Op("superposition", Path(__file__).parent, ("aggregation.cpp", *HEADERS)),
    tensors=(
        *("means", "axes", "rows", "reach", *PLACES, "clear", "sums"),
        *("grad_clear", "grad_sums", "grad_means", "grad_axes", "grad_rows"),
    ),
)
PAIRS = 1 << 20  # of a Gaussian and a voxel that PyTorch holds at a time


def class_probabilities(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    logits: Tensor,
    grid: OccupancyGrid,
    multiplier: float,
) -> tuple[Tensor, Tensor]:
    """classes [X, Y, Z, K], which sum to one, of what is there if the voxel is occupied, and empty [X, Y, Z] in 0..1.

    means        [N, 3] m, in the grid's frame
    quaternions  [N, 4] (w, x, y, z), any length but zero
    scales       [N, 3] m, standard deviations along the Gaussians' own axes, not negative; those below ``LEAST_SCALE`` count as
                 that and get no gradient
    opacities    [N] not negative
    logits       [N, K]
    multiplier   of the largest scale, see ``reach_of``

    Differentiable once in the first five. Raises ValueError naming what is wrong.
    """
    check_gaussians(means, quaternions, scales, opacities, logits=logits)
    if not multiplier > 0:
        raise ValueError(f"multiplier must be positive, got {multiplier}")
    weights = opacities * (2 * math.pi) ** -1.5 / scales.clamp_min(LEAST_SCALE).prod(dim=-1)
    rows = torch.cat([weights[:, None] * logits.softmax(dim=-1), weights[:, None]], dim=-1)
    reach = reach_of(scales.detach(), multiplier, grid)
    empty, sums = superposed(means, own_axes(quaternions, scales), rows, grid, reach)
    total = sums[..., -1:]
    heard = total > FAINTEST
    classes = torch.where(heard, sums[..., :-1] / torch.where(heard, total, 1), 1 / logits.shape[-1])
    return classes, empty


def reach_of(scales: Tensor, multiplier: float, grid: OccupancyGrid) -> Tensor:
    """[N] int32: how many voxels from that of its mean, on each axis, a Gaussian with ``scales`` [N, 3] reaches; at least 1."""
    return (scales.amax(dim=-1) * multiplier / grid.voxel_size).ceil().clamp(1, FARTHEST).int()


def farthest(reach: Tensor) -> int:
    """The largest of them, 0 of none."""
    return int(reach.max()) if len(reach) else 0


def superposed(means: Tensor, axes: Tensor, rows: Tensor, grid: OccupancyGrid, reach: Tensor) -> tuple[Tensor, Tensor]:
    """prod (1 - g) [X, Y, Z] and sum of g rows [X, Y, Z, K].

    means  [N, 3] m
    axes   [N, 3, 3] of ``baselines.gaussianflowocc.lanes.own_axes``
    rows   [N, K]
    reach  [N] int32 of ``reach_of``

    Differentiable once in the first three. float32 on the CPU: the compiled op, the same bits for any number of threads.
    Otherwise PyTorch, whose additions on a GPU have no fixed order unless ``torch.use_deterministic_algorithms`` asks for one.
    """
    instead = "superpose Gaussians in plain PyTorch"
    clear, sums = _Superpose.apply(grid, reach, means, axes, rows)
    return first_derivative_only(clear, "superposed", instead), first_derivative_only(sums, "superposed", instead)


class _Superpose(torch.autograd.Function):
    """(grid, reach, means, axes, rows [N, K]) -> prod (1 - g) [X, Y, Z], sum of g rows [X, Y, Z, K]."""

    @staticmethod
    def forward(ctx: Any, grid: OccupancyGrid, reach: Tensor, means: Tensor, axes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        inputs = tuple(t.detach().contiguous() for t in (means, axes, rows))
        clear, sums = (_op_forward if compiled(means) else _torch_forward)(grid, reach, *inputs)
        ctx.grid = grid
        ctx.save_for_backward(reach, *inputs, clear)
        return clear, sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        reach, means, axes, rows, clear = ctx.saved_tensors
        grad_clear, grad_sums = (grad.contiguous() for grad in grads)
        backward = _op_backward if compiled(means) else _torch_backward
        return None, None, *backward(ctx.grid, reach, means, axes, rows, grad_clear * clear, grad_sums)


# --- PyTorch -----------------------------------------------------------------------------------------------------------


def _windows(
    grid: OccupancyGrid, reach: Tensor, means: Tensor, axes: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Some Gaussians at a time, of one reach: which [n], voxels [n, M] (flat index), d [n, M, 3], y [n, M, 3] and g [n, M]. A
    window is moved into the grid as a whole, or cut to it, and g is zero where the Gaussian does not reach."""
    base, centres = base_voxels(grid, farthest(reach), means).long(), voxel_centres(grid, means)
    for own in reach.unique().tolist():
        sizes = [min(2 * own + 1, n) for n in grid.shape]
        at_once = max(1, PAIRS // math.prod(sizes))
        for which in (reach == own).nonzero()[:, 0].split(at_once):
            index = []
            for axis, (size, n) in enumerate(zip(sizes, grid.shape, strict=True)):
                start = (base[which, axis] - own).clamp(0, n - size)
                index.append(start[:, None] + torch.arange(size, device=means.device))
            inside = [(i - base[which, axis, None]).abs() <= own for axis, i in enumerate(index)]
            offsets = [c[i] - means[which, axis, None] for axis, (c, i) in enumerate(zip(centres, index, strict=True))]
            d = torch.stack(_outer(*offsets), dim=-1).flatten(1, 3)
            y = d @ axes[which].mT
            reached = torch.stack(_outer(*inside)).all(dim=0).flatten(1)
            g = (-0.5 * y.square().sum(-1)).exp() * reached
            i, j, k = _outer(*index)
            yield which, ((i * grid.shape[1] + j) * grid.shape[2] + k).flatten(1), d, y, g


def _outer(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    """[n, X], [n, Y] and [n, Z], each as [n, X, Y, Z]."""
    return torch.broadcast_tensors(x[:, :, None, None], y[:, None, :, None], z[:, None, None, :])


def _torch_forward(grid: OccupancyGrid, reach: Tensor, means: Tensor, axes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    voxels = math.prod(grid.shape)
    logarithm, sums = means.new_zeros(voxels), means.new_zeros(voxels, rows.shape[1])
    for which, voxel, _, _, g in _windows(grid, reach, means, axes):
        logarithm.index_add_(0, voxel.flatten(), (-g).log1p().flatten())
        sums.index_add_(0, voxel.flatten(), (g[..., None] * rows[which, None]).flatten(0, 1))
    return logarithm.exp().view(grid.shape), sums.view(*grid.shape, -1)


def _torch_backward(
    grid: OccupancyGrid, reach: Tensor, means: Tensor, axes: Tensor, rows: Tensor, grad_clear: Tensor, grad_sums: Tensor
) -> tuple[Tensor, ...]:
    """``grad_clear`` is that of the product's logarithm."""
    grad_means, grad_axes, grad_rows = (torch.zeros_like(t) for t in (means, axes, rows))
    flat, cells = grad_clear.flatten(), grad_sums.flatten(0, 2)
    for which, voxel, d, y, g in _windows(grid, reach, means, axes):
        cell = cells[voxel]
        grad_rows[which] = (g[:, None] @ cell)[:, 0]
        rest = 1 - g
        fall = torch.where(rest > 0, flat[voxel] / rest, 0)
        hy = (g * ((cell @ rows[which, :, None])[..., 0] - fall))[..., None] * y
        grad_means[which] = (hy @ axes[which]).sum(1)
        grad_axes[which] = -(hy.mT @ d)
    return grad_means, grad_axes, grad_rows


# --- compiled ----------------------------------------------------------------------------------------------------------


def _op_forward(grid: OccupancyGrid, reach: Tensor, means: Tensor, axes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    outputs = images.empty(*grid.shape), images.empty(*grid.shape, rows.shape[1])
    tensors = {"means": means, "axes": axes, "rows": padded(rows)} | dict(zip(("clear", "sums"), outputs, strict=True))
    OP.call("occ_superpose_forward", grid, farthest(reach), rows.shape[1], tensors | {"reach": reach})
    return outputs


def _op_backward(
    grid: OccupancyGrid, reach: Tensor, means: Tensor, axes: Tensor, rows: Tensor, grad_clear: Tensor, grad_sums: Tensor
) -> tuple[Tensor, ...]:
    """``grad_clear`` is that of the product's logarithm."""
    tensors = {"means": means, "axes": axes, "rows": padded(rows)}
    results = {f"grad_{name}": torch.empty_like(value) for name, value in tensors.items()}
    grads = {"grad_clear": grad_clear, "grad_sums": padded(grad_sums)}
    OP.call("occ_superpose_backward", grid, farthest(reach), rows.shape[1], tensors | grads | results | {"reach": reach})
    results["grad_rows"] = results["grad_rows"][:, : rows.shape[1]]
    return tuple(results.values())
