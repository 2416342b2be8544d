"""Tables keep names and numbers whole in any width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from renderers.tables import print_table

HEADINGS = ("row", "model", *(f"metric {i}\nours" for i in range(6)))
ROWS = [
    (f"tpvformer+gaussrender-{what}", "TPVFormer + GaussRender [toy]", *(f"{i}1.86 ± 0.71 †{i}" for i in range(6)))
    for what in ("weights", "images-only")
]


def printed(width: int) -> str:
    out = io.StringIO()
    print_table("a title", HEADINGS, ROWS, console=Console(file=out, width=width), right=lambda column: column > 1)
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_every_word_of_a_table_is_printed_whole(width: int) -> None:
    text = printed(width)
    words = set(text.replace("│", " ").replace("┃", " ").split())
    assert all(set(word.split()) <= words for row in (HEADINGS, *ROWS) for word in row)
    assert "…" not in text and "a title" in text
    assert max(map(len, text.splitlines())) <= max(width, 64)  # of the longest name and the longest word beside it


def test_columns_that_do_not_fit_come_below_with_the_names_of_the_rows() -> None:
    for width, parts in ((200, 1), (80, 2)):
        assert printed(width).count(ROWS[0][0]) == parts


def test_one_column_wider_than_the_terminal_is_printed_all_the_same() -> None:
    assert ROWS[1][0] in printed(20)
