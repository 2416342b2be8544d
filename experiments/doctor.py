"""Everything a run depends on, what is missing, and the command that would bring it: ``python -m experiments.doctor``.

It never fails: whatever is broken becomes a line of the table, and the exit code is 0. Any Python may run it, before the set-up
too: it goes on in ``.venv`` if it is there and works, and until then needs nothing but the standard library.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from camera_occupancy_bench.checkout import git_state
from camera_occupancy_bench.commandline import Parser, finish
from experiments import install
from experiments.shell import program, runnable

SETUP = "make setup"
_SPACE = 6  # GB that the environment and the generated worlds take
_PACKAGES = ("typer", "rich", "pydantic", "filelock")  # without which no command of the project starts


class Finding(NamedTuple):
    """One line: what was looked at, whether it is usable, what was found, what would make it usable."""

    what: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(data_root: Path | None = None) -> Iterator[Finding]:
    """All findings, in the order of the table."""
    yield from _setup()
    if _lacking():
        return
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("machine", _machine),
        ("PyTorch", _torch),
        ("mm stack", _mm_stack),
        ("renderers", _renderers),
        ("data", lambda: _data(data_root)),
        ("toy world", _toyworld),
        ("results", _results),
        ("MLflow", _mlflow),
    ]
    for name, check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a broken part is what this command is there to report
            yield Finding(name, False, _first_line(error), SETUP)


def _setup() -> Iterator[Finding]:
    """What ``make setup`` needs, and what it has done so far. Standard library only."""
    python = sys.version_info
    yield Finding(
        "Python", (3, 10) <= python[:2] < (3, 13), f"{platform.python_version()}, {sys.executable}", f"{SETUP} PYTHON=python3.11"
    )
    if (3, 10) <= python[:2] < (3, 13):
        missing = install.missing_packages()
        remedy = f"sudo apt-get install {' '.join(missing)} (as root, {SETUP} does it)"
        yield Finding(
            "compiler", not missing, f"missing: {', '.join(missing)}" if missing else "g++ and Python's headers", remedy
        )
    free = shutil.disk_usage(install.ROOT).free / 1e9
    yield Finding("disk", free > _SPACE, f"{free:.0f} GB free at {install.ROOT}", f"make room: {_SPACE} GB are needed")
    if Path(sys.prefix).resolve() == install.VENV.resolve():
        steps = install.unfinished()
        detail = f"{install.VENV}; not done or changed since: {', '.join(steps)}" if steps else f"{install.VENV}, complete"
        yield Finding("environment", not steps, detail, SETUP)
        called = program("python") == "python"
        yield Finding("active", called, "the shell's python is its own" if called else "not in this shell", install.activation())
    elif lacking := _lacking():
        state = "is incomplete" if install.VENV.exists() else "does not exist"
        yield Finding("environment", False, f"{install.VENV} {state}; this Python lacks {lacking}", f"{SETUP} (about 4 minutes)")
    else:
        yield Finding("environment", True, f"{sys.prefix}, not made by {SETUP}")


def _lacking() -> str:
    """Packages that this Python lacks to run the project's commands; "" if none."""
    return ", ".join(name for name in _PACKAGES if importlib.util.find_spec(name) is None)


def _environment_works() -> bool:
    try:
        return subprocess.run([install.python(), "-c", f"import {', '.join(_PACKAGES)}"], capture_output=True).returncode == 0
    except OSError:
        return False


def _machine() -> Iterator[Finding]:
    from experiments.cell import environment

    hardware = environment.hardware(gpu=False)
    yield Finding("machine", True, f"{hardware.cpu}, {hardware.cores} cores, {hardware.memory_gb:.0f} GiB")
    state = git_state()
    yield Finding(
        "checkout", state.commit != "unknown", f"{state.commit[:12]}{', changed files' if state.dirty else ''}", "git clone"
    )


def _torch() -> Iterator[Finding]:
    import torch

    yield Finding("torch", True, torch.__version__)
    if torch.cuda.is_available():
        cards = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding("CUDA", True, f"{torch.version.cuda}: {cards}")
    else:
        built = torch.version.cuda
        detail = f"built for CUDA {built}, no device found" if built else "this torch is a CPU build; the cpu renderer is used"
        yield Finding("CUDA", False, detail, "a CUDA machine and a CUDA build of torch; not needed for the toy preset")


def _mm_stack() -> Iterator[Finding]:
    for package, module in (("mmengine", "mmengine"), ("mmcv", "mmcv.ops"), ("mmdet", "mmdet"), ("mmdet3d", "mmdet3d")):
        try:
            importlib.import_module(module)
            suffix = ", ops present" if package == "mmcv" else ""
            yield Finding(package, True, metadata.version(package) + suffix)
        except Exception as error:  # noqa: BLE001 - compiled packages fail to import in many ways
            missing = "installed without its ops: " if package == "mmcv" and "_ext" in str(error) else ""
            yield Finding(package, False, missing + _first_line(error), SETUP)


