"""Gaussians into voxels: GaussianFlowOcc's sums over the voxels around each Gaussian, and their gradients.

The published code (``boschresearch/GaussianFlowOcc`` mmdet3d/models/gaussianflowocc_modules/gaussians.py:203-231, 303-319) takes
the voxel of a Gaussian's mean and those up to a neighbourhood of 4 away on each axis, as far as the grid goes, weighs their
centres by g = exp(-d' Sigma^-1 d / 2) and scatters 729 rows a Gaussian. Here nothing of that size is ever held: on the CPU in
float32 a compiled op adds them up slice by slice (voxelise.cpp), elsewhere PyTorch does, one column of neighbours at a time.

g is computed from y = S^-1 R' d, the offset in the Gaussian's own axes counted in deviations: Sigma^-1 itself would cancel where
a Gaussian is thin.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid
from renderers.cpu import images
from renderers.cpu.native import default_target, pointer
from renderers.cpu.toolchain import Op, ensure
from renderers.interface import first_derivative_only, require_finite

LEAST_SCALE = 1e-6  # m; thinner counts as this: it reaches a voxel's centre only from a few of them away, and 1 / s stays finite
LEAST_QUATERNION = 1e-12
HEADERS = tuple(
    f"../{name}" for name in ("gaussianflowocc/gaussian_lanes.h", "../renderers/cpu/simd.h", "../renderers/cpu/splat.h")
)
OP = Op("voxels", Path(__file__).parent, ("voxelise.cpp", *HEADERS))
LANES = 8  # of the compiled op; rows of features are padded to a multiple of it


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


def own_axes(quaternions: Tensor, scales: Tensor) -> Tensor:
    """S^-1 R' [N, 3, 3] of Gaussians: row k is the k-th own axis over its deviation (1 / m)."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)),
        (2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)),
        (2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2) / scales.clamp_min(LEAST_SCALE)[..., None]


def check_gaussians(means: Tensor, quaternions: Tensor, scales: Tensor, opacities: Tensor, **rows: Tensor) -> None:
    """Raise ValueError, naming it, for an attribute of Gaussians that cannot be put into voxels; ``rows`` are [N, K] each."""
    given = {"means": means, "quaternions": quaternions, "scales": scales, "opacities": opacities, **rows}
    count = len(means)
    shapes = {"means": [count, 3], "quaternions": [count, 4], "scales": [count, 3], "opacities": [count]}
    shapes |= {name: [count, value.shape[-1] if value.dim() else 0] for name, value in rows.items()}
    for name, value in given.items():
        if list(value.shape) != shapes[name]:
            raise ValueError(f"{name} must be {shapes[name]} for means {list(means.shape)}, got {list(value.shape)}")
        if value.dtype != means.dtype or value.device != means.device or not value.is_floating_point():
            raise ValueError(
                f"{name} must be floating point like means, {means.dtype} on {means.device}, got {value.dtype} on {value.device}"
            )
        require_finite(name, value)
    if count and bool((scales.detach() < 0).any()):
        raise ValueError("scales must not be negative: they are standard deviations in metres; logarithms need .exp()")
    if count and bool((torch.linalg.vector_norm(quaternions.detach(), dim=-1) < LEAST_QUATERNION).any()):
        raise ValueError("quaternions must not have length zero: (1, 0, 0, 0) says no rotation")


