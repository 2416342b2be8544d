"""Renderers side by side: ``python -m renderers.compare --renderer cpu gsplat --workload toy occ3d-camera --json out.json``.

Each backend is held to the contract first, every case of ``renderers.conformance`` and ``renderers.rays.conformance``
(``--workload conformance`` does only that).
Then it renders each workload in a process of its own: forward and backward time, peak memory, agreement with the reference
(``renderers.measure``, ``renderers.rays.measure``).
``--json`` and ``--save`` write what is finished after every measurement, so an interrupted run keeps it.
``--save`` leaves one record a workload and backend in results/local/table_renderers/<machine>/ (or below OCC_RESULTS), for
``python -m reports.publish table_renderers``. Needs torch alone; with rich installed the tables are prettier.

Exit codes: 0 all measured; 1 a measurement or a case of the contract failed, or a renderer that was asked for by name is not
available; 2 the command asks for something impossible; 130 interrupted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from camera_occupancy_bench import HOME, files
from camera_occupancy_bench.checkout import git_state
from camera_occupancy_bench.commandline import Parser, finish
from renderers import machine, registry
from renderers.conformance import CASES, Comparison, check
from renderers.interface import Cameras, Gaussians, RasterSettings
from renderers.machine import Machine
from renderers.measure import AGREEMENT, MEMORY, Result, measure
from renderers.rays import measure as rays_measure
from renderers.rays.conformance import RAY_CASES
from renderers.rays.conformance import check as check_rays
from renderers.registry import Kind
from renderers.scenes import pinhole
from renderers.summary import print_summary, result_line
from renderers.workloads import WORKLOADS, LabelError, RayWorkload, Source, UnknownWorkload, Workload, load_label, select

TABLE = "table_renderers"
CONFORMANCE = "conformance"
SCHEMA_VERSION = 1


class CompareError(ValueError):
    """The command asks for something impossible; the message says what and what would work."""


@dataclass(frozen=True)
class Request:
    """What to measure.

    named        the renderers were asked for by name
    conformance  hold them to the contract
    shrink       divides the scenes' sizes (tests only)
    """

    renderers: list[str]
    named: bool
    workloads: list[Workload | RayWorkload]
    conformance: bool
    device: str
    repeat: int | None = None
    data: Path | None = None
    json: Path | None = None
    save: Path | None = None
    command: str = ""
    shrink: int = 1


@dataclass(frozen=True)
class Conformance:
    """How many cases of the contracts a backend was held to, and what it failed: case -> what differs."""

    cases: int
    failed: dict[str, str]


@dataclass
class Run:
    """A comparison under way: what it runs on, and what has been found so far."""

    request: Request
    machine: Machine
    unavailable: dict[str, str]
    started: str
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    conformance: dict[str, Conformance] = field(default_factory=dict)

    def conditions(self) -> dict[str, Any]:
        """What every number depends on besides the code."""
        commit, dirty = git_state()
        kind = self.request.device.split(":")[0]
        return {
            "command": self.request.command,
            "device": self.request.device,
            "machine": self.machine.to_json(),
            "memory_definition": MEMORY[kind],
            "agreement_definition": AGREEMENT,
            "versions": machine.versions(),
            "git_commit": commit,
            "git_dirty": dirty,
            "started": self.started,
            "unavailable": self.unavailable,
        }

    def document(self) -> dict[str, Any]:
        """What ``--json`` writes: "workloads" -> name -> backend -> numbers."""
        workloads = {name: {backend: asdict(r) for backend, r in found.items()} for name, found in self.results.items()}
        conformance = {backend: asdict(found) for backend, found in self.conformance.items()}
        return {"schema_version": SCHEMA_VERSION, **self.conditions(), "conformance": conformance, "workloads": workloads}

    def record(self, workload: Workload | RayWorkload, renderer: str) -> dict[str, Any]:
        """One record of ``table_renderers``."""
        about = {"table": TABLE, "workload": workload.name, "group": workload.group, "title": workload.title}
        result = asdict(self.results[workload.name][renderer])
        return {"schema_version": SCHEMA_VERSION, **about, "renderer": renderer, **result, **self.conditions()}


def compare(request: Request) -> Run:
    """Measure all that is asked for, printing a line each; raises CompareError before any work if it is impossible."""
    _check(request)
    unavailable = {name: reason for name in request.renderers if (reason := _hindrance(name, request.device))}
    for name, reason in unavailable.items():
        print(f"{name} is not available: {reason}", file=sys.stderr if request.named else sys.stdout)
    print("measuring the machine ...", flush=True)
    run = Run(request, machine.inspect(request.device), unavailable, time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    try:
        for name in request.renderers if request.conformance else []:
            if name not in unavailable:
                run.conformance[name] = _conformance(name, request.device)
                print(conformance_line(name, run.conformance[name]), flush=True)
                if request.json is not None:
                    _write(request.json, run.document())
        for workload in request.workloads:
            found = run.results.setdefault(workload.name, {})
            for name in request.renderers:
                if name in unavailable:
                    found[name] = Result("unavailable", unavailable[name])
                elif workload.kind not in registry.kinds(name):
                    found[name] = Result("unavailable", f"it does not render {workload.kind}")
                else:
                    found[name] = _rated(_measured(name, workload, request), run.machine)
                    print(result_line(workload.name, name, found[name]), flush=True)
                    if request.save is not None:
                        _write(_record_path(request.save, run, workload, name), run.record(workload, name))
            if request.json is not None:
                _write(request.json, run.document())
    except KeyboardInterrupt:
        if request.json is not None:
            _write(request.json, run.document())
        raise
    return run


def _rated(result: Result, here: Machine) -> Result:
    """The result with the rates of blending, and of reading voxels, as a part of the measured peaks."""
    if result.stages and result.stages.get("blend_gflops") and here.fma_gflops:
        result.stages["blend_part_of_peak"] = result.stages["blend_gflops"] / here.fma_gflops
    if result.stages and result.stages.get("read_gbs") and here.bandwidth_gbs:
        result.stages["read_part_of_bandwidth"] = result.stages["read_gbs"] / here.bandwidth_gbs
    return result


def _record_path(root: Path, run: Run, workload: Workload | RayWorkload, renderer: str) -> Path:
    return root / TABLE / run.machine.slug(run.request.device) / f"{workload.name}--{renderer}.json"


def _hindrance(name: str, device: str) -> str:
    """Why a backend cannot be measured on ``device``; "" if it can. It draws one Gaussian, or some rays, to know."""
    for kind in registry.kinds(name):
        state = registry.availability(name, kind)
        if not state:
            return f"{state.reason}; {state.remedy}" if state.remedy else state.reason
        try:
            _draw_little(name, kind, device)
        except (ValueError, RuntimeError) as error:
            return " ".join(str(error).split())
    return ""


def _draw_little(name: str, kind: Kind, device: str) -> None:
    if kind == "rays":
        case = RAY_CASES["empty"]().to(device)
        registry.get(name, "rays").render(case.rays, case.grid, case.settings)
        return
    one = torch.ones(1, 1, 1, device=device)
    gaussians = Gaussians(one * torch.tensor([0.0, 0.0, 2.0], device=device), 0.1 * one, one[..., 0], one)
    camera = Cameras(pinhole(16, 16, 16.0).to(device)[None, None], torch.eye(4, device=device)[None, None], 16, 16)
    renderer = registry.get(name)
    renderer.render(gaussians, camera, renderer.native(RasterSettings()))


def conformance_line(name: str, found: Conformance) -> str:
    """``conformance, cpu: 96 of 96 cases``, and what each failed one differs in."""
    lines = [f"conformance, {name}: {found.cases - len(found.failed)} of {found.cases} cases"]
    return "\n".join(lines + [f"  {case}: {what}" for case, what in found.failed.items()])


def _conformance(name: str, device: str) -> Conformance:
    found = _alone(_conform, name, device)
    return found if isinstance(found, Conformance) else Conformance(1, {"all": found})


def _conform(name: str, device: str) -> Conformance:
    checks: dict[str, Callable[[], Comparison]] = {}
    if "splats" in registry.kinds(name):
        checks |= {case: partial(_check_splats, name, case, device) for case in CASES}
    if "rays" in registry.kinds(name):
        checks |= {f"rays, {case}": partial(_check_rays, name, case, device) for case in RAY_CASES}
    failed = {}
    for case, compare_ in checks.items():
        try:
            compared = compare_()
        except (ValueError, RuntimeError) as error:
            failed[case] = f"{type(error).__name__}: {' '.join(str(error).split())}"
        else:
            differences = (f"{d.what} {d.error:.3g} (at most {d.bound:.3g})" for d in compared.differences if not d.ok)
            failed |= {} if compared.ok else {case: ", ".join(differences)}
    return Conformance(len(checks), failed)


def _check_splats(name: str, case: str, device: str) -> Comparison:
    return check(registry.get(name), CASES[case](), device)


def _check_rays(name: str, case: str, device: str) -> Comparison:
    return check_rays(registry.get(name, "rays"), RAY_CASES[case](), device)


def _measured(name: str, workload: Workload | RayWorkload, request: Request) -> Result:
    found = _alone(_measure, name, workload.name, request.shrink, request.data, request.device, request.repeat)
    return found if isinstance(found, Result) else Result("failed", found)


def _measure(name: str, workload: str, shrink: int, data: Path | None, device: str, repeat: int | None) -> Result:
    source = Source(shrink, None if data is None else load_label(data))
    chosen = WORKLOADS[workload]  # not select: a name may be that of a group too
    if isinstance(chosen, RayWorkload):
        return rays_measure.measure(name, chosen, source, device, repeat)
    return measure(name, chosen, source, device, repeat)


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """``work(*arguments)`` in a process of its own: memory that is only this one's, and a crash that ends nothing else.

    Returns a message if it could not be done.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"was ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
        memory = "; signal 9 usually means that memory ran out" if code == -9 else ""
        return f"the measuring process {how}{memory}"
    finally:
        process.terminate()
        process.join()


