"""Cells of one machine, some at a time, each with GPUs or cores of its own, through submitit's local executor. Light."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.sweep.manifest import Entry, Sweep, SweepError
from experiments.sweep.task import GRACE, CellTask

_FOR_EVER = 60 * 24 * 365 * 10


@dataclass(frozen=True)
class Slot:
    """What a cell has to itself. ``devices``: as CUDA_VISIBLE_DEVICES names them; None without GPUs."""

    cores: tuple[int, ...]
    devices: str | None


def slots(parallel: int | None, gpus_per_cell: int, devices: Sequence[str], cores: Sequence[int]) -> list[Slot]:
    """Places for cells: ``parallel`` of them, else as many as there are GPUs for, or one. Raises SweepError."""
    if gpus_per_cell > len(devices):
        raise SweepError(f"--gpus-per-cell {gpus_per_cell}: this machine has {len(devices)} GPUs")
    count = parallel or (len(devices) // gpus_per_cell if gpus_per_cell else 1)
    if count * gpus_per_cell > len(devices):
        raise SweepError(
            f"--parallel {count} cells of {gpus_per_cell} GPUs each need {count * gpus_per_cell}, this machine has {len(devices)}"
        )
    if count > len(cores):
        raise SweepError(f"--parallel {count}: this machine has {len(cores)} cores, a cell needs one")
    share = len(cores) // count
    return [
        Slot(
            tuple(cores[place * share : (place + 1) * share]),
            ",".join(devices[place * gpus_per_cell : (place + 1) * gpus_per_cell]) if gpus_per_cell else None,
        )
        for place in range(count)
    ]


def executor(folder: Path) -> Any:
    """submitit's, without a time limit."""
    import submitit

    made = submitit.LocalExecutor(folder)
    made.update_parameters(timeout_min=_FOR_EVER)
    return made


def work_off(
    sweep: Sweep,
    tasks: Sequence[tuple[Entry, CellTask]],
    places: Sequence[Slot],
    made: Any,
    ended: Callable[[Entry, bool], bool],
    pause: float = 0.5,
) -> None:
    """Run the tasks, one a place at a time; a cell that starts from another one comes behind it.

    ended  told of an entry whose task is over, with False of one that was not begun since the cell that it starts from was not
           finished; says whether the cell is finished
    Ctrl-C ends all of them and goes on as KeyboardInterrupt.
    """
    waiting, free = list(tasks), list(places)
    running: list[tuple[Entry, Slot, Any]] = []
    open_ = {entry.key for entry, _ in waiting}
    failed: set[str] = set()
    try:
        while waiting or running:
            while behind := [(e, t) for e, t in waiting if e.first in failed]:
                entry, task = behind[0]
                waiting.remove(behind[0])
                open_.discard(entry.key)
                failed.add(entry.key)
                ended(entry, False)
            for entry, task in [(e, t) for e, t in waiting if e.first not in open_][: len(free)]:
                waiting.remove((entry, task))
                place = free.pop(0)
                with _unheard():
                    job = made.submit(replace(task, cores=place.cores, devices=place.devices))
                    running.append((entry, place, job))
                sweep.assign([entry], [job.job_id])
            for entry, place, job in [one for one in running if one[2].done()]:
                running.remove((entry, place, job))
                free.append(place)
                open_.discard(entry.key)
                if not ended(entry, True):
                    failed.add(entry.key)
            if running:
                time.sleep(pause)
    except BaseException:
        stop([job for _, _, job in running])
        raise


def stop(jobs: Sequence[Any]) -> None:
    """End local jobs and wait for them; their cells stop as by Ctrl-C.

    A job is told again each second: one that just starts passes over what it is told before its cell's task begins.
    """
    end = time.monotonic() + 2 * GRACE
    while (left := [job for job in jobs if not job.done()]) and time.monotonic() < end:
        for job in left:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(job.job_id), signal.SIGTERM)  # to what submitit starts for a job, which passes it on
        again = min(end, time.monotonic() + 1)
        while time.monotonic() < again and not all(job.done() for job in left):
            time.sleep(0.1)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Processes started within do not hear Ctrl-C: this one does, and ends them in order."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
