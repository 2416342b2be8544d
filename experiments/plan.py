"""From a command line to the list of cells: presets, data, renderers, rows, seeds.

Every mistake that can be seen before anything runs raises PlanError (or the error of the part that found it).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from camera_occupancy_bench import HOME
from camera_occupancy_bench.files import write
from experiments import settings
from experiments.datasets.layout_pseudo_labels import EXACT
from experiments.datasets.registry import DATASETS
from experiments.datasets.unpickle import DataError
from experiments.spec import Cell, PresetName, Row, TableSpec, ViewSpec, changed_preset, relevant

DATA_ROOT_VARIABLE = "OCC_DATA_ROOT"
SMOKE_ITERATIONS = 3
SEEDS = 1 << 32  # of numpy's generators
MOST_ITERATIONS = 10**9
Launcher = Literal["none", "pytorch", "slurm"]


class PlanError(ValueError):
    """The command asks for something that cannot be run; the message says what and the way out."""


@dataclass(frozen=True)
class Request:
    """The options of ``python -m experiments.run``, as given.

    settings   ``section.field=value`` words of --set
    all_files  every file of the frames will be read: one that is missing is a mistake
    elsewhere  the cells run on another machine: whether a renderer is available is found out there
    """

    table: TableSpec
    preset: str | None = None
    renderers: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    data_root: Path | None = None
    eval_only: bool = False
    checkpoint: Path | None = None
    short: bool = False
    iterations: int | None = None
    smoke: bool = False
    settings: tuple[str, ...] = ()
    all_files: bool = True
    elsewhere: bool = False


@dataclass(frozen=True)
class Plan:
    """What will be run, in order.

    data_root         a folder with real data, or None for the generated world
    data_fingerprint  of the data that the cells read, see ``Cell.data_read``
    overrides         what the command changes, before it is said which rows that changes
    train_fingerprint  of what of it a training reads ("": not known)
    cells             one or more a row; a row that shows another table's cell has that one (``Row.cell_of``)
    said              decisions taken for the user, one line each
    """

    table: TableSpec
    preset: PresetName
    data_root: Path | None
    data_fingerprint: str
    renderers: tuple[str, ...]
    cells: tuple[Cell, ...]
    said: tuple[str, ...]
    train_fingerprint: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def reads(self) -> set[str]:
        """Parts of a batch that any of the cells reads, of training frames or others."""
        return {part for cell in self.cells for first in chain_of(cell) for part in _all_parts(first)}


def requests(spec: TableSpec | ViewSpec, rows: tuple[str, ...], **options: Any) -> tuple[Request, ...]:
    """What a command asks for: one request for a table, for a view one a table in which a named (else: trained) row runs.

    options: further fields of Request.
    """
    if isinstance(spec, TableSpec):
        return (Request(table=spec, rows=rows, **options),)
    if options.get("eval_only") or options.get("checkpoint"):
        raise PlanError(f"--eval-only loads one model of one table: name {' or '.join(spec.parts)} instead of {spec.name}")
    chosen = spec.select(list(rows))
    able = [(table, named) for table, named in chosen if any(row.runs for row in named)]
    return tuple(Request(table=table, rows=tuple(row.name for row in named), **options) for table, named in able or chosen)


def make_all(requests: Sequence[Request], cuda: Callable[[], bool]) -> tuple[Plan, ...]:
    """A plan a request. Of several tables of a view, those that cannot be planned, say for want of their data, are left out
    with a line that says so; if none can, the error of the first is raised."""
    plans: list[Plan] = []
    errors: list[tuple[str, Exception]] = []
    for request in requests:
        try:
            plans.append(make(request, cuda))
        except (PlanError, DataError) as error:
            errors.append((request.table.name, error))
    if not plans:
        raise errors[0][1]
    left_out = tuple(f"{name} is left out: {error}" for name, error in errors)
    return (replace(plans[0], said=plans[0].said + left_out), *plans[1:])


def make(request: Request, cuda: Callable[[], bool]) -> Plan:
    """Resolve the options against the table; ``cuda`` is asked only where a default depends on it."""
    said: list[str] = []
    preset, data_root = _preset_and_data(request, cuda, said)
    rows = _rows(request, preset)
    _check_labels(request.table, rows)
    renderers = _renderers(request, rows, cuda, said)
    overrides = _overrides(request, preset)
    trial = [request.table.cell(row, renderers[row.name][0], preset, 0, relevant(row, overrides)) for row in rows]
    if request.settings:
        _check_settings(trial)
    if data_root is not None and overrides.get("data.pseudo_labels") == "exact" and not (data_root / EXACT).is_dir():
        raise PlanError(f"--set data.pseudo_labels=exact is of generated worlds alone; {data_root} has no {EXACT}")
    _check_first_weights(request, trial)
    fingerprint, train_fingerprint = _data_fingerprints(request, preset, data_root, rows, trial, overrides)
    if data_root is not None and request.table.preset(preset).data.source == "toyworld":
        # The folder's name is for people. What tells two data sets apart, and knows one that was moved, is the fingerprint of
        # what a training reads: where only frames that are evaluated on change, its weights stand.
        overrides["data"] = f"{_safe(Path(os.path.realpath(data_root)).name)}-{train_fingerprint[:8]}"
    cells = tuple(
        request.table.cell(row, renderers[row.name][place], preset, seed, relevant(row, overrides))
        for seed in dict.fromkeys(request.seeds or request.table.default_seeds)
        for place in range(len(renderers[rows[0].name]))
        for row in rows
    )
    named = tuple(dict.fromkeys(renderer for own in renderers.values() for renderer in own))
    return Plan(request.table, preset, data_root, fingerprint, named, cells, tuple(said), train_fingerprint, overrides)


def _preset_and_data(request: Request, cuda: Callable[[], bool], said: list[str]) -> tuple[PresetName, Path | None]:
    configured = os.environ.get(DATA_ROOT_VARIABLE)
    root = request.data_root or (Path(configured) if configured else None)
    name = request.preset
    if name is None:
        if root is None:
            name = "toy"
            said.append("preset toy: no data root is configured, so the generated driving world is used")
        elif cuda():
            name = "paper"
            said.append(f"preset paper: the data root is {root}")
        else:
            name = "toy"
            said.append(f"preset toy: no CUDA device here, so the toy-size model runs on the frames in {root}")
    preset = request.table.preset(name)
    if preset.data.source == "toyworld" and request.data_root is None and request.preset is not None:
        root = None  # asked for by name, the toy preset means its own data unless the command names other
    if preset.data.source == "real" and root is None:
        raise PlanError(f"preset {name} needs the real data set: name its folder with --data-root or {DATA_ROOT_VARIABLE}")
    if root is not None and not root.is_dir():
        raise PlanError(f"data root {root} is not a folder: name the one that holds the data set with --data-root")
    return cast(PresetName, name), root


def _check_labels(table: TableSpec, rows: Sequence[Row]) -> None:
    dataset = DATASETS.load(table.dataset)
    if taught := [row.name for row in rows if not dataset.labelled and not row.recipe.taught_by]:
        raise PlanError(
            f"{dataset.title} has no voxel labels, which {', '.join(taught)} would learn from: --row names other rows"
        )


def _renderers(request: Request, rows: Sequence[Row], cuda: Callable[[], bool], said: list[str]) -> dict[str, tuple[str, ...]]:
    """Name of each row -> its renderers: those that were named, or the default of the kind that the row takes. Every one of them
    renders Gaussians, as all rows' predictions are, and rays where the row is taught by them."""
    from renderers import registry

    chosen: dict[str, tuple[str, ...]] = {}
    by_rays = [row.name for row in rows if row.recipe.renderer == "rays"]
    if request.renderers:
        chosen = dict.fromkeys((row.name for row in rows), tuple(dict.fromkeys(request.renderers)))
    else:
        default, rays, place = ("gsplat", "triton", "with") if cuda() else ("cpu", "cpu", "without")
        hindrance = ""
        if rays != default and by_rays and not request.elsewhere and not (state := registry.availability(rays, "rays")):
            rays, hindrance = "reference", f", as {rays} is not available: {state.reason}"
        chosen = {row.name: (rays if row.name in by_rays else default,) for row in rows}
        if rays == default or len(by_rays) < len(rows):
            said.append(f"renderer {default}: the default {place} a CUDA device")
        if rays != default and by_rays:
            said.append(f"renderer {rays}: the default {place} a CUDA device for rows taught by rays{hindrance}")
    for row in rows:
        for name in chosen[row.name]:
            for kind in ("splats", "rays") if row.name in by_rays else ("splats",):
                try:
                    state = registry.availability(name, kind)
                except registry.UnknownRenderer as error:
                    raise registry.UnknownRenderer(f"row '{row.name}': {error}" if kind == "rays" else str(error)) from error
                if not state and not request.elsewhere:
                    remedy = f"; to make it available: {state.remedy}" if state.remedy else ""
                    raise registry.RendererUnavailable(f"renderer '{name}' is not available here: {state.reason}{remedy}")
    return chosen


