"""What a paper table is, as typed data: columns, rows, presets, cells. Light: no torch, no mm stack."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import pkgutil
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from baselines.recipe import FCOS3D, OWN, FirstWeights, Recipe
from baselines.registry import BASELINES
from experiments import settings
from experiments.metrics.registry import METRICS
from renderers.registry import Registry, UnknownName, suggestion

PresetName = Literal["toy", "mini", "paper"]
PRESETS: tuple[PresetName, ...] = ("toy", "mini", "paper")


class SpecError(ValueError):
    """A table, row, preset or glob that does not exist."""


@dataclass(frozen=True)
class Column:
    """One number of a table: a key of a record's ``metrics`` or a field of the record (``Record.number``), and how it is read.

    What is left out is the metric's own (``experiments.metrics.registry``).

    relative  a row is compared with its base by ratio ("+12.3 %"), not by difference
    """

    metric: str
    title: str = ""
    digits: int = None  # type: ignore[assignment]
    higher_is_better: bool = None  # type: ignore[assignment]
    unit: str = None  # type: ignore[assignment]
    relative: bool = False

    def __post_init__(self) -> None:
        metric = METRICS.load(self.metric)
        for name in ("title", "digits", "higher_is_better", "unit"):
            if getattr(self, name) is None or (name == "title" and not self.title):
                object.__setattr__(self, name, getattr(metric, name))


def _merged(given: Any, changes: Any) -> Any:
    """``changes``, or where both are mappings what is given with them."""
    return {**given, **changes} if isinstance(given, Mapping) and isinstance(changes, Mapping) else changes


@dataclass(frozen=True)
class Row:
    """One line of a table: a baseline with or without GaussRender.

    name       key in records and quoted numbers ("tpvformer+gaussrender")
    model      a baseline's name (``baselines.registry``) or "module:RECIPE", or None while the row is quoted only
    base       row that this one's gain is measured against
    presets    presets in which it runs (the prior is a toy row)
    options    baseline options that differ from the preset's
    note       printed under the table; says why a row is quoted only
    schedules  by preset, the row's own optimisation in place of the preset's
    gaussrender_options  fields of GaussRenderConfig that differ from the preset's; of training only, the evaluation renders
               every row of a preset alike
    cell_of    by preset, (table, row) whose cell this row shows, see ``same_cell``
    starts_from  name of the row whose finished cell, of the same preset, renderer and seed, has this one's first weights
    traits     fields of the baseline's Recipe that are others for this row: what teaches it, at which moments. Of what is by name
               or size, the entries that are
    metrics    measured of it besides the table's columns, for other tables that show its cell
    """

    name: str
    title: str
    model: str | None = None
    gaussrender: bool = False
    base: str | None = None
    presets: tuple[PresetName, ...] = PRESETS
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    gaussrender_options: dict[str, Any] = field(default_factory=dict)
    cell_of: dict[PresetName, tuple[str, str]] = field(default_factory=dict)
    schedules: dict[PresetName, Schedule] = field(default_factory=dict)
    starts_from: str | None = None
    traits: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()

    def rendered(self, note: str = "") -> Row:
        """The same baseline with GaussRender, measured against this row."""
        return replace(
            self,
            name=f"{self.name}+gaussrender",
            title=f"{self.title} + GaussRender",
            gaussrender=True,
            base=self.name,
            note=note,
        )

    @property
    def runs(self) -> bool:
        return self.model is not None

    @property
    def trained(self) -> bool:
        """Whether the row has weights; the prior only counts labels."""
        return self.runs and self.recipe.trained

    @property
    def recipe(self) -> Recipe:
        """The baseline's, with the row's own traits; raises SpecError with a suggestion. Not of a row that is quoted only."""
        assert self.model is not None
        try:
            recipe = BASELINES.load(self.model)
        except UnknownName as error:
            raise SpecError(f"row '{self.name}' names a model that is not there: {error}") from error
        unknown = [name for name in self.traits if name not in {f.name for f in fields(recipe)}]
        if unknown:
            raise SpecError(
                f"row '{self.name}': a recipe has no {', '.join(unknown)} (traits are fields of baselines.recipe.Recipe)"
            )
        changes = {name: _merged(getattr(recipe, name), value) for name, value in self.traits.items()}
        for name, value in changes.items():
            if isinstance(getattr(recipe, name), Mapping) and not isinstance(value, Mapping):
                raise SpecError(f"row '{self.name}': trait {name} is by name or size, a dictionary, got {value!r}")
        return replace(recipe, **changes)

    @property
    def reads(self) -> tuple[str, ...]:
        """Parts of a batch beyond images and cameras that the row's model needs."""
        return self.recipe.reads if self.runs else ()

    def parts(self, training: bool, size: str = "") -> dict[str, tuple[int, ...]]:
        """What is read of a training frame, or of another one, see ``Recipe.parts``."""
        return self.recipe.parts(training, size) if self.runs else {}


