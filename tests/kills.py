"""Cells killed and continued until ``--kills`` kills: ``python tests/kills.py [--kills 100]``, which ``make kills`` calls.

Cells of all models, each also left alone; a killed one must end with the same weights to the last bit, with its record, and with
no file that the other one does not have. Exit codes: 0, 1 with a line for everything that is otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
INTERVAL = 2  # iterations between two checkpoints of these cells
EACH = 5  # kills of one cell
CELLS = (
    "table_tiny:small+gaussrender",
    "table_tiny_surroundocc:surroundocc+gaussrender",
    "table_tiny_kitti360:symphonies+gaussrender",
    "table_tiny_rays:renderocc-2d",
    "table_tiny_flow:flow",
    "table_tiny_gsp:gaussianocc-gsp",
    "table_tiny_gsp:gaussianocc",
    "table_tiny_occformer:occformer+gaussrender",
    "table_tiny_kitti360:monoscene+gaussrender",
    "table_tiny_surroundocc:gaussianformer2+gaussrender",
    "table_tiny_rays:bevdetocc",
    "table_tiny:small",
    "table_tiny_surroundocc:surroundocc",
    "table_tiny_kitti360:symphonies",
)


def names(folder: Path) -> set[str]:
    """Files and folders that a cell leaves, its console's log aside."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "log"}


def problems(folder: Path, cell: str) -> Iterator[str]:
    """What a killed cell has or lacks that the one left alone does not."""
    alone, killed = (folder / cell.replace(":", "-") / side for side in ("alone", "killed"))
    if not any(name.endswith(".json") and "state" not in name for name in names(killed)):
        yield f"{cell}: no record"
    for name in sorted(names(killed) ^ names(alone)):
        yield f"{cell}: {name} is {'left' if name in names(killed) else 'missing'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done, found, seed = 0, [], options.seed
    while done < options.kills and not found:
        for cell in CELLS:
            if done >= options.kills:
                break
            kills = min(EACH, options.kills - done)
            with tempfile.TemporaryDirectory(prefix="kills-") as name:
                folder = Path(name)
                words = [name, str((kills + 2) * INTERVAL), str(kills), str(seed), cell]
                environment = os.environ | {
                    "PYTHONPATH": str(ROOT),
                    "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
                    "OMP_NUM_THREADS": "1",
                }
                run = [sys.executable, str(ROOT / "tests/experiments/run_killed.py"), *words]
                ended = subprocess.run(run, env=environment, cwd=name, capture_output=True, text=True)
                if ended.returncode:
                    found.append(f"{cell}: {ended.stderr.strip()[-500:]}")
                    continue
                said = json.loads(ended.stdout.splitlines()[-1])
                done += said["kills"]
                found += [f"{cell}: {key} is unequal" for key in said["different"]]
                found += problems(folder, cell)
                print(f"{cell}: {said['kills']} kills, continued at {', '.join(said['continued'])}", flush=True)
        seed += 1
    for line in found:
        print(line)
    print(f"{done} kills: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
