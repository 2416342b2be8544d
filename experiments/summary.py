"""What the command line prints of a table: its rows, the state of its cells, its numbers.

Published numbers stand beside ours at the published configuration alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from experiments import absences, intervals, records, sources
from experiments.cell.folder import CellFolder, Stale
from experiments.cell.tracking import viewing
from experiments.comparable import TIMED, Marks, mixed
from experiments.datasets.layouts import layout_of
from experiments.instructions import machine_bound
from experiments.plan import Plan
from experiments.records import QuotedNumber, Record
from experiments.shell import runnable
from experiments.spec import Cell, Column, Row, TableSpec, ViewSpec, tables, views_of


def print_rows(console: Console, spec: TableSpec) -> None:
    """Rows of a table with the presets they run in."""
    lines = []
    for row in spec.rows:
        presets = ", ".join(name for name in spec.presets if name in row.presets) if row.runs else "-"
        lines.append((row.name, row.title, presets))
    _print(console, spec.title, ("row", "model", "presets"), lines)
    for note in dict.fromkeys(row.note for row in spec.rows if row.note):
        console.print(escape(f"{', '.join(row.name for row in spec.rows if row.note == note)}: {note}"), soft_wrap=True)
    console.print(f"presets: {', '.join(spec.presets)}")


def done_line(cell: Cell, record: Record) -> str:
    """What a run says of a cell that it leaves as it is."""
    return f"{cell.name}: done already ({record.started}{_but(record)}); --force runs it again"


def _but(record: Record) -> str:
    changed = sources.changed_since(record)
    if changed == [sources.BEFORE_DIGESTS]:
        return f", {sources.BEFORE_DIGESTS}"
    return ", but its code changed since" if changed else ""


def print_cells(console: Console, plan: Plan, root: Path, force: bool, stale: Stale) -> None:
    """Cells of a plan with their state on disk and what a run would do; below, what changed since they were finished."""
    lines = []
    finished: dict[str, Record] = {}
    for cell in plan.cells:
        folder, fingerprint = CellFolder(cell, root), cell.fingerprint(plan.data_fingerprint)
        training = cell.training_fingerprint(plan.train_fingerprint)
        state = folder.describe(fingerprint, training)
        action = "continue it" if state.startswith(("stopped", "begun")) else "run it"
        if folder.measurable(training) is not None:
            action = "evaluate it again"
        name = cell.name if cell.table.name == plan.table.name else f"{cell.name} (of {cell.table.name})"
        if state == "done" and (record := folder.record()) is not None:
            finished[name] = record
            state = f"done{_but(record)}"
            action = "run it again" if folder.settled(fingerprint, force, stale) is None else "skip it"
        lines.append((name, state, action if not force else "run it again"))
    _print(console, f"cells of {plan.table.name}, preset {plan.preset}{_variant(plan)}", ("cell", "state", "a run would"), lines)
    print_changes(console, finished)
    console.print(f"results: {escape(str(root))}", soft_wrap=True)


def print_changes(console: Console, finished: Mapping[str, Record]) -> None:
    """Of finished cells, by name, that are not plainly of the code of today: commit and date, and what changed. Else nothing."""
    remarks = {name: remark for name, record in finished.items() if (remark := sources.notice(record))}
    if remarks:
        console.print("finished, but not plainly with the code of today:")
        for name, remark in remarks.items():
            console.print(f"  {escape(name)}: {escape(remark)}", soft_wrap=True)
        console.print(
            "--confirm replays their first iterations and evaluates their weights again, seconds a cell: where all comes out to "
            "the last bit, a record stands for this code too; --stale rerun trains them again",
            soft_wrap=True,
        )


def print_results(
    console: Console, spec: TableSpec | ViewSpec, plans: Sequence[Plan], done: Mapping[str, Record], root: Path
) -> None:
    """The table of a finished run, and what views show of it; for a view one a table. ``done`` by the cells' keys."""
    for plan in plans:
        _print_numbers(console, plan, spec, done)
        for view in views_of(spec):
            _print_numbers(console, plan, view, done)
    print_changes(console, done)
    apart = [plan for plan in plans if plan.preset != "paper"]
    if apart:
        names = ", ".join(f"reports/pages/{name}.md" for name in dict.fromkeys(plan.table.name for plan in apart))
        console.print(f"{apart[0].preset} numbers do not compare with published ones, which are in {names}", soft_wrap=True)
    bound = {cell.name: why for plan in plans for cell in plan.cells if (why := _machine_bound(done.get(cell.key)))}
    if bound:
        reasons = "; ".join(dict.fromkeys(bound.values()))
        which = "these numbers" if len(bound) == len(done) else f"the numbers of {', '.join(bound)}"
        console.print(escape(f"{which} need not come out to the last bit on another machine: {reasons}"), soft_wrap=True)
    folders = dict.fromkeys(str(root / cell.table.name / plan.preset) for plan in plans for cell in plan.cells)
    for line in (
        f"records: {', '.join(folders)}",
        *(f"curves and figures: {viewing(name)}" for name in dict.fromkeys(cell.table.name for p in plans for cell in p.cells)),
        f"next: python -m experiments.run {spec.name} --list; python -m reports.publish {spec.name}; python -m reports.build",
    )[: None if spec.name in tables().names() else -1]:  # a file's table has no name that commands know
        console.print(escape(runnable(line)), soft_wrap=True)


def _machine_bound(record: Record | None) -> str:
    return "" if record is None else machine_bound(record.hardware)


