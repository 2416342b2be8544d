"""Settings by name: what --set takes, which rows it changes, and that a record gives the same cell again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from experiments import settings
from experiments.plan import PlanError, chain_of
from experiments.settings import SettingError
from experiments.spec import Cell, Schedule, load_table, relevant

OCC3D = load_table("table_occ3d")


def cell(row: str, overrides: dict[str, Any] | None = None) -> Cell:
    return OCC3D.cell(OCC3D.row(row), "cpu", "toy", 0, relevant(OCC3D.row(row), overrides or {}))


def test_words_are_values_and_values_have_types() -> None:
    words = ("schedule.lr=1", "schedule.betas=(0.9, 0.95)", "schedule.ema=none", "schedule.amp=True", "data.source=real")
    found = settings.read(words)
    schedule = settings.changed(OCC3D.presets["toy"].schedule, settings.section(found, "schedule"), "schedule")
    assert (schedule.lr, schedule.betas, schedule.ema, schedule.amp) == (1.0, (0.9, 0.95), None, True)
    assert isinstance(schedule.lr, float) and isinstance(schedule, Schedule)
    for field, value in (("betas", (0.9,)), ("betas", 1), ("amp", 1), ("batch_size", True), ("lr", None)):
        with pytest.raises(SettingError, match=f"schedule.{field} must be"):
            settings.changed(schedule, {field: value}, "schedule")
    with pytest.raises(SettingError, match="model_size must be Literal"):
        settings.changed(OCC3D.presets["toy"], {"model_size": "huge"}, "preset")


def test_a_setting_changes_the_rows_it_says_something_to() -> None:
    changes = settings.read(["gaussrender.num_cameras=2", "schedule.lr=0.001", "options.dim=32"])
    with_, without, prior = (cell(row, changes) for row in ("tpvformer+gaussrender", "tpvformer", "prior"))
    assert with_.gaussrender == {"bev_reduction": 2, "num_cameras": 2} and without.gaussrender is None
    assert with_.preset.gaussrender == OCC3D.presets["toy"].gaussrender, "every row is evaluated alike"
    assert without.schedule.lr == 0.001 and without.options == {"dim": 32}
    assert cell("surroundocc", changes).schedule.lr == 0.001, "also where the row has a schedule of its own"
    assert prior == cell("prior") and prior.variant == ""
    assert "gaussrender" not in without.variant and "schedule.lr=0.001" in without.variant
    assert len({c.fingerprint("x") for c in (with_, without, cell("tpvformer"), cell("tpvformer+gaussrender"))}) == 4


def test_a_record_gives_the_same_cell_again() -> None:
    one = cell("tpvformer", settings.read(["schedule.betas=(0.9, 0.95)"]))
    again = cell("tpvformer", json.loads(json.dumps(one.overrides)))
    assert (again.name, again.schedule, again.fingerprint("x")) == (one.name, one.schedule, one.fingerprint("x"))


def test_a_row_that_starts_from_another_ones_weights_is_a_cell_of_its_own() -> None:
    second = replace(OCC3D.row("tpvformer"), name="second", starts_from="tpvformer")
    table = replace(OCC3D, rows=(*OCC3D.rows, second))
    chained, plain = (Cell(table, row, "cpu", "paper", 0) for row in (second, replace(second, starts_from=None)))
    assert chained.first_cell == Cell(table, OCC3D.row("tpvformer"), "cpu", "paper", 0)
    assert plain.first_weights is not None and chained.first_weights == plain.first_weights
    assert len({c.fingerprint("x") for c in (chained, plain)}) == 2
    # What defines the first one defines the second one too.
    other = replace(OCC3D, rows=(replace(OCC3D.row("tpvformer"), options={"dim": 32}), second))
    assert Cell(other, second, "cpu", "paper", 0).fingerprint("x") != chained.fingerprint("x")
    assert [c.row.name for c in chain_of(chained)] == ["second", "tpvformer"]
    circle = replace(OCC3D, rows=(replace(second, starts_from="second"),))
    with pytest.raises(PlanError, match="row second starts from itself"):
        list(chain_of(Cell(circle, circle.rows[0], "cpu", "toy", 0)))
