"""Set up the environment from a bare machine: ``python3 -m experiments.install`` (what ``make setup`` runs).

Standard library only, because it runs before anything is installed. Each step leaves a stamp in ``.venv/.steps`` named
after what it depends on: a finished step is not repeated, an interrupted set-up goes on where it stopped, and a changed
lock file repeats just the steps it touches.

mmcv comes as a source package without compiled operators on PyPI. Its stock build compiles 77 files in nine minutes on two
cores; here the sources are joined into two translation units first, which takes about one. The wheel is kept outside the
environment under a name that knows the torch version, so that it is built once a machine. ``python -m experiments.install mmcv``
does that for the environment that it is run in, whoever made it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

from camera_occupancy_bench import CHECKOUT, ROOT
from camera_occupancy_bench.commandline import Parser, finish

VENV = ROOT / ".venv"
STEPS = VENV / ".steps"
LOCK = ROOT / "requirements.lock"
CACHE = Path(os.environ.get("OCC_CACHE") or Path.home() / ".cache" / "camera-occupancy-bench")
TORCH = "torch==2.13.0"
BUILD_TOOLS = ["numpy==1.26.4", "setuptools==80.10.2", "wheel==0.48.0", "ninja==1.13.2", "packaging==26.3"]
MMCV = "2.1.0"
# Written as macros by one mmcv source and undone before the next, now that they share a translation unit.
LEAKED_MACROS = ("min", "max")
# These keep file-local helpers of the same names, so they stay translation units of their own.
SEPARATE_CPU_SOURCES = ("roi_align", "psamask", "rotated")


class SetupError(RuntimeError):
    """Something the user has to change; the message says what."""


def run(command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a command with its output in ``log``; a failure shows the log's end."""
    with log.open("a", encoding="utf-8") as out:
        out.write(f"\n$ {' '.join(command)}\n")
        out.flush()
        code = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, cwd=cwd
        ).returncode
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise SetupError(f"`{' '.join(command[:6])} ...` failed with exit code {code}. End of {log}:\n{tail}")


def python() -> str:
    return str(VENV / "bin" / "python")


def pip(*arguments: str, log: Path, into: str | None = None) -> None:
    """``pip`` of ``.venv``, or of the interpreter ``into``."""
    # Byte-compiling 180 packages costs 40 s; Python compiles the few modules that are imported on first use anyway.
    run([into or python(), "-m", "pip", *arguments], log, env={"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_COMPILE": "1"})


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _stamp(name: str, key: str) -> Path:
    return STEPS / f"{name}-{key}"


def step(name: str, key: str, action: Callable[[Path], None]) -> None:
    """Do ``action`` unless a stamp says that it was done for the same ``key``."""
    stamp = _stamp(name, key)
    if stamp.exists():
        return
    print(f"  {name} ...", end="", flush=True)
    start = time.monotonic()
    log = VENV / f"setup-{name}.log"
    log.unlink(missing_ok=True)
    action(log)
    for old in STEPS.glob(f"{name}-*"):
        old.unlink()
    stamp.touch()
    print(f" {time.monotonic() - start:.0f} s", flush=True)


