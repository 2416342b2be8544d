"""Gaussians into voxels: GaussianFlowOcc's sums over the voxels around each Gaussian, and their gradients.

The published code (``boschresearch/GaussianFlowOcc`` mmdet3d/models/gaussianflowocc_modules/gaussians.py:203-231, 303-319) takes
the voxel of a Gaussian's mean and those up to a neighbourhood of 4 away on each axis, as far as the grid goes, weighs their
centres by g = exp(-d' Sigma^-1 d / 2) and scatters 729 rows a Gaussian. Here nothing of that size is ever held: on the CPU in
float32 a compiled op adds them up slice by slice (voxelise.cpp), elsewhere PyTorch does, one column of neighbours at a time.

g is computed from y = S^-1 R' d, the offset in the Gaussian's own axes counted in deviations: Sigma^-1 itself would cancel where
a Gaussian is thin.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.gaussianflowocc.lanes import (
    HEADERS,
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

OP = GaussianOp(
    "voxelise",
    Op("voxels", Path(__file__).parent, ("voxelise.cpp", *HEADERS)),
    numbers=("neighbourhood",),
    tensors=(
        *("means", "axes", "opacities", "features", *PLACES, "occupancy", "semantics"),
        *("grad_occupancy", "grad_semantics", "grad_means", "grad_axes", "grad_opacities", "grad_features"),
    ),
)


def voxelise(
    means: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    grid: OccupancyGrid,
    neighbourhood: int = 4,
) -> tuple[Tensor, Tensor]:
    """occupancy [X, Y, Z] = sum of o_i g_i, not clamped, and semantics [X, Y, Z, K] = sum of f_i g_i, which o does not weigh.

    means         [N, 3] m, in the grid's frame; outside of the grid they count as far as their neighbourhood reaches into it
    quaternions   [N, 4] (w, x, y, z), any length but zero
    scales        [N, 3] m, standard deviations along the Gaussians' own axes, not negative. Those below ``LEAST_SCALE`` count as
                  that and get no gradient
    opacities     [N]
    features      [N, K]
    neighbourhood how many voxels from that of the mean, on each axis, belong to a Gaussian; 0: that one alone

    Differentiable once in all five. float32 on the CPU: the compiled op, the same bits for any number of threads. Otherwise
    PyTorch, whose additions on a GPU have no fixed order unless ``torch.use_deterministic_algorithms`` asks for one. A weight
    below 2^-126 is taken for zero by the op. Raises ValueError naming the argument that cannot be voxelised.
    """
    if neighbourhood < 0:
        raise ValueError(f"neighbourhood must be 0 or more voxels, got {neighbourhood}")
    check_gaussians(means, quaternions, scales, opacities, features=features)
    axes = own_axes(quaternions, scales)
    occupancy, semantics = _Voxelise.apply(grid, neighbourhood, means, axes, opacities, features)
    instead = "sum over the voxels in plain PyTorch"
    return first_derivative_only(occupancy, "voxelise", instead), first_derivative_only(semantics, "voxelise", instead)


class _Voxelise(torch.autograd.Function):
    """(grid, neighbourhood, means, axes, opacities, features) -> occupancy, semantics."""

    @staticmethod
    def forward(
        ctx: Any, grid: OccupancyGrid, neighbourhood: int, means: Tensor, axes: Tensor, opacities: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = tuple(t.detach().contiguous() for t in (means, axes, opacities, features))
        ctx.grid, ctx.neighbourhood = grid, neighbourhood
        ctx.save_for_backward(*inputs)
        if compiled(means):
            return _op_forward(grid, neighbourhood, *inputs)
        return _torch_forward(grid, neighbourhood, *inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        backward = _op_backward if compiled(inputs[0]) else _torch_backward
        return None, None, *backward(ctx.grid, ctx.neighbourhood, *inputs, *(grad.contiguous() for grad in grads))


# --- PyTorch -----------------------------------------------------------------------------------------------------------


def _columns(
    grid: OccupancyGrid, neighbourhood: int, means: Tensor, axes: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each column of neighbours: voxels [N, M] (flat index), d [N, M, 3], y [N, M, 3], and g [N, M], zero outside of the grid."""
    reach = torch.arange(-neighbourhood, neighbourhood + 1, device=means.device)
    base, centres = base_voxels(grid, neighbourhood, means).long(), voxel_centres(grid, means)
    z = base[:, 2:] + reach
    for x, y in itertools.product(range(-neighbourhood, neighbourhood + 1), repeat=2):
        index = (base[:, :1] + x, base[:, 1:2] + y, z)
        inside = [(i >= 0) & (i < n) for i, n in zip(index, grid.shape, strict=True)]
        index = tuple(i.clamp(0, n - 1) for i, n in zip(index, grid.shape, strict=True))  # type: ignore[assignment]
        offsets = [c[i] - m for c, i, m in zip(centres, index, means.split(1, -1), strict=True)]
        d = torch.stack(torch.broadcast_tensors(*offsets), -1)
        own = d @ axes.mT
        g = (-0.5 * own.square().sum(-1)).exp() * (inside[0] & inside[1] & inside[2])
        yield (index[0] * grid.shape[1] + index[1]) * grid.shape[2] + index[2], d, own, g


