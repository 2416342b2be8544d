"""All commands of the project, a line each: ``python -m experiments``."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence

from camera_occupancy_bench import PACKAGES, ROOT
from camera_occupancy_bench.commandline import Parser, finish
from experiments.shell import runnable


def commands() -> Iterator[tuple[str, str]]:
    """(module, what it does): every module of the project that can be run, with its docstring up to the first colon."""
    for package in (*PACKAGES, "camera_occupancy_bench"):
        for file in sorted((ROOT / package).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if '\nif __name__ == "__main__":' in text:
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
                yield name, (ast.get_docstring(ast.parse(text)) or "").partition(":")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the list; returns the exit code."""
    Parser("python -m experiments", "List all commands of the project; each of them has --help.").parse_args(argv)
    for module, what in commands():
        print(runnable(f"python -m {module:28} {what}"))
    print("Each has --help. Targets of make: make help")
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