def _rows(request: Request, preset: PresetName) -> tuple[Row, ...]:
    selected = request.table.select(list(request.rows))
    runnable = tuple(row for row in selected if row.runs and preset in row.presets)
    if not runnable:
        names = ", ".join(row.name for row in selected)
        can = ", ".join(row.name for row in request.table.rows if row.runs and preset in row.presets)
        raise PlanError(f"nothing to run: {names} is quoted only or not part of preset {preset} (rows that run: {can})")
    if request.eval_only:
        trained = tuple(row for row in runnable if row.trained)
        if len(trained) != 1:
            raise PlanError(f"--eval-only loads one model: name one row with --row ({', '.join(row.name for row in trained)})")
        return trained
    return runnable


def _overrides(request: Request, preset: PresetName) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    if request.iterations is not None:
        if request.iterations <= 0:
            raise PlanError(f"--iterations must be a positive number, got {request.iterations}")
        if request.iterations > MOST_ITERATIONS:
            raise PlanError(f"--iterations must be {MOST_ITERATIONS} at most, got {request.iterations}")
        overrides["iterations"] = request.iterations
    if request.smoke:
        if request.short or request.iterations is not None or request.eval_only:
            raise PlanError("--smoke sets its own length of everything: it does not go with --short, --iterations or --eval-only")
        overrides |= {"smoke": True, "iterations": SMOKE_ITERATIONS}
    if request.settings:
        if request.eval_only:
            raise PlanError("--set changes a training: it does not go with --eval-only")
        overrides |= settings.read(request.settings)
        known = ("data", "schedule", "preset", "gaussrender", "options")
        if unknown := [name for name in overrides if "." in name and name.partition(".")[0] not in known]:
            raise PlanError(f"--set {unknown[0]}: there is no such section (known: {', '.join(known)})")
        changed_preset(request.table.preset(preset), overrides)
    if any(seed < 0 for seed in request.seeds):
        raise PlanError(f"--seed must not be negative, got {min(request.seeds)}")
    if any(seed >= SEEDS for seed in request.seeds):
        raise PlanError(f"--seed must be below {SEEDS}, got {max(request.seeds)}")
    if request.short:
        overrides["short"] = True
    if request.eval_only and request.checkpoint is None:
        raise PlanError("--eval-only needs a checkpoint: name it with --checkpoint FILE")
    if request.checkpoint is not None:
        if not request.eval_only:
            raise PlanError("--checkpoint goes with --eval-only; an unfinished cell continues by itself")
        if not request.checkpoint.exists():
            raise PlanError(f"checkpoint {request.checkpoint} does not exist")
        overrides["checkpoint"] = f"{_safe(request.checkpoint.stem)}-{_digest(request.checkpoint)[:8]}"
    return overrides


