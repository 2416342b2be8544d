"""Progress of what takes long: a bar with the time left on a terminal, a line now and then elsewhere. Light: no torch."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


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
