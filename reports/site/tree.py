"""The Markdown that the site is made of: guides, README, pages of tables, records and sources, laid out as in the project.

Pages keep the paths they have in the project, so the links between them hold as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from camera_occupancy_bench import ROOT
from experiments.renderer_records import TABLE
from reports import build, front, status
from reports.build import Content
from reports.site import frames, plots, record_pages
from reports.site.links import link, linked, machine_anchor, machine_page, record_page, resolved, source_page

Nav = list[dict[str, object]]

REFERENCE = {
    "Renderers: the contract": ("renderers.interface", "renderers.registry"),
    "Renderers of rays": ("renderers.rays.interface", "renderers.rays.samplers"),
    "Baselines: the contract": ("baselines.interface", "baselines.recipe"),
    "GaussRender": (
        "baselines.gaussrender.plugin",
        "baselines.gaussrender.config",
        "baselines.gaussrender.voxels",
        "baselines.gaussrender.rendering",
        "baselines.gaussrender.evaluation",
        "baselines.gaussrender.views",
    ),
    "Tables and their specs": ("experiments.spec",),
    "Records": ("experiments.records", "experiments.renderer_records"),
    "Metrics": (
        "experiments.metrics.voxel",
        "experiments.metrics.rayiou",
        "experiments.metrics.depth",
        "experiments.metrics.imageclasses",
        "experiments.metrics.evaluator",
        "experiments.metrics.registry",
    ),
    "Intervals": ("experiments.intervals", "experiments.comparable"),
    "Predictions": ("experiments.predictions",),
}
"""Pages of the reference, with the modules on each."""

START = "README.md"
RECORDS = "records/all.md"
_PICTURES = (".png", ".gif", ".jpg")
_UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


@dataclass
class Tree:
    """Files by path from the site's top, and the order in which pages are offered.

    plots  mark in a page's text -> the figure that takes its place
    """

    texts: dict[str, str] = field(default_factory=dict)
    binaries: dict[str, bytes] = field(default_factory=dict)
    plots: plots.Plots = field(default_factory=dict)
    nav: Nav = field(default_factory=list)


def tree(content: Content, results: Path, predictions: Path | None) -> Tree:
    """Everything of the site before it is HTML, from the records below ``results``; raises what ``reports.build`` raises, and
    PredictionFileError."""
    made = Tree()
    content = replace(content, summaries={name: linked(summary) for name, summary in content.summaries.items()})
    _tables(made, content)
    _records(made, content, results)
    guides = _guides(content)
    made.texts |= guides
    made.texts[frames.PAGE], pictures = frames.page(predictions)
    made.binaries |= pictures
    for title, modules in REFERENCE.items():
        made.texts[_reference(title)] = "\n\n".join((f"# {title}", *(f"::: {module}" for module in modules)))
    made.nav = _nav(content, guides)
    made.texts = {path: resolved(text, PurePosixPath(path)) for path, text in made.texts.items()}
    for path in guides:
        made.texts[path] = _within(made, path)
    return made


def _tables(made: Tree, content: Content) -> None:
    """The pages that ``reports.build`` makes, its pictures drawn in the page, and every gain at a glance."""
    links = {id(r): link(f"{machine_page(name)}#{machine_anchor(r)}") for name, rs in content.machines.items() for r in rs}
    outputs = build.pages(content, Path(), lambda record: links[id(record)])
    made.plots |= {plots.key(path.name): plots.drawn(figure) for path, figure in outputs.figures.items()}
    for path, text in outputs.texts.items():
        text = re.sub(r"!\[[^\]]*\]\(\.\./figures/([^)]+)\)", lambda found: plots.key(found[1]), text)
        text = text.replace("<details><summary>Figures", "<details open><summary>Figures").replace(
            "<details", '<details markdown="1"'
        )
        summary = content.summaries.get(path.stem) if path.suffix == ".md" else None
        if summary is not None and (drawn_gains := plots.gains(summary)):
            made.plots |= drawn_gains
            title, how, rest = text.split("\n\n", 2)
            text = "\n\n".join((title, how, "## Gains at a glance", *drawn_gains, "## Tables", rest))
        made.texts[f"reports/{path.as_posix()}"] = text


def _records(made: Tree, content: Content, results: Path) -> None:
    """A page a row and group, a page a machine, a page of sources a table, the records' files, and a list of all."""
    lines = []
    for name, summary in content.summaries.items():
        files = record_pages.files(summary, results)
        copies = {of: f"records/json/{path.relative_to(results).as_posix()}" for of, path in files.items()}
        for of, path in files.items():
            made.binaries[copies[of]] = path.read_bytes()
        for group, row in record_pages.cells(summary):
            page = record_page(name, group, row)
            text, drawn = record_pages.record(summary, group, row, copies)
            made.plots |= drawn
            made.texts[page] = f"{_UNSEARCHED}{text}\n"
            lines.append(record_pages.listed(summary, group, row))
        if text := record_pages.sources(summary):
            made.texts[source_page(name)] = f"{_UNSEARCHED}{text}\n"
    for machine, records in content.machines.items():
        made.texts[machine_page(machine)] = f"{_UNSEARCHED}{record_pages.machine(records)}\n"
    made.texts[RECORDS] = record_pages.index(lines, {machine: rs[0] for machine, rs in content.machines.items()})


def _guides(content: Content) -> dict[str, str]:
    """README, its summaries made of these records; docs; and the renderers' own pages."""
    paths = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "renderers").glob("*/README.md"))]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    summaries = list(content.summaries.values())
    readme = (ROOT / START).read_text(encoding="utf-8")
    readme = build.replace_section(readme, status.SECTION, status.render(summaries))
    return {START: build.replace_section(readme, front.SECTION, front.render(summaries, content.views, content.machines))} | texts


def _within(made: Tree, page: str) -> str:
    """The text of a guide with links that lead somewhere on the site: pictures are taken along, names of sources stay text."""

    def kept(found: re.Match[str]) -> str:
        target = found[2].partition("#")[0]
        if not target or "://" in target:
            return found[0]
        path = os.path.normpath(PurePosixPath(page).parent / target)
        source = ROOT / path
        if path not in made.texts and path not in made.binaries and source.is_file() and source.suffix in _PICTURES:
            made.binaries[path] = source.read_bytes()
        return found[0] if path in made.texts or path in made.binaries or not source.exists() else found[1]

    parts = re.split(r"(```.*?```)", made.texts[page], flags=re.DOTALL)
    return "".join(part if part.startswith("```") else re.sub(r"!?\[([^\[\]]*)\]\(([^)\s]+)\)", kept, part) for part in parts)


def _reference(title: str) -> str:
    return f"reference/{re.sub(r'[^a-z]+', '-', title.lower())}.md"


def _nav(content: Content, guides: Iterable[str]) -> Nav:
    tables = [
        {s.spec.title.partition(":")[0]: f"reports/pages/{name}.md"} for name, s in content.summaries.items() if not s.spec.brief
    ]
    more = [{s.spec.title: f"reports/pages/{name}.md"} for name, s in content.summaries.items() if s.spec.brief]
    views = [{view.title: f"reports/pages/{view.name}.md"} for view in content.views]
    return [
        {"Start": START},
        {
            "Results": [
                {"Claims": "reports/claims.md"},
                *tables,
                *views,
                {"Renderers": f"reports/pages/{TABLE}.md"},
                {"Ablations and costs": more},
                {"All records": RECORDS},
            ]
        },
        {"Predictions": frames.PAGE},
        {"Guides": [path for path in guides if path != START]},
        {"Reference": [{title: _reference(title)} for title in REFERENCE]},
    ]
