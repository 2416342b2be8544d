"""A cell that was killed and continued ends with the weights of one that was left alone, to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_run_training import environment

# With rendering, which has all that a training without it has.
CELLS = (
    "table_tiny_occformer:occformer+gaussrender",
    "table_tiny:small+gaussrender",
    "table_tiny_surroundocc:surroundocc+gaussrender",
    "table_tiny_kitti360:symphonies+gaussrender",
)


@pytest.mark.slow
def test_a_killed_cell_ends_with_the_same_weights(tmp_path: Path) -> None:
    """Every cell twice killed and continued, in one process for all of them, without a store."""
    kills = 2
    words = [str(tmp_path), "6", str(kills), "1", *CELLS]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_killed.py")), *words],
        env={name: value for name, value in environment(tmp_path).items() if name != "MLFLOW_TRACKING_URI"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["cell"] for result in results] == list(CELLS)
    for result in results:
        assert result["tensors"] > 100 and result["different"] == [], result
        assert result["kills"] == kills and result["continued"], result
