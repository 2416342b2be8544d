"""What the command line prints of a table: its rows, the state of its cells, its numbers.

Published numbers stand beside ours at the published configuration alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import absences, records
from experiments.cells import CellFolder
from experiments.comparable import TIMED, Marks, mixed
from experiments.datasets.layouts import layout_of
from experiments.instructions import machine_bound
from experiments.plan import Plan
from experiments.records import QuotedNumber, Record
from experiments.spec import Column, Row, TableSpec, ViewSpec, views_of
from experiments.tracking import tracking_uri


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
    apart = [plan for plan in plans if plan.preset != "paper"]
    if apart:
        names = ", ".join(f"reports/tables/{name}.csv" for name in dict.fromkeys(plan.table.name for plan in apart))
        console.print(
            f"{apart[0].preset} numbers do not compare with published ones, which are in README.md and {names}", soft_wrap=True
        )
    bound = {cell.name: why for plan in plans for cell in plan.cells if (why := _machine_bound(done.get(cell.key)))}
    if bound:
        reasons = "; ".join(dict.fromkeys(bound.values()))
        which = "these numbers" if len(bound) == len(done) else f"the numbers of {', '.join(bound)}"
        console.print(escape(f"{which} need not come out to the last bit on another machine: {reasons}"), soft_wrap=True)
    folders = dict.fromkeys(str(root / cell.table.name / plan.preset) for plan in plans for cell in plan.cells)
    for line in (
        f"records: {', '.join(folders)}",
        f"curves and figures: mlflow ui --backend-store-uri {tracking_uri()}",
        f"next: python -m experiments.run {spec.name} --list; python -m reports.publish {spec.name}; python -m reports.build",
    ):
        console.print(escape(line), soft_wrap=True)


def _machine_bound(record: Record | None) -> str:
    return "" if record is None else machine_bound(record.hardware)


def _print_numbers(console: Console, plan: Plan, spec: TableSpec | ViewSpec, done: Mapping[str, Record]) -> None:
    """The rows of a plan: a column group a renderer, at the published configuration quoted numbers last; no empty columns."""
    columns = spec.columns
    quoted = records.load_published(plan.table.name) if plan.preset == "paper" else []
    seeds = sorted({cell.seed for cell in plan.cells})
    heading = plan.table.title if isinstance(spec, TableSpec) else f"{plan.table.title.partition(':')[0]}, {spec.title.lower()}"
    variant = "".join(dict.fromkeys(f", {cell.variant}" for cell in plan.cells if cell.overrides))
    title = f"{heading} - preset {plan.preset}, seed{'s' * (len(seeds) > 1)} {_list(seeds)}{variant}"
    table = Table(title=escape(title), title_justify="left")
    marks = Marks()
    headings = [(column, renderer) for renderer in plan.renderers for column in columns]
    lines = []
    for row in plan.table.rows:
        ours = [_ours(plan, done, row, renderer, column, marks) for column, renderer in headings]
        theirs = [_quoted(quoted, row, column) for column in columns]
        if any(text != "-" for text in ours + theirs):
            lines.append([escape(row.title), *ours, *theirs])
    headings += [(column, "quoted") for column in columns]
    filled = [place for place in range(len(headings)) if any(line[place + 1] != "-" for line in lines)]
    table.add_column("row")
    for column, origin in (headings[place] for place in filled):
        table.add_column(f"{column.title}\n{origin}", justify="right", style="dim" if origin == "quoted" else None)
    for line in lines:
        table.add_row(line[0], *(line[place + 1] for place in filled))
    console.print(table)
    for note in marks.lines():
        console.print(escape(note), soft_wrap=True)


def _ours(plan: Plan, done: Mapping[str, Record], row: Row, renderer: str, column: Column, marks: Marks) -> str:
    shown = plan.table.origin(row, plan.preset)
    all_of_row = [
        done[cell.key]
        for cell in plan.cells
        if (cell.table.name, cell.row.name) == shown and cell.renderer == renderer and cell.key in done
    ]
    found = [record for record in all_of_row if record.number(column.metric) is not None]
    values = [value for record in found if (value := record.number(column.metric)) is not None]
    if not values:
        return f"-{marks(absences.no_number(all_of_row, column.metric))}"
    classes = layout_of(plan.table.dataset).classes
    others = absences.over_others(found, column.metric, classes)
    missing = absences.remark(absences.statement(found, column.metric, classes), others)
    mark = f"{absences.bracketed(others, column.digits)}{marks(mixed(found, timed=column.metric in TIMED), missing)}"
    mean = f"{statistics.fmean(values):.{column.digits}f}"
    return f"{mean}{mark}" if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{column.digits}f}{mark}"


def _quoted(quoted: list[QuotedNumber], row: Row, column: Column) -> str:
    """The number of the paper or its readme; reruns and second-hand quotes are in the README only."""
    for kind in ("readme", "paper"):
        for number in quoted:
            if number.row == row.name and number.metric == column.metric and number.kind == kind:
                return f"{number.value:g}"
    return "-"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
