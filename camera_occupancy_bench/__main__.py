"""Where each of the project's names comes from: ``python -m camera_occupancy_bench``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from camera_occupancy_bench import HELP, HOME, PACKAGES, ROOT, place
from camera_occupancy_bench.commandline import Parser, finish


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a name; returns 1 where one is not ours."""
    Parser("python -m camera_occupancy_bench", "Show where each of the project's names comes from.").parse_args(argv)
    hidden = []
    for name in PACKAGES:
        found = place(name)
        ours = found == ROOT / name
        print(f"{name:12} {found or 'not found'}{'' if ours else f'   not ours: that is {ROOT / name}'}")
        if not ours:
            hidden.append(name)
    print(f"results, curves and weights: {HOME}")
    if hidden:
        print(f"error: something stands in the way of {', '.join(hidden)}; {HELP}", file=sys.stderr)
    return 1 if hidden else 0


if __name__ == "__main__":
    sys.exit(finish(main))
