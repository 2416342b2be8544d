"""The compiled op as Python functions: a ctypes mirror of ``op.cpp``'s OccCall, and the choice of instruction set."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from renderers.cpu.toolchain import BuildError, ensure, targets

STAGES = ("project", "sort", "bin", "blend", "reduce")
COUNTS = ("visible", "pairs", "needed_pairs", "weights")
OUT_OF_MEMORY, CHANGED = 1, 2  # what a call returns, if not 0


_SWITCHES = ("tile3sigma", "tile_size", "principal_clamp", "clamp_gradient", "legacy_fov_y")


class _Settings(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_float) for name in ("near", "far", "low_pass", "alpha_min", "alpha_max", "transmittance_min")),
        *((name, ctypes.c_int32) for name in _SWITCHES),
    ]


class State(ctypes.Structure):
    """What a forward pass left of a view for the backward pass: a block of memory."""

    _fields_ = [("block", ctypes.c_void_p), ("bytes", ctypes.c_int64)]


class Call(ctypes.Structure):
    """Arguments of one forward or backward call; see ``op.cpp``. Set tensors with ``call.name = pointer(tensor)``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "views", "count", "features", "times")),
        *((name, ctypes.c_int32) for name in ("width", "height", "scale_columns", "threads")),
        ("settings", _Settings),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "means scales quaternions opacities payload intrinsics world_to_camera background visible time_index "
                "out_features out_depth out_alpha states grad_features grad_depth grad_alpha "
                "grad_means grad_scales grad_quaternions grad_opacities grad_payload stages"
            ).split()
        ),
    ]


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a contiguous tensor's data; None for None. The caller keeps the tensor alive."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


@cache
def library(target: str) -> ctypes.CDLL:
    """The op compiled for ``target``; compiles it on first use. Raises BuildError."""
    path = ensure(target, quiet=False)
    op = ctypes.CDLL(str(path))  # `torch` is imported above: both use the OpenMP runtime that it has loaded
    op.occ_forward.argtypes = op.occ_backward.argtypes = [ctypes.POINTER(Call)]
    op.occ_forward.restype = op.occ_backward.restype = ctypes.c_int32
    op.occ_free.argtypes, op.occ_free.restype = [ctypes.c_void_p], None
    op.occ_level.argtypes, op.occ_level.restype = [], ctypes.c_int32
    op.occ_peak_flops.argtypes, op.occ_peak_flops.restype = [ctypes.c_int32, ctypes.c_double], ctypes.c_double
    op.occ_peak_bytes.argtypes, op.occ_peak_bytes.restype = [ctypes.c_int32, ctypes.c_int64, ctypes.c_int32], ctypes.c_double
    return op


@cache
def best_target() -> str:
    """The widest instruction set of this processor that the op can be compiled for."""
    return usable_targets()[-1]


def usable_targets() -> list[str]:
    """The instruction sets of this processor that the op can be compiled for, widest last."""
    return targets()[: library("portable").occ_level() + 1]


def default_target() -> str:
    """The instruction set to take where none is named: ``OCC_CPU_TARGET``, else the widest; each has bits of its own.

    Raises BuildError if the variable names none that this processor has.
    """
    named = os.environ.get("OCC_CPU_TARGET")
    if not named:
        return best_target()
    usable = usable_targets()
    if named not in usable:
        raise BuildError(f"OCC_CPU_TARGET is '{named}'", f"This processor can take {', '.join(usable)}; or unset the variable")
    return named


def forward(target: str, call: Call, keep: bool) -> list[Tensor]:
    """Fill the outputs of ``call``; returns what ``backward`` needs of each view, if it is to be kept: plain bytes."""
    states = (State * (call.batch * call.views if keep else 0))()
    call.states = ctypes.addressof(states) if keep else None
    _run(target, library(target).occ_forward, call)
    return [_owned(target, state.block, state.bytes) for state in states]


def backward(target: str, call: Call, kept: Sequence[Tensor]) -> None:
    """Add to the gradients of ``call``; ``kept`` is what ``forward`` returned."""
    states = (State * len(kept))(*(State(pointer(tensor), tensor.numel()) for tensor in kept))
    call.states = ctypes.addressof(states)
    _run(target, library(target).occ_backward, call)


def _owned(target: str, block: int, size: int) -> Tensor:
    """The op's memory as a tensor, freed with it."""
    memory = (ctypes.c_uint8 * size).from_address(block)
    weakref.finalize(memory, library(target).occ_free, block)
    return torch.frombuffer(memory, dtype=torch.uint8)


def _run(target: str, function: Callable[[Any], int], call: Call) -> None:
    call.threads = torch.get_num_threads()
    status = function(ctypes.byref(call))
    if status == OUT_OF_MEMORY:
        size = f"{call.count} Gaussians on {call.width}x{call.height} pixels"
        raise MemoryError(f"renderer 'cpu' ({target}): not enough memory for {size}")
    if status == CHANGED:
        raise RuntimeError(
            f"renderer 'cpu' ({target}): what it was given has been changed since its forward pass, past PyTorch's notice "
            "(through .data or a NumPy array that shares the memory); pass copies"
        )
