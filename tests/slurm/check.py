"""A sweep through a real Slurm, disturbed in every way: ``python tests/slurm/check.py``, which ``make test-slurm`` calls.

A task is preempted by Slurm, one is requeued by submitit as at the end of its time limit, the node's daemon is killed with all
that it started, a sweep is cancelled and submitted again. Every record must be that of an undisturbed run, bit for bit, and no
second submission may run anything. Takes minutes. Exit codes: 0, also where there is no Slurm, with the reason; 1 a difference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster import Cluster, lacking, until

ROOT = Path(__file__).parents[2]
TABLE = str(ROOT / "tests/experiments/tables/table_tiny.py")
CELLS = ["--row", "small", "--renderer", "cpu", "--iterations", "16"]
SAME = ("metrics", "per_class", "checks", "first_losses", "fingerprint", "data_fingerprint", "iterations", "processes")


def python(environment: dict[str, str], *words: str) -> str:
    """Output of one of the project's commands; RuntimeError if it fails."""
    ended = subprocess.run([sys.executable, "-m", *words], env=environment, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ended.stderr[-1000:]}")
    return ended.stdout


class Sweeps:
    """Commands of ``experiments.sweep`` on one results folder."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.results = cluster, folder / "swept"
        self.environment = cluster.environment | environment(folder, self.results)

    def submit(self, *seeds: str) -> str:
        words = ["--seed", *seeds, "--on", "slurm", "--gpus-per-cell", "0", "--partition", "low", "--time", "60"]
        return python(self.environment, "experiments.sweep", TABLE, *CELLS, *words)

    def work_dir(self, seed: int) -> Path:
        return self.results / f"table_tiny/toy/small--cpu--seed{seed}--iterations=16"

    def newest(self, seed: int) -> int:
        return max((int(path.stem[5:]) for path in self.work_dir(seed).glob("iter_*.pth")), default=0)

    def done(self, seed: int) -> bool:
        return self.work_dir(seed).with_name(f"{self.work_dir(seed).name}.json").is_file()

    def at_work(self, seed: int, beyond: int) -> None:
        """Wait until a cell has a checkpoint behind this iteration."""
        until(lambda: self.newest(seed) > beyond or self.done(seed), f"seed {seed} beyond iteration {beyond}")
        assert not self.done(seed), f"seed {seed} was finished before it could be disturbed"

    def jobs(self) -> dict[str, str]:
        return dict(line.split() for line in self.cluster.ask("squeue", "-h", "-r", "-p", "low", "-o", "%i %T").splitlines())


def environment(folder: Path, results: Path) -> dict[str, str]:
    paths = {"PYTHONPATH": str(ROOT), "OCC_RESULTS": str(results), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    return paths | {"OMP_NUM_THREADS": "1"}


def disturb(sweeps: Sweeps) -> None:
    """Seeds 0 and 1 through preemption, requeueing and a node's end; seed 2 cancelled and submitted again."""
    cluster = sweeps.cluster
    print(sweeps.submit("0", "1").splitlines()[-1], flush=True)
    assert "2 of 2 cells: queued or running already" in (said := sweeps.submit("0", "1")), said
    sweeps.at_work(0, 0)
    begun = sweeps.newest(0)
    cluster.ask("sbatch", "-p", "high", "-c", str(cluster.cpus), "--output=/dev/null", "--wrap", "sleep 3")
    until(lambda: "RUNNING" not in sweeps.jobs().values(), "the preemption", 120)
    print(f"preempted at iteration {begun}: {sweeps.jobs()}", flush=True)
    sweeps.at_work(0, begun)
    begun = sweeps.newest(0)
    job = next(job for job in sweeps.jobs() if job.endswith("_0"))
    cluster.ask("scancel", "--signal=USR2", job)
    until(lambda: sweeps.jobs().get(job) == "PENDING", "submitit's requeueing", 120)
    print(f"requeued by submitit at iteration {begun}", flush=True)
    sweeps.at_work(0, begun)
    begun = sweeps.newest(0)
    cluster.kill_node()
    until(lambda: "RUNNING" not in sweeps.jobs().values(), "the end of the node", 120)
    print(f"node killed at iteration {begun}: {sweeps.jobs()}", flush=True)
    assert sweeps.newest(0) >= begun, "a checkpoint is lost"
    cluster.start_node()
    until(lambda: sweeps.done(0) and sweeps.done(1), "seeds 0 and 1")
    print(sweeps.submit("2").splitlines()[-1], flush=True)
    sweeps.at_work(2, 0)
    python(sweeps.environment, "experiments.sweep", "cancel", TABLE)
    until(lambda: not sweeps.jobs(), "the cancelling", 120)
    said = python(sweeps.environment | {"COLUMNS": "200"}, "experiments.sweep", "status", TABLE)
    assert "1 stopped" in said and "2 finished" in said, said
    sweeps.submit("2")
    until(lambda: sweeps.done(2), "seed 2")
    assert "nothing is to be run" in sweeps.submit("0", "1", "2")


def problems(alone: Path, swept: Path) -> list[str]:
    """What of the records is otherwise."""
    found = []
    names = {path.relative_to(folder) for folder in (alone, swept) for path in folder.glob("table_tiny/toy/*.json")}
    if len(names) != 3:
        found.append(f"{len(names)} records instead of 3")
    for name in sorted(names):
        if not ((alone / name).is_file() and (swept / name).is_file()):
            found.append(f"{name}: a record is missing")
            continue
        one, other = (json.loads((folder / name).read_text()) for folder in (alone, swept))
        found += [f"{name}: {key} is unequal" for key in SAME if one.get(key) != other.get(key)]
        if other["continued"]:
            found.append(f"{name}: {other['continued']}")
    return found


def main() -> int:
    if reason := lacking():
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory(prefix="sweeps-") as name:
        folder = Path(name)
        try:
            with Cluster(folder / "cluster") as cluster:
                disturb(Sweeps(cluster, folder))
        except (RuntimeError, AssertionError) as error:
            for log in sorted((folder / "swept").glob(".sweeps/*/*/jobs/*.err")):
                print(f"--- {log.name}\n{log.read_text()[-1500:]}")
            print(error)
            return 1
        words = [TABLE, *CELLS, "--seed", "0", "1", "2"]
        python(os.environ | environment(folder, folder / "alone"), "experiments.run", *words)
        found = problems(folder / "alone", folder / "swept")
    for line in found:
        print(line)
    print(f"3 cells, preempted, requeued, of a killed node, cancelled: {len(found)} problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