def _print_numbers(console: Console, plan: Plan, spec: TableSpec | ViewSpec, done: Mapping[str, Record]) -> None:
    """The rows of a plan: a column group a renderer, at the published configuration quoted numbers last; no empty columns."""
    columns = spec.columns
    quoted = records.load_published(plan.table.name) if plan.preset == "paper" else []
    seeds = sorted({cell.seed for cell in plan.cells})
    heading = plan.table.title if isinstance(spec, TableSpec) else f"{plan.table.title.partition(':')[0]}, {spec.title.lower()}"
    title = f"{heading} - preset {plan.preset}, seed{'s' * (len(seeds) > 1)} {_list(seeds)}{_variant(plan)}"
    marks = Marks()
    headings = [(column, renderer) for renderer in plan.renderers for column in columns]
    lines = []
    for row in plan.table.rows:
        ours = [_ours(plan, done, row, renderer, column, marks) for column, renderer in headings]
        theirs = [_quoted(quoted, row, column) for column in columns]
        if any(text != "-" for text in ours + theirs):
            lines.append([row.title, *ours, *theirs])
    headings += [(column, "quoted") for column in columns]
    filled = [place for place in range(len(headings)) if any(line[place + 1] != "-" for line in lines)]
    shown = [headings[place] for place in filled]
    _print(
        console,
        title,
        ("row", *(f"{column.title}\n{origin}" for column, origin in shown)),
        [(line[0], *(line[place + 1] for place in filled)) for line in lines],
        right=lambda column: column > 0,
        dim=lambda column: column > 0 and shown[column - 1][1] == "quoted",
    )
    for note in marks.lines():
        console.print(escape(note), soft_wrap=True)
    _print_gains(console, plan, spec, done)


def _print_gains(console: Console, plan: Plan, spec: TableSpec | ViewSpec, done: Mapping[str, Record]) -> None:
    """Differences to the base rows with their intervals, where several seeds of both are done; else nothing."""
    headings = [(column, renderer) for renderer in plan.renderers for column in spec.columns]
    lines, marks = [], Marks()
    for row in plan.table.rows:
        if row.base is None:
            continue
        pairs = {renderer: _pair(plan, done, row, renderer) for renderer in plan.renderers}
        texts = [_gain(*pairs[renderer], column, marks) for column, renderer in headings]
        if any(text != "-" for text in texts):
            lines.append((f"{row.title} - {plan.table.row(row.base).title}", *texts))
    if not lines:
        return
    filled = [place for place in range(len(headings)) if any(line[place + 1] != "-" for line in lines)]
    shown = [headings[place] for place in filled]
    _print(
        console,
        f"differences to the base, seed by seed: mean ({100 * intervals.CONFIDENCE:.0f} % interval)",
        ("", *(f"{column.title}\n{renderer}" for column, renderer in shown)),
        [(line[0], *(line[place + 1] for place in filled)) for line in lines],
        right=lambda column: column > 0,
    )
    console.print("* 0 is not in the interval; without it, neither row is better", soft_wrap=True)
    for note in marks.lines():
        console.print(escape(note), soft_wrap=True)


def _pair(plan: Plan, done: Mapping[str, Record], row: Row, renderer: str) -> tuple[list[Record], list[Record]]:
    """Records of a row and of its base, of the seeds that both have."""
    own, base = (
        {record.seed: record for record in _records(plan, done, one, renderer)} for one in (row, plan.table.row(row.base or ""))
    )
    seeds = [seed for seed in own if seed in base]
    return [own[seed] for seed in seeds], [base[seed] for seed in seeds]


def _gain(own: Sequence[Record], base: Sequence[Record], column: Column, marks: Marks) -> str:
    """``+0.84 (+0.36 to +1.32) *``; "-" for fewer than two seeds with the number."""
    values, starts = (records.by_seed(found, column.metric) for found in (own, base))
    differences = list(intervals.paired(values, starts, column.relative).values())
    if len(differences) < 2:
        return "-"
    digits, unit = (1, " %") if column.relative else (column.digits, "")
    star = " *" if intervals.resolved(differences) else ""
    return f"{intervals.text(differences, digits, unit)}{star}{marks(mixed([*own, *base], timed=column.metric in TIMED))}"


def _records(plan: Plan, done: Mapping[str, Record], row: Row, renderer: str) -> list[Record]:
    """Finished records of a row's cells."""
    shown = plan.table.origin(row, plan.preset)
    return [
        done[cell.key]
        for cell in plan.cells
        if (cell.table.name, cell.row.name) == shown and cell.renderer == renderer and cell.key in done
    ]


def _variant(plan: Plan) -> str:
    """What marks a table whose cells the command line changed; "" for plain ones. The prior has fewer changes than the others."""
    names = dict.fromkeys(cell.variant for cell in plan.cells if cell.overrides)
    return f", VARIANT {' and '.join(names)}: no numbers of the preset" if names else ""


def _print(console: Console, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], **options: Any) -> None:
    # Not above: this package needs torch, which a command that gets as far as printing has loaded, and a light module must not.
    from renderers.tables import print_table

    if not console.quiet:
        print_table(title, headings, rows, console=console, **options)


def _ours(plan: Plan, done: Mapping[str, Record], row: Row, renderer: str, column: Column, marks: Marks) -> str:
    all_of_row = _records(plan, done, row, renderer)
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
    """The number of the paper or its readme; reruns and second-hand quotes are on the table's page only."""
    for kind in ("readme", "paper"):
        for number in quoted:
            if number.row == row.name and number.metric == column.metric and number.kind == kind:
                return f"{number.value:g}"
    return "-"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
