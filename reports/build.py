"""Rewrite the README's tables, the CSV files and the figures from ``results/``: ``python -m reports.build [--check]``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

import pandas as pd
import typer

from experiments import renderer_records
from experiments.records import ROOT, RecordError
from experiments.shell import runnable
from experiments.spec import SpecError, TableSpec, load_spec, spec_names
from reports import brief, markdown, renderer_figures, renderers, status, views
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
    """Everything that a build writes: text files by path, figures by path."""

    texts: dict[Path, str] = field(default_factory=dict)
    figures: dict[Path, Figure] = field(default_factory=dict)

    def stale(self, root: Path) -> list[Path]:
        """Files below ``root`` that differ from this, are missing, or are no longer produced."""
        changed = [p for p, text in self.texts.items() if not p.is_file() or p.read_bytes() != text.encode()]
        changed += [p for p, figure in self.figures.items() if stored_digest(p) != figure.digest]
        return changed + [p for p in _produced(root) if p not in self.texts and p not in self.figures]

    def write(self, root: Path) -> list[Path]:
        """Bring the files up to date; returns those that changed. What is up to date is not touched."""
        changed = self.stale(root)
        for path in changed:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path in self.texts:
                path.write_bytes(self.texts[path].encode())
            elif path in self.figures:
                path.write_bytes(self.figures[path].draw())
            else:
                path.unlink()
        return changed


def build(root: Path) -> Outputs:
    """What the reports below ``root`` should be; raises RecordError, SpecError or ReportError."""
    outputs = Outputs()
    readme = root / "README.md"
    try:
        text = readme.read_bytes().decode()
    except FileNotFoundError as error:
        raise ReportError(f"{readme} does not exist; write one with the tables' markers") from error
    specs = [load_spec(name) for name in spec_names()]
    tables = [spec for spec in specs if isinstance(spec, TableSpec)]
    summaries = {spec.name: summarise(spec, root / "results/records", root / "results/quoted") for spec in tables}
    for spec in specs:
        if not isinstance(spec, TableSpec):
            section = views.render(spec, [summaries[part] for part in spec.parts])
        elif spec.brief:
            section = brief.render(summaries[spec.name])
        else:
            section = markdown.render(summaries[spec.name], _add(outputs, root, figures(summaries[spec.name])))
        text = replace_section(text, spec.name, section)
    for name, summary in summaries.items():
        if not summary.spec.brief or brief.shown(summary):
            outputs.texts[root / "reports/tables" / f"{name}.csv"] = csv(summary)
    text = replace_section(text, status.SECTION, status.render(list(summaries.values())))
    machines = renderers.read(root / "results/records")
    links = _add(outputs, root, renderer_figures.figures(machines))
    text = replace_section(text, renderer_records.TABLE, renderers.render(machines, links))
    if machines:
        outputs.texts[root / "reports/tables" / f"{renderer_records.TABLE}.csv"] = renderers.csv(machines)
    outputs.texts[readme] = text
    return outputs


def _add(outputs: Outputs, root: Path, drawn: Sequence[Figure]) -> dict[str, str]:
    """Add figures to what is written; their captions by the path that the README links."""
    outputs.figures |= {root / "reports/figures" / figure.name: figure for figure in drawn}
    return {f"reports/figures/{figure.name}": figure.caption for figure in drawn}


def replace_section(text: str, name: str, section: str) -> str:
    """``text`` with everything between the markers of ``name`` replaced; raises ReportError where they are missing."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ReportError(f"README.md needs the markers '{start}' and '{end}' once, in this order, for {name}")
    before, rest = text.split(start)
    return f"{before}{start}\n\n{section}\n\n{end}{rest.split(end)[1]}"


def csv(summary: Summary) -> str:
    """Every number and gain of a table, one a line, with its origin, seeds, spread and source."""

    def line(quantity: str, number: Number, *notes: str, base: str = "") -> dict[str, str]:
        group = number.group
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
            "source": number.source,
            "note": "; ".join(part for part in (number.note, *notes, number.mixed, _absent(number)) if part),
        }

    lines = [line("value", n) for n in summary.numbers.values()]
    lines += [line("conflicting value", n) for _, n in summary.conflicts]
    lines += [line("gain", g.difference, g.noise, base=g.base) for g in summary.gains.values()]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def _absent(number: Number) -> str:
    return number.absent + ("" if number.others is None else f"; over the others {number.others:.6g}")


def _produced(root: Path) -> Iterator[Path]:
    yield from sorted((root / "reports/tables").glob("*.csv"))
    yield from sorted((root / "reports/figures").glob("*.png"))


def main(check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 and name what is stale.")] = False) -> None:
    """Rewrite the README's tables and the files in reports/ from results/records and results/quoted."""
    try:
        outputs = build(ROOT)
        changed = outputs.stale(ROOT) if check else outputs.write(ROOT)
    except (RecordError, SpecError, ReportError) as error:
        typer.echo(runnable(f"error: {error}"), err=True)
        raise typer.Exit(2) from error
    for path in changed:
        typer.echo(f"{'stale' if check else 'wrote' if path.exists() else 'removed'}: {path.relative_to(ROOT)}")
    if check and changed:
        typer.echo(runnable("error: the reports are stale; run `python -m reports.build` and commit what it changes"), err=True)
        raise typer.Exit(1)
    if not changed:
        typer.echo("reports are up to date")


if __name__ == "__main__":
    typer.run(main)
