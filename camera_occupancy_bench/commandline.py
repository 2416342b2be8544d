"""What commands share that must run without packages: the look of help and mistakes, and the word on packages that are missing.

Commands of ``experiments`` and ``reports`` are typer's; those of ``renderers``, which need torch alone, and those that run before
the set-up have a ``Parser``, whose help and errors look the same. Standard library only.
"""

from __future__ import annotations

import argparse
import errno
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TextIO

MM = ("mmengine", "mmcv", "mmdet", "mmdet3d")
READING = ("typer", "rich", "pydantic", "filelock", "numpy")
"""What commands need that only read and write files."""

SITE = ("mkdocs", "material", "mkdocstrings", "griffe")
"""What the site of results needs besides."""

TRAINING = (*READING, *MM, "torch", "numba", "scipy", "cv2", "PIL", "matplotlib")
"""What a cell needs."""


class _Help(argparse.HelpFormatter):
    def add_usage(self, usage: str | None, actions: Iterable[argparse.Action], groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, "Usage: ")


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line on stderr (exit code 2) and whose help looks like that of typer's commands."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog, description=description, epilog=epilog, formatter_class=_Help, add_help=False, allow_abbrev=False
        )
        self._positionals.title = "Arguments"
        self._optionals.title = "Options"
        self.add_argument("--help", action="help", help="Show this message and exit.")

    def format_help(self) -> str:
        """The text of ``--help``."""
        words = (str(action.metavar or action.dest.upper()) for action in self._positionals._group_actions)
        self.usage = " ".join(("%(prog)s [OPTIONS]", *words))
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """End the command."""
        print(f"error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)


def missing(modules: Iterable[str]) -> list[str]:
    """Those that are not installed. Nothing is imported."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def explain(lacking: Iterable[str]) -> str:
    """One sentence: what is not installed, and the commands that bring it."""
    names = list(lacking)
    extras = "bench,site" if set(names) & set(SITE) else "bench"
    brings = f"pip install '.[{extras}]'" if names != ["mmcv"] else ""
    if "mmcv" in names:
        brings += f"{' and then ' if brings else ''}python -m experiments.install mmcv"
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names)} {verb} not installed: in the project's folder, make setup brings it all, or {brings}"


def require(module: str, packages: Iterable[str]) -> None:
    """End the command ``module`` with one line if packages are missing; raise ImportError where it is imported, not run.

    module  ``__name__`` of the caller
    """
    lacking = missing(packages)
    if not lacking:
        return
    if module == "__main__":
        print(f"error: {explain(lacking)}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(explain(lacking), name=lacking[0])


class _Unheard(io.FileIO):
    """A file whose content is dropped from the first part on that cannot be written.

    lost  why not
    """

    lost: OSError | None = None

    def write(self, data: Any) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def finish(main: Callable[[], int]) -> int:
    """Run a command to its exit code, although nobody may read what it says (``| head -1``) or the disk that it goes to is full.

    Of the latter the code is no success: 1, and a line on stderr.
    """
    out, err = sys.stdout, sys.stderr
    heard = _heard_or_not(out)
    sys.stdout, sys.stderr = heard or out, _heard_or_not(err) or err
    try:
        code = main()
        if heard is not None:
            heard.flush()
            lost = heard.buffer.raw.lost  # type: ignore[attr-defined]
            if lost is not None and lost.errno != errno.EPIPE:
                print(f"error: what this command said is lost in part ({lost.strerror})", file=sys.stderr)
                code = code or 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = out, err
    return code


def _heard_or_not(stream: TextIO | None) -> io.TextIOWrapper | None:
    """The stream with ``_Unheard`` below it; None for what a test or a notebook put in its place."""
    if type(stream) is not io.TextIOWrapper:
        return None
    stream.flush()
    try:
        os.fstat(number := stream.fileno())
    except (OSError, ValueError):
        return None
    buffer = io.BufferedWriter(_Unheard(number, "w", closefd=False))
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=stream.line_buffering)
