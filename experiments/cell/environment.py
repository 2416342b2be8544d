"""What a number depends on besides the spec: package versions, machine, memory. Light: no torch import of its own."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from experiments.records import Hardware

PACKAGES = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmdet3d", "gsplat", "numba", "mlflow", "opencv-python-headless")


def versions() -> dict[str, str]:
    """Version of Python and of every package of ``PACKAGES`` that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(gpu: bool = True) -> Hardware:
    """This machine; ``gpu`` False leaves a graphics card out that the cell did not run on."""
    torch = sys.modules.get("torch")
    return Hardware(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(_memory_gb(), 1),
        gpu=_gpu_name() if gpu else None,
        threads=None if torch is None else torch.get_num_threads(),
        instruction_sets=instruction_sets(),
    )


def instruction_sets() -> dict[str, str]:
    """Library -> the instructions it computes with, of those that are loaded: what it says itself, where it can be asked.

    oneDNN and OpenBLAS cannot; theirs is what the environment told them. "native": the widest of the processor.
    """
    found: dict[str, str] = {}
    if (torch := sys.modules.get("torch")) is not None:
        found["torch"] = str(torch.backends.cpu.get_cpu_capability())
        found["onednn"] = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "native"
        found["mkl"] = _mkl_branch(Path(torch.__path__[0], "lib", "libtorch_cpu.so"))
    if (numpy := sys.modules.get("numpy.core._multiarray_umath")) is not None:
        kinds = ("AVX512_ICL", "AVX512_SKX", "AVX512F", "AVX2", "ASIMD")  # widest first
        found["numpy"] = next((name for name in kinds if numpy.__cpu_features__.get(name)), "baseline")
        found["openblas"] = os.environ.get("OPENBLAS_CORETYPE") or "native"
    if (numba := sys.modules.get("numba")) is not None:
        found["numba"] = numba.config.CPU_NAME or "native"
        if numba.config.CPU_FEATURES:
            found["numba"] += f" {numba.config.CPU_FEATURES}"
    if (cv2 := sys.modules.get("cv2")) is not None:
        # "SSE SSE2 *SSE4.1 *AVX2 *AVX512-SKX?": a star is chosen at run time, a question mark is not there or turned off.
        words = [word.lstrip("*") for word in cv2.getCPUFeaturesLine().split()]
        found["opencv"] = next((word for word in reversed(words) if not word.endswith("?")), "baseline")
    if (native := sys.modules.get("renderers.cpu.native")) is not None:
        found["renderers.cpu"] = native.default_target()
    return found


def _mkl_branch(library: Path) -> str:
    """The branch that MKL keeps to for reproducible results ("MKL_CBWR"), as MKL says; "none" where there is no MKL."""
    try:
        branch = ctypes.CDLL(str(library)).mkl_serv_cbwr_get(1)
    except (OSError, AttributeError):
        return "none"
    names = {1: "native", 2: "AUTO", 3: "COMPATIBLE", 4: "SSE2", 8: "SSE4_2", 9: "AVX", 10: "AVX2", 12: "AVX512"}
    return names.get(branch, f"branch {branch}")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _gpu_name() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


def load() -> dict[str, float]:
    """How busy the machine is, under MLflow's names of system metrics; nothing where psutil is not installed."""
    try:
        import psutil
    except ImportError:
        return {}
    memory = psutil.virtual_memory()
    return {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / 2**20,
        "system/system_memory_usage_percentage": memory.percent,
        "system/process_memory_megabytes": psutil.Process().memory_info().rss / 2**20,
    }


class PeakMemory:
    """Peak memory since construction, in MiB.

    On a GPU the allocator's peak; on the CPU the peak resident set of this process. Linux lets a process reset its
    own peak (``/proc/self/clear_refs``); where that is refused the peak since the process started is reported.
    """

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        if cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                pass

    def megabytes(self) -> float:
        if self._cuda:
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        import resource

        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        except OSError:
            pass
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
