"""Generate the toy world and say what is in it: ``python -m experiments.toyworld``."""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, (*READING, "numba", "scipy", "cv2"))

from experiments import instructions

instructions.hold()  # before anything below loads numpy or torch

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from experiments.command import guarded

from . import ToyWorldConfig, ensure, ensure_at, summary
from .config import LAYOUTS
from .recording import class_names

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default the cache.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another world.")] = 0,
    layout: Annotated[str, typer.Option(help=f"On-disk layout: {', '.join(LAYOUTS)}.")] = "occ3d",
) -> int:
    """Generate the toy world unless it is there already, and print frames and class counts by split."""
    config = ToyWorldConfig(seed=seed, layout=layout)  # type: ignore[arg-type]
    root = ensure_at(config, out) if out else ensure(config)
    note = summary(root)
    table = Table(title="Voxels that count in evaluation, by class", caption=f"{root}\nfingerprint {note['fingerprint']}")
    table.add_column("class")
    for split, frames in note["frames"].items():
        table.add_column(f"{split} ({frames} frames)", justify="right")
        table.add_column("share of occupied", justify="right")
    counts = note["visible_voxels"]
    names = class_names(layout)
    empty = next(index for index, name in enumerate(names) if name in ("free", "empty"))
    for index, name in enumerate(names):
        row = [name]
        for split in counts:
            occupied = sum(counts[split]) - counts[split][empty]
            share = f"{100 * counts[split][index] / occupied:.2f} %" if index != empty and occupied else ""
            row += [f"{counts[split][index]:,}", share]
        table.add_row(*row)
    Console().print(table)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    interrupted = "interrupted; a world that is not whole is made again"
    return guarded(app, words, "python -m experiments.toyworld", interrupted, (ValueError,))


if __name__ == "__main__":
    sys.exit(finish(main))
