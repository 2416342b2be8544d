"""Run many cells on a Slurm cluster or on the GPUs of one machine: ``python -m experiments.sweep TABLE --on slurm``.

    python -m experiments.sweep TABLE [options of experiments.run] --on slurm|local ...
    python -m experiments.sweep status TABLE [--watch]
    python -m experiments.sweep cancel TABLE

Exit codes: 0 all is submitted (``--on slurm``) or finished (``--on local``); 1 a cell failed; 2 the command asks for something
impossible; 130 interrupted.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, explain, finish, missing, require

require(__name__, READING)

from experiments import instructions

instructions.hold()  # before anything below loads numpy or torch

import contextlib
import inspect
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from experiments import plan as planning
from experiments import run
from experiments.cell.folder import CellFolder, Stale, results_root
from experiments.cell.tracking import public, sqlite_file, tracking_uri, viewing
from experiments.command import Interrupted, guarded
from experiments.plan import Plan, PlanError, chain_of, toy_data
from experiments.shell import runnable
from experiments.spec import Cell, load_spec
from experiments.sweep import slurm, status, workstation
from experiments.sweep.manifest import Entry, Sweep, SweepError, load_all, new
from experiments.sweep.task import CellTask

_NOT_HERE = ("list_", "dry_run", "confirm", "re_evaluate", "launcher")
WATCH = 10.0
"""Seconds between two looks of ``status --watch``."""


class _Group(TyperGroup):
    """A first word that is no command is a table to submit."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["submit", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, cls=_Group)


def submit(
    on: Annotated[str, typer.Option(help="slurm or local.")],
    gpus_per_cell: Annotated[
        int | None, typer.Option(help="GPUs a cell trains on. Default: 1 with slurm; local: 1 where there are GPUs, else 0.")
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(help="Cells at a time. Default: slurm: no limit; local: as many as there are GPUs for, or 1.")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Slurm's partition. Default: the cluster's.")] = None,
    time_: Annotated[
        str | None,
        typer.Option("--time", help=f"Slurm's time limit of a task, which then goes on. Default: {slurm.DEFAULT_TIME}."),
    ] = None,
    setup: Annotated[
        list[str] | None, typer.Option(help="Lines of shell before the task, 'module load cuda' or '#SBATCH --account=me' say.")
    ] = None,
    **options: Any,
) -> int:
    """Run the cells of a table that are not finished on a cluster or on this machine's GPUs."""
    if on not in ("slurm", "local"):
        raise PlanError(f"--on must be slurm or local, got '{on}'")
    if lacking := missing(["submitit"]):
        raise PlanError(f"{explain(lacking).partition(':')[0]}: pip install '.[cluster]' brings it")
    for name, value, least in (("--parallel", parallel, 1), ("--gpus-per-cell", gpus_per_cell, 0)):
        if value is not None and value < least:
            raise PlanError(f"{name} must be {least} at least, got {value}")
    if on == "local":
        for name, given in (("--partition", partition), ("--time", time_), ("--setup", setup)):
            if given is not None:
                raise PlanError(f"{name} is Slurm's: it does not go with --on local")
    minutes = slurm.minutes(time_ or slurm.DEFAULT_TIME)
    machines = slurm.check(partition) if on == "slurm" else 1
    _check_store(machines)
    devices = [] if on == "slurm" else _devices()
    gpus = gpus_per_cell if gpus_per_cell is not None else 1 if on == "slurm" or devices else 0
    cores = sorted(os.sched_getaffinity(0))
    places = workstation.slots(parallel, gpus, devices, cores) if on == "local" else []
    if options["stale"] not in ("keep", "rerun"):
        raise PlanError(f"--stale must be keep or rerun, got '{options['stale']}'")
    console = Console(highlight=False)
    root = results_root(options["results"]).absolute()
    plans = _plans(options, gpus > 0, on == "slurm")
    for line in dict.fromkeys(line for plan in plans for line in plan.said):
        console.print(escape(line), soft_wrap=True)
    name = load_spec(options["table"]).name
    run.check_writable(root)
    sweep = new(root, name, on, public(shlex.join(["python", "-m", "experiments.sweep", *_argv])))
    todo = _todo(plans, options, root, sweep, gpus, minutes * 60.0 if on == "slurm" else None, console, name)
    sweep.save()
    if not todo:
        console.print("nothing is to be run")
        return 0
    for plan in plans:
        if plan.data_root is None:
            toy_data(plan.table, plan.preset, plan.overrides, plan.reads)  # once, not by all cells at the same time
    _say_where(console, sweep, root, name)
    if on == "local":
        return _work_here(sweep, todo, places, root, console)
    made = slurm.executor(sweep.jobs, name, gpus, parallel, partition, minutes, tuple(setup or ()))
    for first, group in _groups(todo):
        after = next((entry.job for entry, _ in todo if entry.key == first), "")
        sweep.assign([entry for entry, _ in group], slurm.submit(made, [task for _, task in group], after))
    jobs = list(dict.fromkeys(entry.job.partition("_")[0] for entry, _ in todo))
    what = "1 cell is" if len(todo) == 1 else f"{len(todo)} cells are"
    console.print(f"{what} submitted: job{'s' * (len(jobs) > 1)} {', '.join(jobs)}")
    return 0


def _with_options_of_run() -> None:
    """Give ``submit`` the options of ``experiments.run`` beside its own."""
    own = [p for p in inspect.signature(submit, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    theirs = [p for name, p in inspect.signature(run.command, eval_str=True).parameters.items() if name not in _NOT_HERE]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*theirs, *own)]
    submit.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    submit.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}


