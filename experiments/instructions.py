"""Same bits everywhere: a process held to AVX2, a toy cell to a fixed number of threads. Light: no torch, no numpy.

Sums in another order round otherwise, and libraries choose their order by what the processor offers: vectors of 8 or 16
numbers, kernels for one maker's processors or another's, a part a thread. After some hundred iterations of training that is a
point of mIoU. ``hold`` sets what the libraries read when they are loaded, so that commands that make numbers call it before any
of them; where one is loaded already it changes nothing. What a user has set stays. Records keep what was in force
(``experiments.cell.environment.instruction_sets``), whoever set it.

MKL has one code path for Intel's processors and another for the rest: only ``COMPATIBLE`` gives the same bits on both (its
"AVX2" does not, neither for products of matrices nor for exp and log). It costs an iteration of a toy cell 5 to 17 %.

Threads: means over everything, weight gradients of convolutions and products of matrices add up one part a thread, in PyTorch,
oneDNN and MKL, and none of them can be told otherwise; the "cpu" renderer and our numba kernels give the same bits for any
number. So a toy cell on a CPU computes with ``THREADS`` threads however many cores there are: with two cores that is what it
would take anyway, with more it takes longer than it could. Waiting threads sleep, because two that spin on one free core take
ten times as long. numpy's OpenBLAS spins whatever it is told, and has a thread of its own a core: to invert a 4x4 matrix takes
it 2 ms where another cell computes, and 10 microseconds alone. It gets one thread.

Nothing here is done on other processors than x86-64 with AVX2, and there is no promise about GPUs.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.records import Hardware

THREADS = 2
_VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    "NUMBA_CPU_NAME": "x86-64-v3",
    "NUMBA_CPU_FEATURES": "",
    "OCC_CPU_TARGET": "avx2",
    "OMP_WAIT_POLICY": "passive",
}
_OTHER_NAMES = {"ONEDNN_MAX_CPU_ISA": "DNNL_MAX_CPU_ISA"}
HELD = {
    "torch": "AVX2",
    "onednn": "AVX2",
    "mkl": "COMPATIBLE",
    "numpy": "AVX2",
    "openblas": "Haswell",
    "numba": "x86-64-v3",
    "opencv": "AVX2",
    "renderers.cpu": "avx2",
}
"""Library -> what a record says of it where the process was held."""

_X86_64_V3 = {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"}
_SKX = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
_CLX = _SKX | {"avx512_vnni"}
_CNL = _SKX | {"avx512ifma", "avx512vbmi"}
# numpy's names for groups of flags, widest last; OpenCV knows the third as AVX512-SKX. Both complain about what is not there.
_NUMPY = {
    "AVX512F": {"avx512f"},
    "AVX512CD": {"avx512f", "avx512cd"},
    "AVX512_SKX": _SKX,
    "AVX512_CLX": _CLX,
    "AVX512_CNL": _CNL,
    "AVX512_ICL": _CLX | _CNL | {"avx512_vbmi2", "avx512_bitalg", "avx512_vpopcntdq"},
}
_READERS = ("numpy", "scipy", "torch", "numba", "cv2")


def hold() -> None:
    """Hold this process, and those it starts, to AVX2, if the processor has it and no library has chosen yet."""
    flags = _flags()
    if not _X86_64_V3 <= flags or any(name in sys.modules for name in _READERS):
        return
    variables = dict(_VARIABLES)
    if wider := [name for name, needed in _NUMPY.items() if needed <= flags]:
        variables["NPY_DISABLE_CPU_FEATURES"] = " ".join(wider)
    if flags >= _SKX:
        variables["OPENCV_CPU_DISABLE"] = "AVX512-SKX"
    for name, value in variables.items():
        if _OTHER_NAMES.get(name, name) not in os.environ:
            os.environ.setdefault(name, value)


def fixes_threads(preset: str, cuda: bool) -> bool:
    """Whether a cell of this preset computes with ``THREADS`` threads: toy cells do, where there is no GPU."""
    return preset == "toy" and not cuda


def fix_threads() -> None:
    """Compute with ``THREADS`` threads from here on, in PyTorch and what it calls; for toy cells on a CPU."""
    import numba
    import torch

    numba.get_num_threads()  # starts numba's threads; that sets OpenMP's number of threads, hence must come first
    torch.set_num_threads(THREADS)


def machine_bound(hardware: Hardware) -> str:
    """Why numbers made on this hardware need not come out to the last bit elsewhere; "" if they do."""
    if hardware.gpu is not None:
        return f"computed on a GPU ({hardware.gpu})"
    if not hardware.instruction_sets:
        return "an older record, which does not say by which instructions"
    wrong = [f"{name} {what}" for name, what in hardware.instruction_sets.items() if HELD.get(name) != what]
    if hardware.threads != THREADS:
        wrong.append(f"{hardware.threads} threads")
    return f"computed with {', '.join(wrong)}" if wrong else ""


def _flags() -> set[str]:
    """What the processor can do, in Linux's words; nothing for other processors than x86-64."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return set()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))