@dataclass(frozen=True)
class DataPreset:
    """Which data a preset reads and at which sizes.

    source               "toyworld" (generated where no data root is given) or "real" (a data root is required)
    image_size           (width, height) of the network's input
    coarsen              voxels of the model's grid per label voxel and axis (1 = the official grid)
    label_camera_width   width the label cameras are scaled to for rendering, None = the original images
    mini                 only the published 20 % of the samples
    distort              the augmentation of training frames: the published photometric distortion, or what the recipe names
    mirror               half of the training frames mirrored (``Recipe.augmentation``)
    bevdet               BEVDet's augmentation of training frames (``Recipe.augmentation``)
    pseudo_labels        of the images of a generated world, for models that learn from them: with errors like those of the models
                         that make them of real images, or exact
    flips                that flips images, and turns round axes of the reference frame
    stretch              images and label maps have their size whatever their proportions, instead of being cut at the top
    toyworld             fields of ToyWorldConfig
    """

    source: Literal["toyworld", "real"]
    image_size: tuple[int, int]
    coarsen: int = 1
    label_camera_width: int | None = None
    mini: bool = False
    distort: bool = True
    workers: int = 0
    toyworld: dict[str, Any] = field(default_factory=dict)
    mirror: bool = False
    bevdet: bool = False
    pseudo_labels: Literal["noisy", "exact"] = "noisy"
    flips: bool = True
    stretch: bool = False


@dataclass(frozen=True)
class Schedule:
    """Optimisation of a preset (AdamW, linear warm-up into a cosine, per iteration).

    Exactly one of ``iterations`` and ``epochs`` is set. ``backbone_lr`` multiplies the image backbone's rate; ``amp``
    trains in mixed precision; ``ema`` is the momentum of averaged weights, which then are the ones evaluated; with ``ema_from``
    that momentum is what it falls to, 1 - (1 - ema) (1 - exp(-n / 2000)) after n updates, counted from ``ema_from``; ``betas``
    are AdamW's.
    """

    batch_size: int
    lr: float
    weight_decay: float
    warmup_iterations: int
    lr_min: float
    iterations: int | None = None
    epochs: int | None = None
    backbone_lr: float = 1.0
    checkpoint_interval: int = 100
    grad_clip: float | None = None
    amp: bool = False
    ema: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    ema_from: int | None = None


@dataclass(frozen=True, kw_only=True)
class StepSchedule(Schedule):
    """The same without warm-up and cosine: every group's rate falls once, by ``lr_min / lr``.

    drop_epoch  at whose beginning it falls, counted from 0
    eps         of AdamW
    """

    drop_epoch: int
    eps: float = 1e-8


@dataclass(frozen=True, kw_only=True)
class HeldSchedule(Schedule):
    """The same but that the rate is held for some epochs, and then falls along a cosine once an epoch, to ``lr_min``.

    held_epochs    for which it is held, linear warm-up from a thousandth included
    """

    held_epochs: int


