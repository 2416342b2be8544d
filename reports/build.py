"""Make README, pages, CSV files and figures from records: ``python -m reports.build [--check]``, or with ``--out`` elsewhere.

In the project: the README's status and summary tables between their markers, a page a table (``reports/pages``), CSV files and
figures, from what is committed and nothing else. With ``--out``: the pages, CSV files and figures alone, in a folder of yours.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, (*READING, "pandas", "tabulate", "matplotlib", "PIL"))

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import pandas as pd
import typer

from camera_occupancy_bench import files
from experiments import intervals, renderer_records
from experiments.cell.folder import results_root
from experiments.command import complain, guarded
from experiments.records import QUOTED, ROOT, RecordError
from experiments.renderer_records import RendererRecord
from experiments.spec import SpecError, TableSpec, ViewSpec, load_spec, spec_names
from reports import brief, claims, front, latex, markdown, renderer_figures, renderers, status, views
from reports.figures import figures, stored_digest
from reports.summary import Number, ReportError, Summary, summarise


class Figure(Protocol):
    """A figure that knows whether its file is up to date. name: of the file; digest: of all that it is drawn from."""

    @property
    def name(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def digest(self) -> str: ...
    def draw(self) -> bytes: ...


@dataclass
class Outputs:
    """Everything that a build writes: text files by path, figures by path; and files that it no longer makes."""

    texts: dict[Path, str] = field(default_factory=dict)
    figures: dict[Path, Figure] = field(default_factory=dict)
    obsolete: list[Path] = field(default_factory=list)

    def stale(self) -> list[Path]:
        """Files that differ from this, are missing, or are no longer produced."""
        changed = [p for p, text in self.texts.items() if not p.is_file() or p.read_bytes() != text.encode()]
        changed += [p for p, figure in self.figures.items() if _stored(p) != figure.digest]
        return changed + self.obsolete

    def write(self) -> list[Path]:
        """Bring the files up to date; returns those that changed. What is up to date is not touched."""
        changed = self.stale()
        for path in changed:
            if path in self.texts:
                files.write(path, self.texts[path])
            elif path in self.figures:
                files.write(path, self.figures[path].draw())
            else:
                path.unlink()
        return changed


def _stored(path: Path) -> str | None:
    """The digest in a figure's file; None too for a file that is damaged, in whatever way, and so is drawn anew."""
    try:
        return stored_digest(path)
    except Exception:  # noqa: BLE001
        return None


@dataclass(frozen=True)
class Content:
    """What reports are made of: the tables' numbers, views of them, and the renderers' records by machine."""

    summaries: dict[str, Summary]
    views: list[ViewSpec]
    machines: dict[str, list[RendererRecord]]


def read(results: Path, quoted: Path, leave_out: Callable[[str], object] | None = None) -> Content:
    """The records below ``results`` with the published numbers; raises RecordError, SpecError or ReportError.

    leave_out  is told of each record that no table has a place for, which is left out; without it such a record is an error
    """
    specs = [load_spec(name) for name in spec_names()]
    tables = [spec for spec in specs if isinstance(spec, TableSpec)]
    return Content(
        summaries={spec.name: summarise(spec, results, quoted, leave_out) for spec in tables},
        views=[spec for spec in specs if isinstance(spec, ViewSpec)],
        machines=renderers.read(results),
    )


def pages(content: Content, folder: Path, link: renderers.Link = lambda _: "") -> Outputs:
    """A page a table in ``folder``/pages, with its CSV file and figures in folders beside that one, and the page of claims.

    link  where a renderer's record is shown; numbers of tables know their own
    """
    outputs = Outputs()

    def add(drawn: Sequence[Figure]) -> dict[str, str]:
        """Figures to be written; their captions by the path that a page links."""
        outputs.figures |= {folder / "figures" / figure.name: figure for figure in drawn}
        return {f"../figures/{figure.name}": figure.caption for figure in drawn}

    texts: dict[str, str] = {}
    for name, summary in content.summaries.items():
        if summary.spec.brief:
            texts[name] = brief.render(summary)
        else:
            texts[name] = markdown.render(summary, add(figures(summary)), [v for v in content.views if name in v.parts])
        if not summary.spec.brief or brief.shown(summary):
            outputs.texts[folder / "tables" / f"{name}.csv"] = csv(summary)
    for view in content.views:
        texts[view.name] = views.render(view, [content.summaries[part] for part in view.parts])
    links = add(renderer_figures.figures(content.machines))
    texts[renderer_records.TABLE] = renderers.render(content.machines, links, link)
    if content.machines:
        outputs.texts[folder / "tables" / f"{renderer_records.TABLE}.csv"] = renderers.csv(content.machines)
    outputs.texts |= {folder / "pages" / markdown.page(name): f"{text}\n" for name, text in texts.items()}
    outputs.texts[folder / "claims.md"] = f"{claims.render(content.summaries, content.views)}\n"
    return outputs


