"""Records: one JSON file a finished cell, the source of truth for every table. Light: no torch, no mm stack."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from camera_occupancy_bench import CHECKOUT, HOME
from camera_occupancy_bench import ROOT as ROOT
from camera_occupancy_bench.files import WriteError, write

LOCAL = HOME / "results" / "local"
COMMITTED = HOME / "results" / "records"
# Without a checkout they lie where the installed distribution put them.
QUOTED = HOME / "results" / "quoted" if CHECKOUT else Path(sysconfig.get_path("data")) / "share/camera-occupancy-bench/quoted"
SCHEMA_VERSION = 1
MEASURED = ("seconds_per_iteration", "train_peak_memory_mb", "peak_memory_mb", "train_seconds", "eval_seconds", "parameters")
"""Fields of a record that may be a table's column like a metric."""


class RecordError(ValueError):
    """A record that cannot be read or written; the message names the file and the way out."""


class Strict(BaseModel):
    """Content of a result file: no unknown fields, no NaN, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnyRecord = TypeVar("AnyRecord", bound=Strict)

Name = Annotated[str, Field(pattern=r"^[\w+=@,:-][\w.+=@,: -]*$", max_length=200)]
"""Of what files and folders are called after."""
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Amount = Annotated[float, Field(ge=0, le=1e12)]
Value = Annotated[float, Field(ge=0, le=1e6)]
"""A metric: a percentage, or metres."""


class Hardware(Strict):
    """The machine a cell ran on.

    threads           that PyTorch computed with
    instruction_sets  library -> the vector instructions that it was held to or chose, e.g. {"torch": "AVX2"}; part of what
                      decides a number's last bits. Empty in older records
    """

    cpu: str
    cores: int
    memory_gb: float
    gpu: str | None = None
    threads: int | None = None
    instruction_sets: dict[str, str] = Field(default_factory=dict)


class Confirmation(Strict):
    """When and with what a finished cell was looked at again: that its numbers came out to the last bit (``Record.confirmed``),
    or that they were measured anew (``Record.re_evaluated``)."""

    when: str
    git_commit: str
    git_dirty: bool
    code: str
    versions: dict[str, str]
    hardware: Hardware
    sources: dict[str, str] = Field(default_factory=dict)


class Record(Strict):
    """A finished cell.

    metrics    numbers by metric key, e.g. {"mIoU": 13.2, "RayIoU": 8.1, "depth_l1": 1.9}
    per_class  metric key -> class name -> number
    checks     side measurements of the same model, e.g. {"mIoU_shuffled_images": 5.1}
    overrides  what the command line changed against the preset (empty for a plain cell)
    train_seconds          wall clock of training, reading of data included
    seconds_per_iteration  median over the iterations of the last start, without the first ones (``IterationTimesHook``): forward,
               backward and optimizer, without reading of data; None where too few were run, and in older records
    peak_memory_mb, train_peak_memory_mb  of the whole cell, and up to the end of training (None: not trained, or an older
               record): the allocator's on a GPU, else resident memory of the process, in MiB
    renderer_settings  what the backend really rendered with, where it differs from the paper's settings
    absent     metric -> classes that the ground truth does not hold and that count 100 % in its mean, by the published rule
               (empty where there are none, and in older records)
    processes, batch_size  of the training: processes, and samples of an optimizer step over all of them (None: not trained, or
               an older record)
    code       digest of the sources that make the numbers, and ``sources``: file -> digest of its own ("" in older records).
               Like the commit they are those of the training's start
    continued  what was not the same when a stopped training was continued, one line each: other code, other processes
    first_losses  named losses of the first iterations from the start, which ``--confirm`` replays
    confirmed  later code with which the numbers came out again
    re_evaluated  by what the metrics were measured anew, from the weights that ``code`` trained (``--re-evaluate``)
    """

    schema_version: Literal[1] = 1
    table: Name
    preset: Name
    row: Name
    renderer: Name
    seed: Count
    metrics: dict[str, Value]
    per_class: dict[str, dict[str, Value]] = Field(default_factory=dict)
    checks: dict[str, Value] = Field(default_factory=dict)
    overrides: dict[str, Any] = Field(default_factory=dict)
    renderer_settings: dict[str, Any] = Field(default_factory=dict)
    fingerprint: str
    data_fingerprint: str
    git_commit: str
    git_dirty: bool
    command: str
    versions: dict[str, str]
    hardware: Hardware
    started: str
    iterations: Count
    train_seconds: Amount
    eval_seconds: Amount
    peak_memory_mb: Amount
    parameters: Count
    samples: dict[str, Count]
    mlflow_run_id: str | None = None
    seconds_per_iteration: Amount | None = None
    train_peak_memory_mb: Amount | None = None
    absent: dict[str, list[str]] = Field(default_factory=dict)
    processes: Count | None = None
    batch_size: Count | None = None
    code: str = ""
    sources: dict[str, str] = Field(default_factory=dict)
    first_losses: list[dict[str, float]] = Field(default_factory=list)
    confirmed: list[Confirmation] = Field(default_factory=list)
    continued: list[str] = Field(default_factory=list)
    re_evaluated: Confirmation | None = None

    def number(self, name: str) -> float | None:
        """The metric, or the measured field of the record itself (``MEASURED``), called ``name``; None if there is none."""
        if name in self.metrics:
            return self.metrics[name]
        value = getattr(self, name) if name in MEASURED else None
        return None if value is None else float(value)


class QuotedNumber(Strict):
    """A published number with its source.

    kind  "readme", "paper", "authors_log" (the authors' own rerun) or "third_party_quote"
    """

    table: str
    row: str
    metric: str
    value: float
    kind: Literal["readme", "paper", "authors_log", "third_party_quote"]
    source: str
    note: str = ""
    per_class: dict[str, float] = Field(default_factory=dict)


def path_of(table: str, preset: str, cell_name: str, root: Path = LOCAL) -> Path:
    """Where the record of a cell lies: ``<root>/<table>/<preset>/<cell name>.json``."""
    return root / table / preset / f"{cell_name}.json"


def save(record: Strict, path: Path) -> None:
    """Write a record atomically; a reader sees the old file or the whole new one, never a part."""
    try:
        write(path, record.model_dump_json(indent=1) + "\n")
    except WriteError as error:
        raise RecordError(f"{error}: the record is not kept") from error


def load(path: Path) -> Record:
    """Read one record; raises RecordError naming the file if it is not a valid record of this schema."""
    return load_as(Record, path, "run the cell again")


def load_as(kind: type[AnyRecord], path: Path, remedy: str) -> AnyRecord:
    """Read a file of one kind; raises RecordError naming it, with what to do after deleting it."""
    try:
        content = path.read_bytes()
        _check_text(content)
        return kind.model_validate_json(content, strict=True)
    except OSError as error:
        raise RecordError(f"cannot read the record {path}: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise RecordError(f"{path} is not a valid record ({where}: {first['msg']}); delete it and {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not a valid record ({str(error)[:200]}); delete it and {remedy}") from error


_TAG = re.compile(r"<[A-Za-z!/?]|-->|[\x00-\x08\x0b-\x1f\x7f]")


def _check_text(content: bytes) -> None:
    """Raise ValueError for what is no JSON in UTF-8; for a key that stands twice in one object, where readers would differ in
    which one counts; for tags, comments and control characters, which would become part of a page."""

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:80]}: stands twice in it")
        for name, value in pairs:
            for text in (name, *(value if isinstance(value, list) else [value])):
                if isinstance(text, str) and (found := _TAG.search(text)):
                    raise ValueError(f"{name[:80]}: has {found.group()!r} in its text")
        return made

    json.loads(content.decode("utf-8"), object_pairs_hook=checked)


def load_all(root: Path, table: str | None = None) -> Iterator[tuple[Path, Record]]:
    """All records below ``root`` (of one table, if named), in path order."""
    for path in sorted(root.glob(f"{table or '*'}/*/*.json")):
        yield path, load(path)


def by_seed(found: Iterable[Record], metric: str) -> dict[int, float]:
    """A number of records of one row, by their seeds; without those that do not have it."""
    return {record.seed: value for record in found if (value := record.number(metric)) is not None}


def check_place(record: Record, path: Path) -> None:
    """Raise RecordError for a record that lies where another one's should."""
    stem = f"{record.row}--{re.sub(r'[^A-Za-z0-9_.-]', '_', record.renderer)}--seed{record.seed}"
    own = path.stem == stem or path.stem.startswith(f"{stem}--")
    if not own or (record.table, record.preset) != (path.parent.parent.name, path.parent.name):
        of = f"{stem}.json of {record.table}, {record.preset}"
        raise RecordError(f"{path} holds the record of {of}; delete it and run the cell again")


def load_quoted(table: str, root: Path = QUOTED) -> list[QuotedNumber]:
    """Published numbers of a table from ``results/quoted/<table>.json``; none if there is no such file."""
    path = root / f"{table}.json"
    if not path.is_file():
        return []
    try:
        return [QuotedNumber.model_validate(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{path} is not a valid list of quoted numbers: {error}") from error


def load_published(table: str, root: Path = QUOTED) -> list[QuotedNumber]:
    """Published numbers of a table and of its cells' other metrics, those of rendered views (``<table>_2d.json``)."""
    return load_quoted(table, root) + load_quoted(f"{table}_2d", root)
