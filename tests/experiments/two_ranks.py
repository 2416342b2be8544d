"""A script as both ranks of a gloo group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def outputs_of_two_ranks(script: str, folder: Path) -> list[str]:
    """What each rank wrote to ``<out><rank>``; the script gets rank, the group's file and <out> as arguments, and may import
    modules of this folder from its ``{tests!r}``. Both must end with 0."""
    path = folder / "rank.py"
    path.write_text(script.format(tests=str(HERE)))
    runs = [
        subprocess.Popen(
            [sys.executable, str(path), str(rank), str(folder / "store"), str(folder / "out")],
            cwd=folder,
            env={"PYTHONPATH": str(HERE.parents[1]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [run.communicate(timeout=1200)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    return [(folder / f"out{rank}").read_text() for rank in range(2)]
