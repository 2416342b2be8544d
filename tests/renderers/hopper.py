"""Triton kernels compiled to machine code of a Hopper GPU that need not be there: what a launch would compile, nothing runs."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy
import pytest
import torch

from renderers.triton import INTERPRETER

Resources = tuple[int, int, int, int]
"""Threads of a program, registers a thread, stack bytes a thread, shared bytes."""

Found = dict[str, list[Resources]]
"""By kernel, of each variant that was compiled."""


def _prepare() -> None:
    """In the process that interprets. Triton replaces the functions of its language anew at each call of a function within a
    kernel, which changes nothing and takes half of all time: here only where they are not replaced. What NumPy calls a type it
    looks up in a table that it makes anew: here once for a type."""
    torch.set_num_threads(1)
    import triton.language as tl
    from triton.runtime import interpreter

    if (looked_up := getattr(interpreter, "_get_np_dtype", None)) is not None:
        known = functools.cache(looked_up)
        interpreter._get_np_dtype = lambda type_: looked_up(type_) if type_.scalar.is_ptr() else known(type_.scalar)
    replace = getattr(interpreter, "_patch_lang", None)

    def once(function: Any) -> Any:
        used = {id(value) for value in function.__globals__.values()}
        waiting = [language for language in (tl, tl.core) if id(language) in used and tl.core.is_builtin(language.load)]
        return replace(function) if waiting else None

    if replace is not None:
        interpreter._patch_lang = once


@contextmanager
def interpreter() -> Iterator[Callable[..., Any]]:
    """Calls a function of a test module in a process whose Triton interprets kernels; skips where it cannot."""
    if numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0" and version("triton") < "3.7":
        pytest.skip("Triton's interpreter before 3.7 takes arrays of one number for numbers, which numpy 2.4 refuses")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _prepare) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(INTERPRETER, "1")
            pool.submit(os.getpid).result()  # starts the process
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def compiled_apart(function: Callable[..., Found], *arguments: Any) -> Found:
    """What ``function`` finds in a process of its own, whose Triton compiles."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, pytest.MonkeyPatch.context() as patch:
        patch.delenv(INTERPRETER, raising=False)
        return pool.submit(function, *arguments).result()


class Absent:
    """A driver for a GPU that is not there."""

    @staticmethod
    def get_current_target() -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)


class Compiled:
    """A kernel whose launch compiles it with the very arguments, in every configuration that would be tried.

    launched  called with the arguments and options of each launch once it is compiled
    """

    def __init__(
        self,
        kernel: Any,
        found: Found,
        configs: Sequence[dict[str, Any]] = ({},),
        launched: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None,
    ) -> None:
        self.kernel, self.found, self.configs, self.launched = kernel, found, configs, launched

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: [self.build(grid, arguments, options | c) for c in self.configs]

    def build(self, grid: tuple[int, ...], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        import triton

        built = self.kernel.run(*arguments, grid=grid, warmup=True, **options)
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(built.asm["cubin"])
            file.flush()
            command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        registers, stack = (int(re.findall(rf"{what}:(\d+)", printed)[-1]) for what in ("REG", "STACK"))
        resources = (32 * built.metadata.num_warps, registers, stack, built.metadata.shared)
        self.found.setdefault(self.kernel.__name__, []).append(resources)
        if self.launched is not None:
            self.launched(arguments, options)


def fits(found: Found) -> None:
    """Every variant can be launched, and each kernel has one that hardly spills."""
    for kernel, variants in found.items():
        for threads, registers, _, shared in variants:
            assert threads * registers <= 65536, f"{kernel} does not fit a multiprocessor's registers"
            assert shared <= 227 * 1024, f"{kernel} wants {shared} bytes of shared memory"
        assert min(stack for _, _, stack, _ in variants) <= 256, f"{kernel} spills in every configuration: {variants}"