def pretrained_path(name: str) -> Path:
    """Where a preset's first weights lie: in OCC_CKPTS, else in ``ckpts/`` of the project."""
    return Path(os.environ.get("OCC_CKPTS") or HOME / "ckpts") / name


def _check_settings(cells: Sequence[Cell]) -> None:
    """Raise SettingError or PlanError for what --set names and a row does not have."""
    for cell in {cell.row.name: cell for cell in cells}.values():
        _ = cell.schedule
        if fixed := [name for name in ("data.mirror", "data.bevdet", "data.flips") if name in cell.overrides]:
            raise PlanError(f"--set {fixed[0]} has no effect: which augmentation there is, the baseline's recipe says")
        if any(name.startswith(("options.", "gaussrender.")) for name in cell.overrides):
            from experiments.cell import models

            try:
                models.check(cell)
            except (ValueError, TypeError) as error:
                raise PlanError(f"--set does not fit row {cell.row.name}: {error}") from error


def _check_first_weights(request: Request, cells: Sequence[Cell]) -> None:
    needed = [first for cell in cells for first in chain_of(cell)]
    for cell in () if request.eval_only else needed:
        weights = cell.first_weights if cell.row.trained else None
        if weights is not None and not pretrained_path(weights.file).is_file():
            raise PlanError(
                f"{cell.row.name} at preset {cell.preset_name} starts from {weights.file}, which is not at "
                f"{pretrained_path(weights.file)}: download {weights.source}, put it there or name its folder with OCC_CKPTS"
            )


