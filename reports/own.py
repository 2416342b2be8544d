"""A report of one's own: ``python -m reports.own TABLE --out FOLDER``: all local records of a table, variants too, side by side.

The README's tables hold the presets' own cells alone. Here a change made with ``--set``, ``--iterations`` and the like is a row
of its own beside the plain cell, with the difference to it over the seeds that both have. FOLDER gets the records, the table as
Markdown and every number as CSV.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, READING)

import sys
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, NamedTuple

import pandas as pd
import typer

from camera_occupancy_bench import files
from experiments import intervals, records, settings
from experiments.cell.folder import results_root
from experiments.command import guarded
from experiments.comparable import mixed
from experiments.records import Record
from experiments.spec import Column, TableSpec, load_table
from reports.summary import ABSENT, ReportError, behind, spread

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Group(NamedTuple):
    """Records that differ in nothing but the seed."""

    preset: str
    renderer: str
    row: str
    variant: str


@app.command()
def command(
    table: Annotated[str, typer.Argument(help="Table, by name, module:attribute or file.")],
    out: Annotated[Path, typer.Option(help="Folder for the report, made if need be.")],
    preset: Annotated[str, typer.Option(help="Only this preset, * and ? allowed.")] = "*",
    row: Annotated[str, typer.Option(help="Only rows that match, * and ? allowed.")] = "*",
    renderer: Annotated[str, typer.Option(help="Only renderers that match, * and ? allowed.")] = "*",
) -> int:
    """Write records, table and numbers of all local cells, variants included."""
    spec = load_table(table)
    spec.select([row])
    found: dict[Group, list[tuple[Path, Record]]] = defaultdict(list)
    for one in behind(spec, results_root()):
        made = one.record
        names = (made.preset, preset), (one.row.name, row), (made.renderer, renderer)
        if all(fnmatchcase(name, glob) for name, glob in names):
            found[Group(made.preset, made.renderer, one.row.name, variant(made))].append((one.path, made))
    if not found:
        raise ReportError(
            f"no finished cell of {spec.name} fits: run `python -m experiments.run {table}` first, or choose others"
        )
    for path, made in (entry for entries in found.values() for entry in entries):
        records.save(made, out / "records" / path.relative_to(results_root()))
    groups = {group: [made for _, made in entries] for group, entries in sorted(found.items(), key=_place(spec))}
    files.write(out / f"{spec.name}.md", markdown(spec, groups))
    files.write(out / f"{spec.name}.csv", numbers(spec, groups).to_csv(index=False))
    print(f"{len(groups)} rows of {sum(map(len, groups.values()))} cells: {out / f'{spec.name}.md'}")
    return 0


def _place(spec: TableSpec):  # type: ignore[no-untyped-def]
    order = [row.name for row in spec.rows]
    return lambda entry: (*entry[0][:2], order.index(entry[0].row), entry[0].variant)


def variant(record: Record) -> str:
    """What the command line changed, for people; "" for a plain cell."""
    return ", ".join(f"{name}={settings.text(value)}" for name, value in sorted(record.overrides.items()))


def markdown(spec: TableSpec, groups: dict[Group, list[Record]]) -> str:
    """One line a group: mean and standard deviation over its seeds, in brackets the difference to the plain cells."""
    lines = []
    for group, made in groups.items():
        plain = groups.get(group._replace(variant="")) if group.variant else None
        cells = [_cell(column, made, plain) for column in spec.columns]
        why = mixed([*made, *(plain or [])])
        seeds = ", ".join(str(record.seed) for record in made)
        lines.append([spec.row(group.row).title, group.variant or "-", group.preset, group.renderer, seeds, *cells, why or "-"])
    units = [f"{column.title}{f' ({column.unit})' if column.unit else ''}" for column in spec.columns]
    headings = ["row", "changed", "preset", "renderer", "seeds", *units, "not alike"]
    table = pd.DataFrame(lines, columns=headings).to_markdown(index=False, disable_numparse=True)
    legend = f"In brackets: difference to the same row without the change, over the seeds that both have; {intervals.LEGEND}."
    return f"# {spec.title}\n\n{table}\n\n{legend}\n"


def _cell(column: Column, made: Sequence[Record], plain: Sequence[Record] | None) -> str:
    own = records.by_seed(made, column.metric)
    if not own:
        return ABSENT
    digits = column.digits
    theirs = records.by_seed(plain or (), column.metric)
    both = list(intervals.paired(own, theirs).values())
    return spread(list(own.values()), digits) + (f" [{intervals.marked(both, digits)}]" if both else "")


def numbers(spec: TableSpec, groups: dict[Group, list[Record]]) -> pd.DataFrame:
    """Every number, one a line."""
    lines = [
        {**group._asdict(), "seed": record.seed, "metric": column.metric, "value": value}
        for group, made in groups.items()
        for record in made
        for column in spec.columns
        if (value := record.number(column.metric)) is not None
    ]
    return pd.DataFrame(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return guarded(app, words, "python -m reports.own", "interrupted; the same command writes the report anew", (ReportError,))


if __name__ == "__main__":
    sys.exit(finish(main))
