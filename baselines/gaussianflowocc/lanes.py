"""Gaussians at the centres of voxels, and compiled ops that put Gaussians into grids: what voxelise.py and GaussianFormer-2's
aggregation.py have in common, as their C++ has gaussian_lanes.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid
from renderers.cpu.native import default_target, pointer
from renderers.cpu.toolchain import Op, ensure
from renderers.interface import require_finite

LEAST_SCALE = 1e-6  # m; thinner counts as this: it reaches a voxel's centre only from a few of them away, and 1 / s stays finite
LEAST_QUATERNION = 1e-12
HEADERS = tuple(
    f"../{name}" for name in ("gaussianflowocc/gaussian_lanes.h", "../renderers/cpu/simd.h", "../renderers/cpu/splat.h")
)
LANES = 8  # of compiled ops; rows of features are padded to a multiple of it
PLACES = ("base", "order", "first", "last", "xs", "ys", "zs")
"""Pointers that every op has for where Gaussians and voxels are, see ``GaussianOp.call``."""


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


def compiled(means: Tensor) -> bool:
    """Whether a compiled op is used for Gaussians with these means, and not PyTorch."""
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


def padded(rows: Tensor) -> Tensor:
    """[..., K] filled up with zeros to a multiple of ``LANES``."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[-1] % LANES)).contiguous()


@dataclass(frozen=True)
class GaussianOp:
    """A compiled op, whose functions take one struct: count, channels and padded channels (int64), the grid's size, the op's own
    ``numbers`` and the threads (int32), and pointers.

    name     of the Python function that it computes, for errors
    numbers  names of int32
    tensors  names of the pointers, in their order
    """

    name: str
    op: Op
    tensors: tuple[str, ...]
    numbers: tuple[str, ...] = ()

    def call(
        self, function: str, grid: OccupancyGrid, reach: int, channels: int, tensors: dict[str, Tensor], **numbers: int
    ) -> None:
        """Call one of its functions with these tensors by name, means [N, 3] among them, of features padded to ``LANES``, and
        with the ``PLACES``: the voxel of each mean, the Gaussians by x, those from which slice x may be reached, the centres.

        reach  voxels that the farthest-reaching Gaussian goes from its own, on each axis

        Raises MemoryError where there is not enough, and BuildError.
        """
        base = base_voxels(grid, reach, tensors["means"])
        along, order = torch.sort(base[:, 0], stable=True)
        slices = torch.arange(grid.shape[0], dtype=torch.int32)
        xs, ys, zs = voxel_centres(grid, tensors["means"])
        first, last = torch.searchsorted(along, slices - reach), torch.searchsorted(along, slices + reach, right=True)
        places = (base, order.int(), first, last, xs, ys, torch.nn.functional.pad(zs, (0, LANES - 1)))
        given = tensors | dict(zip(PLACES, places, strict=True))
        call = _structure(self)()
        call.count, call.channels, call.padded = len(base), channels, channels + -channels % LANES
        call.nx, call.ny, call.nz = grid.shape
        call.threads = torch.get_num_threads()
        for name, value in numbers.items():
            setattr(call, name, value)
        for name, tensor in given.items():
            setattr(call, name, pointer(tensor))
        if getattr(_library(self, default_target()), function)(ctypes.byref(call)):
            what = f"{len(base)} Gaussians of {channels} features on {grid.shape} voxels"
            raise MemoryError(f"{self.name}: not enough memory for {what}")


@cache
def _structure(own: GaussianOp) -> type[ctypes.Structure]:
    """Mirror of the struct."""
    fields = [
        *((name, ctypes.c_int64) for name in ("count", "channels", "padded")),
        *((name, ctypes.c_int32) for name in ("nx", "ny", "nz", *own.numbers, "threads")),
        *((name, ctypes.c_void_p) for name in own.tensors),
    ]
    return type("Call", (ctypes.Structure,), {"_fields_": fields})


@cache
def _library(own: GaussianOp, target: str) -> ctypes.CDLL:
    """The op, compiled on first use; its functions give an int32, 0 on success. Raises BuildError."""
    return ctypes.CDLL(str(ensure(target, quiet=False, op=own.op)))