def build(root: Path) -> Outputs:
    """What the README and the reports of the project below ``root`` should be, from the records and quoted numbers that are
    committed; raises RecordError, SpecError or ReportError."""
    readme = root / "README.md"
    try:
        text = readme.read_bytes().decode()
    except FileNotFoundError as error:
        raise ReportError(f"{readme} does not exist; write one with the markers of the sections") from error
    content = read(root / "results/records", root / "results/quoted")
    outputs = pages(content, root / "reports")
    summaries = list(content.summaries.values())
    text = replace_section(text, status.SECTION, status.render(summaries))
    outputs.texts[readme] = replace_section(text, front.SECTION, front.render(summaries, content.views, content.machines))
    outputs.obsolete = [p for p in _produced(root / "reports") if p not in outputs.texts and p not in outputs.figures]
    return outputs


def build_elsewhere(results: Path, out: Path, leave_out: Callable[[str], object], writes: bool) -> Outputs:
    """The same pages, CSV files and figures in the folder ``out``, from whatever records lie below ``results``; a folder that
    cannot be made is refused before the work, unless nothing ``writes`` into it."""
    if not any(results.glob("*/*/*.json")):
        raise ReportError(f"{results} holds no records (<table>/<preset>/<cell>.json); run a table, or name another --results")
    if os.path.realpath(out) == os.path.realpath(ROOT / "reports"):
        raise ReportError(f"--out: {out} is made from results/records alone; name another folder")
    if writes:
        files.make_folder(out)
    return pages(read(results, QUOTED, leave_out), out)


def replace_section(text: str, name: str, section: str) -> str:
    """``text`` with everything between the markers of ``name`` replaced; raises ReportError where they are missing."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ReportError(f"README.md needs the markers '{start}' and '{end}' once, in this order, for {name}")
    before, rest = text.split(start)
    return f"{before}{start}\n\n{section}\n\n{end}{rest.split(end)[1]}"


def csv(summary: Summary) -> str:
    """Every number and gain of a table, one a line, with its origin, seeds, spread and source; gains with their 95 % interval."""

    def line(quantity: str, number: Number, *notes: str, base: str = "") -> dict[str, str]:
        group = number.group
        ends = intervals.interval(number.values) if quantity == "gain" else None
        return {
            "quantity": quantity,
            "row": number.row,
            "base": base,
            "metric": number.metric,
            "class": number.class_name,
            "origin": group.origin,
            "preset": group.preset,
            "renderer": group.renderer,
            "seeds": " ".join(map(str, number.seeds)),
            "mean": f"{number.mean:.6g}",
            "std": "" if number.std is None else f"{number.std:.6g}",
            "min": f"{min(number.values):.6g}",
            "max": f"{max(number.values):.6g}",
            "low": "" if ends is None else f"{ends[0]:.6g}",
            "high": "" if ends is None else f"{ends[1]:.6g}",
            "source": number.source,
            "note": "; ".join(part for part in (number.note, *notes, number.mixed, _absent(number)) if part),
        }

    lines = [line("value", n) for n in summary.numbers.values()]
    lines += [line("conflicting value", n) for _, n in summary.conflicts]
    lines += [line("gain", g.difference, g.noise, base=g.base) for g in summary.gains.values()]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def _absent(number: Number) -> str:
    return number.absent + ("" if number.others is None else f"; over the others {number.others:.6g}")


def _produced(folder: Path) -> Iterator[Path]:
    for pattern in ("pages/*.md", "tables/*.csv", "figures/*.png"):
        yield from sorted(folder.glob(pattern))


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 and name what is stale.")] = False,
    results: Annotated[
        Path | None, typer.Option(help="With --out: records to take. Default: OCC_RESULTS, else results/local.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write pages, CSV files and figures of these records here, and nothing in the project.")
    ] = None,
    tex: Annotated[
        Path | None, typer.Option("--latex", help="Write every table as LaTeX into this folder, and nothing else.")
    ] = None,
) -> int:
    """Rewrite the README's summaries and the files in reports/ from results/records and results/quoted."""
    if tex is not None:
        if check or out is not None:
            raise ReportError("--latex writes LaTeX alone: give it without --check and --out")
        files.make_folder(tex)  # before the work, not behind it
        for name, summary in read(results or ROOT / "results/records", QUOTED).summaries.items():
            if text := latex.render(summary):
                files.write(tex / f"{name}.tex", text)
                typer.echo(f"wrote: {tex / f'{name}.tex'}")
        return 0
    if out is None:
        if results is not None:
            raise ReportError("--results needs --out FOLDER: README and reports are made from results/records alone")
        outputs = build(ROOT)
    else:
        left_out: dict[str, None] = {}  # several tables may show one cell
        outputs = build_elsewhere(results_root(results), out, left_out.setdefault, writes=not check)
        for line in left_out:
            typer.echo(f"left out: {line}", err=True)
    changed = outputs.stale() if check else outputs.write()
    for path in changed:
        shown = path.relative_to(ROOT) if out is None else path
        typer.echo(f"{'stale' if check else 'wrote' if path.exists() else 'removed'}: {shown}")
    if check and changed:
        complain("the reports are stale; run `python -m reports.build` and commit what it changes")
        return 1
    if not changed:
        typer.echo("reports are up to date")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    mistakes = (RecordError, SpecError, ReportError)
    return guarded(app, words, "python -m reports.build", "interrupted; the same command goes on from here", mistakes)


if __name__ == "__main__":
    sys.exit(finish(main))
