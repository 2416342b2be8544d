"""The compiled op as Python functions: a ctypes mirror of ``op.cpp``'s RayCall and ``march.h``'s RaySettings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from renderers.cpu.toolchain import RAYS, ensure
from renderers.rays.interface import GridField, RaySettings
from renderers.rays.plain import plain

STAGES = ("march", "scatter")
COUNTS = ("samples", "cells", "records")
OUTPUTS = ("features", "depth", "alpha", "transmittance", "squares", "spaced_squares", "spread")

_Three = ctypes.c_double * 3


class _Settings(ctypes.Structure):
    _fields_ = [
        *((name, _Three) for name in ("centre", "half")),
        *((name, ctypes.c_double) for name in ("radius", "shell", "tau")),
        *((name, _Three) for name in ("factor", "term", "skip")),
        *((name, ctypes.c_double) for name in ("shift", "interval", "last", "least_passed")),
        *((name, ctypes.c_double) for name in ("alpha_min", "weight_min", "transmittance_min")),
        *((name, ctypes.c_int32) for name in "contraction skip_rule activation closed unit_directions depth".split()),
    ]


class Call(ctypes.Structure):
    """Arguments of one forward or backward call; see ``op.cpp``. Set tensors with ``call.name = pointer(tensor)``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rays", "batch")),
        ("size", ctypes.c_int64 * 3),
        *((name, ctypes.c_int64) for name in ("channels", "samples")),
        *((name, ctypes.c_int32) for name in ("threads", "unused")),
        ("settings", _Settings),
        *((name, ctypes.c_void_p) for name in "distances origins directions offsets cosines scene density features".split()),
        *((f"out_{name}", ctypes.c_void_p) for name in (*OUTPUTS, "samples")),
        *((f"grad_out_{name}", ctypes.c_void_p) for name in OUTPUTS),
        *((name, ctypes.c_void_p) for name in ("grad_density", "grad_features", "stages")),
    ]


def describe(call: Call, settings: RaySettings, grid: GridField) -> None:
    """Fill in ``call.settings``."""
    for name, value in vars(plain(settings, grid)).items():
        setattr(call.settings, name, _Three(*value) if isinstance(value, tuple) else value)


@cache
def library(target: str) -> ctypes.CDLL:
    """The op compiled for ``target`` of ``renderers.cpu.toolchain.targets()``; compiles it on first use. Raises BuildError."""
    op = ctypes.CDLL(str(ensure(target, quiet=False, op=RAYS)))  # `torch` is imported: both use the OpenMP runtime it has loaded
    op.occ_rays_forward.argtypes = op.occ_rays_backward.argtypes = [ctypes.POINTER(Call)]
    op.occ_rays_forward.restype = op.occ_rays_backward.restype = ctypes.c_int32
    return op


def forward(target: str, call: Call) -> None:
    """Fill the outputs of ``call``."""
    _run(target, library(target).occ_rays_forward, call)


def backward(target: str, call: Call) -> None:
    """Add to the gradients of ``call``."""
    _run(target, library(target).occ_rays_backward, call)


def _run(target: str, function: Callable[[Any], int], call: Call) -> None:
    call.threads = torch.get_num_threads()
    if function(ctypes.byref(call)):
        raise MemoryError(f"renderer 'cpu' ({target}): not enough memory for {call.rays} rays of {call.samples} samples")
