"""Compiles the C++ ops of the "cpu" renderer (``python -m renderers.cpu.build`` ahead of time, else at first use).

One shared library an instruction set and op (splats, rays), no PyTorch or Python headers: a few seconds each, and valid for
every version of PyTorch. Libraries are named by the hash of what made them (sources, compiler, flags), live in this folder or,
if that is read-only, in the user's cache folder, and are put in place atomically under a lock, so processes may build at the same
time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from camera_occupancy_bench.files import replacing

FOLDER = Path(__file__).parent
FLAGS = (
    "-std=c++17 -O3 -fopenmp -fPIC -shared -ffp-contract=off -fno-math-errno -fno-trapping-math "
    "-fvisibility=hidden -Wl,-Bsymbolic -Wno-psabi"
).split()
# Instruction sets by name, in the order of occ_level(). On other processors than x86-64 there is only "portable".
TARGETS: dict[str, list[str]] = {"portable": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4"]}


@dataclass(frozen=True)
class Op:
    """What becomes one library. sources: in ``folder``; those that end in .cpp are compiled, the others are included by them."""

    name: str
    folder: Path
    sources: tuple[str, ...]


SPLATS = Op("op", FOLDER, ("op.cpp", "peak.cpp", "blend.h", "scene.h", "simd.h", "sort.h", "splat.h"))
RAYS = Op("rays", FOLDER.parent / "rays" / "cpu", ("op.cpp", "march.h", "../../cpu/simd.h"))


class BuildError(RuntimeError):
    """An op cannot be compiled here; ``remedy`` says what would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}. {remedy}")
        self.reason, self.remedy = reason, remedy


def targets() -> list[str]:
    """Instruction sets that can be compiled for this kind of processor."""
    return list(TARGETS) if platform.machine() in ("x86_64", "AMD64") else ["portable"]


def compiler() -> list[str]:
    """The compiler's command: $CXX, g++ or c++; raises BuildError if there is none."""
    for name in (os.environ.get("CXX", ""), "g++", "c++"):
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    raise BuildError("no C++ compiler found", "Install one (`apt-get install g++`) or point the variable CXX at it")


def ensure(target: str, quiet: bool = True, op: Op = SPLATS) -> Path:
    """The library of ``op`` for one of ``targets()``, compiled first if it is missing; raises BuildError."""
    folder, name = _cache(), f"_{op.name}-{target}-{_fingerprint(target, op)}.so"
    path = folder / name
    if path.exists():
        return path
    command = compiler()
    with _locked(folder):
        if path.exists():
            return path
        if not quiet:
            print(f"renderers.cpu: compiling {op.name} for {target} with {command[0]} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        with replacing(path) as partial:
            units = [str(op.folder / name) for name in op.sources if name.endswith(".cpp")]
            _compile([*command, *FLAGS, *TARGETS[target], *units, "-o", str(partial)], path.with_suffix(".log"))
        for old in folder.glob(f"_{op.name}-{target}-*"):
            if old.stem != path.stem:
                old.unlink(missing_ok=True)  # a process that has it loaded keeps it
        if not quiet:
            print(f"renderers.cpu: {path} in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return path


def _compile(command: list[str], log: Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode == 0:
        return
    output = result.stdout + result.stderr
    log.write_text(shlex.join(command) + "\n" + output)
    lines = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines() or ["no message"]
    raise BuildError(f"the C++ op does not compile: {lines[0].strip()}", f"The whole output is in {log}")


def _fingerprint(target: str, op: Op) -> str:
    digest = hashlib.sha256()
    for name in op.sources:
        digest.update((op.folder / name).read_bytes())
    digest.update(repr((FLAGS, TARGETS[target], os.environ.get("CXX", ""), platform.machine())).encode())
    return digest.hexdigest()[:12]


def _cache() -> Path:
    if os.access(FOLDER, os.W_OK):
        return FOLDER
    base = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    folder = base / "camera-occupancy-bench"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"no writable folder for the compiled op ({error})", "Make XDG_CACHE_HOME a writable folder") from error
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".op.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
