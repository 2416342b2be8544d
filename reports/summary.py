"""Records and quoted numbers, brought together: which numbers may be compared, their spread over seeds, and gains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from experiments import absences, intervals, plausible, records
from experiments.comparable import TIMED, mixed
from experiments.datasets.layouts import layout_of
from experiments.records import QuotedNumber, Record, RecordError
from experiments.spec import PRESETS, Cell, Row, SpecError, TableSpec

ABSENT = "-"
"""Shown where there is no number: not published, or not run."""

WHOLE = ""
"""Class name of a number that is over all classes."""

PRIOR = "prior"
"""Model key of the per-voxel prior, the yardstick of the learning checks."""

EMPTY_CLASSES = ("free", "empty")
"""Names of the empty class: in the CSV, but in no mean and no per-class table."""

ONE_SEED = "one seed: not told apart from noise"
"""Said at every gain of ours that is of one training."""

_QUOTED_ORDER = ("readme", "paper", "third_party_quote")


class ReportError(ValueError):
    """Numbers that cannot be reported; the message names them and the way out."""


@dataclass(frozen=True)
class Group:
    """Numbers that may stand in one column and be compared: one origin, and for our records one preset and one renderer.

    origin  "weights": evaluated by us, with weights that the authors released
    """

    origin: Literal["quoted", "rerun", "ours", "weights"]
    preset: str = ""
    renderer: str = ""

    @property
    def published(self) -> bool:
        """Whether the numbers are others', not from our records."""
        return self.origin in ("quoted", "rerun")


QUOTED = Group("quoted")
RERUN = Group("rerun")


@dataclass(frozen=True)
class Number:
    """One number of a row: a published value, or ours with one value a seed.

    values  one a seed, in the order of ``seeds``; a published number has one value and no seeds
    class_name  "" for the number over all classes
    source, note  where a published number comes from; the source of an evaluation of weights is their file
    mixed    what differs between the records behind it and decides numbers, "" where nothing does
    absent, others  of a mean over classes: that some do not occur and count 100 %, "" where all occur, and the mean (of a
             gain: the difference of the means) over the others
    link     where it is shown what is behind it, "" where nothing shows that
    """

    group: Group
    row: str
    metric: str
    values: tuple[float, ...]
    seeds: tuple[int, ...] = ()
    class_name: str = WHOLE
    source: str = ""
    note: str = ""
    mixed: str = ""
    absent: str = ""
    others: float | None = None
    link: str = ""

    @property
    def by_seed(self) -> dict[int, float]:
        """The values by seed; none of a published number."""
        return dict(zip(self.seeds, self.values, strict=True)) if self.seeds else {}

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Gain:
    """Difference of a row to its base, like for like: same group, for ours the same seeds and data, seed by seed.

    In percent of the base where the column is ``relative``.
    """

    base: str
    difference: Number

    @property
    def row(self) -> str:
        return self.difference.row

    @property
    def noise(self) -> str:
        """What must be said beside a gain of ours that rests on one training a row, else ""."""
        group = self.difference.group
        alone = group.origin == "weights" or (group.origin == "ours" and len(self.difference.values) == 1)
        return ONE_SEED if alone else ""


@dataclass(frozen=True)
class RendererPair:
    """Two renderers whose records of one preset are compared."""

    preset: str
    first: str
    other: str


