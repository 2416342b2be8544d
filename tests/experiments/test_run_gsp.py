"""GaussianOcc's stages for real, at sizes of seconds: their losses, and that depth and motion are measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_run_training import run_within

from experiments import records
from experiments.cell import models
from experiments.metrics.registry import lidar
from experiments.spec import PRESETS, load_table

LOSSES = {
    "gaussianocc-gsp": {"loss_temporal", "loss_smoothness", "loss_cross_view"},
    "gaussianocc-gsp-compensated": {"loss_temporal", "loss_smoothness", "loss_cross_view"},
    "gaussianocc-gsp-temporal": {"loss_temporal", "loss_smoothness"},
    "gaussianocc-gsp-timed": {"loss_temporal", "loss_smoothness", "loss_cross_view"},
    "gaussianocc-gsp-unaligned": {"loss_temporal", "loss_smoothness"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every row was run once."""
    folder = tmp_path_factory.mktemp("gsp")
    run_within(folder, "table_tiny_gsp", "--renderer", "cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("row", LOSSES)
def test_depth_and_motion_are_in_its_record(finished: Path, row: str) -> None:
    record = records.load(records.path_of("table_tiny_gsp", "toy", f"{row}--cpu--seed0", finished / "results"))
    assert {*lidar("cameras"), "motion_scale", "motion_scale_by_frame", "motion_direction", "motion_rotation"} <= set(
        record.metrics
    )
    assert not any("IoU" in name for name in (*record.metrics, *record.per_class, *record.checks)), "it predicts no voxels"
    assert 0 < record.metrics["lidar_abs_rel_best_constant"] < 1
    assert 0 < record.metrics["lidar_abs_rel_cameras"] < 20 and 0 <= record.metrics["motion_rotation"] < 30
    assert set(record.first_losses[0]) - {"loss"} == LOSSES[row] and record.iterations == 2
    assert all(np.isfinite(value) for value in record.first_losses[0].values())


@pytest.mark.slow
def test_the_second_stage_starts_from_it(finished: Path) -> None:
    record = records.load(records.path_of("table_tiny_gsp", "toy", "gaussianocc--cpu--seed0", finished / "results"))
    assert record.iterations == 2 and record.renderer == "cpu"
    assert {*lidar("cameras"), "mIoU", "RayIoU"} <= set(record.metrics)
    assert all(np.isfinite(value) for loss in record.first_losses for value in loss.values())
    first, second = (
        torch.load(finished / f"results/table_tiny_gsp/toy/{row}--cpu--seed0/weights.pth", weights_only=True)["state_dict"]
        for row in ("gaussianocc-gsp-timed", "gaussianocc")
    )
    learned = [key for key in second if key.startswith("pose_network.") and key.endswith((".weight", ".bias"))]
    assert len(learned) > 10 and all(torch.equal(first[key], second[key]) for key in learned)


@pytest.mark.slow
def test_nothing_is_counted_of_labels_that_are_not_there(tmp_path: Path) -> None:
    run_within(tmp_path, "table_tiny_ddad", "--renderer", "cpu")
    record = records.load(records.path_of("table_tiny_ddad", "toy", "gaussianocc-gsp--cpu--seed0", tmp_path / "results"))
    motion = {"motion_scale", "motion_scale_by_frame", "motion_direction", "motion_rotation"}
    assert set(record.metrics) == {*lidar("cameras"), "lidar_abs_rel_best_constant", *motion} and not record.absent
    assert not any(record.per_class.values())


@pytest.mark.parametrize(
    ("name", "first"),
    [("table_gaussianocc_depth", "gaussianocc-gsp-timed"), ("table_gaussianocc_depth_ddad", "gaussianocc-gsp")],
)
def test_its_rows_are_cells_of_every_preset(name: str, first: str) -> None:
    table = load_table(name)
    for preset in PRESETS:
        cells = [table.cell(row, "cpu", preset, 0) for row in table.rows if row.runs]
        for cell in cells:
            models.check(cell)
            trained, evaluated = (set(cell.parts(training)) for training in (True, False))
            assert set(lidar("cameras")) <= set(cell.metrics)
            if cell.row.model == "gaussianocc":
                assert trained == {"neighbours", "semantics"} and evaluated == {"lidar"}
                started = table.cell(table.row(first), "cpu", preset, 0)
                assert cell.first_cell is not None and cell.first_cell.fingerprint("x") == started.fingerprint("x")
            else:
                assert trained == {"neighbours"} and evaluated == {"neighbours", "lidar"}
                assert "motion_scale" in cell.metrics
        assert cells[-1].row.model == "gaussianocc"
        assert len({cell.fingerprint("x") for cell in cells}) == len(cells) > 1
