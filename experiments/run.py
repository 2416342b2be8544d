"""The command line: ``python -m experiments.run table_occ3d``.

Exit codes: 0 all cells finished; 1 a cell failed while running; 2 the command asks for something impossible;
130 interrupted. Every mistake is one line on stderr.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape

from experiments import plan as planning
from experiments.cells import CellFolder, results_root, unwritable
from experiments.command import Interrupted, complain, guarded, rank
from experiments.plan import Launcher, Plan, PlanError, toyworld_config
from experiments.records import Record
from experiments.spec import Cell, TableSpec, ViewSpec, load_spec, spec_names
from experiments.summary import print_cells, print_results, print_rows
from experiments.tracking import public

if TYPE_CHECKING:
    from experiments.runner import Job

_LISTS = ("--renderer", "--row", "--seed")

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
    force: Annotated[bool, typer.Option("--force", help="Run finished cells again, from the start.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show rows, presets and the state of every cell.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run.")] = False,
    launcher: Annotated[str, typer.Option(help="none, pytorch (under torchrun) or slurm.")] = "none",
) -> int:
    """Train and evaluate the cells of a paper table, skip those that are finished, and print the table."""
    if launcher not in ("none", "pytorch", "slurm"):
        raise PlanError(f"unknown launcher '{launcher}' (known: none, pytorch, slurm)")
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
    )
    console = Console(highlight=False, quiet=rank() != 0)
    plans = planning.make_all(requests, _cuda)
    for line in dict.fromkeys(line for plan in plans for line in plan.said):
        console.print(escape(line), soft_wrap=True)
    root = results_root(results)
    if list_ or dry_run:
        for plan in plans:
            if list_:
                print_rows(console, plan.table)
            print_cells(console, plan, root, force)
        return 0
    if launcher == "none":
        return _run(spec, plans, root, checkpoint, force, "none", console)
    from experiments.runner import end_processes

    code = 1
    try:
        code = _run(spec, plans, root, checkpoint, force, cast(Launcher, launcher), console)
    finally:
        end_processes(finished=code == 0)
    return code


def _run(
    spec: TableSpec | ViewSpec,
    plans: Sequence[Plan],
    root: Path,
    checkpoint: Path | None,
    force: bool,
    launcher: Launcher,
    console: Console,
) -> int:
    _check_writable(root)
    if launcher != "none":
        _start(launcher, console)
    done: dict[str, Record] = {}
    failures: list[str] = []
    for plan in plans:
        pending = [
            cell for cell in plan.cells if force or not CellFolder(cell, root).finished(cell.fingerprint(plan.data_fingerprint))
        ]
        job = _job(plan, root, checkpoint, force, launcher, console) if pending or launcher != "none" else None
        for cell in plan.cells:
            if job is None or (launcher == "none" and cell not in pending):
                done[cell.key] = _finished(cell, root, console)
                continue
            from experiments.runner import CellFailed, run_cell

            try:
                done[cell.key] = run_cell(cell, job)
            except KeyboardInterrupt:
                raise _interrupted(cell, root) from None
            except CellFailed as error:
                failures.append(str(error))
                complain(str(error))
                if launcher != "none":
                    return 1  # the other processes wait inside this cell; the launcher ends them
    if done:
        print_results(console, spec, plans, done, root)
    if failures:
        count = sum(len(plan.cells) for plan in plans)
        complain(f"{len(failures)} of {count} cells failed; the same command runs only these again")
    return 1 if failures else 0


def _start(launcher: Launcher, console: Console) -> None:
    with console.status("loading the libraries"):
        from experiments.runner import start_processes

        start_processes(launcher)


def _job(plan: Plan, root: Path, checkpoint: Path | None, force: bool, launcher: Launcher, console: Console) -> Job:
    """Everything the cells share; the data is made here if it is to be generated."""
    if launcher == "none":
        _start("none", console)
    from experiments.runner import Job

    return Job(
        data_root=plan.data_root or _toyworld(plan),
        data_fingerprint=plan.data_fingerprint,
        results=root,
        checkpoint=checkpoint,
        force=force,
        launcher=launcher,
        command=public(shlex.join(["python", "-m", "experiments.run", *_argv])),
        console=console,
    )


def _toyworld(plan: Plan) -> Path:
    from experiments import toyworld

    return toyworld.ensure(toyworld_config(plan.table, plan.preset))


def _finished(cell: Cell, root: Path, console: Console) -> Record:
    record = CellFolder(cell, root).record()
    assert record is not None
    console.print(f"{escape(cell.name)}: done already ({record.started}); --force runs it again", soft_wrap=True)
    return record


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise unwritable(root, error) from error


def _interrupted(cell: Cell, root: Path) -> Interrupted:
    checkpoints = CellFolder(cell, root).checkpoints()
    where = f"from iteration {checkpoints[0].stem.removeprefix('iter_')}" if checkpoints else "from its start"
    return Interrupted(f"interrupted; finished cells are kept, the same command continues {cell.name} {where}")


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def spread_lists(argv: Sequence[str], lists: Sequence[str] = _LISTS) -> list[str]:
    """``--renderer a b`` as ``--renderer a --renderer b``: options in ``lists`` take every word up to the next option.

    A table's name is never taken for a value, so that it may stand last.
    """
    tables = set(spec_names())
    spread: list[str] = []
    current: str | None = None
    fed = False
    for word in argv:
        if word.startswith("-") and not word.lstrip("-").isdigit():
            current, fed = (word, False) if word in lists else (None, False)
            spread.append(word)
        elif current is not None and fed and word not in tables:
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
    sys.exit(main())
