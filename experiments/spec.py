"""What a paper table is, as typed data: columns, rows, presets, cells. Light: no torch, no mm stack."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import pkgutil
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

PresetName = Literal["toy", "mini", "paper"]
PRESETS: tuple[PresetName, ...] = ("toy", "mini", "paper")


class SpecError(ValueError):
    """A table, row, preset or glob that does not exist."""


@dataclass(frozen=True)
class Column:
    """One metric of a table: its key in a record's ``metrics``, its heading, and how it is read."""

    metric: str
    title: str
    digits: int = 2
    higher_is_better: bool = True
    unit: str = "%"


@dataclass(frozen=True)
class Row:
    """One line of a table: a baseline with or without GaussRender.

    name       key in records and quoted numbers ("tpvformer+gaussrender")
    model      builder key known to ``experiments.models``, or None while the row is quoted only
    base       row that this one's gain is measured against
    presets    presets in which it runs (the prior is a toy row)
    options    baseline options that differ from the preset's
    note       printed under the table; says why a row is quoted only
    schedules  by preset, the row's own optimisation in place of the preset's
    pretrained_model  file with the whole image network's first weights, in place of ``Preset.pretrained`` where that is set
    """

    name: str
    title: str
    model: str | None = None
    gaussrender: bool = False
    base: str | None = None
    presets: tuple[PresetName, ...] = PRESETS
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    schedules: dict[PresetName, Schedule] = field(default_factory=dict)
    pretrained_model: str | None = None

    @property
    def runs(self) -> bool:
        return self.model is not None

    @property
    def trained(self) -> bool:
        """Whether the row has weights; the prior only counts labels."""
        return self.model not in (None, "prior")


@dataclass(frozen=True)
class DataPreset:
    """Which data a preset reads and at which sizes.

    source               "toyworld" (generated where no data root is given) or "real" (a data root is required)
    image_size           (width, height) of the network's input
    coarsen              voxels of the model's grid per label voxel and axis (1 = the official grid)
    label_camera_width   width the label cameras are scaled to for rendering, None = the original images
    mini                 only the published 20 % of the samples
    distort              the published photometric distortion in training
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


@dataclass(frozen=True)
class Schedule:
    """Optimisation of a preset (AdamW, linear warm-up into a cosine, per iteration).

    Exactly one of ``iterations`` and ``epochs`` is set. ``backbone_lr`` multiplies the image backbone's rate; ``amp``
    trains in mixed precision; ``ema`` is the momentum of averaged weights, which then are the ones evaluated.
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


@dataclass(frozen=True, kw_only=True)
class StepSchedule(Schedule):
    """The same without warm-up and cosine: every group's rate falls once, by ``lr_min / lr``.

    drop_epoch  at whose beginning it falls, counted from 0
    eps         of AdamW
    """

    drop_epoch: int
    eps: float = 1e-8


@dataclass(frozen=True)
class Preset:
    """Sizes of a run; code, loaders and losses are the same in all of them.

    gaussrender            fields of GaussRenderConfig that differ from the published ones
    pretrained             file with the image backbone's first weights (FCOS3D's detector), looked for in ``ckpts/`` of
                           the project or in OCC_CKPTS; None starts from random ones
    check_shuffled_images  evaluate once more with the validation images swapped between scenes: what a model scores
                           that does not look at its images
    """

    data: DataPreset
    model_size: Literal["toy", "paper"]
    schedule: Schedule
    gaussrender: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    check_shuffled_images: bool = False


@dataclass(frozen=True)
class TableSpec:
    """A paper table: ``default_seeds`` are run when the command names none."""

    name: str
    title: str
    dataset: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    presets: dict[PresetName, Preset]
    default_seeds: tuple[int, ...] = (0,)
    notes: tuple[str, ...] = ()

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


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'{hint} (known: {', '.join(known)})"


def table_names() -> list[str]:
    """Names of all tables, found as modules of ``experiments.tables``."""
    package = importlib.import_module("experiments.tables")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name.startswith("table_"))


def load_table(name: str) -> TableSpec:
    """The spec in ``experiments/tables/<name>.py``; raises SpecError with a suggestion."""
    if name == "table_renderers":
        raise SpecError("table_renderers is measured, not trained: run `python -m renderers.compare --save`")
    if name not in table_names():
        raise SpecError(_unknown("table", name, table_names()))
    return importlib.import_module(f"experiments.tables.{name}").TABLE


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
        return self.table.preset(self.preset_name)

    @property
    def schedule(self) -> Schedule:
        """The row's own for this preset, else the preset's."""
        return self.row.schedules.get(self.preset_name, self.preset.schedule)

    @property
    def pretrained(self) -> str | None:
        """File with first weights of the image network, or None for random ones."""
        return self.preset.pretrained and (self.row.pretrained_model or self.preset.pretrained)

    @property
    def variant(self) -> str:
        """ "" for the plain cell, else a short file-name-safe name of the overrides."""
        return "--".join(f"{k}={v}" if v is not True else k for k, v in sorted(self.overrides.items()))

    @property
    def name(self) -> str:
        """File stem of the record: ``<row>--<renderer>--seed<k>`` and the variant, if any."""
        stem = f"{self.row.name}--{self.renderer}--seed{self.seed}"
        return f"{stem}--{self.variant}" if self.variant else stem

    def fingerprint(self, data_fingerprint: str) -> str:
        """Hash of everything that defines the cell's numbers, except code: spec, preset, seed, overrides, data."""
        row = {k: v for k, v in asdict(self.row).items() if k not in ("title", "note", "base", "presets", "schedules")}
        if self.row.pretrained_model is None:
            del row["pretrained_model"]
        content = {
            "table": self.table.name,
            "dataset": self.table.dataset,
            "row": row,
            "preset": asdict(self.preset),
            "renderer": self.renderer,
            "seed": self.seed,
            "overrides": self.overrides,
            "data": data_fingerprint,
        }
        if self.preset_name in self.row.schedules:
            content["schedule"] = asdict(self.schedule)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