@dataclass(frozen=True)
class Preset:
    """Sizes of a run; code, loaders and losses are the same in all of them.

    gaussrender            fields of GaussRenderConfig that differ from the published ones
    pretrained             trainings start from the weights that the recipe names for the size, if it names any
    check_shuffled_images  evaluate once more with the validation images swapped between scenes: what a model scores
                           that does not look at its images
    short_evaluation       evaluate the first samples only, for tables whose numbers are of training
    class_weights          of the cross entropy: the data set's published ones, or "counted" from the training labels
                           (``experiments.metrics.shares``), for a generated world whose classes have other shares; by which
                           rays are drawn, counted from the training rays
    class_bias             the classifiers' first: drawn as the layer draws it, or "counted" from the training labels
                           (``experiments.metrics.shares``), with what else a baseline starts by then
                           (``OccupancyModel.start_from_bias``); what is published draws it
    coarse_labels          of coarser scales, for models that are supervised there (``baselines.losses.coarse_labels``)
    loss_in_sight          share of the cross entropy over the voxels in sight alone (``OccupancyLoss.in_sight``), in models
                           that train with that; published is 0
    """

    data: DataPreset
    model_size: Literal["toy", "paper"]
    schedule: Schedule
    gaussrender: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    check_shuffled_images: bool = False
    short_evaluation: bool = False
    class_weights: Literal["published", "counted"] = "published"
    class_bias: Literal["drawn", "counted"] = "drawn"
    coarse_labels: Literal["majority", "corner"] = "majority"
    loss_in_sight: float = 0.0


@dataclass(frozen=True)
class TableSpec:
    """A paper table: ``default_seeds`` are run when the command names none.

    brief  its page stands without classes, checks and figures (ablations)
    """

    name: str
    title: str
    dataset: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    presets: dict[PresetName, Preset]
    default_seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()
    brief: bool = False

    @property
    def main(self) -> bool:
        """Whether it is the table of its data set, first among those that read that."""
        return self.name == f"table_{self.dataset}"

    def row(self, name: str) -> Row:
        """The row called ``name``; raises SpecError with a suggestion."""
        for row in self.rows:
            if row.name == name:
                return row
        raise SpecError(_unknown("row", name, [r.name for r in self.rows]))

    def select(self, globs: list[str]) -> list[Row]:
        """Rows whose name matches any glob; every glob must match something."""
        chosen: list[Row] = []
        for pattern in globs or ["*"]:
            hits = [r for r in self.rows if fnmatchcase(r.name, pattern)]
            if not hits:
                raise SpecError(_unknown("row", pattern, [r.name for r in self.rows]))
            chosen += [r for r in hits if r not in chosen]
        return chosen

    def preset(self, name: str) -> Preset:
        """The preset called ``name``; raises SpecError with a suggestion."""
        for key, value in self.presets.items():
            if key == name:
                return value
        raise SpecError(_unknown("preset", name, list(self.presets)))

    def origin(self, row: Row, preset: PresetName) -> tuple[str, str]:
        """(table, row) of the cell behind a row: the table's own, or what ``row.cell_of`` names."""
        return row.cell_of.get(preset, (self.name, row.name))

    def cell(self, row: Row, renderer: str, preset: PresetName, seed: int, overrides: dict[str, Any] | None = None) -> Cell:
        """The cell behind a row, of the table itself or of its ``origin``.

        Raises SpecError if that table trains on other data or at other sizes, so that it would not be the same cell.
        """
        table, name = self.origin(row, preset)
        if table == self.name:
            return Cell(self, row, renderer, preset, seed, overrides or {})
        other = load_table(table)
        if (other.dataset, other.preset(preset)) != (self.dataset, self.preset(preset)):
            raise SpecError(f"row '{row.name}' of {self.name} cannot be a cell of {other.name}: their preset {preset} differs")
        return other.cell(other.row(name), renderer, preset, seed, overrides)


