"""The machine that a measurement was made on: what it is, and what it can do at most, measured."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from renderers.cpu import native
from renderers.cpu.toolchain import BuildError

INSTRUCTION_SETS = ("sse2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "asimd", "sve")
BANDWIDTH_ELEMENTS = 1 << 25  # three arrays of 128 MiB, beyond any processor's cache
PACKAGES = ("torch", "triton", "gsplat", "numpy")


@dataclass(frozen=True)
class Machine:
    """One computer.

    cores, threads             cores that this process may use; threads that torch and the "cpu" renderer use
    fma_gflops                 10^9 float32 operations a second of all threads doing only multiply-adds (2 operations each),
                               in the widest instruction set of the processor that the "cpu" renderer knows; None: see note
    fma_gflops_one_thread      the same of one thread
    bandwidth_gbs              10^9 bytes a second of all threads, STREAM triad on three arrays of 128 MiB (12 bytes an element,
                               what the processor reads to write a line not counted)
    note                       why a number could not be measured
    """

    cpu: str
    cores: int
    threads: int
    memory_gb: float
    instruction_sets: tuple[str, ...]
    gpu: str | None
    fma_target: str | None
    fma_gflops: float | None
    fma_gflops_one_thread: float | None
    bandwidth_gbs: float | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**asdict(self), "instruction_sets": list(self.instruction_sets)}

    def slug(self, device: str) -> str:
        """A file-name-safe name of the part that ``device`` is: "cpu-amd-epyc-2-threads-avx2", "cuda-nvidia-h200"."""
        if device.startswith("cuda"):
            name = f"{device} {self.gpu}"
        else:
            widest = next((n for n in ("avx512f", "avx2", "sve") if n in self.instruction_sets), platform.machine())
            name = f"cpu {re.sub(r'[(]r[)]|[(]tm[)]|@.*', ' ', self.cpu.lower())} {self.threads} threads {widest}"
        return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def inspect(device: str) -> Machine:
    """This machine, with ``device`` as its GPU if it is one; measuring takes about three seconds."""
    flops = one = bandwidth = target = None
    note, threads = "", torch.get_num_threads()
    try:
        target = native.best_target()
        library = native.library(target)
    except (BuildError, OSError) as error:
        note = f"peaks were not measured: {error}"
    else:
        # Best of several: a peak is what the machine can do, not what other work left of it.
        one = round(max(library.occ_peak_flops(1, 0.2) for _ in range(5)) / 1e9, 1)
        flops = round(max(library.occ_peak_flops(threads, 0.2) for _ in range(5)) / 1e9, 1)
        bandwidth = round(library.occ_peak_bytes(threads, BANDWIDTH_ELEMENTS, 7) / 1e9, 1) or None
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        threads=threads,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        instruction_sets=_instruction_sets(),
        gpu=torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        fma_target=target,
        fma_gflops=flops,
        fma_gflops_one_thread=one,
        bandwidth_gbs=bandwidth,
        note=note,
    )


def _cpuinfo(*keys: str) -> str:
    """The first value of any of ``keys`` in /proc/cpuinfo, or ""."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() in keys), "")


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _instruction_sets() -> tuple[str, ...]:
    flags = set(_cpuinfo("flags", "Features").split())
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def versions() -> dict[str, str]:
    """Versions of Python, of CUDA if torch has it, and of each of ``PACKAGES`` that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found