class _Voxelise(torch.autograd.Function):
    """(grid, neighbourhood, means, axes, opacities, features) -> occupancy, semantics."""

    @staticmethod
    def forward(
        ctx: Any, grid: OccupancyGrid, neighbourhood: int, means: Tensor, axes: Tensor, opacities: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = tuple(t.detach().contiguous() for t in (means, axes, opacities, features))
        ctx.grid, ctx.neighbourhood = grid, neighbourhood
        ctx.save_for_backward(*inputs)
        if _compiled(means):
            return _op_forward(grid, neighbourhood, *inputs)
        return _torch_forward(grid, neighbourhood, *inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        backward = _op_backward if _compiled(inputs[0]) else _torch_backward
        return None, None, *backward(ctx.grid, ctx.neighbourhood, *inputs, *(grad.contiguous() for grad in grads))


def _compiled(means: Tensor) -> bool:
    return means.device.type == "cpu" and means.dtype == torch.float32


def voxel_centres(grid: OccupancyGrid, like: Tensor) -> list[Tensor]:
    """Voxel centres by axis, in the numbers of ``OccupancyGrid.centres``."""
    return [
        (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) * grid.voxel_size + low
        for n, low in zip(grid.shape, grid.lower, strict=True)
    ]


def base_voxels(grid: OccupancyGrid, neighbourhood: int, means: Tensor) -> Tensor:
    """[N, 3] int32: the voxel of each mean, drawn to the grid from where its neighbourhood does not reach it anyway."""
    base = ((means - means.new_tensor(grid.lower)) / grid.voxel_size).floor()
    size = means.new_tensor(grid.shape)
    return torch.minimum(base.clamp_min(-neighbourhood - 1), size + neighbourhood).int()


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


class _Call(ctypes.Structure):
    """Mirror of OccVoxels in voxelise.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "channels", "padded")),
        *((name, ctypes.c_int32) for name in ("nx", "ny", "nz", "neighbourhood", "threads")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "means axes opacities features base order first last xs ys zs occupancy semantics "
                "grad_occupancy grad_semantics grad_means grad_axes grad_opacities grad_features"
            ).split()
        ),
    ]


@cache
def _library(target: str) -> ctypes.CDLL:
    """The op, compiled on first use; raises BuildError."""
    op = ctypes.CDLL(str(ensure(target, quiet=False, op=OP)))
    for function in (op.occ_voxels_forward, op.occ_voxels_backward):
        function.argtypes, function.restype = [ctypes.POINTER(_Call)], ctypes.c_int32
    return op


def _run(name: str, grid: OccupancyGrid, neighbourhood: int, channels: int, tensors: dict[str, Tensor]) -> None:
    """One call of the op; ``tensors`` by the names of ``_Call``, features already padded."""
    base = base_voxels(grid, neighbourhood, tensors["means"])
    along, order = torch.sort(base[:, 0], stable=True)
    slices = torch.arange(grid.shape[0], dtype=torch.int32)
    xs, ys, zs = voxel_centres(grid, tensors["means"])
    tensors = tensors | {
        "base": base,
        "order": order.int(),
        "first": torch.searchsorted(along, slices - neighbourhood),
        "last": torch.searchsorted(along, slices + neighbourhood, right=True),
        "xs": xs,
        "ys": ys,
        "zs": torch.nn.functional.pad(zs, (0, LANES - 1)),
    }
    call = _Call()
    call.count, call.channels, call.padded = len(base), channels, tensors["features"].shape[1]
    call.nx, call.ny, call.nz = grid.shape
    call.neighbourhood, call.threads = neighbourhood, torch.get_num_threads()
    for field, tensor in tensors.items():
        setattr(call, field, pointer(tensor))
    if getattr(_library(default_target()), name)(ctypes.byref(call)):
        raise MemoryError(f"voxelise: not enough memory for {len(base)} Gaussians of {channels} features on {grid.shape} voxels")


def padded(rows: Tensor) -> Tensor:
    """[..., K] filled up with zeros to a multiple of ``LANES``."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % LANES)).contiguous()


def _op_forward(
    grid: OccupancyGrid, neighbourhood: int, means: Tensor, axes: Tensor, opacities: Tensor, features: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = images.empty(*grid.shape), images.empty(*grid.shape, features.shape[1])
    tensors = {"means": means, "axes": axes, "opacities": opacities, "features": padded(features)}
    tensors |= dict(zip(("occupancy", "semantics"), outputs, strict=True))
    _run("occ_voxels_forward", grid, neighbourhood, features.shape[1], tensors)
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
    _run("occ_voxels_backward", grid, neighbourhood, features.shape[1], tensors | grads | results)
    results["grad_features"] = results["grad_features"][:, : features.shape[1]]
    return tuple(results.values())
