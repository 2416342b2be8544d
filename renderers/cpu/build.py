"""``python -m renderers.cpu.build``: compile the C++ ops for what this machine can use."""

from __future__ import annotations

import sys

from renderers.cpu.native import best_target
from renderers.cpu.toolchain import RAYS, SPLATS, BuildError, ensure


def main() -> int:
    """Compile what this machine can use; returns the process's exit code."""
    try:
        for target in dict.fromkeys(["portable", best_target()]):
            for op in (SPLATS, RAYS):
                print(ensure(target, quiet=False, op=op))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
