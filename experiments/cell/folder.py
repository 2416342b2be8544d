"""The life of a cell on disk: where it lies, what state it is in, who works on it. Light: no torch, no mm stack.

    results/local/<table>/<preset>/<cell name>.json     the record of a finished cell
    results/local/<table>/<preset>/<cell name>/         its work folder: checkpoints, weights, figures, state.json

A work folder belongs to one training. If the spec, the preset or the data that the training reads changed since, its
checkpoints are not resumed: they are moved aside to ``<cell name>.stale`` (or ``.stale-2``, ...) and the cell starts again.
Weights and checkpoints that lie aside are never deleted here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from camera_occupancy_bench.files import write
from experiments import plausible, records, sources
from experiments.cell.lock import Held, Holder, hold, holder_of
from experiments.records import Record
from experiments.spec import Cell

WEIGHTS = "weights.pth"
LIVE = "live.json"
Stale = Literal["keep", "rerun"]
"""What a run does with a finished cell whose code changed since."""


class ResultsError(ValueError):
    """The results folder cannot be used; the message names it and the way out."""


class Busy(RuntimeError):
    """Another run works on the cell."""


class StateError(ValueError):
    """A work folder's state file cannot be used; the message names it."""


Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Progress:
    """What a work folder remembers of an unfinished cell, besides its checkpoints.

    fingerprint    of the cell the checkpoints belong to
    started        ISO time of the first start, to the microsecond: no two trainings of a cell share it
    train_seconds  wall clock spent in training up to the newest checkpoint
    mlflow_run_id  run that a resumed cell continues
    git_commit, git_dirty  of the checkout that it was started with
    sources        file -> digest of the code that it was started with (``experiments.sources``)
    first_losses   of the first iterations, one dict of named losses each
    processes, batch_size  that it was started with: processes, and samples of an optimizer step over all of them (0: not known)
    continued      what was not the same when it was continued, one line each (``Record.continued``)
    training       fingerprint of what its training depends on (``Cell.training_fingerprint``; "": not known)
    supersedes     ``started`` of the record on disk that this training, asked for by --force or --stale rerun, is to replace
    trained        iterations of its training, once that is finished, else 0
    seconds_per_iteration, train_peak_memory_mb  measured in the finished training (as in ``Record``)
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    fingerprint: str
    started: str
    train_seconds: Seconds = 0.0
    mlflow_run_id: str | None = None
    git_commit: str = "unknown"
    git_dirty: bool = True
    sources: dict[str, str] = field(default_factory=dict)
    first_losses: list[dict[str, float]] = field(default_factory=list)
    processes: Count = 0
    batch_size: Count = 0
    continued: list[str] = field(default_factory=list)
    training: str = ""
    supersedes: str = ""
    trained: Count = 0
    seconds_per_iteration: Seconds | None = None
    train_peak_memory_mb: Seconds | None = None

    def belongs(self, fingerprint: str, training: str) -> bool:
        """Whether the training is that of a cell with these fingerprints, evaluated on other data perhaps."""
        return self.fingerprint == fingerprint or bool(training) and self.training == training


_STATE: TypeAdapter[Progress] = TypeAdapter(Progress)


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
        """The finished record, whatever its fingerprint; raises RecordError if the file is damaged, or not of this cell."""
        if not self.record_path.is_file():
            return None
        record = records.load(self.record_path)
        records.check_place(record, self.record_path)
        plausible.check(record, self.cell.table, self.record_path, empty=True)
        return record

    def finished(self, fingerprint: str) -> bool:
        """Whether a record with this fingerprint exists and is not superseded; a damaged record raises RecordError."""
        record = self.record()
        return record is not None and record.fingerprint == fingerprint and not self.superseded(record)

    def superseded(self, record: Record) -> bool:
        """Whether another training was begun to replace the record, which it did not yet."""
        progress = self.progress()
        return progress is not None and progress.supersedes == record.started

    def settled(self, fingerprint: str, force: bool, stale: Stale) -> Record | None:
        """The record that a run leaves as it is; None for a cell that is not finished, or that is to be run again: by
        ``force``, or by ``stale`` where its code changed since."""
        record = self.record()
        if record is None or record.fingerprint != fingerprint or force or self.superseded(record):
            return None
        return None if stale == "rerun" and sources.changed_since(record) else record

    def weights(self, record: Record) -> Path | None:
        """The kept weights that the record's numbers were measured on; None if they are gone, or those of another training."""
        path, progress = self.work_dir / WEIGHTS, self.progress()
        known = progress is not None and progress.started == record.started
        return path if known and path.is_file() else None

    def measurable(self, training: str) -> Record | None:
        """A record whose kept weights are those of ``training``: they are what this training would give."""
        record, progress = self.record(), self.progress()
        if record is None or progress is None or not training or progress.training != training:
            return None
        return record if self.weights(record) is not None else None

    def checkpoints(self) -> list[Path]:
        """Training checkpoints, newest first."""
        return checkpoints_in(self.work_dir)

    @property
    def live_path(self) -> Path:
        """Where a cell at work says how far it is (``experiments.cell.progress.LiveHook``)."""
        return self.work_dir / LIVE

    def progress(self) -> Progress | None:
        """What the work folder remembers, or None if it holds nothing that can be continued."""
        try:
            return self._progress()
        except StateError:
            return None

    def _progress(self) -> Progress | None:
        """None without a state file; raises StateError for one that is not as ``remember`` writes it."""
        try:
            return _STATE.validate_json(self._state_path.read_bytes(), strict=True)
        except FileNotFoundError:
            return None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "file"
            raise StateError(f"{self._state_path} is damaged ({where}: {first['msg']})") from error
        except OSError as error:
            raise StateError(f"{self._state_path} cannot be read ({error.strerror})") from error

    def describe(self, fingerprint: str, training: str = "") -> str:
        """State for people: "done", "outdated", "stopped at iteration 300", "begun again", "not run"."""
        if self.finished(fingerprint):
            return "done"
        record, progress, checkpoints = self.record(), self.progress(), self.checkpoints()
        if progress is not None and progress.belongs(fingerprint, training) and checkpoints:
            return f"stopped at iteration {iteration_of(checkpoints[0])}"
        if self.measurable(training) is not None:
            return "outdated (data of the evaluation changed)"
        if record is not None and self.superseded(record):
            return "begun again"
        return "outdated (spec or data changed)" if record is not None else "not run"

    def prepare(
        self, fingerprint: str, fresh: bool, training: str = "", say: Callable[[str], None] = lambda line: None
    ) -> Progress | None:
        """Make the work folder ready for this fingerprint, or for ``training``, whatever data it is evaluated on.

        Returns the progress to continue, or None for a new start; what is of another training, all of it if ``fresh``, and
        finished weights that nothing is to be continued from are moved aside, which ``say`` is told. Raises ResultsError if
        the folder cannot be written.
        """
        try:
            try:
                progress = self._progress()
            except StateError as error:
                say(f"{self.cell.name}: {error}; its training starts again")
                progress = None
            kept = progress is not None and progress.belongs(fingerprint, training) and not fresh
            if kept and (self.work_dir / WEIGHTS).is_file() and not self.checkpoints():
                kept = False  # the training would begin at its start and write over them
            if self.work_dir.exists() and not kept:
                self._move_aside(say)
                progress = None
            self.work_dir.mkdir(parents=True, exist_ok=True)
            return progress
        except OSError as error:
            raise unwritable(self.root, error) from error

    def _move_aside(self, say: Callable[[str], None]) -> None:
        """Give the work folder another name; one without weights and checkpoints is deleted."""
        if not _valuable(self.work_dir):
            shutil.rmtree(self.work_dir)
            return
        names = (f"{self.work_dir.name}.stale{f'-{number}' if number > 1 else ''}" for number in itertools.count(1))
        aside = next(path for name in names if not (path := self.work_dir.with_name(name)).exists())
        self.work_dir.rename(aside)
        say(f"{self.cell.name}: what was trained before is kept in {aside}; delete that folder when nobody wants it any more")

    def set_aside(self, checkpoint: Path, why: str, say: Callable[[str], None]) -> None:
        """Give a checkpoint that is none another name, by which it is not taken for one."""
        names = (f"{checkpoint.name}.wrong{f'-{number}' if number > 1 else ''}" for number in itertools.count(1))
        aside = next(path for name in names if not (path := checkpoint.with_name(name)).exists())
        checkpoint.rename(aside)
        say(f"{self.cell.name}: nothing can go on from {checkpoint.name} ({why}); it is kept as {aside.name}")

    def remember(self, progress: Progress) -> None:
        """Write the state file atomically."""
        write(self._state_path, json.dumps(asdict(progress), indent=1) + "\n")

    def update(self, **changes: Any) -> None:
        """Set fields of the state file."""
        progress = self.progress()
        if progress is not None:
            self.remember(replace(progress, **changes))

    @property
    def _lock_path(self) -> Path:
        return self.record_path.with_name(f".{self.cell.name}.lock")

    def holder(self) -> Holder | None:
        """Who works on the cell now, here or on another machine."""
        return holder_of(self._lock_path)

    @contextmanager
    def lock(self, say: Callable[[str], None], wait: bool = True) -> Iterator[None]:
        """Hold the cell (``experiments.cell.lock``); while another run works on it waits, saying so once, or raises Busy."""
        with contextlib.ExitStack() as held:
            try:
                self._lock_path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(hold(self._lock_path, wait=False))
                except Held as error:
                    if not wait:
                        raise Busy(self.cell.name) from None
                    who = f" ({error.holder})" if error.holder else ""
                    say(f"{self.cell.name}: another run works on it{who}; waiting for that run to end")
                    held.enter_context(hold(self._lock_path, wait=True))
            except OSError as error:
                raise unwritable(self.root, error) from error
            yield


def checkpoints_in(work_dir: Path) -> list[Path]:
    """Training checkpoints of a work folder, newest first."""
    found = [(int(m.group(1)), p) for p in work_dir.glob("iter_*.pth") if (m := re.fullmatch(r"iter_(\d+)", p.stem))]
    return [path for _, path in sorted(found, reverse=True)]


def iteration_of(checkpoint: Path) -> int:
    """Behind which a training checkpoint was written."""
    return int(checkpoint.stem.removeprefix("iter_"))


def _valuable(work_dir: Path) -> bool:
    return (work_dir / WEIGHTS).exists() or any(work_dir.glob("iter_*.pth"))


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
    """Local time in ISO format with its offset, to the microsecond: by it, trainings of a cell are told apart."""
    return datetime.now().astimezone().strftime("%Y-%m-%dT%H:%M:%S.%f%z")