def _all_parts(cell: Cell) -> dict[str, tuple[int, ...]]:
    """What a cell reads of frames, be they those of its training or those that it is evaluated on."""
    return cell.parts(training=True) | cell.parts(training=False)


def chain_of(cell: Cell) -> Iterator[Cell]:
    """A cell and those that it starts from, one after the other; raises PlanError where that never ends."""
    seen: list[str] = []
    this: Cell | None = cell
    while this is not None:
        if this.key in seen:
            raise PlanError(f"row {cell.row.name} starts from itself: {' -> '.join((*seen, this.key))}")
        seen.append(this.key)
        yield this
        this = this.first_cell


def _data_fingerprints(
    request: Request,
    preset: PresetName,
    data_root: Path | None,
    rows: tuple[Row, ...],
    cells: Sequence[Cell],
    overrides: dict[str, Any],
) -> tuple[str, str]:
    """Of the data, and of what a training reads of it. Raises DataError where a file that the rows read is missing or empty.

    Known without reading the generated world: its configuration and generator decide its content. Rows that read files of their
    own have a word ``row=fingerprint`` for those (``Cell.data_read``).
    """
    reading = {first.row.name: first for cell in cells for first in chain_of(cell) if _all_parts(first)}
    table = request.table
    if data_root is None:
        world = f"toyworld-{generated(table, preset, overrides)}"
        dataset = DATASETS.load(table.dataset)
        files_of = dataset.part_files

        def made_of(read: Callable[[Cell], dict[str, tuple[int, ...]]]) -> str:
            found = [world]
            for name, cell in reading.items():
                steps = {part: files_of[part].made for part in read(cell) if part in files_of and files_of[part].made}
                made = {part: dataset.preparations[name].version for part, name in steps.items()}
                found += [f"{name}={_digest_of(sorted(made.items()))}"] if made else []
            return " ".join(found)

        return made_of(_all_parts), made_of(lambda cell: cell.parts(training=True))
    from experiments.datasets.layouts import SplitFiles, layout_of, look

    mini = changed_preset(table.preset(preset), overrides).data.mini
    found: dict[str, SplitFiles] = {}
    extra: dict[str, list[str]] = {name: [] for name in reading}
    for split in ("train", layout_of(table.dataset).evaluated):
        looks: dict[str, SplitFiles] = {}  # by what is read, which several rows have in common
        for name, cell in reading.items():
            parts = cell.parts(split == "train")
            if str(parts) not in looks:
                looks[str(parts)] = look(table.dataset, data_root, split, mini, parts)
            extra[name].append(looks[str(parts)].extra(table.dataset))
        seen = found[split] = next(iter(looks.values())) if looks else look(table.dataset, data_root, split, mini)
        if request.all_files and not (request.eval_only and split == "train"):
            labels_alone = split == "train" and not any(row.trained for row in rows)
            files = {file: size for frame in seen.frames for file, size in list(frame.items())[: 1 if labels_alone else None]}
            verify = f"python -m experiments.data verify {table.dataset} --data-root {data_root}"
            verify = f"`{verify}` says what is wrong and what brings it"
            _check_files(f"{table.dataset} {split}", files, 1, verify)
            for part, own in [entry for looked in looks.values() for entry in looked.parts.items()]:
                part_files = layout_of(table.dataset).part_files.get(part)
                least = 0 if part_files is not None and part_files.empty else 1
                get = verify if part_files is None else part_files.get
                _check_files(f"{table.dataset} {split}, {part}", own, least, f"{get}; --row names rows that take no {part}")
    whole = _digest_of("".join(seen.fingerprint for seen in found.values()))
    words = [f"{name}={_digest_of(digests)}" for name, digests in extra.items() if any(digests)]
    trained = [f"{name}={_digest_of(digests[0])}" for name, digests in extra.items() if digests[0]]
    return " ".join([whole, *words]), " ".join([found["train"].read[:16], *trained])