def same_cell(table: TableSpec, row: str, **shown: Any) -> Row:
    """A row that shows the cell of another table's row: trained once, recorded there, published there.

    For an ablation's row that changes nothing against a main table. ``shown`` are fields that do not define the cell: name,
    title, base, note, presets.
    """
    other = table.row(row)
    return replace(other, **{"base": None, "cell_of": {p: table.origin(other, p) for p in table.presets}, **shown})


@dataclass(frozen=True)
class ViewSpec:
    """Other metrics of the cells of other tables: running it runs those cells, and nothing is stored under its name.

    parts  the tables; published numbers of these metrics are in ``results/quoted/<part>_2d.json``
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    parts: tuple[str, ...]

    def tables(self) -> tuple[TableSpec, ...]:
        """The tables shown."""
        return tuple(load_table(part) for part in self.parts)

    def select(self, globs: list[str]) -> list[tuple[TableSpec, list[Row]]]:
        """Tables with their rows that match any glob (without globs: that are trained); every glob must match somewhere."""
        tables = self.tables()
        known = list(dict.fromkeys(row.name for table in tables for row in table.rows))
        for pattern in globs:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise SpecError(_unknown("row", pattern, known))
        chosen = [
            (table, [r for r in table.rows if (any(fnmatchcase(r.name, g) for g in globs) if globs else r.trained)])
            for table in tables
        ]
        return [(table, rows) for table, rows in chosen if rows]


def _unknown(kind: str, name: str, known: list[str]) -> str:
    return suggestion(kind, name, known)


def spec_names() -> list[str]:
    """Names of the project's tables and views, found as modules of ``experiments.tables``."""
    package = importlib.import_module("experiments.tables")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name.startswith("table_"))


def tables() -> Registry[TableSpec | ViewSpec]:
    """The project's tables and views, and those of other packages."""
    return Registry("table", {name: f"experiments.tables.{name}:TABLE" for name in spec_names()}, "tables", SpecError)


def _load(name: str) -> TableSpec | ViewSpec:
    return tables().load(name)


def _of_file(path: Path) -> TableSpec | ViewSpec:
    """``TABLE`` of a Python file anywhere, whose own folder it may import from."""
    if not path.is_file():
        raise SpecError(f"there is no file {path} with a table")
    name = f"_table_of_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    module = importlib.util.spec_from_file_location(name, path)
    assert module is not None and module.loader is not None
    content = sys.modules[name] = importlib.util.module_from_spec(module)
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    try:
        module.loader.exec_module(content)
    except Exception as error:
        raise SpecError(f"{path} is no table: {type(error).__name__}: {error}") from error
    return getattr(content, "TABLE", None)  # type: ignore[return-value]


def table_names() -> list[str]:
    """Names of all tables that have cells of their own: without the views."""
    return [name for name in spec_names() if isinstance(_load(name), TableSpec)]


def views_of(spec: TableSpec | ViewSpec) -> list[ViewSpec]:
    """The views that show a table's cells; none for a view."""
    views = [view for name in spec_names() if isinstance(view := _load(name), ViewSpec)]
    return [view for view in views if spec.name in view.parts]


def load_spec(name: str) -> TableSpec | ViewSpec:
    """A table or view by its name, by ``module:attribute``, or by the path of a file with ``TABLE`` in it.

    Raises SpecError with a suggestion.
    """
    if name == "table_renderers":
        raise SpecError("table_renderers is measured, not trained: run `python -m renderers.compare --save`")
    spec = _of_file(Path(name)) if name.endswith(".py") else _load(name)
    if not isinstance(spec, (TableSpec, ViewSpec)):
        raise SpecError(f"{name} holds no table: it needs TABLE, a TableSpec or a ViewSpec")
    if spec.name in spec_names() and spec != _load(spec.name):  # their records would take each other's places
        raise SpecError(f"{name} holds a table called {spec.name}, as one of the project's is: give it another name")
    return spec


def load_table(name: str) -> TableSpec:
    """The same for a table alone; raises SpecError for a view too."""
    spec = load_spec(name)
    if isinstance(spec, ViewSpec):
        raise SpecError(f"{name} has no cells of its own, it shows those of {', '.join(spec.parts)}: name one of them")
    return spec