_with_options_of_run()
app.command("submit", hidden=True)(submit)


@app.command("status")
def show(
    table: Annotated[str, typer.Argument(help="Table of the sweeps.")],
    watch: Annotated[bool, typer.Option("--watch", help=f"Look again every {WATCH:.0f} s until all is over.")] = False,
    results: Annotated[Path | None, typer.Option(help="Results folder. Default: OCC_RESULTS, else results/local.")] = None,
) -> int:
    """Show the cells of a table's sweeps: queued, running, stopped, failed, finished."""
    from renderers.tables import print_table

    root = results_root(results).absolute()
    name = load_spec(table).name
    console = Console(highlight=False)
    while True:
        known = _known(root, name)
        queue = _queue(known)
        states = [status.state(one, root, queue) for one in known]
        rows = [(one.entry.key, state.kind, state.text) for one, state in zip(known, states, strict=True)]
        if watch and console.is_terminal:
            console.clear()
        print_table(f"sweeps of {name}", ("cell", "state", ""), rows, console=console)
        console.print(status.counts(states))
        for folder in dict.fromkeys(str(one.sweep.jobs) for one in known if one.entry.job):
            console.print(f"logs: {escape(folder)}", soft_wrap=True)
        if not watch or not any(state.kind in ("queued", "running") for state in states):
            return 1 if any(state.kind == "failed" for state in states) else 0
        time.sleep(WATCH)


@app.command("cancel")
def cancel(
    table: Annotated[str, typer.Argument(help="Table of the sweeps.")],
    results: Annotated[Path | None, typer.Option(help="Results folder. Default: OCC_RESULTS, else results/local.")] = None,
) -> int:
    """Stop what is queued or running of a table's sweeps; every cell goes on from its checkpoint when it is submitted again."""
    root = results_root(results).absolute()
    name = load_spec(table).name
    console = Console(highlight=False)
    known = _known(root, name)
    queue = _queue(known)
    slurm.cancel(list(queue))
    here = list({one.sweep.process for one in known if one.sweep.on == "local" and one.sweep.at_work})
    for process in here:
        os.kill(process, signal.SIGINT)
    left = [] if here else status.controllers(known)  # of a command that was killed
    for process in left:
        os.kill(process, signal.SIGTERM)
    if queue or here or left:
        told = [f"{len(queue)} jobs are cancelled"] * bool(queue)
        told += [f"process {process} was told to stop its cells" for process in (*here, *left)]
        console.print(f"{'; '.join(told)}; the same sweep continues what is begun")
    else:
        console.print("nothing of it is queued or running here")
    return 0


def _plans(options: dict[str, Any], cuda: bool, elsewhere: bool) -> tuple[Plan, ...]:
    requests = planning.requests(
        load_spec(options["table"]),
        tuple(options["row"] or ()),
        renderers=tuple(options["renderer"] or ()),
        seeds=tuple(options["seed"] or ()),
        settings=tuple(options["set_"] or ()),
        elsewhere=elsewhere,
        **{name: options[name] for name in ("preset", "data_root", "eval_only", "checkpoint", "short", "iterations", "smoke")},
    )
    return planning.make_all(requests, lambda: cuda)


def _todo(
    plans: Sequence[Plan],
    options: dict[str, Any],
    root: Path,
    sweep: Sweep,
    gpus: int,
    seconds: float | None,
    console: Console,
    name: str,
) -> list[tuple[Entry, CellTask]]:
    """The cells that are neither finished nor given to a job already, in an order in which each comes behind the one that it
    starts from; all cells become entries of the sweep."""
    before = {one.entry.key: one for one in status.cells(load_all(root, name)) if one.sweep.folder != sweep.folder}
    queue = _queue(list(before.values()))
    todo: dict[str, tuple[Entry, CellTask]] = {}
    seen: set[str] = set()
    counts = {"finished already": 0, "queued or running already": 0}
    for plan in plans:
        for planned in plan.cells:
            alone = not planned.row.trained or options["checkpoint"] is not None
            for cell in [planned] if alone else reversed(list(chain_of(planned))):
                if cell.key in seen:
                    continue
                seen.add(cell.key)
                fingerprint = cell.fingerprint(plan.data_fingerprint)
                first = "" if alone or cell.first_cell is None else cell.first_cell.key
                entry = Entry(cell.table.name, cell.preset_name, cell.name, fingerprint, first=first, left=True)
                sweep.entries.append(entry)
                folder = CellFolder(cell, root)
                force = options["force"] and cell.key in {one.key for one in plan.cells}
                if folder.settled(fingerprint, force, cast(Stale, options["stale"])) is not None:
                    counts["finished already"] += 1
                elif cell.key in before and status.state(before[cell.key], root, queue).kind in ("queued", "running"):
                    counts["queued or running already"] += 1
                elif folder.holder() is not None:
                    counts["queued or running already"] += 1
                else:
                    words = _words(cell, plan, options, root)
                    entry.left = False
                    todo[cell.key] = entry, CellTask(tuple(words), folder.work_dir, max(1, gpus), force, seconds)
    for what, count in counts.items():
        if count:
            console.print(f"{count} of {len(seen)} cells: {what}")
    return list(todo.values())


