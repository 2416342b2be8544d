"""Promote local records to the committed ones: ``python -m reports.publish TABLE [--preset P] [--row GLOB]``.

A view (``table_2d``) stands for the tables that it shows, and a row that shows another table's cell for that cell: its
record goes to the other table's folder. ``table_renderers`` has no presets and no rows: its records are chosen by workload
(--row) and renderer.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Annotated, Literal

import typer

from experiments import records, renderer_records, sources
from experiments.cells import results_root
from experiments.records import Record, RecordError
from experiments.spec import SpecError, TableSpec, ViewSpec, load_spec
from reports import summary
from reports.summary import ReportError

State = Literal["new", "differs", "published", "variant"]


@dataclass(frozen=True)
class Candidate:
    """A local record as it would be committed, where it would go, and how it stands to what is there.

    name  for people: ``toy/tpvformer--cpu--seed0``, the table in front where another one was asked for
    row   of the table that was asked for
    """

    name: str
    row: str
    source: Path
    target: Path
    record: Record
    state: State


def candidates(spec: TableSpec, local: Path, committed: Path, asked: str) -> Iterator[Candidate]:
    """Every local record behind a table's rows; ``asked`` is the table or view that the command names.

    Raises RecordError where a file is damaged or is not what its name says.
    """
    for behind in summary.behind(spec, local):
        source, found = behind.path, behind.record
        cell = spec.cell(behind.row, found.renderer, found.preset, found.seed, found.overrides)  # type: ignore[arg-type]
        expected = records.path_of(found.table, found.preset, cell.name, local)
        if source != expected:
            raise RecordError(f"{source} holds the record of {expected.name}; delete it and run the cell again")
        record = found.model_copy(update={"command": public_command(found.command)})
        target = committed / source.relative_to(local)
        if record.overrides:
            state: State = "variant"
        elif not target.is_file():
            state = "new"
        else:
            state = "published" if records.load(target) == record else "differs"
        name = f"{'' if found.table == asked else found.table + '/'}{found.preset}/{cell.name}"
        yield Candidate(name, behind.row.name, source, target, record, state)


def select(
    spec: TableSpec | ViewSpec, local: Path, committed: Path, preset: str | None, row: str | None, renderer: str | None
) -> list[Candidate]:
    """Those that the options name; raises SpecError for an unknown row or preset, ReportError if nothing is left."""
    globs = [row or "*"]
    parts = [(spec, spec.select(globs))] if isinstance(spec, TableSpec) else spec.select(globs)
    chosen, present = [], []
    for table, rows in parts:
        if preset is not None:
            table.preset(preset)
        names = {r.name for r in rows}
        for c in candidates(table, local, committed, spec.name):
            present.append(c.name)
            fits = renderer is None or fnmatchcase(c.record.renderer, renderer)
            if c.row in names and preset in (None, c.record.preset) and fits:
                chosen.append(c)
    if not chosen:
        finished = ", ".join(sorted(set(present))) or "none"
        raise ReportError(
            f"nothing to publish: no finished record of {spec.name} fits (finished: {finished}); "
            f"run `python -m experiments.run {spec.name}` first, or choose others with --preset, --row, --renderer"
        )
    return chosen


def public_command(command: str) -> str:
    """The command without this machine's folders: absolute paths keep their last part, ``/home/me/data`` -> ``.../data``."""
    return " ".join(_public_word(word) for word in shlex.split(command))


def _public_word(word: str) -> str:
    option, equals, value = word.partition("=")
    if equals and PurePath(value).is_absolute():
        return f"{option}=.../{PurePath(value).name}"
    return f".../{PurePath(word).name}" if PurePath(word).is_absolute() else shlex.quote(word)


def publish(chosen: list[Candidate]) -> Iterator[str]:
    """Write what may be written, telling one line a record."""
    for candidate in chosen:
        name = candidate.name
        if candidate.state == "variant":
            changed = ", ".join(f"{k}={v}" for k, v in sorted(candidate.record.overrides.items()))
            yield f"refused  {name}: not the preset's cell ({changed})"
        elif candidate.state == "published":
            yield f"same     {name}"
        else:
            records.save(candidate.record, candidate.target)
            dirty = " (warning: run with uncommitted changes)" if candidate.record.git_dirty else ""
            yield f"{'wrote' if candidate.state == 'new' else 'replaced':8} {name}{dirty}"


def publish_renderers(
    local: Path, committed: Path, preset: str | None, workload: str | None, renderer: str | None, show: bool
) -> Iterator[str]:
    """Copy records of ``table_renderers``, or with ``show`` only tell their state; one line a record.

    Raises RecordError for a damaged file and ReportError if nothing fits or a measurement failed.
    """
    if preset is not None:
        raise ReportError(f"{renderer_records.TABLE} has no presets; choose by workload (--row) and --renderer")
    found = list(renderer_records.load_all(local))
    chosen = [
        (path, record)
        for path, record in found
        if (workload is None or fnmatchcase(record.workload, workload))
        and (renderer is None or fnmatchcase(record.renderer, renderer))
    ]
    if not chosen:
        present = ", ".join(sorted({path.stem for path, _ in found})) or "none"
        raise ReportError(
            f"nothing to publish: no record of {renderer_records.TABLE} fits (measured: {present}); "
            f"run `{renderer_records.COMMAND}` first, or choose others with --row (a workload) and --renderer"
        )
    for path, record in chosen:
        record = record.model_copy(update={"command": public_command(record.command)})
        target = committed / path.relative_to(local)
        name = f"{path.parent.name}/{path.stem}"
        if target.is_file():
            same = records.load_as(renderer_records.RendererRecord, target, "publish again") == record
            state = "published" if same else "differs"
        else:
            state = "new"
        if show:
            yield f"{state:9} {name}"
        elif record.status == "failed":
            yield f"refused  {name}: the measurement failed ({record.reason})"
        elif state == "published":
            yield f"same     {name}"
        else:
            records.save(record, target)
            dirty = " (warning: measured with uncommitted changes)" if record.git_dirty else ""
            yield f"{'wrote' if state == 'new' else 'replaced':8} {name}{dirty}"


def main(
    table: Annotated[str, typer.Argument(help="Table or view whose local records are published, e.g. table_occ3d.")],
    preset: Annotated[str | None, typer.Option(help="Only this preset.")] = None,
    row: Annotated[str | None, typer.Option(help="Only rows (of table_renderers: workloads) that match this glob.")] = None,
    renderer: Annotated[str | None, typer.Option(help="Only renderers that match this glob.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the local records and their state; write nothing.")] = False,
) -> None:
    """Copy finished local records to results/records, which is committed and feeds the README."""
    try:
        if table == renderer_records.TABLE:
            for line in publish_renderers(results_root(), records.COMMITTED, preset, row, renderer, show):
                typer.echo(line)
            typer.echo("next: python -m reports.build")
            return
        chosen = select(load_spec(table), results_root(), records.COMMITTED, preset, row, renderer)
        if show:
            for candidate in chosen:
                typer.echo(f"{candidate.state:9} {candidate.name}")
            return
        for line in publish(chosen):
            typer.echo(line)
        if all(c.state == "variant" for c in chosen):
            raise ReportError("nothing was published: all chosen records are variants; run the cells without overrides")
    except (RecordError, SpecError, ReportError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    for candidate in chosen:
        if remark := sources.notice(candidate.record):
            typer.echo(f"note: {candidate.name}: {remark}")
    typer.echo("next: python -m reports.build")


if __name__ == "__main__":
    typer.run(main)