# Fields that specs got later: while they have these values, fingerprints are what they were without them.
_LATER: dict[str, Any] = {
    "gaussrender_options": {},
    "short_evaluation": False,
    "starts_from": None,
    "traits": {},
    "mirror": False,
    "bevdet": False,
    "pseudo_labels": "noisy",
    "flips": True,
    "stretch": False,
    "class_weights": "published",
    "class_bias": "drawn",
    "coarse_labels": "majority",
    "loss_in_sight": 0.0,
    "betas": (0.9, 0.999),
    "ema_from": None,
}
# Fields of a row that change nothing in its cell.
_SHOWN = ("title", "note", "base", "presets", "cell_of", "metrics")


def changed_preset(preset: Preset, overrides: dict[str, Any]) -> Preset:
    """A preset with what ``--set`` changes of it; of ``gaussrender`` nothing: that is of trainings alone."""
    for name in ("data", "schedule"):
        fields = settings.section(overrides, name)
        preset = replace(preset, **{name: settings.changed(getattr(preset, name), fields, name)}) if fields else preset
    return settings.changed(preset, settings.section(overrides, "preset"), "preset")


def relevant(row: Row, overrides: dict[str, Any]) -> dict[str, Any]:
    """Those overrides that change anything for a row: nothing of training for one that is not trained."""
    unused: tuple[str, ...] = () if row.trained else ("iterations", "schedule.", "options.", "preset.")
    unused += () if row.gaussrender else ("gaussrender.",)
    return {key: value for key, value in overrides.items() if not key.startswith(unused)}


def _content(fields: dict[str, Any], leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k not in leave_out and (k not in _LATER or v != _LATER[k])}