def generated(table: TableSpec, preset: PresetName, overrides: dict[str, Any]) -> str:
    """The fingerprint of a preset's generated data; raises PlanError for a world that cannot be."""
    world = toy(table)
    try:
        fingerprint: str = world.fingerprint(changed_preset(table.preset(preset), overrides).data.toyworld)
        return fingerprint
    except (TypeError, ValueError) as error:
        raise PlanError(f"{table.name}: data of preset '{preset}' cannot be generated: {error}") from error


def _check_files(what: str, files: dict[Path, int], least: int, way_out: str) -> None:
    """Raise DataError if files are missing or of less than ``least`` bytes: a cell would end at the first one, maybe after its
    training."""
    gone = [file for file, size in files.items() if size < least]
    if gone:
        wrong = "missing or empty" if least else "missing"
        raise DataError(
            f"{what}: {len(gone)} of {len(files)} files are {wrong}, the first one is {gone[0]}; {way_out}; "
            "nothing was run, and what is finished or begun is kept"
        )


def toy(table: TableSpec) -> Any:
    """What generates a table's data (``experiments.toyworld``); raises PlanError for a data set that nothing generates."""
    dataset = DATASETS.load(table.dataset)
    if not dataset.toy:
        raise PlanError(f"{dataset.title} has no generated data: name a folder with the data set with --data-root")
    return DATASETS.part(dataset.toy)


def toy_data(table: TableSpec, preset: str, overrides: dict[str, Any] | None = None, reads: Collection[str] = ()) -> Path:
    """The data root of a preset's generated data, generated first if it is not there; with what has to be made of it for the
    parts of a batch that are read, anew where an older version made it."""
    root: Path = toy(table).ensure(changed_preset(table.preset(preset), overrides or {}).data.toyworld)
    dataset = DATASETS.load(table.dataset)
    for name in dict.fromkeys(of.made for part, of in dataset.part_files.items() if part in reads and of.made):
        preparation = dataset.preparations[name]
        note = root / f".{name}-version"
        old = note.read_text().strip() if note.is_file() else "1"
        anew = old != str(preparation.version)
        for split in preparation.splits or dataset.splits:
            if todo := [make for made, make in DATASETS.part(preparation.steps)(root, split) if anew or not made]:
                from rich.console import Console
                from rich.progress import Progress

                with Progress(console=Console(stderr=True), transient=True) as progress:
                    for make in progress.track(todo, description=f"Preparing {name} {split}"):
                        make()
        if anew:
            write(note, f"{preparation.version}\n")
    return root


def _digest_of(content: object) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    """Of a file's content, or of the names and contents of the weights in a folder."""
    if path.is_dir():
        return _digest_of([(file.name, _digest(file)) for file in sorted(path.glob("*.pth"))])
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:40]
