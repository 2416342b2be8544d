"""What a person sees while a cell runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console

from camera_occupancy_bench.files import write
from experiments.bars import Bar
from experiments.cell.engine import scalars


class ProgressHook(Hook):
    """Shows training with live losses (smoothed) and evaluation, on the first process only."""

    priority = "LOW"

    def __init__(self, console: Console, title: str) -> None:
        self._console, self.title = console, title
        self._bar: Bar | None = None
        self._smooth: dict[str, float] = {}

    def _open(self, what: str, total: int, start: int = 0) -> None:
        self.close()
        self._bar = Bar(self._console, f"{self.title} {what}", total, start)

    def close(self) -> None:
        """Take the bar off the screen, whatever ended the loop."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def before_train(self, runner: Runner) -> None:
        if runner.rank == 0 and runner.iter < runner.max_iters:
            self._open("train", runner.max_iters, runner.iter)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for name, value in scalars(outputs).items():
            self._smooth[name] = 0.9 * self._smooth.get(name, value) + 0.1 * value
        if self._bar is not None:
            self._bar.advance("  ".join(f"{name.removeprefix('loss_')} {value:.3f}" for name, value in self._smooth.items()))

    def after_train(self, runner: Runner) -> None:
        self.close()

    def before_test_epoch(self, runner: Runner) -> None:
        if runner.rank == 0:
            self._open("evaluate", len(runner.test_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self._bar is not None:
            self._bar.advance()

    def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.close()


class LiveHook(Hook):
    """Keeps in ``path``, for whoever looks at a sweep, what the first process is at; a file that cannot be written ends nothing.

    {"iteration": done, "iterations": of how many, "seconds": of one, in this run}
    """

    priority = "VERY_LOW"
    INTERVAL = 10.0
    """Seconds between two writings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = self._begin = 0.0
        self._first = 0

    def before_train(self, runner: Runner) -> None:
        self._begin, self._first = time.monotonic(), runner.iter
        self._write(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if time.monotonic() - self._written >= self.INTERVAL:
            self._write(runner, 1)

    def after_train(self, runner: Runner) -> None:
        self._write(runner)

    def _write(self, runner: Runner, ahead: int = 0) -> None:
        self._written = time.monotonic()
        if runner.rank != 0:
            return
        done = runner.iter + ahead
        seconds = (self._written - self._begin) / (done - self._first) if done > self._first else None
        try:
            write(self._path, json.dumps({"iteration": done, "iterations": runner.max_iters, "seconds": seconds}))
        except OSError:
            pass  # the next checkpoint says what is wrong with the disk
