"""OccFormer's rows: what the three tables say of them, and cells for real, at sizes of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kitti360_layout import write_layout
from test_run_training import run_within

from baselines.occformer import FRONT, RECIPE
from experiments import records, sources
from experiments.cell import models
from experiments.datasets.build import build_dataset
from experiments.spec import PRESETS, Cell, StepSchedule, load_table

ROWS = ("occformer", "occformer+gaussrender")
TABLES = ("table_occ3d", "table_surroundocc", "table_kitti360")


def cell(table: str, row: str, preset: Any = "toy", overrides: dict[str, Any] | None = None) -> Cell:
    spec = load_table(table)
    return Cell(spec, spec.row(row), "cpu", preset, 0, overrides or {})


@pytest.mark.parametrize("table", TABLES)
def test_rows_differ_by_rendering_alone(table: str) -> None:
    plain, rendered = (load_table(table).row(row) for row in ROWS)
    assert rendered.base == "occformer" and "a row of this project" in rendered.note
    assert (plain.gaussrender, rendered.gaussrender) == (False, True)
    assert (plain.model, plain.options, plain.schedules) == (rendered.model, rendered.options, rendered.schedules)
    for preset in PRESETS:
        for row in ROWS:
            models.check(cell(table, row, preset))


def test_one_camera_has_a_recipe_and_a_schedule_of_its_own() -> None:
    around, front = (cell(table, "occformer", "paper") for table in ("table_occ3d", "table_kitti360"))
    assert around.row.recipe == RECIPE and front.row.recipe == FRONT
    assert around.data.bevdet and around.data.flips and front.data.bevdet and not front.data.flips
    assert around.first_weights is not None and front.first_weights is not None
    assert front.first_weights.file.startswith("efficientnet-b7")
    for own, epochs, clip in ((around.schedule, 24, 5.0), (front.schedule, 30, 20.0)):
        assert isinstance(own, StepSchedule) and (own.epochs, own.drop_epoch, own.grad_clip) == (epochs, 20, clip)
        assert (own.lr, own.weight_decay) == (1e-4, 1e-2)
    assert around.schedule.amp and not front.schedule.amp
    found = sources.of_cell(front)
    assert {"baselines/occformer/losses.py", "baselines/occformer/recipe.py", "baselines/lss/pooling.py"} <= set(found)
    assert "baselines/symphonies/model.py" not in found


def test_settings_of_what_teaches_are_checked_beforehand() -> None:
    with pytest.raises(TypeError, match="pionts"):
        models.check(cell("table_occ3d", "occformer", overrides={"options.teaching": {"pionts": 3}}))


@pytest.mark.parametrize("row", ROWS)
def test_the_toy_network_trains_on_one_camera(tmp_path: Path, row: str) -> None:
    own = cell("table_kitti360", row)
    data = write_layout(tmp_path / "data")
    frames = build_dataset("kitti360", data, "train", own.data, 0, tuple(own.parts(training=True)), sight=True)
    torch.manual_seed(0)
    model = models.build(own, frames.grid).train()
    losses = model.loss(frames[0])
    assert ("loss_render_image" in losses) == row.endswith("+gaussrender")
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    assert sum(p.grad is not None and bool(p.grad.any()) for p in model.parameters()) > 0.95 * len(list(model.parameters()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both rows were run once."""
    folder = tmp_path_factory.mktemp("occformer")
    run_within(folder, "table_tiny_occformer", "--renderer", "cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_record(finished: Path, row: str) -> None:
    record = records.load(records.path_of("table_tiny_occformer", "toy", f"{row}--cpu--seed0", finished / "results"))
    assert {"mIoU", "RayIoU", "image_mIoU", "depth_l1"} <= set(record.metrics) and record.iterations == 6
    losses = record.first_losses[0]
    assert {"loss_cls", "loss_mask", "loss_dice", "loss_cls_layer0", "loss_lss_depth"} <= set(losses)
    assert ("loss_render_image" in losses) == row.endswith("+gaussrender")
    assert all(np.isfinite(value) for value in losses.values())
