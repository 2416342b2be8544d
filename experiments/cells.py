"""The life of a cell on disk: where it lies, what state it is in, who works on it. Light: no torch, no mm stack.

    results/local/<table>/<preset>/<cell name>.json     the record of a finished cell
    results/local/<table>/<preset>/<cell name>/         its work folder: checkpoints, weights, figures, state.json

A work folder belongs to one fingerprint. If the spec, the preset or the data changed since, its checkpoints are not
resumed: they are moved aside to ``<cell name>.stale`` (one generation is kept) and the cell starts again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from experiments import records, sources
from experiments.records import Record
from experiments.spec import Cell

WEIGHTS = "weights.pth"
Stale = Literal["keep", "rerun"]
"""What a run does with a finished cell whose code changed since."""


class ResultsError(ValueError):
    """The results folder cannot be used; the message names it and the way out."""


class Busy(RuntimeError):
    """Another run works on the cell."""


@dataclass(frozen=True)
class Progress:
    """What a work folder remembers of an unfinished cell, besides its checkpoints.

    fingerprint    of the cell the checkpoints belong to
    started        ISO time of the first start
    train_seconds  wall clock spent in training up to the newest checkpoint
    mlflow_run_id  run that a resumed cell continues
    git_commit, git_dirty  of the checkout that it was started with
    sources        file -> digest of the code that it was started with (``experiments.sources``)
    first_losses   of the first iterations, one dict of named losses each
    processes, batch_size  that it was started with: processes, and samples of an optimizer step over all of them (0: not known)
    continued      what was not the same when it was continued, one line each (``Record.continued``)
    """

    fingerprint: str
    started: str
    train_seconds: float = 0.0
    mlflow_run_id: str | None = None
    git_commit: str = "unknown"
    git_dirty: bool = True
    sources: dict[str, str] = field(default_factory=dict)
    first_losses: list[dict[str, float]] = field(default_factory=list)
    processes: int = 0
    batch_size: int = 0
    continued: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CellFolder:
    """Files of one cell below ``root``."""

    cell: Cell
    root: Path

    @property
    def record_path(self) -> Path:
        return records.path_of(self.cell.table.name, self.cell.preset_name, self.cell.name, self.root)

    @property
    def work_dir(self) -> Path:
        return self.record_path.parent / self.cell.name

    @property
    def _state_path(self) -> Path:
        return self.work_dir / "state.json"

    def record(self) -> Record | None:
        """The finished record, whatever its fingerprint; raises RecordError if the file is damaged."""
        return records.load(self.record_path) if self.record_path.is_file() else None

    def finished(self, fingerprint: str) -> bool:
        """Whether a record with this fingerprint exists; a damaged record raises RecordError."""
        record = self.record()
        return record is not None and record.fingerprint == fingerprint

    def settled(self, fingerprint: str, force: bool, stale: Stale) -> Record | None:
        """The record that a run leaves as it is; None for a cell that is not finished, or that is to be run again: by
        ``force``, or by ``stale`` where its code changed since."""
        record = self.record()
        if record is None or record.fingerprint != fingerprint or force:
            return None
        return None if stale == "rerun" and sources.changed_since(record) else record

    def weights(self, record: Record) -> Path | None:
        """The kept weights that the record's numbers were measured on; None if they are gone, or those of another training."""
        path, progress = self.work_dir / WEIGHTS, self.progress()
        known = progress is not None and (progress.fingerprint, progress.started) == (record.fingerprint, record.started)
        return path if known and path.is_file() else None

    def checkpoints(self) -> list[Path]:
        """Training checkpoints, newest first."""
        found = [(int(m.group(1)), p) for p in self.work_dir.glob("iter_*.pth") if (m := re.fullmatch(r"iter_(\d+)", p.stem))]
        return [path for _, path in sorted(found, reverse=True)]

    def progress(self) -> Progress | None:
        """What the work folder remembers, or None if it holds nothing that can be continued."""
        try:
            return Progress(**json.loads(self._state_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def describe(self, fingerprint: str) -> str:
        """State for people: "done", "outdated", "stopped at iteration 300", "not run"."""
        record = self.record()
        if record is not None and record.fingerprint == fingerprint:
            return "done"
        progress, checkpoints = self.progress(), self.checkpoints()
        if progress is not None and progress.fingerprint == fingerprint and checkpoints:
            return f"stopped at iteration {checkpoints[0].stem.removeprefix('iter_')}"
        return "outdated (spec or data changed)" if record is not None else "not run"

    def prepare(self, fingerprint: str, fresh: bool) -> Progress | None:
        """Make the work folder ready for this fingerprint.

        Returns the progress to continue, or None for a new start; checkpoints of another fingerprint, or any if
        ``fresh``, are moved aside. Raises ResultsError if the folder cannot be written.
        """
        try:
            progress = self.progress()
            if self.work_dir.exists() and (fresh or progress is None or progress.fingerprint != fingerprint):
                stale = self.work_dir.with_name(self.work_dir.name + ".stale")
                shutil.rmtree(stale, ignore_errors=True)
                self.work_dir.rename(stale)
                progress = None
            self.work_dir.mkdir(parents=True, exist_ok=True)
            return progress
        except OSError as error:
            raise unwritable(self.root, error) from error

    def remember(self, progress: Progress) -> None:
        """Write the state file atomically."""
        temporary = self._state_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(progress), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self._state_path)

    def update(self, **changes: Any) -> None:
        """Set fields of the state file."""
        progress = self.progress()
        if progress is not None:
            self.remember(replace(progress, **changes))

    @contextmanager
    def lock(self, say: Callable[[str], None], wait: bool = True) -> Iterator[None]:
        """Hold the cell; while another run works on it waits, saying so once, or raises Busy. The lock dies with its process."""
        path = self.record_path.with_name(f".{self.cell.name}.lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not wait:
                    raise Busy(self.cell.name) from None
                say(f"{self.cell.name}: another run works on it; waiting for that run to end")
                lock.acquire()
        except OSError as error:
            raise unwritable(self.root, error) from error
        try:
            yield
        finally:
            lock.release()


def unwritable(root: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"the results folder {root} cannot be written ({error.strerror or error}); "
        "make it writable or name another one with --results or OCC_RESULTS"
    )


def results_root(named: Path | None = None) -> Path:
    """Folder of local results: ``named``, else the environment variable OCC_RESULTS, else ``results/local``."""
    if named is not None:
        return named
    return Path(os.environ["OCC_RESULTS"]) if os.environ.get("OCC_RESULTS") else records.LOCAL


def now() -> str:
    """Local time in ISO format with its offset."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