def missing_packages() -> list[str]:
    """System packages that the set-up needs and this machine lacks, by Debian's names; raises SetupError for a wrong Python."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        raise SetupError(f"Python 3.10 to 3.12 is needed, this is {platform.python_version()}; call with PYTHON=python3.11")
    import sysconfig

    missing = []
    if not any(shutil.which(c) for c in (os.environ.get("CXX") or "g++", "g++", "c++")):
        missing.append("g++")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-dev")
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    return missing


def check_machine() -> None:
    """Python's version, a C++ compiler and Python's headers; the last two are installed where apt-get can be used."""
    missing = missing_packages()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise SetupError(f"missing on this machine: {', '.join(missing)}. Install with: sudo {' '.join(command)}")
    print(f"  system packages ({', '.join(missing)}) ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run(["apt-get", "update"], Path(folder) / "apt.log")
        run(command, Path(folder) / "apt.log", env={"DEBIAN_FRONTEND": "noninteractive"})


def create_venv() -> None:
    try:
        done = subprocess.run([python(), "-m", "pip", "--version"], capture_output=True).returncode == 0
    except OSError:
        done = False
    if not done:
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    STEPS.mkdir(exist_ok=True)


def torch_version(interpreter: str) -> str:
    code = "import torch; print(torch.__version__)"
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SetupError(f"{interpreter} has no torch, for which mmcv is built; install that first")
    return done.stdout.strip()


def join_sources(folder: Path, name: str, keep: Callable[[str], bool]) -> None:
    """Replace the ``*.cpp`` files of ``folder`` for which ``keep`` holds by one that includes them all."""
    undo = "".join(f"#undef {macro}\n" for macro in LEAKED_MACROS)
    lines = []
    for source in sorted(folder.glob("*.cpp")):
        if keep(source.name):
            source.rename(source.with_name(source.name + ".inc"))
            lines.append(f'#include "{source.name}.inc"\n{undo}')
    (folder / name).write_text("".join(lines), encoding="utf-8")


def build_mmcv(wheels: Path, log: Path, joined: bool, interpreter: str) -> None:
    """Build mmcv's wheel with CPU operators into ``wheels``.

    Its CUDA sources include a header that current torch no longer has, so CUDA is hidden from the build.
    """
    with tempfile.TemporaryDirectory(prefix="mmcv-") as folder:
        work = Path(folder)
        # No build isolation: an isolated build has no torch and "succeeds" without operators.
        pip(
            "download",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--no-build-isolation",
            "-d",
            folder,
            f"mmcv=={MMCV}",
            log=log,
            into=interpreter,
        )
        with tarfile.open(next(work.glob("mmcv-*.tar.gz"))) as archive:
            archive.extractall(work, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(work)
        source = work / f"mmcv-{MMCV}"
        if joined:
            sources = source / "mmcv" / "ops" / "csrc" / "pytorch"
            join_sources(sources, "joined.cpp", lambda name: True)
            join_sources(sources / "cpu", "joined_cpu.cpp", lambda name: not any(s in name for s in SEPARATE_CPU_SOURCES))
        env = {
            "CFLAGS": "-g0 -O1 -w",
            "MAX_JOBS": str(max(1, min(os.cpu_count() or 1, 8))),
            "MMCV_WITH_OPS": "1",
            "FORCE_CUDA": "0",
            "CUDA_VISIBLE_DEVICES": "",
            "PATH": f"{Path(interpreter).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        command = [interpreter, "-m", "pip", "wheel", "--no-cache-dir", "--no-build-isolation", "--no-deps", "-w", str(work), "."]
        run(command, log, env=env, cwd=source)
        wheels.mkdir(parents=True, exist_ok=True)
        built = next(work.glob("mmcv-*.whl"))
        partial = wheels / f".{built.name}.{os.getpid()}"
        shutil.copyfile(built, partial)
        os.replace(partial, wheels / built.name)


def mmcv_works(interpreter: str) -> bool:
    code = "import mmcv.ops"
    return subprocess.run([interpreter, "-c", code], capture_output=True).returncode == 0


def install_mmcv(log: Path, interpreter: str) -> None:
    wheels = CACHE / "wheels" / f"torch-{torch_version(interpreter)}"

    def install_kept() -> bool:
        for wheel in wheels.glob(f"mmcv-{MMCV}-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl"):
            pip("install", "--no-deps", "--force-reinstall", str(wheel), log=log, into=interpreter)
            if mmcv_works(interpreter):
                return True
            wheel.unlink()
        return False

    if install_kept():
        return
    print(" building (about a minute on 2 cores) ...", end="", flush=True)
    try:
        build_mmcv(wheels, log, True, interpreter)
        if install_kept():
            return
    except SetupError as error:
        with log.open("a", encoding="utf-8") as out:
            out.write(f"\njoined build failed: {error}\n")
    print(" failed, trying mmcv's own build (about 9 minutes on 2 cores) ...", end="", flush=True)
    build_mmcv(wheels, log, False, interpreter)
    if not install_kept():
        raise SetupError(f"mmcv was built but `import mmcv.ops` fails; see {log}")


def install_packages(log: Path) -> None:
    pip("install", "--no-deps", "-r", str(LOCK), log=log)
    # Both OpenCV packages are required by name and own the same files; the headless one must win, since the other
    # needs libGL, which a server does not have.
    headless = next(line.strip() for line in LOCK.read_text().splitlines() if line.startswith("opencv-python-headless=="))
    pip("install", "--no-deps", "--force-reinstall", headless, log=log)


def activation() -> str:
    """The command that makes a shell find the environment's programs."""
    return f"source {shlex.quote(os.path.relpath(VENV / 'bin' / 'activate'))}"


