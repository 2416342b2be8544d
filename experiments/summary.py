"""What the command line prints of a table: its rows, the state of its cells, its numbers beside the published ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import records
from experiments.cells import CellFolder
from experiments.plan import Plan
from experiments.records import QuotedNumber, Record
from experiments.spec import Column, Row, TableSpec, ViewSpec, views_of
from experiments.tracking import viewing_command


def print_rows(console: Console, spec: TableSpec) -> None:
    """Rows of a table with the presets they run in."""
    table = Table(title=escape(spec.title), title_justify="left")
    for heading in ("row", "model", "presets", "note"):
        table.add_column(heading)
    for row in spec.rows:
        presets = ", ".join(name for name in spec.presets if name in row.presets) if row.runs else "-"
        table.add_row(row.name, escape(row.title), presets, escape(row.note))
    console.print(table)
    console.print(f"presets: {', '.join(spec.presets)}")


def print_cells(console: Console, plan: Plan, root: Path, force: bool) -> None:
    """Cells of a plan with their state on disk and what a run would do."""
    table = Table(title=f"cells of {plan.table.name}, preset {plan.preset}", title_justify="left")
    for heading in ("cell", "state", "a run would"):
        table.add_column(heading, overflow="fold")
    for cell in plan.cells:
        state = CellFolder(cell, root).describe(cell.fingerprint(plan.data_fingerprint))
        action = "skip it" if state == "done" and not force else "continue it" if state.startswith("stopped") else "run it"
        name = cell.name if cell.table.name == plan.table.name else f"{cell.name} (of {cell.table.name})"
        table.add_row(escape(name), escape(state), action if not force else "run it again")
    console.print(table)
    console.print(f"results: {escape(str(root))}", soft_wrap=True)


def print_results(
    console: Console, spec: TableSpec | ViewSpec, plans: Sequence[Plan], done: Mapping[str, Record], root: Path
) -> None:
    """The table of a finished run, and what views show of it; for a view one a table. ``done`` by the cells' keys."""
    for plan in plans:
        _print_numbers(console, plan, spec, done)
        for view in views_of(spec):
            _print_numbers(console, plan, view, done)
    if any(plan.preset == "toy" for plan in plans):
        console.print("toy numbers show that the pipeline works; they do not compare with published ones", soft_wrap=True)
    folders = dict.fromkeys(str(root / cell.table.name / plan.preset) for plan in plans for cell in plan.cells)
    for line in (
        f"records: {', '.join(folders)}",
        f"curves and figures: {viewing_command()}",
        f"next: python -m experiments.run {spec.name} --list; python -m reports.publish {spec.name}; python -m reports.build",
    ):
        console.print(escape(line), soft_wrap=True)


def _print_numbers(console: Console, plan: Plan, spec: TableSpec | ViewSpec, done: Mapping[str, Record]) -> None:
    """The rows of a plan: a column group a renderer, quoted numbers last and only where there are some."""
    columns = spec.columns
    quoted = records.load_published(plan.table.name)
    seeds = sorted({cell.seed for cell in plan.cells})
    heading = plan.table.title if isinstance(spec, TableSpec) else f"{plan.table.title.partition(':')[0]}, {spec.title.lower()}"
    title = f"{escape(heading)} - preset {plan.preset}, seed{'s' * (len(seeds) > 1)} {_list(seeds)}"
    table = Table(title=title, title_justify="left")
    table.add_column("row")
    for renderer in plan.renderers:
        for column in columns:
            table.add_column(f"{column.title}\n{renderer}", justify="right")
    published = [c for c in columns if any(_quoted(quoted, row, c) != "-" for row in plan.table.rows)]
    for column in published:
        table.add_column(f"{column.title}\nquoted", justify="right", style="dim")
    for row in plan.table.rows:
        ours = [_ours(plan, done, row, r, c) for r in plan.renderers for c in columns]
        theirs = [_quoted(quoted, row, column) for column in published]
        if any(text != "-" for text in ours + theirs):
            table.add_row(escape(row.title), *ours, *theirs)
    console.print(table)


def _ours(plan: Plan, done: Mapping[str, Record], row: Row, renderer: str, column: Column) -> str:
    shown = plan.table.origin(row, plan.preset)
    values = [
        value
        for cell in plan.cells
        if (cell.table.name, cell.row.name) == shown and cell.renderer == renderer and cell.key in done
        if (value := done[cell.key].number(column.metric)) is not None
    ]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{column.digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{column.digits}f}"


def _quoted(quoted: list[QuotedNumber], row: Row, column: Column) -> str:
    """The number of the paper or its readme; reruns and second-hand quotes are in the README only."""
    for kind in ("readme", "paper"):
        for number in quoted:
            if number.row == row.name and number.metric == column.metric and number.kind == kind:
                return f"{number.value:g}"
    return "-"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
