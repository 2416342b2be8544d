"""The results as a site: ``python -m reports.site [--results DIR] [--predictions DIR] [--out DIR]``, static, for any browser.

Guides, a page a table that sorts and filters, the claims, every number with its record or source behind it, plots, predictions
beside the truth, and the reference. It is read from the file system or from below any address; nothing is loaded from elsewhere.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, SITE, finish, require

require(__name__, (*READING, "pandas", "tabulate", "matplotlib", "PIL", *SITE))

from experiments import instructions

instructions.hold()  # before anything below loads numpy

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from camera_occupancy_bench import CHECKOUT, HOME, ROOT
from camera_occupancy_bench.files import WriteError, make_folder, write
from experiments.command import guarded
from experiments.records import COMMITTED, QUOTED, RecordError
from experiments.spec import SpecError
from reports import build
from reports.site import html
from reports.site.tree import tree
from reports.summary import ReportError

DEFAULT = HOME / "site"
MARK = ".made-by-reports-site"
"""A file in every folder that this command made: such a folder may be replaced."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    results: Annotated[Path | None, typer.Option(help="Records to take. Default: those committed, results/records.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the site, made if need be; an older site in it is replaced.")] = DEFAULT,
    predictions: Annotated[Path | None, typer.Option(help="Folder of npz files of experiments.predict, to be shown.")] = None,
) -> int:
    """Build the site of results as static pages."""
    if not CHECKOUT:
        raise ReportError("the site is made of the project's guides: run this in a checkout of it")
    folder = results or COMMITTED
    if not any(folder.glob("*/*/*.json")):
        raise ReportError(f"{folder} holds no records (<table>/<preset>/<cell>.json); run a table, or name another --results")
    check_out(out)
    left_out: dict[str, None] = {}
    content = build.read(folder, QUOTED, left_out.setdefault if results is not None else None)
    for line in left_out:
        typer.echo(f"left out: {line}", err=True)
    made = tree(content, folder, predictions)
    if predictions is None:
        typer.echo("no --predictions named: that page shows the project's one picture alone", err=True)
    place(made, out)
    typer.echo(f"{len(made.texts)} pages; open {out / 'index.html'}")
    return 0


def check_out(out: Path) -> None:
    """Raise ReportError for a folder that may hold what a person made, or that belongs to the project's own files."""
    real = Path(os.path.realpath(out))
    if real.is_relative_to(ROOT) and not real.is_relative_to(ROOT / "site"):
        raise ReportError(f"--out: {out} is inside the project, whose files git tracks; name {ROOT / 'site'} or a folder outside")
    if real.exists() and not real.is_dir():
        raise ReportError(f"--out: {out} is no folder; name another one")
    if real.is_dir() and any(real.iterdir()) and not (real / MARK).is_file():
        raise ReportError(f"--out: {out} holds files that are no site of this command; name a new or an empty folder")


def place(made: html.Tree, out: Path) -> None:
    """Build beside ``out`` and put the whole site in its place; where that fails, what was there is there still."""
    real = Path(os.path.realpath(out))
    try:
        make_folder(real.parent)
        with tempfile.TemporaryDirectory(prefix=f".{real.name[:40]}.", dir=real.parent) as work:
            html.render(made, Path(work) / "work", new := Path(work) / "new")
            write(new / MARK, "python -m reports.site replaces this folder\n")
            write(new / ".nojekyll", "")  # GitHub Pages would leave out files whose names start with "_"
            if real.is_dir():
                real.rename(Path(work) / "old")
            new.rename(real)
    except OSError as error:
        raise (
            error if isinstance(error, WriteError) else WriteError(error.errno or 0, error.strerror or str(error), str(out))
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    mistakes = (RecordError, SpecError, ReportError)
    return guarded(app, words, "python -m reports.site", "interrupted; the same command builds the site anew", mistakes)


if __name__ == "__main__":
    sys.exit(finish(main))