def _torch_forward(
    grid: OccupancyGrid, neighbourhood: int, means: Tensor, axes: Tensor, opacities: Tensor, features: Tensor
) -> tuple[Tensor, Tensor]:
    voxels = grid.shape[0] * grid.shape[1] * grid.shape[2]
    occupancy, semantics = means.new_zeros(voxels), means.new_zeros(voxels, features.shape[1])
    for index, _, _, g in _columns(grid, neighbourhood, means, axes):
        occupancy.index_add_(0, index.flatten(), (opacities[:, None] * g).flatten())
        semantics.index_add_(0, index.flatten(), (features[:, None] * g[..., None]).flatten(0, 1))
    return occupancy.view(grid.shape), semantics.view(*grid.shape, -1)


def _torch_backward(
    grid: OccupancyGrid,
    neighbourhood: int,
    means: Tensor,
    axes: Tensor,
    opacities: Tensor,
    features: Tensor,
    grad_occupancy: Tensor,
    grad_semantics: Tensor,
) -> tuple[Tensor, ...]:
    results = tuple(torch.zeros_like(t) for t in (means, axes, opacities, features))
    grad_means, grad_axes, grad_opacities, grad_features = results
    flat, rows = grad_occupancy.flatten(), grad_semantics.flatten(0, 2)
    for index, d, own, g in _columns(grid, neighbourhood, means, axes):
        occupied, semantic = flat[index], rows[index]
        grad_opacities += (g * occupied).sum(-1)
        grad_features += (g[..., None] * semantic).sum(1)
        h = g * (opacities[:, None] * occupied + (semantic @ features[..., None])[..., 0])
        hy = h[..., None] * own
        grad_means += (hy @ axes).sum(1)
        grad_axes -= hy.mT @ d
    return results


# --- compiled ----------------------------------------------------------------------------------------------------------


def _op_forward(
    grid: OccupancyGrid, neighbourhood: int, means: Tensor, axes: Tensor, opacities: Tensor, features: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = images.empty(*grid.shape), images.empty(*grid.shape, features.shape[1])
    tensors = {"means": means, "axes": axes, "opacities": opacities, "features": padded(features)}
    tensors |= dict(zip(("occupancy", "semantics"), outputs, strict=True))
    OP.call("occ_voxels_forward", grid, neighbourhood, features.shape[1], tensors, neighbourhood=neighbourhood)
    return outputs


def _op_backward(
    grid: OccupancyGrid,
    neighbourhood: int,
    means: Tensor,
    axes: Tensor,
    opacities: Tensor,
    features: Tensor,
    grad_occupancy: Tensor,
    grad_semantics: Tensor,
) -> tuple[Tensor, ...]:
    tensors = {"means": means, "axes": axes, "opacities": opacities, "features": padded(features)}
    results = {f"grad_{name}": torch.empty_like(value) for name, value in tensors.items()}
    grads = {"grad_occupancy": grad_occupancy, "grad_semantics": padded(grad_semantics)}
    OP.call("occ_voxels_backward", grid, neighbourhood, features.shape[1], tensors | grads | results, neighbourhood=neighbourhood)
    results["grad_features"] = results["grad_features"][:, : features.shape[1]]
    return tuple(results.values())
