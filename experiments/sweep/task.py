"""One cell as a task of submitit: ``python -m experiments.run`` for it, in a process of its own. Light.

The task's process has submitit's signal handlers. The cell's has those of a command: it is stopped as by Ctrl-C, so that its
tracking run is closed, and continued by the same command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camera_occupancy_bench import ROOT

GRACE = 25.0
"""Seconds that a cell has to end by itself; Slurm's KillWait is 30."""
SIGNAL_DELAY = 90
"""Seconds before the end of its time limit at which a task is told."""
_SET_PARENT_DEATH_SIGNAL = 1


class CellEnded(RuntimeError):
    """The cell's process did not finish the cell; its log says why."""


@dataclass
class CellTask:
    """Run one cell to its record, or until the scheduler wants the machine back.

    words      options of ``experiments.run`` for this cell alone
    processes  that train it: more than one are torchrun's
    work_dir   the cell's work folder
    force      start again, whatever is finished: the first time that the task starts, not when it is requeued
    seconds    time limit of the task, None without one
    cores      that it may use, None for all
    devices    ``CUDA_VISIBLE_DEVICES``, None for what the scheduler says
    """

    words: tuple[str, ...]
    work_dir: Path
    processes: int = 1
    force: bool = False
    seconds: float | None = None
    cores: tuple[int, ...] | None = None
    devices: str | None = None

    def __post_init__(self) -> None:
        self._cell: subprocess.Popen[bytes] | None = None
        self._begun, self._at = 0.0, 0
        self._told = False

    def command(self) -> list[str]:
        """What the task runs."""
        again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
        words = [*self.words, *(["--force"] if self.force and not again else [])]
        if self.processes == 1:
            return [sys.executable, "-m", "experiments.run", *words]
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes)]
        return [*start, "-m", "experiments.run", *words, "--launcher", "pytorch"]

    def __call__(self) -> None:
        """Raises CellEnded unless the cell is finished."""
        if self.cores is not None:
            os.sched_setaffinity(0, self.cores)
        self._begun, self._at = time.monotonic(), _iteration(self.work_dir)
        signal.signal(signal.SIGTERM, self._told_to_end)
        command = self.command()
        print(shlex.join(command), flush=True)
        self._cell = subprocess.Popen(command, env=_environment(self.devices), start_new_session=True, preexec_fn=_as_a_cell())
        while (code := self._cell.poll()) is None:
            if self._told:
                self._told_to_end()
            time.sleep(0.2)  # not wait(): within a signal's handler, nothing could ask for the process's end
        if code < 0:
            time.sleep(GRACE)  # a signal for the whole job: this process's own decides what becomes of it
            raise CellEnded(f"the cell was ended by {signal.Signals(-code).name}")
        if code:
            raise CellEnded(f"the cell ended with exit code {code}")

    def checkpoint(self) -> Any:
        """What submitit queues again at the end of the time limit and before a preemption: the same task, which continues from
        the newest checkpoint. None, for not again, where a whole time limit brought no new checkpoint."""
        from submitit.helpers import DelayedSubmission

        self._stop()
        out_of_time = self.seconds is not None and self.seconds - (time.monotonic() - self._begun) < SIGNAL_DELAY + 60
        if out_of_time and _iteration(self.work_dir) <= self._at and not (self.work_dir / "weights.pth").is_file():
            print(
                "error: the time limit is over before the first new checkpoint: give the tasks more with --time", file=sys.stderr
            )
            return None
        again = CellTask(self.words, self.work_dir, self.processes, False, self.seconds, self.cores, self.devices)
        return DelayedSubmission(again)

    def _told_to_end(self, *_: Any) -> None:
        """SIGTERM: cancelled, or Slurm's first word of a preemption, behind which it queues the task again by itself."""
        if self._cell is None:  # what is raised while a process is being made is lost, and the cell would run on
            self._told = True
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        self._stop()
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            time.sleep(600)  # a task that ended now would count as failed, not as preempted
        raise SystemExit(1)

    def _stop(self) -> None:
        """End the cell as Ctrl-C does, by force if that does not help."""
        if self._cell is None:
            return
        for number, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, GRACE)):
            if _ended(self._cell.pid):
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._cell.pid, number)
            end = time.monotonic() + seconds
            while time.monotonic() < end and not _ended(self._cell.pid):
                time.sleep(0.1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cell": None}


def _ended(process: int) -> bool:
    """Whether a child has ended; it is left for ``poll`` to find."""
    try:
        return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _iteration(work_dir: Path) -> int:
    from experiments.cell.folder import checkpoints_in, iteration_of

    found = checkpoints_in(work_dir)
    return iteration_of(found[0]) if found else 0


def _environment(devices: str | None) -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # The cell is no task of Slurm's or submitit's: its rank and the number of its processes are its own launcher's.
    kept = {name: value for name, value in os.environ.items() if name not in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")}
    return {**kept, "PYTHONPATH": path, **({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})}


def _as_a_cell() -> Callable[[], None]:
    """What the cell's process does before anything else: it ends with the task, and hears Ctrl-C, but not submitit's signal."""
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)

    return prepare
