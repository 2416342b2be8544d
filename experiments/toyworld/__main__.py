"""``python -m experiments.toyworld``: generate the toy world and say what is in it."""

from __future__ import annotations

from experiments import instructions

instructions.hold()  # before anything below loads numpy or torch

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import ToyWorldConfig, ensure, ensure_at, summary
from .config import LAYOUTS
from .writer import class_names


def main(
    out: Annotated[Path | None, typer.Option(help="Folder to write to; by default the cache.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another world.")] = 0,
    layout: Annotated[str, typer.Option(help=f"On-disk layout: {', '.join(LAYOUTS)}.")] = "occ3d",
) -> None:
    """Generate the toy world unless it is there already, and print frames and class counts by split."""
    try:
        config = ToyWorldConfig(seed=seed, layout=layout)  # type: ignore[arg-type]
        root = ensure_at(config, out) if out else ensure(config)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
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
            share = f"{100 * counts[split][index] / occupied:.2f} %" if index != empty else ""
            row += [f"{counts[split][index]:,}", share]
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