@dataclass(frozen=True)
class Summary:
    """Everything the report of one table is made of.

    numbers    one per (group, row, metric, class); the first quoted one is what tables show
    conflicts  quoted numbers that differ from the one shown
    gains      one per (group, row, metric, class) that has a base
    renderer_differences  one per (pair, row, metric): other renderer minus first, seed by seed on the same data
    records    committed records behind the table's rows, in path order: a row that shows another table's cell has that
               table's records, under its own name
    notes      what a reader must know about the pairing and the records
    """

    spec: TableSpec
    numbers: dict[tuple[Group, str, str, str], Number]
    conflicts: list[tuple[Number, Number]]
    gains: dict[tuple[Group, str, str, str], Gain]
    renderer_differences: dict[tuple[RendererPair, str, str], Number]
    records: list[Record]
    notes: list[str]

    @property
    def renderer_pairs(self) -> list[RendererPair]:
        """Pairs that have a difference."""
        return list(dict.fromkeys(pair for pair, _, _ in self.renderer_differences))

    def number(self, group: Group, row: str, metric: str, class_name: str = WHOLE) -> Number | None:
        """The number of a row; the prior renders nothing, so one prior serves every renderer of its preset."""
        found = self.numbers.get((group, row, metric, class_name))
        if found is None and group.origin == "ours" and self.spec.row(row).model == PRIOR:
            found = next(
                (n for k, n in self.numbers.items() if k[1:] == (row, metric, class_name) and k[0].preset == group.preset), None
            )
        return found

    def gain(self, group: Group, row: str, metric: str, class_name: str = WHOLE) -> Gain | None:
        return self.gains.get((group, row, metric, class_name))

    def link(self, group: Group, row: str) -> str:
        """Where it is shown what is behind the numbers of a row, "" where nothing shows that."""
        return next((n.link for key, n in self.numbers.items() if key[:2] == (group, row)), "")

    def ours(self, preset: str | None = None) -> list[Group]:
        """Groups of our records (of one preset, if named): presets in their order, released weights last, renderers by name."""
        able = [r for r in self.records if self.spec.row(r.row).model != PRIOR] or self.records
        found = {group_of(r) for r in able if preset in (None, r.preset)}
        return sorted(found, key=lambda g: (PRESETS.index(g.preset), g.origin, g.renderer))  # type: ignore[arg-type]

    def trained(self, preset: str | None = None) -> list[Group]:
        """``ours`` without the evaluations of released weights."""
        return [group for group in self.ours(preset) if group.origin == "ours"]

    def of_group(self, group: Group, row: str | None = None) -> list[Record]:
        """Our records of a group (and row)."""
        return [r for r in self.records if group_of(r) == group and row in (None, r.row)]

    def seed_count(self, group: Group) -> int:
        """Seeds of a group: those of its best covered row."""
        rows = {r.row for r in self.of_group(group)}
        return max((len(self.of_group(group, row)) for row in rows), default=0)

    def heading(self, group: Group, seeds: int | None = None) -> str:
        """``quoted``, ``authors' rerun``, ``ours, toy, cpu, 3 seeds`` or ``authors' weights, our evaluation, paper, gsplat``.

        seeds  of what stands below it; None: the group's, of which some rows have fewer
        """
        if group.published:
            return {"quoted": "quoted", "rerun": "authors' rerun"}[group.origin]
        if group.origin == "weights":
            return f"authors' weights, our evaluation, {group.preset}, {group.renderer}"
        count = self.seed_count(group) if seeds is None else seeds
        return f"ours, {group.preset}, {group.renderer}, {count} seed{'s' if count != 1 else ''}"

    def classes(self, group: Group, metric: str) -> list[str]:
        """Class names with numbers of ``metric`` in a group, in class order."""
        return list(
            dict.fromkeys(k[3] for k in self.numbers if k[0] == group and k[2] == metric and k[3] not in (WHOLE, *EMPTY_CLASSES))
        )


def summarise(
    spec: TableSpec, records_root: Path, quoted_root: Path, leave_out: Callable[[str], object] | None = None
) -> Summary:
    """Read the records and the quoted numbers of a table; what does not go together is marked (``Number.mixed``).

    Raises RecordError (a file that is no record, or of a row that the table does not have), SpecError (a preset that it does not
    have) and ReportError (records that must not be averaged).

    leave_out  is told of each record that has no place in the table, which is left out: variants, and cells of rows or presets
               that the table has no more. None: such a record is an error.
    """
    ours = []
    for found in behind(spec, records_root, leave_out):
        record = found.record
        if leave_out is not None and is_variant(record):
            leave_out(f"{found.path}: a variant ({', '.join(f'{k}={v}' for k, v in record.overrides.items())})")
        elif leave_out is not None and record.preset not in spec.presets:
            leave_out(f"{found.path}: {spec.name} has no preset '{record.preset}'")
        else:
            ours.append(record.model_copy(update={"row": found.row.name}))
    validate(spec, ours)
    numbers, conflicts = _published(records.load_published(spec.name, quoted_root))
    notes: list[str] = []
    numbers |= _ours(spec, ours)
    gains = _gains(spec, numbers, ours, notes)
    notes += _outdated(spec, ours, records_root)
    notes += _uncounted(spec, ours)
    differences = _renderer_differences(spec, numbers, ours, notes)
    return Summary(spec, numbers, conflicts, gains, differences, ours, notes)


def weights(record: Record) -> str:
    """File of the weights that a record evaluates and did not train, else ""."""
    return str(record.overrides["checkpoint"]) if set(record.overrides) == {"checkpoint"} else ""


