"""Compile the C++ ops for every instruction set of this machine: ``python -m renderers.cpu.build``.

Commands that promise the same bits everywhere are held to less than the widest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from camera_occupancy_bench.commandline import Parser, finish
from renderers.cpu.native import usable_targets
from renderers.cpu.toolchain import RAYS, SPLATS, BuildError, ensure


def main(argv: Sequence[str] | None = None) -> int:
    """Compile what this machine can use; returns the process's exit code."""
    Parser("python -m renderers.cpu.build", "Compile the C++ ops of the cpu renderer for this machine.").parse_args(argv)
    try:
        for target in usable_targets():
            for op in (SPLATS, RAYS):
                print(ensure(target, quiet=False, op=op))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(finish(main))