def _words(cell: Cell, plan: Plan, options: dict[str, Any], root: Path) -> list[str]:
    """The options of ``experiments.run`` for one cell, with nothing left to find out on another machine."""
    named = options["table"]
    table = str(Path(named).resolve()) if named.endswith(".py") and cell.table.name == plan.table.name else cell.table.name
    words = [table, "--row", cell.row.name, "--renderer", cell.renderer, "--seed", str(cell.seed), "--preset", plan.preset]
    words += ["--results", str(root), "--stale", options["stale"]]
    if plan.data_root is not None:
        words += ["--data-root", str(plan.data_root.absolute())]
    if options["checkpoint"] is not None:
        words += ["--checkpoint", str(options["checkpoint"].absolute())]
    if options["iterations"] is not None and not options["smoke"]:
        words += ["--iterations", str(options["iterations"])]
    for setting in options["set_"] or ():
        words += ["--set", setting]
    flags = {"eval_only": "--eval-only", "short": "--short", "smoke": "--smoke", "other_processes": "--allow-other-processes"}
    return words + [flag for name, flag in flags.items() if options[name]]


def _groups(todo: Sequence[tuple[Entry, CellTask]]) -> Iterator[tuple[str, list[tuple[Entry, CellTask]]]]:
    """Tasks that are one array: those that wait for no other task, and, behind each that others start from, those others."""
    keys = {entry.key for entry, _ in todo}
    grouped: dict[str, list[tuple[Entry, CellTask]]] = {}
    for entry, task in todo:
        grouped.setdefault(entry.first if entry.first in keys else "", []).append((entry, task))
    yield from sorted(grouped.items(), key=lambda group: group[0] != "")


def _work_here(
    sweep: Sweep, todo: Sequence[tuple[Entry, CellTask]], places: Sequence[workstation.Slot], root: Path, console: Console
) -> int:
    failed = []

    def ended(entry: Entry, begun: bool) -> bool:
        state = status.state(status.Known(entry, sweep), root, {})
        if state.kind == "finished":
            console.print(f"{escape(entry.key)}: finished")
            return True
        failed.append(entry.key)
        said = f"{state.kind} {state.text}" if begun else f"not begun, {entry.first}, which it starts from, is not finished"
        console.print(f"{escape(entry.key)}: {escape(said)}", soft_wrap=True)
        return False

    try:
        workstation.work_off(sweep, todo, places, workstation.executor(sweep.jobs), ended)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; finished cells are kept, the same command continues the others") from None
    if failed:
        console.print(f"{len(failed)} of {len(todo)} cells are not finished; the same command runs only these again")
    return 1 if failed else 0


def _say_where(console: Console, sweep: Sweep, root: Path, name: str) -> None:
    for line in (
        f"logs: {sweep.jobs}",
        f"records: {root / name}",
        f"curves and figures: {viewing(name)}",
        f"status: python -m experiments.sweep status {name} --watch",
    ):
        console.print(escape(runnable(line)), soft_wrap=True)


def _check_store(machines: int) -> None:
    """Raise PlanError for a tracking store that several machines would write as a file."""
    if machines > 1 and sqlite_file(tracking_uri()) is not None:
        raise PlanError(
            f"the tracking store {tracking_uri()} is a file, which {machines} machines must not write at the same time: start "
            "`mlflow server --host 0.0.0.0` on one of them and set MLFLOW_TRACKING_URI to its address"
        )


def _known(root: Path, name: str) -> list[status.Known]:
    known = status.cells(load_all(root, name))
    if not known:
        raise SweepError(f"there is no sweep of {name} in {root}: submit one, or name its results folder with --results")
    return known


def _queue(known: Sequence[status.Known]) -> dict[str, str]:
    return slurm.queued([one.entry.job for one in known if one.sweep.on == "slurm" and one.entry.job])


def _devices() -> list[str]:
    """GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [word.strip() for word in named.split(",")] if named else [str(n) for n in range(torch.cuda.device_count())]


_argv: list[str] = []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    global _argv
    _argv = list(sys.argv[1:] if argv is None else argv)
    words = run.spread_lists(_argv, (*run.LISTS, "--setup"))
    interrupted = "interrupted before a cell was at work; nothing is lost"
    with contextlib.suppress(ValueError):  # of a thread that is not the first
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a script
    return guarded(app, words, "python -m experiments.sweep", interrupted, (SweepError,))


if __name__ == "__main__":
    sys.exit(finish(main))
