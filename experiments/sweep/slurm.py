"""Slurm, through submitit and Slurm's own commands. Light."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camera_occupancy_bench import ROOT
from experiments.sweep.manifest import SweepError
from experiments.sweep.task import SIGNAL_DELAY, CellTask

MOST = 1000
"""Tasks of an array: one less than Slurm's own default limit."""
DEFAULT_TIME = "24:00:00"
_REQUEUES = 10_000  # a task that gets nowhere stops by itself, see ``CellTask.checkpoint``


def minutes(text: str) -> int:
    """Slurm's way to write a time limit: minutes, HH:MM:SS, D-HH or D-HH:MM:SS. Raises SweepError."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if found is None:
        raise SweepError(f"--time must be minutes, HH:MM:SS or D-HH:MM:SS, got '{text}'")
    days, first, second, third = (int(part) if part else 0 for part in found.groups())
    if found[1] is not None:
        total = days * 1440 + first * 60 + second + -(-third // 60)
    elif found[4] is not None:
        total = first * 60 + second + -(-third // 60)
    else:
        total = first + -(-second // 60)  # minutes:seconds
    if total == 0:
        raise SweepError(f"--time must be more than nothing, got '{text}'")
    return total


def check(partition: str | None) -> int:
    """Number of machines that a task may run on. Raises SweepError without Slurm, and for a partition that it does not have."""
    lacking = [name for name in ("sbatch", "srun", "squeue", "sinfo", "scontrol") if shutil.which(name) is None]
    if lacking:
        raise SweepError(f"--on slurm needs {', '.join(lacking)}: run this on a machine of the cluster, or use --on local")
    lines = [line.split() for line in _ask("sinfo", "-h", "-N", "-o", "%N %P").splitlines()]
    known = {name.rstrip("*") for _, name in lines}
    if partition is not None and (wrong := [name for name in partition.split(",") if name not in known]):
        raise SweepError(f"there is no partition '{wrong[0]}' (known: {', '.join(sorted(known))})")
    chosen = None if partition is None else set(partition.split(","))
    return len({node for node, name in lines if (name.endswith("*") if chosen is None else name.rstrip("*") in chosen)})


def executor(
    folder: Path, name: str, gpus: int, parallel: int | None, partition: str | None, time: int, setup: Sequence[str]
) -> Any:
    """submitit's executor with the parameters that all tasks have."""
    import submitit

    made = submitit.SlurmExecutor(folder, max_num_timeout=_REQUEUES)
    parameters: dict[str, Any] = {
        "job_name": name,
        "time": time,
        "ntasks_per_node": 1,
        "nodes": 1,
        "signal_delay_s": SIGNAL_DELAY,
        "array_parallelism": parallel or MOST,
        "additional_parameters": {"requeue": True},
        # Lines of the user come first: until the first command, sbatch reads #SBATCH from them.
        "setup": [
            *setup,
            f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}",
            # Since 22.05, srun does not take over how many cores the batch job has.
            '[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK',
        ],
    }
    if partition is not None:
        parameters["partition"] = partition
    if gpus:
        parameters["gpus_per_node"] = gpus
    made.update_parameters(**parameters)
    return made


def submit(made: Any, tasks: Sequence[CellTask], after: str = "") -> list[str]:
    """Job ids of one array, a task each; ``after``: the id of the task that has to succeed before. Raises SweepError."""
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    additional: dict[str, Any] = {"requeue": True}
    if after:
        additional |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    made.update_parameters(additional_parameters=additional)
    ids: list[str] = []
    for start in range(0, len(tasks), MOST):
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what sbatch said
                ids += [job.job_id for job in made.submit_array(tasks[start : start + MOST])]
        except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError) as error:
            said = [line for line in str(error).splitlines() if line.strip()]
            raise SweepError(
                f"sbatch refused the tasks: {said[-1].removeprefix('sbatch: error: ') if said else error}"
            ) from error
    return ids


def queued(ids: Sequence[str]) -> dict[str, str]:
    """Job id -> Slurm's state (PENDING, RUNNING, ...) of those that are in the queue. Raises SweepError."""
    if not ids:
        return {}
    lines = _ask("squeue", "-h", "-r", "--me", "-o", "%i %T").splitlines()
    wanted = set(ids)
    return {job: state for job, state in (line.split() for line in lines) if job in wanted}


def cancel(ids: Sequence[str]) -> None:
    """Cancel jobs. Raises SweepError."""
    for start in range(0, len(ids), 200):
        _ask("scancel", *ids[start : start + 200])


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        raise SweepError(f"{command[0]} failed: {said[-1]}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SweepError(f"{command[0]} failed: {error}") from error