def is_variant(record: Record) -> bool:
    """Whether the command line changed the cell, so that no table shows it: any override but weights that are evaluated."""
    return bool(record.overrides) and not weights(record)


def group_of(record: Record) -> Group:
    """The group of our numbers that a record belongs to."""
    return Group("weights" if weights(record) else "ours", record.preset, record.renderer)


def shared_data(record: Record) -> str:
    """The fingerprint of what every row of its data set reads: frames and labels. The files that a row reads besides, to learn
    from and for its depth to be measured by, stand behind that (``Cell.data_read``) and are not told apart."""
    return record.data_fingerprint.partition("+")[0]


def compared(spec: TableSpec, ours: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """What a table computes from several records: the seeds of a row, and those that a row and its base share; with a label.

    The records' rows are the table's.
    """
    found: dict[tuple[Group, str], dict[int, Record]] = defaultdict(dict)
    for record in ours:
        found[group_of(record), record.row][record.seed] = record
    for (group, name), seeds in found.items():
        title = f"{spec.row(name).title} ({_where(group)})"
        yield f"the mean of {title}", list(seeds.values())
        base = found.get((group, spec.row(name).base or ""), {})
        shared = [s for s in seeds if s in base]
        if shared:
            yield f"the gain of {title}", [r[s] for s in shared for r in (base, seeds)]


@dataclass(frozen=True)
class Found:
    """A record behind a row of a table, and its file."""

    row: Row
    path: Path
    record: Record


def behind(spec: TableSpec, root: Path, leave_out: Callable[[str], object] | None = None) -> Iterator[Found]:
    """The records below ``root`` of a table's rows: its own, then those of other tables' cells that its rows show.

    Raises RecordError, which names the file, for a damaged one, and for a record whose row the table does not have, unless
    ``leave_out`` is there to be told of that.
    """
    for path, record in records.load_all(root, spec.name):
        try:
            row = spec.row(record.row)
        except SpecError as error:
            if leave_out is None:
                raise RecordError(f"{path}: {error}") from error
            leave_out(f"{path}: {error}")
            continue
        records.check_place(record, path)
        plausible.check(record, spec, path)
        yield Found(row, path, record)
    for row in spec.rows:
        for preset, (table, name) in row.cell_of.items():
            if table != spec.name:
                for path, record in records.load_all(root, table):
                    if (record.preset, record.row) == (preset, name):
                        records.check_place(record, path)
                        yield Found(row, path, record)


def validate(spec: TableSpec, ours: Sequence[Record]) -> None:
    """Raise ReportError where records cannot stand in one table: variants, a seed or weights twice, seeds on different data."""
    data: dict[tuple[Group, str], str] = {}
    files: dict[tuple[Group, str], str] = {}
    seen: set[tuple[Group, str, int]] = set()
    for record in ours:
        spec.preset(record.preset)
        group, row = group_of(record), record.row
        label = f"{spec.name} {record.preset} {row} {record.renderer}"
        if is_variant(record):
            raise ReportError(f"{label}: a committed record has overrides ({record.overrides}); only plain cells are reported")
        if files.setdefault((group, row), weights(record)) != weights(record):
            raise ReportError(
                f"{label}: records of two weights ({files[group, row]}, {weights(record)}); take those of one out of the folder"
            )
        if (group, row, record.seed) in seen:
            raise ReportError(f"{label}: two records of seed {record.seed}; take one of them out of the folder")
        seen.add((group, row, record.seed))
        if data.setdefault((group, row), record.data_fingerprint) != record.data_fingerprint:
            raise ReportError(
                f"{label}: its seeds were run on different data; run all of them on the same data and publish again"
            )


def _published(entries: Iterable[QuotedNumber]) -> tuple[dict[tuple[Group, str, str, str], Number], list[tuple[Number, Number]]]:
    """Published numbers by key, and those that contradict the one kept (the first of README, paper, third party).

    Classes of a contradicting number are kept with its source where the number kept has none.
    """
    kept: dict[tuple[Group, str, str, str], Number] = {}
    conflicts: list[tuple[Number, Number]] = []
    ranks = {kind: rank for rank, kind in enumerate(_QUOTED_ORDER)}
    for entry in sorted(entries, key=lambda e: ranks.get(e.kind, -1)):
        group = RERUN if entry.kind == "authors_log" else QUOTED
        whole = Number(group, entry.row, entry.metric, (entry.value,), source=entry.source, note=entry.note)
        first = kept.setdefault((group, entry.row, entry.metric, WHOLE), whole)
        if first.values != whole.values:
            conflicts.append((first, whole))
        for name, value in entry.per_class.items():
            kept.setdefault((group, entry.row, entry.metric, name), replace(whole, values=(value,), class_name=name))
    return kept, conflicts


class _Behind:
    """What must be said of the records behind a number: what differs between them, looked up once, and absent classes.

    Both are asked for the records of some (group, row), the base first, and of some seeds; published numbers have none.
    """

    def __init__(self, spec: TableSpec, ours: Iterable[Record]) -> None:
        self._classes = layout_of(spec.dataset).classes
        self._records = {(group_of(r), r.row, r.seed): r for r in ours}
        self._known: dict[tuple[object, ...], str] = {}

    def mixed(self, cells: Sequence[tuple[Group, str]], seeds: Sequence[int], metric: str) -> str:
        """``Number.mixed``."""
        timed = metric in TIMED
        key = (*cells, tuple(seeds), timed)
        if key not in self._known:
            self._known[key] = mixed([self._records[group, row, seed] for group, row in cells for seed in seeds], timed)
        return self._known[key]

    def absent(
        self, cells: Sequence[tuple[Group, str]], seeds: Sequence[int], metric: str, name: str
    ) -> tuple[str, float | None]:
        """``Number.absent`` and ``Number.others``, of two cells the second's less the first's."""
        if name != WHOLE or not seeds:
            return "", None
        found = [[self._records[group, row, seed] for seed in seeds] for group, row in cells]
        said = absences.statement([record for own in found for record in own], metric, self._classes)
        others = [absences.over_others(own, metric, self._classes) for own in found]
        if not said or others[0] is None or others[-1] is None:
            return said, None
        return said, others[-1] - (others[0] if len(others) > 1 else 0.0)


def _ours(spec: TableSpec, ours: list[Record]) -> dict[tuple[Group, str, str, str], Number]:
    collected: dict[tuple[Group, str, str, str], list[tuple[int, float]]] = defaultdict(list)
    files = {(group_of(r), r.row): weights(r) for r in ours}
    behind = _Behind(spec, ours)
    for record in sorted(ours, key=lambda r: r.seed):
        group = group_of(record)
        for metric in dict.fromkeys((*record.metrics, *(column.metric for column in spec.columns))):
            value = record.number(metric)
            if value is not None:
                collected[group, record.row, metric, WHOLE].append((record.seed, value))
        for metric, values in record.per_class.items():
            for name, value in values.items():
                collected[group, record.row, metric, name].append((record.seed, value))
    numbers = {}
    for (group, row, metric, name), pairs in collected.items():
        seeds = tuple(s for s, _ in pairs)
        found, different = tuple(v for _, v in pairs), behind.mixed([(group, row)], seeds, metric)
        absent, others = behind.absent([(group, row)], seeds, metric, name)
        numbers[group, row, metric, name] = Number(
            group, row, metric, found, seeds, name, files[group, row], mixed=different, absent=absent, others=others
        )
    return numbers


def _gains(
    spec: TableSpec, numbers: dict[tuple[Group, str, str, str], Number], ours: list[Record], notes: list[str]
) -> dict[tuple[Group, str, str, str], Gain]:
    bases = {row.name: row.base for row in spec.rows if row.base}
    relative = {column.metric for column in spec.columns if column.relative}
    data = {(group_of(r), r.row): r.data_fingerprint for r in ours}
    behind = _Behind(spec, ours)
    gains: dict[tuple[Group, str, str, str], Gain] = {}
    for (group, row, metric, name), number in numbers.items():
        base = numbers.get((group, bases.get(row) or "", metric, name))
        if base is None:
            continue
        label = f"{spec.row(row).title} ({_where(group)})"
        if group.origin == "quoted" and base.source != number.source:
            continue
        if data.get((group, row)) != data.get((group, base.row)):
            notes.append(f"No gain for {label}: it and its base were run on different data.")
            continue
        common, values = _paired(number, base, metric in relative)
        if not group.published and set(number.seeds) != set(base.seeds):
            alone = ", ".join(map(str, sorted(set(number.seeds) ^ set(base.seeds))))
            notes.append(f"{label}: seeds without a partner ({alone}) are left out of the gain.")
        if values:
            cells = [(group, base.row), (group, row)]
            different, (absent, others) = behind.mixed(cells, common, metric), behind.absent(cells, common, metric, name)
            kept = replace(number, values=values, seeds=common, source="", note="")
            gains[group, row, metric, name] = Gain(base.row, replace(kept, mixed=different, absent=absent, others=others))
    notes[:] = list(dict.fromkeys(notes))
    return gains


def _renderer_differences(
    spec: TableSpec, numbers: dict[tuple[Group, str, str, str], Number], ours: list[Record], notes: list[str]
) -> dict[tuple[RendererPair, str, str], Number]:
    """Every pair of renderers of a preset, by name, on every trained row that both have; seeds that both have, same data."""
    data = {(group_of(r), r.row): r.data_fingerprint for r in ours}
    behind = _Behind(spec, ours)
    found: dict[tuple[RendererPair, str, str], Number] = {}
    for (group, row, metric, name), number in sorted(numbers.items(), key=lambda item: item[0][0].renderer):
        if group.origin != "ours" or name != WHOLE or not spec.row(row).trained:
            continue
        for first in sorted({r.renderer for r in ours if r.preset == group.preset and r.renderer < group.renderer}):
            other = replace(group, renderer=first)
            base = numbers.get((other, row, metric, WHOLE))
            if base is None:
                continue
            if data[other, row] != data[group, row]:
                title = spec.row(row).title
                notes.append(f"No difference of {group.renderer} to {first} for {title} ({group.preset}): run on different data.")
                continue
            seeds, values = _paired(number, base)
            if values:
                pair = RendererPair(group.preset, first, group.renderer)
                cells = [(other, row), (group, row)]
                different, (absent, others) = behind.mixed(cells, seeds, metric), behind.absent(cells, seeds, metric, WHOLE)
                kept = replace(number, values=values, seeds=seeds)
                found[pair, row, metric] = replace(kept, mixed=different, absent=absent, others=others)
    notes[:] = list(dict.fromkeys(notes))
    return found


def _uncounted(spec: TableSpec, ours: list[Record]) -> list[str]:
    """Which rows have no number of which metrics because nothing in the ground truth counts for them."""
    found: dict[str, dict[str, None]] = {}
    for record in ours:
        for metric in absences.without_number(record):
            found.setdefault(f"{spec.row(record.row).title} ({_where(group_of(record))})", {})[metric] = None
    return [f"{label}: no {', '.join(metrics)}: nothing in the ground truth counts for it." for label, metrics in found.items()]


def _where(group: Group) -> str:
    if group.published:
        return group.origin
    own = f"{group.preset}, {group.renderer}"
    return f"{own}, authors' weights" if group.origin == "weights" else own


def _paired(number: Number, base: Number, relative: bool = False) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Differences seed by seed over the seeds that both have, ``relative`` in percent; for published numbers, the one."""
    if not number.seeds:
        return (), tuple(intervals.paired({0: number.values[0]}, {0: base.values[0]}, relative).values())
    found = intervals.paired(number.by_seed, base.by_seed, relative)
    return tuple(found), tuple(found.values())


def _outdated(spec: TableSpec, ours: list[Record], root: Path) -> list[str]:
    """Records whose fingerprint no longer is that of their cell: the table's spec was edited after the run. Of one that starts
    from a cell without a record nothing is known."""
    old = set()
    for record in ours:
        row = spec.row(record.row)
        cell = spec.cell(row, record.renderer, record.preset, record.seed, record.overrides)  # type: ignore[arg-type]
        data = _data_named(cell, record, root)
        if data is not None and cell.fingerprint(data) != record.fingerprint:
            old.add(f"{spec.row(record.row).title} ({record.preset}, {record.renderer})")
    return [f"Measured with an earlier version of this table's spec: {'; '.join(sorted(old))}."] if old else []


def _data_named(cell: Cell, record: Record, root: Path) -> str | None:
    """The data's fingerprint as the run had it, which names who reads what besides (``Cell.data_read``): a cell's record and that
    of the cell whose weights it starts from have each their own part. None without the other one's record."""
    first = cell.first_cell
    if first is None:
        return record.data_fingerprint
    path = records.path_of(first.table.name, first.preset_name, first.name, root)
    if not path.is_file():
        return None
    parts = ((cell, record), (first, records.load(path)))
    own = (f"{one.row.name}={word}" for one, found in parts for word in found.data_fingerprint.split("+")[1:])
    return " ".join([shared_data(record), *own])


def spread(values: Sequence[float], digits: int) -> str:
    """``mean ± sample standard deviation`` of one value a seed; "-" for none."""
    if not values:
        return ABSENT
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{deviation}"