def compiled_sources(folder: Path) -> list[Path]:
    """C++ below a folder; not Python's own compiled files, whose names have a ".c" too."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".cpp", ".h"))


def steps() -> list[tuple[str, str, Callable[[Path], None]]]:
    """Name, key (of what it depends on) and action of every step, in order."""
    base = digest(platform.python_version(), TORCH, *BUILD_TOOLS)
    renderer = "".join(path.read_text(encoding="utf-8") for path in compiled_sources(ROOT / "renderers" / "cpu"))
    return [
        ("torch", base, lambda log: pip("install", TORCH, *BUILD_TOOLS, log=log)),
        ("packages", digest(base, LOCK.read_text(encoding="utf-8")), install_packages),
        ("mmcv", digest(base, MMCV), lambda log: install_mmcv(log, python())),
        (
            "project",
            digest(base, (ROOT / "pyproject.toml").read_text(encoding="utf-8")),
            lambda log: pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT), log=log),
        ),
        (
            "cpu-renderer",
            digest(base, platform.machine(), renderer),
            lambda log: run([python(), "-m", "renderers.cpu.build"], log, cwd=ROOT),
        ),
    ]


def unfinished() -> list[str]:
    """Names of the steps that ``make setup`` with this Python would do."""
    return [name for name, key, _ in steps() if not _stamp(name, key).exists()]


def into_this_environment() -> None:
    """mmcv with its operators, and what it takes to build them, for the interpreter that runs this."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "mmcv.log"
        if mmcv_works(sys.executable):
            print(f"mmcv and its operators are in {sys.prefix} already")
            return
        print(f"mmcv for {sys.prefix} ...", end="", flush=True)
        pip("install", *(tool for tool in BUILD_TOOLS if not tool.startswith("numpy")), log=log, into=sys.executable)
        install_mmcv(log, sys.executable)
        print(" done")


def main(argv: list[str] | None = None) -> int:
    parser = Parser("python3 -m experiments.install", "Make the environment .venv of the checkout, or bring what is named.")
    what = "mmcv, built with its operators, into the environment that runs this. Default: all of .venv."
    parser.add_argument("part", nargs="?", choices=["mmcv"], help=what)
    part = parser.parse_args(argv).part
    start = time.monotonic()
    try:
        if part is not None:
            into_this_environment()
            return 0
        if not CHECKOUT:
            raise SetupError(f"{ROOT} is no checkout to make an environment for; pip install '.[bench]' in the project's folder")
        check_machine()
        create_venv()
        missing = unfinished()
        if missing:
            print(f"Setting up {VENV} (about 4 minutes on 2 cores; logs: {VENV}/setup-*.log)", flush=True)
        for name, key, action in steps():
            step(name, key, action)
    except SetupError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if missing:
        print(f"Set up in {time.monotonic() - start:.0f} s. Commands that start with `python` need the environment to be active:")
        print(f"  {activation()}    # once in every new shell", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
