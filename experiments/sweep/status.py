"""What has become of the cells of a sweep, from their folders, the scheduler and the logs. Light; writes nothing."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.cell.folder import LIVE, checkpoints_in, iteration_of
from experiments.cell.lock import holder_of
from experiments.preflight import duration
from experiments.sweep.manifest import Entry, Sweep

Kind = Literal["queued", "running", "stopped", "failed", "finished", "not run"]


class State(NamedTuple):
    """Of a cell; ``text`` for people, "" where the kind says all."""

    kind: Kind
    text: str = ""


class Known(NamedTuple):
    """A cell with the sweep that it was last given to."""

    entry: Entry
    sweep: Sweep


def cells(sweeps: Sequence[Sweep]) -> list[Known]:
    """Each cell of several sweeps once, with its newest job."""
    found: dict[str, Known] = {}
    for sweep in sweeps:
        for entry in sweep.entries:
            if entry.job or (sweep.at_work and not entry.left) or entry.key not in found:
                found[entry.key] = Known(entry, sweep)
            else:
                found[entry.key].entry.fingerprint = entry.fingerprint
    return list(found.values())


def state(known: Known, results: Path, queue: Mapping[str, str]) -> State:
    """``queue``: job -> Slurm's state, of the jobs in its queue."""
    entry, sweep = known
    work_dir = entry.work_dir(results)
    if finished(entry, results):
        return State("finished")
    if (holder := holder_of(entry.lock_path(results))) is not None:
        return State("running", f"{_live(work_dir)}on {holder.host}")
    checkpoints = checkpoints_in(work_dir)
    where = f"at iteration {iteration_of(checkpoints[0])}" if checkpoints else ""
    if entry.job in queue:
        if queue[entry.job] == "PENDING":
            return State("queued", f"stopped {where}" if where else "")
        return State("running", "starting" if queue[entry.job] == "RUNNING" else queue[entry.job].lower())
    if sweep.on == "local" and sweep.at_work and not entry.job:
        return State("queued", f"stopped {where}" if where else "")
    if sweep.on == "local" and entry.job and _controls(entry.job, sweep):
        return State("running", "starting")
    if entry.job and (said := error_of(sweep.log(entry, "err"))):
        return State("failed", said)
    return State("stopped", where) if where else State("not run")


def finished(entry: Entry, results: Path) -> bool:
    """Whether the cell's record is that of the cell that was planned, and nothing was begun to take its place."""
    # Not records.load: a thousand of them are looked at every few seconds, and whoever uses a number checks its record.
    record = _json(entry.record_path(results))
    if record.get("fingerprint") != entry.fingerprint:
        return False
    return _json(entry.work_dir(results) / "state.json").get("supersedes") != record.get("started")


def error_of(log: Path) -> str:
    """The line with which a cell's command, or else its task, says what went wrong; "" where nothing did."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 100_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    if said:
        return "" if said[-1].startswith("interrupted") else said[-1]
    marks = ("experiments.sweep.task.CellEnded: ", "slurmstepd: error: ", "ModuleNotFoundError: ", "ImportError: ")
    said = [line.removeprefix(marks[0]) for line in lines if line.startswith(marks) and "CANCELLED" not in line]
    return said[-1] if said else ""


def counts(states: Sequence[State]) -> str:
    """``3 finished, 2 running``."""
    return ", ".join(f"{number} {kind}" for kind, number in Counter(state.kind for state in states).most_common())


def controllers(known: Sequence[Known]) -> list[int]:
    """Processes of local jobs that are at work."""
    return [int(k.entry.job) for k in known if k.sweep.on == "local" and k.entry.job and _controls(k.entry.job, k.sweep)]


def _controls(job: str, sweep: Sweep) -> bool:
    """Whether a process of that number is the one which submitit started for this sweep's job."""
    if sweep.host != socket.gethostname():
        return False
    try:
        words = Path(f"/proc/{job}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    return "submitit.local._local" in words and str(sweep.jobs) in words


def _live(work_dir: Path) -> str:
    live = _json(work_dir / LIVE)
    try:
        done, total, seconds = int(live["iteration"]), int(live["iterations"]), live["seconds"]
        left = "" if seconds is None else f", {duration(float(seconds) * (total - done))} of training left"
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
    if done >= total:
        return f"evaluation behind iteration {total}, "
    return f"iteration {done} of {total}{left}, "


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
