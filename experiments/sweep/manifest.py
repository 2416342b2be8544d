"""What is remembered of a sweep: which cells it has, and which job each of them went to. Light.

<results>/.sweeps/<table>/<time>/sweep.json     its cells
<results>/.sweeps/<table>/<time>/jobs.tsv       a line for each cell that went to a job: key, job
<results>/.sweeps/<table>/<time>/jobs/          submitit's scripts, pickles and logs
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from camera_occupancy_bench.files import write
from experiments.cell.folder import now, unwritable

Part = Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$", max_length=240)]
"""Of a path."""


@dataclass
class Entry:
    """One cell.

    cell         ``Cell.name``, of ``preset`` of ``table``
    fingerprint  of the cell that was planned
    job          that it went to; "" for none yet, or none at all
    first        key of the cell that it starts from
    left         it was finished already, or with a job of another sweep
    """

    table: Part
    preset: Part
    cell: Part
    fingerprint: str
    job: str = ""
    first: str = ""
    left: bool = False

    @property
    def key(self) -> str:
        return f"{self.table}/{self.preset}/{self.cell}"

    def record_path(self, results: Path) -> Path:
        return results / self.table / self.preset / f"{self.cell}.json"

    def work_dir(self, results: Path) -> Path:
        return results / self.table / self.preset / self.cell

    def lock_path(self, results: Path) -> Path:
        return results / self.table / self.preset / f".{self.cell}.lock"


@dataclass
class Sweep:
    """One submission. ``on``: slurm or local; host, process and ``born`` (which tells it
    from a later process of the same number): of the command that submitted it."""

    folder: Path
    on: str
    started: str
    command: str
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    born: str = field(default_factory=lambda: _born(os.getpid()))
    entries: list[Entry] = field(default_factory=list)

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    @property
    def at_work(self) -> bool:
        """Whether the command that submitted it still runs, on this machine."""
        return self.host == socket.gethostname() and bool(self.born) and _born(self.process) == self.born

    def save(self) -> None:
        """Write ``sweep.json``."""
        content: dict[str, Any] = {**asdict(self), "folder": None, "entries": [asdict(e) | {"job": ""} for e in self.entries]}
        write(self.folder / "sweep.json", json.dumps(content, indent=1) + "\n")

    def assign(self, entries: Sequence[Entry], jobs: Sequence[str]) -> None:
        """Say which jobs cells went to."""
        with (self.folder / "jobs.tsv").open("a", encoding="utf-8") as file:
            for entry, job in zip(entries, jobs, strict=True):
                entry.job = job
                file.write(f"{entry.key}\t{job}\n")

    def log(self, entry: Entry, kind: str) -> Path:
        """The log of a cell's task: "out" or "err"."""
        return self.jobs / f"{entry.job}_0_log.{kind}"


_SWEEP: TypeAdapter[Sweep] = TypeAdapter(Sweep)


def new(results: Path, table: str, on: str, command: str) -> Sweep:
    """A sweep with a folder of its own; raises ResultsError where it cannot be made."""
    folder = results.absolute() / ".sweeps" / table / datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    try:
        (folder / "jobs").mkdir(parents=True)
    except OSError as error:
        raise unwritable(results, error) from error
    return Sweep(folder, on, now(), command)


def load_all(results: Path, table: str) -> list[Sweep]:
    """The sweeps of a table, oldest first; one that cannot be read is an error that names its file."""
    found = []
    for path in (results.absolute() / ".sweeps" / table).glob("*/sweep.json"):
        try:
            sweep = _SWEEP.validate_python({**json.loads(path.read_text(encoding="utf-8")), "folder": path.parent})
            jobs = _jobs(path.with_name("jobs.tsv"))
            for entry in sweep.entries:
                entry.job = jobs.get(entry.key, "")
            found.append(sweep)
        except (ValueError, TypeError, RecursionError) as error:
            said = " ".join(str(error).split())[:200]
            raise SweepError(f"{path} is damaged ({said}): delete its folder; records and checkpoints do not need it") from error
    return sorted(found, key=lambda sweep: sweep.folder.name)


def _jobs(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {key: job for key, _, job in (line.partition("\t") for line in lines)}


def _born(process: int) -> str:
    """When a process began, in the kernel's ticks; "" for one that is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class SweepError(ValueError):
    """A sweep cannot be submitted, shown or cancelled; the message says why and the way out."""
