"""Promote local records to the committed ones: ``python -m reports.publish TABLE [--preset P] [--row GLOB]``.

A view (``table_2d``) stands for the tables that it shows, and a row that shows another table's cell for that cell: its
record goes to the other table's folder. ``table_renderers`` has no presets and no rows: its records are chosen by workload
(--row) and renderer.

What is committed is replaced with --replace alone; without it the difference is shown and nothing is written. A set whose
records were made by different code, iterations, batches, packages or instruction sets is not published: what a mean or a gain
of the table would mix. Where a record does not tell one of these, that is said, and the table marks the number.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, READING)

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Annotated, Literal

import typer

from experiments import absences, records, renderer_records, sources
from experiments.cell.folder import results_root
from experiments.command import guarded
from experiments.comparable import differences
from experiments.datasets.layouts import layout_of
from experiments.records import AnyRecord, Record, RecordError
from experiments.renderer_records import RendererRecord
from experiments.shell import runnable
from experiments.spec import SpecError, TableSpec, ViewSpec, load_spec, views_of
from reports import summary
from reports.summary import ReportError, weights

State = Literal["new", "differs", "published", "variant"]

_RENDERER_NUMBERS = ("forward_ms", "backward_ms", "peak_mb", "max_abs_error", "grad_cosine")


@dataclass(frozen=True)
class Candidate:
    """A local record as it would be committed, where it would go, and how it stands to what is there.

    name       for people: ``toy/tpvformer--cpu--seed0``, the table in front where another one was asked for
    table      that was asked for, or one of the view's
    row        of that table
    committed  the record at ``target``, None if there is none
    """

    name: str
    table: TableSpec
    row: str
    source: Path
    target: Path
    record: Record
    committed: Record | None
    state: State


def candidates(spec: TableSpec, local: Path, committed: Path, asked: str, checkpoint: str | None = None) -> Iterator[Candidate]:
    """Every local record behind a table's rows; ``asked`` is the table or view that the command names.

    Evaluations of released weights are variants, unless ``checkpoint`` is a glob that fits their file. Raises RecordError
    where a file is damaged or is not what its name says.
    """
    for behind in summary.behind(spec, local):
        source, found = behind.path, behind.record
        cell = spec.cell(behind.row, found.renderer, found.preset, found.seed, found.overrides)  # type: ignore[arg-type]
        expected = records.path_of(found.table, found.preset, cell.name, local)
        if source != expected:
            raise RecordError(f"{source} holds the record of {expected.name}; delete it and run the cell again")
        record = _public(found, source)
        target = committed / source.relative_to(local)
        there = records.load(target) if target.is_file() else None
        if record.overrides and not _named(record, checkpoint):
            state: State = "variant"
        elif there is None:
            state = "new"
        else:
            state = "published" if there == record else "differs"
        name = f"{'' if found.table == asked else found.table + '/'}{found.preset}/{cell.name}"
        yield Candidate(name, spec, behind.row.name, source, target, record, there, state)


def _named(record: Record, checkpoint: str | None) -> bool:
    return checkpoint is not None and bool(weights(record)) and fnmatchcase(weights(record), checkpoint)


def select(
    spec: TableSpec | ViewSpec,
    local: Path,
    committed: Path,
    preset: str | None,
    row: str | None,
    renderer: str | None,
    checkpoint: str | None = None,
) -> list[Candidate]:
    """Those that the options name; raises SpecError for an unknown row or preset, ReportError if nothing is left."""
    globs = [row or "*"]
    parts = [(spec, spec.select(globs))] if isinstance(spec, TableSpec) else spec.select(globs)
    chosen, present = [], []
    for table, rows in parts:
        if preset is not None:
            table.preset(preset)
        names = {r.name for r in rows}
        for c in candidates(table, local, committed, spec.name, checkpoint):
            present.append(c.name)
            fits = renderer is None or fnmatchcase(c.record.renderer, renderer)
            fits = fits and (checkpoint is None or _named(c.record, checkpoint))
            if c.row in names and preset in (None, c.record.preset) and fits:
                chosen.append(c)
    if not chosen:
        finished = ", ".join(sorted(set(present))) or "none"
        raise ReportError(
            f"nothing to publish: no finished record of {spec.name} fits (finished: {finished}); "
            f"run `python -m experiments.run {spec.name}` first, or choose others with --preset, --row, --renderer, --checkpoint"
        )
    return chosen


def public_command(command: str) -> str:
    """The command without this machine's folders: absolute paths keep their last part, ``/home/me/data`` -> ``.../data``.

    Raises ValueError for one with an open quote.
    """
    return " ".join(_public_word(word) for word in shlex.split(command))


def _public(record: AnyRecord, path: Path) -> AnyRecord:
    """The record with its public command; raises RecordError naming the file."""
    try:
        return record.model_copy(update={"command": public_command(record.command)})  # type: ignore[attr-defined]
    except ValueError as error:
        raise RecordError(f"{path} is not a valid record (command: {error}); delete it and run the cell again") from error


def _public_word(word: str) -> str:
    option, equals, value = word.partition("=")
    if equals and PurePath(value).is_absolute():
        return f"{option}=.../{PurePath(value).name}"
    return f".../{PurePath(word).name}" if PurePath(word).is_absolute() else shlex.quote(word)


def origin(record: Record | RendererRecord) -> str:
    """Which code a record is of, and when it was made: ``commit 0123456789ab of 2025-01-01``."""
    warning = " (warning: run with uncommitted changes)" if record.git_dirty else ""
    return f"commit {record.git_commit[:12]} of {record.started[:10]}{warning}"


def changes(
    old: Record | RendererRecord, new: Record | RendererRecord, numbers: Mapping[str, tuple[float | None, float | None]]
) -> Iterator[str]:
    """What replacing one record by another changes, for people: both origins, every number, and the names of other fields."""
    yield f"         committed: {origin(old)}; local: {origin(new)}"
    for title, (before, after) in numbers.items():
        if before is not None or after is not None:
            yield f"         {title}: {_change(before, after)}"
    fields = [name for name in type(new).model_fields if getattr(old, name) != getattr(new, name) and name != "metrics"]
    if fields:
        yield f"         fields that differ: {', '.join(fields)}"


def _change(before: float | None, after: float | None) -> str:
    if before == after:
        return f"{after:.6g}, the same"
    short = [summary.ABSENT if value is None else f"{value:.6g}" for value in (before, after)]
    return " -> ".join(short if short[0] != short[1] else map(repr, (before, after)))


def _record_changes(candidate: Candidate) -> Iterator[str]:
    """``changes`` of a table's record: its columns, those of its views, then metrics without a column."""
    old, new = candidate.committed, candidate.record
    assert old is not None
    columns = (*candidate.table.columns, *(column for view in views_of(candidate.table) for column in view.columns))
    titles = {column.metric: column.title for column in columns}
    names = dict.fromkeys((*titles, *old.metrics, *new.metrics))
    yield from changes(old, new, {titles.get(name, name): (old.number(name), new.number(name)) for name in names})
    classes = layout_of(candidate.table.dataset).classes
    for who, record in (("committed", old), ("local", new)):
        for name in names:
            if said := absences.note([record], name, classes):
                yield f"         {titles.get(name, name)}, {who}: {said}"


