"""Train and evaluate the cells of a table: ``python -m experiments.run table_occ3d``.

Exit codes: 0 all cells finished; 1 a cell failed while running; 2 the command asks for something impossible;
130 interrupted. Every mistake is one line on stderr.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, TRAINING, explain, finish, missing, require

require(__name__, READING)

from experiments import instructions

instructions.hold()  # before anything below loads numpy or torch

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer
from rich.console import Console
from rich.markup import escape

from experiments import plan as planning
from experiments.cell.folder import Busy, CellFolder, Stale, iteration_of, results_root, unwritable
from experiments.cell.tracking import public
from experiments.command import Interrupted, check_ranks, complain, guarded, rank
from experiments.plan import Launcher, Plan, PlanError, toy_data
from experiments.records import Record
from experiments.spec import Cell, TableSpec, ViewSpec, load_spec, tables
from experiments.summary import done_line, print_cells, print_results, print_rows

if TYPE_CHECKING:
    from experiments.cell.runner import Job

LISTS = ("--renderer", "--row", "--seed", "--set")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    table: Annotated[str, typer.Argument(help="Table to run, for example table_occ3d, or view of tables (table_2d).")],
    preset: Annotated[str | None, typer.Option(help="toy, mini or paper. Default: toy without a data root, else paper.")] = None,
    renderer: Annotated[list[str] | None, typer.Option(help="Renderers, one group of cells each.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only rows that match, * and ? allowed.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seeds. Default: the table's.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the real data set. Default: OCC_DATA_ROOT.")] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder. Default: OCC_RESULTS, else results/local.")] = None,
    eval_only: Annotated[bool, typer.Option("--eval-only", help="Evaluate a checkpoint, no training.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Released or own checkpoint for --eval-only.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Stop the evaluation after 101 samples.")] = False,
    iterations: Annotated[int | None, typer.Option(help="Train this many iterations instead of the preset's.")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Everything a row does in under a minute: 3 iterations, 2 samples. A variant.")
    ] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change the preset for this run, schedule.lr=1e-4 say. A variant.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again, from the start.")] = False,
    stale: Annotated[str, typer.Option(help="Finished cells whose code changed since: keep (and say so) or rerun.")] = "keep",
    confirm: Annotated[
        bool, typer.Option("--confirm", help="Check finished cells against the code of today, in seconds: same bits?")
    ] = False,
    re_evaluate: Annotated[
        bool, typer.Option("--re-evaluate", help="Measure finished cells anew from their kept weights, without training.")
    ] = False,
    other_processes: Annotated[
        bool, typer.Option("--allow-other-processes", help="Continue a training with another number of processes.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show rows, presets and the state of every cell.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run and how long it takes, and check all it needs.")
    ] = False,
    launcher: Annotated[str, typer.Option(help="none, pytorch (under torchrun) or slurm.")] = "none",
) -> int:
    """Train and evaluate the cells of a paper table, skip those that are finished, and print the table."""
    if launcher not in ("none", "pytorch", "slurm"):
        raise PlanError(f"unknown launcher '{launcher}' (known: none, pytorch, slurm)")
    check_ranks()
    if stale not in ("keep", "rerun"):
        raise PlanError(f"--stale must be keep or rerun, got '{stale}'")
    _check_exclusive({"--confirm": confirm, "--re-evaluate": re_evaluate, "--force": force, "--stale rerun": stale == "rerun"})
    spec = load_spec(table)
    requests = planning.requests(
        spec,
        tuple(row or ()),
        preset=preset,
        renderers=tuple(renderer or ()),
        seeds=tuple(seed or ()),
        data_root=data_root,
        eval_only=eval_only,
        checkpoint=checkpoint,
        short=short,
        iterations=iterations,
        smoke=smoke,
        settings=tuple(set_ or ()),
    )
    console = Console(highlight=False, quiet=rank() != 0)
    plans = planning.make_all(requests, _cuda)
    for line in dict.fromkeys(line for plan in plans for line in plan.said):
        console.print(escape(line), soft_wrap=True)
    if not list_ and (lacking := missing(TRAINING)):
        raise PlanError(explain(lacking))
    root = results_root(results)
    if list_ or dry_run:
        for plan in plans:
            if list_:
                print_rows(console, plan.table)
            print_cells(console, plan, root, force, cast(Stale, stale))
        if dry_run:
            return _preflight(plans, root, force, cast(Stale, stale), cast(Launcher, launcher), console)
        return 0
    options = Options(root, checkpoint, force, cast(Stale, stale), other_processes, cast(Launcher, launcher))

    def act() -> int:
        if confirm or re_evaluate:
            return _look_again(spec, plans, options, console, "confirm" if confirm else "re-evaluate")
        return _run(spec, plans, options, console)

    if launcher == "none":
        return act()
    from experiments.cell.runner import end_processes

    code = 1
    try:
        code = act()
    finally:
        end_processes(finished=code == 0)
    return code


def _preflight(plans: Sequence[Plan], root: Path, force: bool, stale: Stale, launcher: Launcher, console: Console) -> int:
    """Say how long a run would take and what would stop it; 2 if something would."""
    from experiments import preflight

    with console.status("looking at models and data"):
        found = preflight.problems(plans, root, launcher)
    console.print(escape(preflight.estimate(plans, root, force, stale)), soft_wrap=True)
    for line in found:
        complain(line)
    if not found:
        console.print(
            "models, options, data, first weights, launcher, results folder: nothing would stop this run", soft_wrap=True
        )
    return 2 if found else 0


@dataclass(frozen=True)
class Options:
    """What the command line says of how cells are run; see ``experiments.cell.training.Job``."""

    results: Path
    checkpoint: Path | None
    force: bool
    stale: Stale
    allow_other_processes: bool
    launcher: Launcher


def _check_exclusive(options: dict[str, bool]) -> None:
    """Raise PlanError if --confirm or --re-evaluate is among several of these."""
    given = [name for name, is_given in options.items() if is_given]
    if len(given) > 1 and given[0] in ("--confirm", "--re-evaluate"):
        raise PlanError(f"{given[0]} looks at finished cells without training them: it does not go with {given[1]}")


def _run(spec: TableSpec | ViewSpec, plans: Sequence[Plan], options: Options, console: Console) -> int:
    root, launcher = options.results, options.launcher
    check_writable(root)
    if launcher != "none":
        _start(launcher, console)
    done: dict[str, Record] = {}
    failures: list[str] = []
    todo: list[tuple[Cell, Job, bool]] = []
    for plan in plans:
        settled: dict[str, Record] = {}
        for cell in plan.cells:
            record = CellFolder(cell, root).settled(cell.fingerprint(plan.data_fingerprint), options.force, options.stale)
            if record is not None:
                settled[cell.key] = record
        job = _job(plan, options, console) if len(settled) < len(plan.cells) or launcher != "none" else None
        for cell in plan.cells:
            if job is None or (launcher == "none" and cell.key in settled):
                done[cell.key] = settled[cell.key]
                console.print(escape(done_line(cell, settled[cell.key])), soft_wrap=True)
            else:
                todo.append((cell, job, launcher != "none"))  # processes of a launcher go through the cells as one
    for cell, job, wait in todo:
        from experiments.cell import revisit
        from experiments.cell.runner import CellFailed, run_cell

        try:
            done[cell.key] = revisit.measure_on_new_data(cell, job, wait) or run_cell(cell, job, wait)
        except Busy:
            console.print(f"{escape(cell.name)}: another run works on it; the others are taken first", soft_wrap=True)
            todo.append((cell, job, True))  # to the end of what this loop goes through
        except KeyboardInterrupt:
            raise _interrupted(cell, root, options.force) from None
        except CellFailed as error:
            failures.append(str(error))
            complain(str(error))
            if launcher != "none":
                return 1  # the other processes wait inside this cell; the launcher ends them
    if done:
        print_results(console, spec, plans, done, root)
    if failures:
        count = sum(len(plan.cells) for plan in plans)
        complain(f"{len(failures)} of {count} cells failed; {_same_command(options.force)} runs only these again")
    return 1 if failures else 0


def _look_again(
    spec: TableSpec | ViewSpec, plans: Sequence[Plan], options: Options, console: Console, what: Literal["confirm", "re-evaluate"]
) -> int:
    """Confirm or re-evaluate the finished cells; what went wrong with one leaves its record and the other cells alone."""
    check_writable(options.results)
    if options.launcher != "none":
        _start(options.launcher, console)
    done: dict[str, Record] = {}
    failures = count = 0
    for plan in plans:
        finished = []
        for cell in plan.cells:
            if CellFolder(cell, options.results).finished(cell.fingerprint(plan.data_fingerprint)):
                finished.append(cell)
            else:
                console.print(f"{escape(cell.name)}: not finished, there is nothing to {what}", soft_wrap=True)
        job = _job(plan, options, console) if finished else None
        for cell in finished:
            from experiments.cell import revisit
            from experiments.cell.runner import CellFailed

            assert job is not None
            count += 1
            try:
                problems = (revisit.confirm if what == "confirm" else revisit.re_evaluate)(cell, job)
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted; {cell.name} is as it was, what was done with cells before it is kept") from None
            except CellFailed as error:
                problems = [str(error)]
                if options.launcher != "none":
                    complain(str(error))
                    return 1  # the other processes wait inside this cell; the launcher ends them
            failures += bool(problems)
            if problems:
                console.print(f"{escape(cell.name)}: could not {what} it, its record is as it was", soft_wrap=True)
            for line in problems:
                console.print(f"  {escape(line)}", soft_wrap=True)
            record = CellFolder(cell, options.results).record()
            if record is not None:
                done[cell.key] = record
    if not count:
        raise PlanError(f"no cell is finished, there is nothing to {what}: run the same command without --{what} first")
    if what == "re-evaluate":
        print_results(console, spec, plans, done, options.results)
    if failures:
        complain(f"{failures} of {count} finished cells: could not {what}; their records are as they were")
    return 1 if failures else 0


def _start(launcher: Launcher, console: Console) -> None:
    with console.status("loading the libraries"):
        from experiments.cell.runner import start_processes

        start_processes(launcher)


def _job(plan: Plan, options: Options, console: Console) -> Job:
    """Everything the cells share; the data is made here if it is to be generated."""
    if options.launcher == "none":
        _start("none", console)
    from experiments.cell.runner import Job

    return Job(
        data_root=plan.data_root or toy_data(plan.table, plan.preset, plan.overrides, plan.reads),
        data_fingerprint=plan.data_fingerprint,
        train_fingerprint=plan.train_fingerprint,
        results=options.results,
        checkpoint=options.checkpoint,
        force=options.force,
        launcher=options.launcher,
        command=public(shlex.join(["python", "-m", "experiments.run", *_argv])),
        console=console,
        stale=options.stale,
        allow_other_processes=options.allow_other_processes,
    )


def check_writable(root: Path) -> None:
    """Raise ResultsError for a results folder that cannot be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(root, error) from error


