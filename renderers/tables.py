"""Tables on a terminal of any width: names and numbers stay whole. With rich, if it is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_EDGE, _BETWEEN = 1, 3  # characters that rich draws around a column


def print_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    keys: int = 1,
    right: Callable[[int], bool] = lambda column: False,
    dim: Callable[[int], bool] = lambda column: False,
    console: Any = None,
) -> None:
    """Print rows of plain text; lines break between words alone.

    Columns that do not fit beside each other so are printed below, each part with the first ``keys`` columns, which name a row.
    right, dim  columns, counted from 0, that are set to the right, or pale
    console     rich's, else one of its own: as wide as the terminal, 140 characters where there is none
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(len(row[i]) for row in (headings, *rows)) for i in range(len(headings))]
        print(f"\n{title}")
        for row in (headings, ["-" * width for width in widths], *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    if console is None:
        console = Console(highlight=False)
        console.width = console.width if console.is_terminal else 140
    columns = [[row[i] for row in (headings, *rows)] for i in range(len(headings))]
    needed = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    wanted = [max(len(line) for cell in column for line in cell.splitlines() or [""]) for column in columns]
    terminal = console.width
    for number, part in enumerate(_parts(needed, keys, terminal)):
        table = Table(title=None if number else Text(title), title_justify="left")
        for i, width in zip(part, _widths(part, needed, wanted, terminal), strict=True):
            table.add_column(
                Text(headings[i]), justify="right" if right(i) else "left", style="dim" if dim(i) else None, width=width
            )
        for row in rows:
            table.add_row(*(Text(row[i]) for i in part))
        try:
            # Where even a name and one column do not fit, the terminal breaks the lines, which loses nothing.
            console.width = max(terminal, _EDGE + sum(needed[i] + _BETWEEN for i in part))
            console.print(table)
        finally:
            console.width = terminal


def _widths(part: Sequence[int], needed: Sequence[int], wanted: Sequence[int], width: int) -> list[int]:
    """Widths of the columns of a part: what they need, and of the rest of the line what they want, a character each in turn."""
    widths = {i: needed[i] for i in part}
    rest = width - _EDGE - sum(widths[i] + _BETWEEN for i in part)
    while rest > 0 and (short := [i for i in part if widths[i] < wanted[i]]):
        for i in short[:rest]:
            widths[i] += 1
        rest -= len(short[:rest])
    return list(widths.values())


def _parts(needed: Sequence[int], keys: int, width: int) -> list[list[int]]:
    """Columns that fit beside each other, in order, the keys in every part."""
    named = list(range(keys))
    parts = [named]
    for i in range(keys, len(needed)):
        fits = _EDGE + sum(needed[k] + _BETWEEN for k in (*parts[-1], i)) <= width
        if fits or parts[-1] == named:
            parts[-1] = [*parts[-1], i]
        else:
            parts.append([*named, i])
    return parts