def check(chosen: Sequence[Candidate], committed: Path) -> Iterator[str]:
    """What the tables would compute from several records and cannot tell to be alike, one line each.

    ``chosen`` are to be written; what is committed stays beside them. Raises ReportError where it is known not to be alike.
    """
    wrong = []
    for table in {c.table.name: c.table for c in chosen}.values():
        own = {(c.target, c.row): c.record.model_copy(update={"row": c.row}) for c in chosen if c.table is table}
        there = {(f.path, f.row.name): f.record.model_copy(update={"row": f.row.name}) for f in summary.behind(table, committed)}
        after, mine = list((there | own).values()), {id(record) for record in own.values()}
        summary.validate(table, after)
        for label, together in summary.compared(table, after):
            if not any(id(record) in mine for record in together):
                continue
            found = differences(together)
            if any(difference.certain for difference in found):
                wrong.append(f"{label} would mix {'; '.join(str(d) for d in found if d.certain)}")
            elif found:
                yield f"note     {label} may mix {'; '.join(map(str, found))}: the table will mark it"
    if wrong:
        raise ReportError(
            f"nothing was published: {'. '.join(wrong)}. Run these cells again with one code on one kind of machine "
            "(experiments.run --force) and publish them together, or confirm the older records with the newer code"
        )


def publish(chosen: Sequence[Candidate], committed: Path, replace: bool) -> Iterator[str]:
    """Write what may be written, telling one line a record and what it replaces.

    Raises ReportError, and writes nothing, where a committed record differs and is not to be replaced, and what ``check`` does.
    """
    differing = [c for c in chosen if c.state == "differs"]
    if differing and not replace:
        for candidate in differing:
            yield f"differs  {candidate.name}"
            yield from _record_changes(candidate)
        raise _not_replaced(len(differing))
    yield from check([c for c in chosen if c.state != "variant"], committed)
    for candidate in chosen:
        name, record = candidate.name, candidate.record
        if candidate.state == "variant":
            yield f"refused  {name}: {_refusal(record)}"
        elif candidate.state == "published":
            yield f"same     {name}: committed already, {origin(record)}"
        else:
            yield f"{'wrote' if candidate.state == 'new' else 'replaced':8} {name}: {origin(record)}"
            if candidate.state == "differs":
                yield from _record_changes(candidate)
            records.save(record, candidate.target)


