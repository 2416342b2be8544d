"""What a build would write, and commands called as functions."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from reports import build


def page(project: Path, name: str) -> str:
    """The text of a table's page as it would be built."""
    return build.build(project).texts[project / f"reports/pages/{name}.md"]


def readme_section(project: Path, name: str) -> str:
    """What would stand between the README's markers."""
    text = build.build(project).texts[project / "README.md"]
    return text.split(f"<!-- {name}:start -->")[1].split(f"<!-- {name}:end -->")[0]


class Done(NamedTuple):
    """A command that ended. output: what it wrote to stdout and stderr."""

    exit_code: int
    output: str


def run_with(main: Callable[[list[str]], int]) -> Callable[..., Done]:
    """A command line, called with its words."""

    def run(*words: str) -> Done:
        written = io.StringIO()
        with redirect_stdout(written), redirect_stderr(written):
            code = main(list(words))
        return Done(code, written.getvalue())

    return run