@dataclass(frozen=True)
class Cell:
    """One thing to run: a row with a renderer, a preset and a seed, and what the command line changed.

    overrides  what differs from the preset ({"iterations": 5, "short": True}); they make a variant that never takes
               the place of the plain cell's record
    """

    table: TableSpec
    row: Row
    renderer: str
    preset_name: PresetName
    seed: int
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def preset(self) -> Preset:
        return changed_preset(self.table.preset(self.preset_name), self.overrides)

    @property
    def data(self) -> DataPreset:
        """What the cell reads: the preset's data, at the recipe's size of images if it has its own; where that augments, with
        the recipe's augmentation."""
        data = self.preset.data
        if not self.row.runs:
            return data
        chosen, size = self.row.recipe.augmentation, self.row.recipe.image_size.get(self.preset.model_size, data.image_size)
        if "image_size" in settings.section(self.overrides, "data"):
            size = data.image_size
        augmented: dict[str, Any] = {name: data.distort and chosen == name for name in ("distort", "mirror", "bevdet")}
        if data.distort and chosen == "bevdet-images":
            augmented |= {"bevdet": True, "flips": False}
        if self.row.recipe.stretched and size == self.row.recipe.image_size.get(self.preset.model_size):
            augmented |= {"stretch": True}
        return replace(data, **augmented, image_size=size)

    @property
    def schedule(self) -> Schedule:
        """The row's own for this preset, else the preset's."""
        own = self.row.schedules.get(self.preset_name)
        if own is None:
            return self.preset.schedule
        return settings.changed(own, settings.section(self.overrides, "schedule"), "schedule")

    @property
    def options(self) -> dict[str, Any]:
        """Of the baseline, that differ from its size's; of one that is a dictionary, the command line changes entries."""
        changes = settings.section(self.overrides, "options")
        return {**self.row.options, **{name: _merged(self.row.options.get(name), value) for name, value in changes.items()}}

    @property
    def metrics(self) -> tuple[str, ...]:
        """What its record has to hold: the table's columns, and what other tables show of it."""
        return tuple(dict.fromkeys([*(column.metric for column in self.table.columns), *self.row.metrics]))

    def parts(self, training: bool) -> dict[str, tuple[int, ...]]:
        """What is read of a training frame, or of one that is evaluated, beyond images and cameras, see ``Recipe.parts``."""
        own = self.row.parts(training, self.preset.model_size)
        if training or not (self.row.runs and self.row.recipe.renders_depth):
            return own
        return own | {part: OWN for name in self.metrics for part in METRICS.load(name).reads}

    @property
    def first_cell(self) -> Cell | None:
        """The cell whose weights this one starts from."""
        if self.row.starts_from is None:
            return None
        row = self.table.row(self.row.starts_from)
        return self.table.cell(row, self.renderer, self.preset_name, self.seed, relevant(row, self.overrides))

    @property
    def first_weights(self) -> FirstWeights | None:
        """Weights of others that the training starts from, before those of another cell; None for random ones."""
        if not self.preset.pretrained:
            return None
        return self.row.recipe.first_weights.get(self.preset.model_size)

    @property
    def gaussrender(self) -> dict[str, Any] | None:
        """Fields of GaussRenderConfig that the row trains with, None for a row without rendering."""
        changes = settings.section(self.overrides, "gaussrender")
        return {**self.preset.gaussrender, **self.row.gaussrender_options, **changes} if self.row.gaussrender else None

    @property
    def variant(self) -> str:
        """ "" for the plain cell, else a short file-name-safe name of the overrides."""
        words = (f"{k}={settings.text(v)}" if v is not True else k for k, v in sorted(self.overrides.items()))
        return "--".join(re.sub(r"[^\w.,=+-]", "_", word) for word in words)

    @property
    def name(self) -> str:
        """File stem of the record: ``<row>--<renderer>--seed<k>`` and the variant, if any."""
        stem = f"{self.row.name}--{re.sub(r'[^A-Za-z0-9_.-]', '_', self.renderer)}--seed{self.seed}"
        return f"{stem}--{self.variant}" if self.variant else stem

    @property
    def key(self) -> str:
        """``<table>/<preset>/<name>``, unique among all cells."""
        return f"{self.table.name}/{self.preset_name}/{self.name}"

    def data_read(self, data_fingerprint: str) -> str:
        """The fingerprint of the data that this cell reads, of one for several rows.

        That is one of what every row reads, and words ``row=fingerprint`` for the files that a row reads besides.
        """
        words = data_fingerprint.split(" ")
        own = [word.rpartition("=")[2] for word in words if word.rpartition("=")[0] == self.row.name]
        return "+".join([" ".join(word for word in words if "=" not in word), *own])

    def fingerprint(self, data_fingerprint: str) -> str:
        """Hash of everything that defines the cell's numbers, except code: spec, preset, seed, overrides, data."""
        content = {
            "table": self.table.name,
            "dataset": self.table.dataset,
            "row": {**_content(asdict(self.row), (*_SHOWN, "schedules")), **(self.row.recipe.marks if self.row.runs else {})},
            "preset": {
                **_content(asdict(self.preset)),
                "pretrained": FCOS3D.file if self.preset.pretrained else None,  # as a preset said it before there were recipes
                "data": _content(asdict(self.data)),
                "schedule": _content(asdict(self.preset.schedule)),
            },
            "renderer": self.renderer,
            "seed": self.seed,
            "overrides": self.overrides,
            "data": self.data_read(data_fingerprint),
        }
        if (weights := self.first_weights) is not None and weights.file not in (FCOS3D.file, *self.row.recipe.marks.values()):
            content["first_weights"] = weights.file
        if (first := self.first_cell) is not None:
            content["first_cell"] = first.fingerprint(data_fingerprint)
        if self.preset_name in self.row.schedules:
            content["schedule"] = _content(asdict(self.schedule))
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def training_fingerprint(self, train_fingerprint: str) -> str:
        """The same with the data that a training reads: what decides the weights. "" where that data is not known."""
        return self.fingerprint(f"train {train_fingerprint}") if train_fingerprint else ""