def _refusal(record: Record) -> str:
    if weights(record):
        return f"an evaluation of weights not trained here; --checkpoint {weights(record)} takes it, as the authors' weights"
    changed = ", ".join(f"{k}={v}" for k, v in sorted(record.overrides.items()))
    return f"not the preset's cell ({changed})"


def _not_replaced(count: int) -> ReportError:
    several = (
        f"{count} local records differ from the committed ones" if count > 1 else "a local record differs from the committed one"
    )
    return ReportError(
        f"nothing was published: {several}; --replace puts what is local in place of what is committed, "
        "or choose others with --preset, --row, --renderer"
    )


def publish_renderers(
    local: Path, committed: Path, preset: str | None, workload: str | None, renderer: str | None, show: bool, replace: bool
) -> Iterator[str]:
    """Copy records of ``table_renderers``, or with ``show`` only tell their state; one line a record and what it replaces.

    Raises RecordError for a damaged file, and ReportError if nothing fits or a committed record differs and is not to be
    replaced; then nothing is written.
    """
    if preset is not None:
        raise ReportError(f"{renderer_records.TABLE} has no presets; choose by workload (--row) and --renderer")
    found = list(renderer_records.load_all(local))
    chosen = [
        (path, _public(record, path))
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
    there: dict[Path, RendererRecord | None] = {}
    for path, _ in chosen:
        target = committed / path.relative_to(local)
        there[path] = records.load_as(RendererRecord, target, "publish again") if target.is_file() else None
    differing = [path for path, record in chosen if record.status != "failed" and there[path] not in (None, record)]
    for path, record in chosen:
        name, old = f"{path.parent.name}/{path.stem}", there[path]
        if show:
            yield f"{'new' if old is None else 'published' if old == record else 'differs':9} {name}"
        elif differing and not replace:
            if path in differing:
                yield f"differs  {name}"
        elif record.status == "failed":
            yield f"refused  {name}: the measurement failed ({record.reason})"
            continue
        elif old == record:
            yield f"same     {name}: committed already, {origin(record)}"
        else:
            records.save(record, committed / path.relative_to(local))
            yield f"{'wrote' if old is None else 'replaced':8} {name}: {origin(record)}"
        if old is not None and path in differing:
            yield from changes(old, record, {n: (getattr(old, n), getattr(record, n)) for n in _RENDERER_NUMBERS})
    if differing and not replace and not show:
        raise _not_replaced(len(differing))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    table: Annotated[str, typer.Argument(help="Table or view whose local records are published, e.g. table_occ3d.")],
    preset: Annotated[str | None, typer.Option(help="Only this preset.")] = None,
    row: Annotated[str | None, typer.Option(help="Only rows (of table_renderers: workloads) that match this glob.")] = None,
    renderer: Annotated[str | None, typer.Option(help="Only renderers that match this glob.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Only evaluations of released weights (--eval-only) whose file matches this glob.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put what is local in place of committed records.")] = False,
    show: Annotated[bool, typer.Option("--list", help="Show the local records and their state; write nothing.")] = False,
) -> int:
    """Copy finished local records to results/records, which is committed and feeds the README and its pages."""
    if table == renderer_records.TABLE:
        if checkpoint is not None:
            raise ReportError(f"{table} has no checkpoints; choose by workload (--row) and --renderer")
        for line in publish_renderers(results_root(), records.COMMITTED, preset, row, renderer, show, replace):
            typer.echo(line)
        typer.echo(runnable("next: python -m reports.build"))
        return 0
    chosen = select(load_spec(table), results_root(), records.COMMITTED, preset, row, renderer, checkpoint)
    if show:
        for candidate in chosen:
            typer.echo(f"{candidate.state:9} {candidate.name}")
            if candidate.state == "differs":
                for line in _record_changes(candidate):
                    typer.echo(line)
        return 0
    for line in publish(chosen, records.COMMITTED, replace):
        typer.echo(line)
    if all(c.state == "variant" for c in chosen):
        raise ReportError("nothing was published: all chosen records are variants; run the cells without overrides")
    for candidate in chosen:
        if remark := sources.notice(candidate.record):
            typer.echo(f"note: {candidate.name}: {remark}")
    typer.echo(runnable("next: python -m reports.build"))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    interrupted = "interrupted; every record that was written is whole"
    return guarded(app, words, "python -m reports.publish", interrupted, (RecordError, SpecError, ReportError))


if __name__ == "__main__":
    sys.exit(finish(main))
