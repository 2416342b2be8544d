"""What a person sees while a cell runs: bars with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from experiments.engine import scalars


class Bar:
    """Progress of ``total`` steps under the heading ``title``; without a terminal a line every tenth of them."""

    def __init__(self, console: Console, title: str, total: int, start: int = 0) -> None:
        self._console, self._title, self._total, self._done = console, title, total, start
        self._begin, self._first = time.perf_counter(), start
        self._every = max(1, total // 10)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(title, total=total, completed=start, note="")
            self._bar.start()

    def advance(self, note: str = "") -> None:
        """One step is done; ``note`` stands at the end of the line."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif self._done % self._every == 0 or self._done == self._total:
            seconds = (time.perf_counter() - self._begin) / (self._done - self._first)
            left = seconds * (self._total - self._done)
            self._console.print(
                f"{self._title} {self._done}/{self._total}  {seconds:.2f} s/step  {left:.0f} s left  {note}".rstrip(),
                soft_wrap=True,
                highlight=False,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


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
