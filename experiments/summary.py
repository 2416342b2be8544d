"""What the command line prints of a table: its rows, the state of its cells, its numbers beside the published ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import records
from experiments.cells import CellFolder
from experiments.plan import Plan
from experiments.records import QuotedNumber, Record
from experiments.spec import Cell, Column, Row, TableSpec
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
    table = Table(title=f"cells of preset {plan.preset}", title_justify="left")
    for heading in ("cell", "state", "a run would"):
        table.add_column(heading, overflow="fold")
    for cell in plan.cells:
        state = CellFolder(cell, root).describe(cell.fingerprint(plan.data_fingerprint))
        action = "skip it" if state == "done" and not force else "continue it" if state.startswith("stopped") else "run it"
        table.add_row(escape(cell.name), escape(state), action if not force else "run it again")
    console.print(table)
    console.print(f"results: {escape(str(root))}", soft_wrap=True)


def print_results(console: Console, plan: Plan, done: Mapping[str, Record], root: Path) -> None:
    """The table of a finished run: a column group a renderer, quoted numbers last."""
    if not plan.cells:
        return
    spec = plan.cells[0].table
    quoted = records.load_quoted(spec.name)
    seeds = sorted({cell.seed for cell in plan.cells})
    table = Table(title=f"{escape(spec.title)} - preset {plan.preset}, seed{'s' * (len(seeds) > 1)} {_list(seeds)}")
    table.add_column("row")
    for renderer in plan.renderers:
        for column in spec.columns:
            table.add_column(f"{column.title}\n{renderer}", justify="right")
    for column in spec.columns:
        table.add_column(f"{column.title}\nquoted", justify="right", style="dim")
    for row in spec.rows:
        ours = [_ours(plan.cells, done, row, r, c) for r in plan.renderers for c in spec.columns]
        theirs = [_quoted(quoted, row, column) for column in spec.columns]
        if any(text != "-" for text in ours + theirs):
            table.add_row(escape(row.title), *ours, *theirs)
    console.print(table)
    if plan.preset == "toy":
        console.print("toy numbers show that the pipeline works; they do not compare with published ones", soft_wrap=True)
    for line in (
        f"records: {root / spec.name / plan.preset}",
        f"curves and figures: mlflow ui --backend-store-uri {tracking_uri()}",
        f"next: python -m experiments.run {spec.name} --list; python -m reports.publish {spec.name}; python -m reports.build",
    ):
        console.print(escape(line), soft_wrap=True)


def _ours(cells: tuple[Cell, ...], done: Mapping[str, Record], row: Row, renderer: str, column: Column) -> str:
    values = [
        done[cell.name].metrics[column.metric]
        for cell in cells
        if cell.row == row and cell.renderer == renderer and cell.name in done and column.metric in done[cell.name].metrics
    ]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{column.digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{column.digits}f}"


def _quoted(quoted: list[QuotedNumber], row: Row, column: Column) -> str:
    """The number of the paper or its readme; reruns and second-hand quotes stand in the README only."""
    for kind in ("readme", "paper"):
        for number in quoted:
            if number.row == row.name and number.metric == column.metric and number.kind == kind:
                return f"{number.value:g}"
    return "-"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
