"""Two sets of cells against each other: ``python -m reports.compare A B``, A less B, seed by seed, with 95 % intervals.

A and B are ``TABLE/PRESET/ROW--RENDERER``, as records lie below a results folder, so that two rows, renderers or presets can be
compared; ``FOLDER/TABLE/...`` takes them from another folder of results, and ``...@COMMIT`` only those of a commit.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, READING)

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import pandas as pd
import typer

from camera_occupancy_bench import files
from experiments import intervals, plausible, records
from experiments.cell.folder import results_root
from experiments.command import guarded
from experiments.comparable import TIMED, mixed
from experiments.records import COMMITTED, Record, RecordError
from experiments.spec import SpecError, TableSpec, load_table
from reports import latex, markdown
from reports.summary import WHOLE, ReportError, spread, weights

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Format(StrEnum):
    """What is written."""

    MARKDOWN = "markdown"
    LATEX = "latex"
    CSV = "csv"


@dataclass(frozen=True)
class Side:
    """Cells that differ in nothing but the seed. name: what the user called them; by_seed: their records."""

    name: str
    spec: TableSpec
    by_seed: dict[int, Record]


@dataclass(frozen=True)
class Line:
    """One metric, over all classes or of one, with a value a seed on each side and the differences of the seeds of both."""

    metric: str
    title: str
    class_name: str
    digits: int
    first: tuple[float, ...]
    second: tuple[float, ...]
    differences: dict[int, float]


def side(said: str, root: Path | None = None) -> Side:
    """The records that ``TABLE/PRESET/ROW--RENDERER`` names, below its own folder, else ``root``, else this machine's results or
    the committed ones. Raises ReportError where there are none, or they are no seeds of one cell; RecordError, SpecError."""
    path, _, commit = said.partition("@") if re.search(r"@[0-9a-f]{4,40}$", said) else (said, "", "")
    *folder, table, preset, cell = Path(path).parts if len(Path(path).parts) >= 3 else ("", "", "", "")
    if "--" not in cell:
        raise ReportError(f"'{said}' is not TABLE/PRESET/ROW--RENDERER, such as table_occ3d/toy/tpvformer--cpu")
    spec = load_table(table)
    row, _, renderer = cell.rpartition("--")
    spec.row(row), spec.preset(preset)
    roots = [Path(*folder)] if folder else [root] if root else [results_root(), COMMITTED]
    found: dict[int, Record] = {}
    seen: dict[str, None] = {}
    for place in roots:
        for file, record in records.load_all(place, table):
            records.check_place(record, file)
            plausible.check(record, spec, file)
            if record.overrides and not weights(record):
                continue
            seen[f"{record.table}/{record.preset}/{record.row}--{record.renderer}"] = None
            if (record.preset, record.row, record.renderer) == (preset, row, renderer) and record.git_commit.startswith(commit):
                if record.seed in found:
                    raise ReportError(f"'{said}' has two records of seed {record.seed} in {place}; take one away")
                found[record.seed] = record
        if found:
            return Side(said, spec, dict(sorted(found.items())))
    where = " and ".join(map(str, roots))
    known = f"; there are {', '.join(list(seen)[:8])}{' ...' if len(seen) > 8 else ''}" if seen else ""
    raise ReportError(f"no record of '{said}' in {where}{known}")


def lines(a: Side, b: Side) -> list[Line]:
    """Every number that both have, those of the tables' columns first, classes after the means of their metric.

    Raises ReportError where no seed has any number of both.
    """
    columns = {column.metric: column for spec in (b.spec, a.spec) for column in spec.columns}
    metrics = dict.fromkeys((*columns, *(name for record in a.by_seed.values() for name in record.metrics)))
    found = []
    for metric in metrics:
        column = columns.get(metric)
        title, digits = (column.title, column.digits) if column else (metric, 2)
        classes = dict.fromkeys(name for record in a.by_seed.values() for name in record.per_class.get(metric, {}))
        for name in (WHOLE, *classes):
            first, second = (_values(one, metric, name) for one in (a, b))
            differences = intervals.paired(first, second)
            if differences:
                found.append(Line(metric, title, name, digits, tuple(first.values()), tuple(second.values()), differences))
    if not found:
        seeds = " and ".join(", ".join(map(str, one.by_seed)) for one in (a, b))
        raise ReportError(f"'{a.name}' and '{b.name}' have no number of the same seed (seeds {seeds}): nothing can be paired")
    return found


def _values(one: Side, metric: str, class_name: str) -> dict[int, float]:
    if class_name == WHOLE:
        return records.by_seed(one.by_seed.values(), metric)
    classes = {seed: record.per_class.get(metric, {}) for seed, record in one.by_seed.items()}
    return {seed: values[class_name] for seed, values in classes.items() if class_name in values}


def remarks(a: Side, b: Side, found: Sequence[Line]) -> list[str]:
    """What must be known of the comparison: what is not alike, seeds without a partner."""
    both = [*a.by_seed.values(), *b.by_seed.values()]
    said = []
    if len({record.data_fingerprint for record in both}) > 1:
        said.append("not like for like: they were run on different data")
    if len({record.preset for record in both}) > 1:
        said.append("not like for like: presets differ in the network, the data and the training")
    if different := mixed(both, timed=any(line.metric in TIMED for line in found)):
        said.append(f"not like for like: {different}")
    alone = sorted(set(a.by_seed) ^ set(b.by_seed))
    if alone:
        said.append(f"seeds without a partner are in the means, not in the differences: {', '.join(map(str, alone))}")
    if len(set(a.by_seed) & set(b.by_seed)) == 1:
        said.append("one seed: not told apart from noise")
    return said


def numbers(found: Sequence[Line]) -> pd.DataFrame:
    """One line a number, unrounded."""
    return pd.DataFrame([_row(line) for line in found])


def _row(line: Line) -> dict[str, object]:
    values = list(line.differences.values())
    low, high = intervals.interval(values) or (None, None)
    spreads = [stdev(seeds) if len(seeds) > 1 else None for seeds in (line.first, line.second)]
    return {
        "metric": line.metric,
        "class": line.class_name,
        "seeds": " ".join(map(str, line.differences)),
        "a": fmean(line.first),
        "a_std": spreads[0],
        "b": fmean(line.second),
        "b_std": spreads[1],
        "difference": fmean(values),
        "low": low,
        "high": high,
        "resolved": intervals.resolved(values),
    }


def rendered(a: Side, b: Side, found: Sequence[Line], form: Format) -> str:
    """The comparison as Markdown, LaTeX or CSV."""
    if form is Format.CSV:
        return numbers(found).to_csv(index=False, lineterminator="\n")
    tex = form is Format.LATEX
    plain, told = (latex.spread, latex.difference) if tex else (spread, intervals.marked)
    text = latex.escaped if tex else str
    rows = [
        {
            "Metric": text(f"{line.title.replace('mIoU', 'IoU')}, {line.class_name}" if line.class_name else line.title),
            "A": plain(line.first, line.digits),
            "B": plain(line.second, line.digits),
            "A - B": told(list(line.differences.values()), line.digits),
        }
        for line in found
    ]
    notes = remarks(a, b, found)
    if tex:
        caption = latex.escaped(f"A: {a.name}. B: {b.name}. {''.join(f'{note[0].upper()}{note[1:]}. ' for note in notes)}")
        legend = "A - B: mean of the differences seed by seed (its 95\\,\\% interval), bold where it leaves 0 out."
        return latex.table(pd.DataFrame(rows), f"{caption}{legend}", "comparison")
    said = "\n".join(f"- {note}" for note in notes)
    head = f"A: `{a.name}`  \nB: `{b.name}`\n\nA - B: {intervals.LEGEND}."
    return "\n\n".join(part for part in (head, said, markdown.markdown_table(rows)) if part) + "\n"


def draw(a: Side, b: Side, found: Sequence[Line]) -> bytes:
    """PNG: the differences of every metric, and of the classes of the first that has some, with their intervals."""
    from matplotlib.figure import Figure

    from reports.figures import png

    whole = [line for line in found if line.class_name == WHOLE and line.metric not in TIMED]
    of_classes = next((line.metric for line in found if line.class_name), "")
    shown = [("all metrics", whole), (f"{of_classes}, by class", [x for x in found if x.class_name and x.metric == of_classes])]
    shown = [(title, entries) for title, entries in shown if entries]
    heights = [len(entries) for _, entries in shown]
    canvas = Figure(figsize=(8, 0.3 * sum(heights) + 0.9 * len(shown) + 0.8), dpi=110, layout="constrained")
    for axes, (title, entries) in zip(
        canvas.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0], shown, strict=True
    ):
        for place, line in enumerate(entries):
            values = list(line.differences.values())
            colour = "black" if intervals.resolved(values) else "#8a94a0"
            if (ends := intervals.interval(values)) is not None:
                axes.plot(ends, [place] * 2, "|-", color=colour, linewidth=1.2)
            axes.plot(values, [place] * len(values), "o", color=colour, markersize=2.5)
            axes.plot([fmean(values)], [place], "D", color=colour, markersize=5)
        axes.set_yticks(range(len(entries)), [line.class_name or line.title for line in entries])
        axes.set_ylim(len(entries) - 0.5, -0.5)
        axes.axvline(0, color="#b03a2e", linewidth=0.8)
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    canvas.suptitle(f"A: {a.name}\nB: {b.name}\nA - B, mean, seeds and 95 % interval; black where it leaves 0 out", fontsize=9)
    return png(canvas, "")


@app.command()
def command(
    a: Annotated[str, typer.Argument(help="[FOLDER/]TABLE/PRESET/ROW--RENDERER[@COMMIT]", metavar="A")],
    b: Annotated[str, typer.Argument(help="What A is compared with.", metavar="B")],
    results: Annotated[
        Path | None, typer.Option(help="Records of both. Default: OCC_RESULTS or results/local, else results/records.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="What is written.")] = Format.MARKDOWN,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: the terminal.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file of the differences.")] = None,
) -> int:
    """A less B, seed by seed: every metric and class, with 95 % intervals."""
    first, second = side(a, results), side(b, results)
    found = lines(first, second)
    text = rendered(first, second, found, form)
    if out is None:
        typer.echo(text, nl=False)
    else:
        files.write(out, text)
        typer.echo(f"wrote: {out}")
    if plot is not None:
        files.write(plot, draw(first, second, found))
        typer.echo(f"wrote: {plot}", err=out is None)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    mistakes = (RecordError, SpecError, ReportError)
    return guarded(app, words, "python -m reports.compare", "interrupted; the same command compares anew", mistakes)


if __name__ == "__main__":
    sys.exit(finish(main))
