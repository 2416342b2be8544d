"""Kills cells at random moments, continues them, and compares their final weights with those of cells left alone.

    run_killed.py FOLDER ITERATIONS KILLS SEED CELL [CELL ...]      a cell is TABLE:ROW

Prints a line a cell, {"cell": ..., "kills": ..., "continued": [iterations], "tensors": how many, "different": [names]}. Every
run is a forked process, so that the libraries are imported once; nothing computes before the fork, which threads would not
survive. Runs are tracked where MLFLOW_TRACKING_URI names a store. Kills are SIGKILL, after a checkpoint drawn by the generator
and a drawn part of the time between two checkpoints; a process that is to be killed waits for it before its evaluation.
"""

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from run_tiny import TABLES

import experiments.tables
from experiments import run
from experiments.cell.folder import WEIGHTS, CellFolder, checkpoints_in, iteration_of
from experiments.spec import Cell, load_table

INTERVAL = 2  # iterations between two checkpoints in the tests' tables


def start(cell: Cell, folder: Path, iterations: int, waits: bool) -> int:
    """Run the cell in a process of its own, up to the evaluation if it ``waits`` there; returns the process's id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if waits:
                from experiments.cell import training

                training.CellRunner.test = lambda _: time.sleep(600)
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a killed process writes nothing later
            words = ["--row", cell.row.name, "--renderer", "cpu", "--iterations", str(iterations), "--results", str(folder)]
            code = run.main([cell.table.name, *words])
        finally:
            sys.stdout.flush()
            os._exit(code)
    return child


def ended(child: int, wait: bool) -> bool:
    """Whether the process has ended, waiting for it if asked to; RuntimeError if it failed."""
    done, status = os.waitpid(child, 0 if wait else os.WNOHANG)
    if done and os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
        raise RuntimeError("a cell failed; its log is below the folder")
    return done != 0


def kill_behind(child: int, reached: Callable[[], bool], part: float) -> bool:
    """Kill the process once ``reached``, and ``part`` of the time between two checkpoints later; False if it ended itself."""
    begin = time.monotonic()
    while not reached():
        if ended(child, wait=False):
            return False
        time.sleep(0.002)
    time.sleep(part * min(0.3, 0.02 * (time.monotonic() - begin)))
    if ended(child, wait=False):
        return False
    os.kill(child, signal.SIGKILL)
    ended(child, wait=True)
    return True


def newest(work: CellFolder) -> int:
    """Iteration of the newest checkpoint, 0 without one."""
    return max(map(iteration_of, checkpoints_in(work.work_dir)), default=0)


def chain(name: str, folder: Path, iterations: int, kills: int, draw: random.Random) -> dict[str, object]:
    """One cell left alone, one killed ``kills`` times, compared."""
    import torch

    table, row = name.split(":")
    cell = Cell(load_table(table), load_table(table).row(row), "cpu", "toy", 0, {"iterations": iterations})
    states = []
    killed = 0
    for side in ("alone", "killed"):
        place = folder / name.replace(":", "-") / side
        place.mkdir(parents=True, exist_ok=True)
        work = CellFolder(cell, place)
        moments = sorted(draw.sample(range(INTERVAL, iterations, INTERVAL), kills)) if side == "killed" else []
        for moment in moments:
            child = start(cell, place, iterations, waits=True)
            killed += kill_behind(child, lambda: newest(work) >= moment, draw.random())  # noqa: B023 - called at once
        ended(start(cell, place, iterations, waits=False), wait=True)
        states.append(torch.load(work.work_dir / WEIGHTS, weights_only=True)["state_dict"])
    continued = re.findall(r"continues at iteration (\d+)", (folder / name.replace(":", "-") / "killed" / "log").read_text())
    different = [key for key, value in states[0].items() if not torch.equal(value, states[1][key])]
    return {"cell": name, "kills": killed, "continued": continued, "tensors": len(states[0]), "different": different}


def main(folder: str, iterations: str, kills: str, seed: str, *cells: str) -> None:
    import mmdet.models  # noqa: F401 - all that a cell imports, before the forks
    import torch._dynamo  # noqa: F401
    from mmengine.evaluator import Evaluator

    from experiments.cell import tracking, training

    # Pictures, rendered views and other images have no part in this.
    training._draw = lambda *_: None
    training._shuffled = lambda *_: ({}, {})
    training.RenderingEvaluator = lambda metrics, _: Evaluator(metrics)
    if "MLFLOW_TRACKING_URI" not in os.environ:  # no store is named, and none is to be made for each kill
        tracking.Tracker.start = lambda *_: None
    experiments.tables.__path__.append(TABLES)
    for name in cells:
        draw = random.Random(f"{seed} {name}")
        print(json.dumps(chain(name, Path(folder), int(iterations), int(kills), draw)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