def _interrupted(cell: Cell, root: Path, force: bool) -> Interrupted:
    checkpoints = CellFolder(cell, root).checkpoints()
    where = f"from iteration {iteration_of(checkpoints[0])}" if checkpoints else "from its start"
    return Interrupted(f"interrupted; finished cells are kept, {_same_command(force)} continues {cell.name} {where}")


def _same_command(force: bool) -> str:
    return "the same command without --force" if force else "the same command"


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def spread_lists(argv: Sequence[str], lists: Sequence[str] = LISTS) -> list[str]:
    """``--renderer a b`` as ``--renderer a --renderer b``: options in ``lists`` take every word up to the next option.

    A table's name is never taken for a value, so that it may stand last.
    """
    known = set(tables().names())
    spread: list[str] = []
    current: str | None = None
    fed = False
    for word in argv:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            current, fed = (word, False) if word in lists else (None, False)
            spread.append(word)
        elif current is not None and fed and word not in known and not word.endswith(".py"):
            spread += [current, word]
        else:
            spread.append(word)
            fed = True
    return spread


_argv: list[str] = []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    global _argv
    _argv = list(sys.argv[1:] if argv is None else argv)
    interrupted = "interrupted before a cell was at work; nothing is lost"
    return guarded(app, spread_lists(_argv), "python -m experiments.run", interrupted)


if __name__ == "__main__":
    sys.exit(finish(main))