def _renderers() -> Iterator[Finding]:
    from renderers import registry

    for name in registry.names():
        try:
            state = registry.availability(name)
            yield Finding(f"renderer {name}", bool(state), state.reason or "available", state.remedy)
        except Exception as error:  # noqa: BLE001 - see above
            yield Finding(f"renderer {name}", False, _first_line(error), SETUP)


def _data(named: Path | None) -> Iterator[Finding]:
    from experiments.plan import DATA_ROOT_VARIABLE

    configured = os.environ.get(DATA_ROOT_VARIABLE)
    root = named or (Path(configured) if configured else None)
    if root is None:
        remedy = f"--data-root FOLDER or {DATA_ROOT_VARIABLE}=FOLDER; not needed for the toy preset"
        yield Finding("data root", False, "none is configured", remedy)
        return
    from experiments.datasets.layouts import describe

    found = describe(root)
    if not found:
        yield Finding("data root", False, f"{root} holds no known data set", "unpack one there, see docs/data.md")
    for split in found:
        detail = f"{root}: {split.usable} of {split.frames} frames usable"
        yield Finding(f"{split.dataset} {split.split}", split.usable == split.frames > 0, detail, split.problem)


def _toyworld() -> Iterator[Finding]:
    from experiments import toyworld
    from experiments.plan import PlanError, generated
    from experiments.spec import load_table, table_names

    seen: set[str] = set()
    for table in sorted(map(load_table, table_names()), key=lambda table: (table.brief, not table.main)):
        name, preset = table.name, table.presets.get("toy")
        if preset is None or preset.data.source != "toyworld":
            continue
        try:
            fingerprint = generated(table, "toy", {})
        except PlanError as error:
            yield Finding(f"toy world of {name}", False, _first_line(error), "correct `toyworld` of its preset")
            continue
        if fingerprint in seen:
            continue  # an ablation of a table reads that table's world
        seen.add(fingerprint)
        folder = toyworld.default_cache() / "toyworld" / fingerprint
        if folder.is_dir():
            frames = toyworld.summary(folder)["frames"]
            counts = ", ".join(f"{count} {split}" for split, count in frames.items())
            yield Finding(f"toy world of {name}", True, f"{folder}: {counts} frames")
        else:
            yield Finding(f"toy world of {name}", True, "not generated yet; the first run does it in about a minute")


def _results() -> Iterator[Finding]:
    from experiments import records
    from experiments.cell.folder import results_root

    root = results_root()
    count, broken = 0, ""
    for path in sorted(root.glob("*/*/*.json")):
        try:
            records.load(path)
            count += 1
        except records.RecordError as error:
            broken = _first_line(error)
    yield Finding("results", not broken, broken or f"{root}: {count} finished cells", "")


def _mlflow() -> Iterator[Finding]:
    from experiments.cell.tracking import Tracker, public, tracking_uri

    uri = tracking_uri()
    problem: list[str] = []
    experiments = Tracker(problem.append, uri).experiments()
    if problem:
        yield Finding("MLflow", False, problem[0], "start the server or unset MLFLOW_TRACKING_URI; runs go on without it")
    else:
        names = ", ".join(experiments) or "no experiments yet"
        yield Finding("MLflow", True, f"{metadata.version('mlflow')} at {public(uri)}: {names}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def main(argv: list[str] | None = None) -> int:
    """Print the table; always returns 0."""
    parser = Parser(
        "python -m experiments.doctor", "Show everything that a run depends on, and the command that brings what is missing."
    )
    parser.add_argument("--data-root", type=Path, metavar="PATH", help="Folder of the real data set. Default: OCC_DATA_ROOT.")
    options = parser.parse_args(argv)
    if _lacking():
        if _environment_works():
            words = sys.argv[1:] if argv is None else argv
            os.execv(install.python(), [install.python(), "-m", "experiments.doctor", *words])
        for finding in examine(options.data_root):
            print(f"{finding.what}: {'yes' if finding.ok else 'NO'}, {finding.detail}")
            if not finding.ok:
                print(f"    to make it available: {finding.remedy}")
        print(f"The rest is looked at once the environment is there: {SETUP}")
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=False)
    for heading in ("what", "", "found", "to make it available"):
        table.add_column(heading, overflow="fold")
    for finding in examine(options.data_root):
        mark = "[green]yes[/green]" if finding.ok else "[yellow]no[/yellow]"
        table.add_row(escape(finding.what), mark, escape(finding.detail), "" if finding.ok else escape(runnable(finding.remedy)))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