def _child(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    try:
        sender.send(work(*arguments))
    except Exception as error:  # noqa: BLE001 - whatever a backend does wrong is its result
        sender.send(f"{type(error).__name__}: {' '.join(str(error).split())}")


def _write(path: Path, content: dict[str, Any]) -> None:
    files.write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _check(request: Request) -> None:
    """Everything that would otherwise only be noticed after minutes of work."""
    device = request.device
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise CompareError(f"--device {device}: there is no such device; use cpu, cuda or cuda:1") from error
    if parsed.type not in MEMORY:
        raise CompareError(f"--device {device}: measured are cpu and cuda")
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise CompareError(f"--device {device}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; use cpu")
    if request.repeat is not None and request.repeat < 1:
        raise CompareError(f"--repeat must be at least 1, got {request.repeat}")
    if request.json is not None:
        if request.json.is_dir():
            raise CompareError(f"--json {request.json} is a folder; name a file")
        _check_writable("--json", request.json.absolute().parent)
    if request.save is not None:
        _check_writable("--save", request.save, make=True)
    if request.data is not None:
        load_label(request.data)


def _check_writable(option: str, folder: Path, make: bool = False) -> None:
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        handle, probe = tempfile.mkstemp(prefix=".probe-", dir=folder)
        os.close(handle)
        Path(probe).unlink()
    except OSError as error:
        raise CompareError(f"{option}: cannot write into {folder}: {error.strerror or error}; name another place") from error


def parse(argv: Sequence[str]) -> Request:
    """The command line as a request; raises CompareError, UnknownRenderer or UnknownWorkload."""
    parser = Parser(
        "python -m renderers.compare",
        "Time, memory and agreement of renderers on the workloads of published systems.",
        f"workloads: {CONFORMANCE}, {', '.join(dict.fromkeys(w.group for w in select([])))}; each, or a member of it such "
        "as occ3d-camera-gt or channels-19",
    )
    parser.add_argument("--renderer", nargs="+", action="extend", metavar="NAME", help="Default: all that are available.")
    parser.add_argument("--workload", nargs="+", action="extend", metavar="NAME", default=[], help="Default: all.")
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=here, help="cpu or cuda. Default: %(default)s.")
    parser.add_argument("--repeat", type=int, metavar="N", help="Repetitions. Default: 3 to 20, as fit into a few seconds.")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=os.environ.get("OCC_REAL_FRAMES") or None,
        help="Folder in the layout of Occ3D-nuScenes with scene-1077, for the official label. Default: OCC_REAL_FRAMES, else a "
        "made-up street.",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="Write everything to this file.")
    parser.add_argument("--save", action="store_true", help=f"Leave records of {TABLE} in results/local.")
    options = parser.parse_args(list(argv))
    workloads = [] if options.workload == [CONFORMANCE] else select([w for w in options.workload if w != CONFORMANCE])
    for name in options.renderer or []:
        has = registry.kinds(name)
        if workloads and not any(w.kind in has for w in workloads):
            registry.load(name, workloads[0].kind)  # raises: it has nothing to do
    results = Path(os.environ.get("OCC_RESULTS") or HOME / "results" / "local")
    return Request(
        renderers=list(dict.fromkeys(options.renderer or registry.every_name())),
        named=bool(options.renderer),
        workloads=workloads,
        conformance=not options.workload or CONFORMANCE in options.workload,
        device=options.device,
        repeat=options.repeat,
        data=None if options.data is None else Path(options.data),
        json=options.json,
        save=results if options.save else None,
        command=shlex.join(["python", "-m", "renderers.compare", *argv]),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    request = None
    try:
        request = parse(sys.argv[1:] if argv is None else argv)
        run = compare(request)
    except KeyboardInterrupt:
        kept = request is not None and (request.json or request.save)
        print(f"error: interrupted{'; what was finished is saved' if kept else ''}", file=sys.stderr)
        return 130
    except (CompareError, UnknownWorkload, LabelError, registry.UnknownRenderer, files.WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if run.results:
        print_summary(run.machine, run.results, MEMORY[request.device.split(":")[0]], AGREEMENT)
    if request.json is not None:
        print(f"written: {request.json}")
    if request.save is not None:
        where = request.save / TABLE / run.machine.slug(request.device)
        python = shlex.quote(os.path.relpath(sys.executable))  # no word that the shell may not know
        print(f"records: {where}\nnext: {python} -m reports.publish {TABLE}; {python} -m reports.build")
    failed = sorted({name for found in run.results.values() for name, r in found.items() if r.status == "failed"})
    if failed:
        print(f"error: measurements failed: {', '.join(failed)} (reasons above)", file=sys.stderr)
    broken = sorted(name for name, found in run.conformance.items() if found.failed)
    if broken:
        print(f"error: the contract is not kept by: {', '.join(broken)} (cases above)", file=sys.stderr)
    missing = sorted(run.unavailable) if request.named else []
    if missing:
        print(f"error: not available here: {', '.join(missing)} (reasons above)", file=sys.stderr)
    return 1 if failed or broken or missing else 0


if __name__ == "__main__":
    sys.exit(finish(main))
