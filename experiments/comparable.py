"""Which records may stand in one mean or one difference: what decided their numbers, and in what they differ.

Light: no torch. Used by everything that shows or publishes a number of several records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from experiments.records import MEASURED, Confirmation, Record

PACKAGES = ("torch", "mmengine", "mmcv", "mmdet", "mmdet3d")
"""Packages whose version decides numbers, besides the renderer's own."""

TIMED = tuple(name for name in MEASURED if name != "parameters")
"""Measured fields of a record that the processor decides too."""

CODE = "code"


@dataclass(frozen=True)
class Difference:
    """Something that decides numbers and is not the same in all records.

    aspect   "code", "iterations", "torch", ...
    values   what the records have, each once; records that do not tell it are one entry
    certain  False where it only may differ, because a record does not tell it
    """

    aspect: str
    values: tuple[str, ...]
    certain: bool

    def __str__(self) -> str:
        return f"{self.aspect} {' / '.join(self.values)}"


@dataclass(frozen=True)
class _Setting:
    """One thing that decides numbers. known: False where the record does not tell it; the text then says what it does tell."""

    text: str
    known: bool = True


@dataclass(frozen=True)
class _Run:
    """One way in which the numbers of a record came out: as it was made, or as it was confirmed later."""

    code: str
    commit: str
    dirty: bool
    when: str
    sources: Mapping[str, str]
    settings: Mapping[str, _Setting]

    def known(self, aspect: str) -> bool:
        return bool(self.code) if aspect == CODE else self.settings[aspect].known

    def text(self, aspect: str) -> str:
        if aspect != CODE:
            return self.settings[aspect].text
        changed = f" with uncommitted changes, {self.when}" if self.dirty else ""
        where = f"commit {self.commit[:12]}{changed}"
        return f"{self.code[:8]} ({where})" if self.code else where

    def same(self, other: _Run, aspect: str) -> bool:
        if aspect != CODE:
            return self.settings[aspect] == other.settings[aspect]
        if self is other or (self.code and self.code == other.code):
            return True
        if not (self.code and other.code):
            return self.commit == other.commit and not self.dirty and not other.dirty
        # Cells of different models or renderers are made by different files: what both use must be the same.
        shared = self.sources.keys() & other.sources.keys()
        return bool(shared) and all(self.sources[name] == other.sources[name] for name in shared)


def differences(records: Sequence[Record], timed: bool = False) -> list[Difference]:
    """What decided the numbers of ``records`` and is not the same in all of them; empty where they may be averaged.

    Code, iterations, effective batch, processes, versions of torch, the mm stack and the renderer's package, instruction sets
    and GPU; with ``timed``, for what is ``TIMED``, the processor and its threads too. A record that was confirmed
    with other code, packages or a machine stands for those as well. Without digests, records of one clean commit have one code.
    """
    runs = [list(_runs(record, timed)) for record in records]
    if not runs:
        return []
    kept = set.intersection(*(set(run.settings) for run in chain(*runs)))
    aspects = [CODE, *(name for name in runs[0][0].settings if name in kept)]
    if _in_common(runs, aspects):
        return []
    # Each thing may agree in some pair of runs while no run agrees in all: then all that is not constant is named.
    apart = [a for a in aspects if not _in_common(runs, [a])] or [a for a in aspects if len({r[0].text(a) for r in runs}) > 1]
    return [_difference(runs, aspect) for aspect in apart]


def mixed(records: Sequence[Record], timed: bool = False) -> str:
    """``differences`` as a remark at a number, "" where there is none."""
    found = differences(records, timed)
    return f"its records differ: {'; '.join(map(str, found))}" if found else ""


def _in_common(runs: Sequence[Sequence[_Run]], aspects: Sequence[str]) -> bool:
    """Whether some run agrees with a run of every record in all aspects."""
    return any(all(any(all(one.same(run, a) for a in aspects) for run in own) for own in runs) for one in chain(*runs))


def _difference(runs: Sequence[Sequence[_Run]], aspect: str) -> Difference:
    told = [kept for own in runs if (kept := [run for run in own if run.known(aspect)])]
    values = sorted({own[0].text(aspect) for own in runs if own[0].known(aspect)})
    untold = sorted({own[0].text(aspect) for own in runs if not own[0].known(aspect)})
    if untold:
        values.append(f"not recorded ({', '.join(untold)})" if any(untold) else "not recorded")
    return Difference(aspect, tuple(values), certain=bool(told) and not _in_common(told, [aspect]))


def _runs(record: Record, timed: bool) -> Iterator[_Run]:
    trained = record.iterations > 0
    training = {
        "iterations": _Setting(str(record.iterations)),
        "batch": _Setting(str(record.batch_size or ""), record.batch_size is not None or not trained),
        "processes": _Setting(str(record.processes or ""), record.processes is not None or not trained),
    }

    def run(made: Record | Confirmation, when: str, sources: Mapping[str, str]) -> _Run:
        settings = training | dict(_settings(made, record.renderer, timed))
        return _Run(made.code, made.git_commit, made.git_dirty, when, sources, settings)

    yield run(record, record.started, record.sources)
    yield from (run(confirmation, confirmation.when, confirmation.sources) for confirmation in record.confirmed)


def _settings(made: Record | Confirmation, renderer: str, timed: bool) -> Iterator[tuple[str, _Setting]]:
    for name in dict.fromkeys((*PACKAGES, renderer)):
        if name in PACKAGES or name in made.versions:
            yield name, _Setting(made.versions.get(name, "not installed"))
    machine = made.hardware
    sets = ", ".join(f"{library} {used}" for library, used in sorted(machine.instruction_sets.items()))
    yield "instruction sets", _Setting(sets or machine.cpu, bool(sets))
    yield "GPU", _Setting(machine.gpu or "none")
    if timed:
        threads = "" if machine.threads is None else f", {machine.threads} threads"
        yield "machine", _Setting(f"{machine.cpu}, {machine.cores} cores{threads}")


class Marks:
    """Footnotes of one table: a mark at a number, and below the table what it says."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, *notes: str) -> str:
        """`` †1 †2``, a mark a note; "" for empty ones. The same note keeps its mark."""
        return "".join(f" †{self._numbers.setdefault(note, len(self._numbers) + 1)}" for note in notes if note)

    def lines(self) -> list[str]:
        """``†1: note``, in order."""
        return [f"†{number}: {note}" for note, number in self._numbers.items()]
