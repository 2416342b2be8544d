"""Cells of table_surroundocc for real, at sizes of seconds: TPVFormer and SurroundOcc on the toy world in that layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from grids import surroundocc_grid
from test_run_training import run_within

from experiments import records
from experiments.spec import load_table

ROWS = (
    "prior",
    "tpvformer",
    "surroundocc",
    "surroundocc+gaussrender",
    "gaussianformer2-init",
    "gaussianformer2",
    "gaussianformer2+gaussrender",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole tiny table was run once."""
    folder = tmp_path_factory.mktemp("surroundocc")
    run_within(folder, "table_tiny_surroundocc")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_record(finished: Path, row: str) -> None:
    cell = f"{row}--cpu--seed0"
    record = records.load(records.path_of("table_tiny_surroundocc", "toy", cell, finished / "results"))
    assert {"IoU", "mIoU", "image_mIoU", "image_IoU", "bev_mIoU", "bev_IoU", "depth_l1"} <= set(record.metrics)
    assert not any("RayIoU" in name for name in record.metrics), "RayIoU is defined on Occ3D alone"
    assert all(0 <= record.metrics[name] <= 100 for name in ("IoU", "mIoU"))
    classes = set(record.per_class["mIoU"])
    assert {"driveable_surface", "manmade"} <= classes
    assert sorted([*classes, *record.absent.get("mIoU", [])]) == sorted(surroundocc_grid().class_names[1:])
    assert record.iterations == (0 if row == "prior" else 2) and (record.parameters > 0) == (row != "prior")
    assert record.data_fingerprint.startswith("toyworld-")
    figures = list((finished / "results/table_tiny_surroundocc/toy" / cell / "figures").glob("*.png"))
    assert len(figures) == 4


def test_both_tables_train_alike() -> None:
    ours, others = load_table("table_surroundocc").presets, load_table("table_occ3d").presets
    assert {**ours, "toy": replace(ours["toy"], loss_in_sight=1.0)} == others  # what is not in sight is evaluated here
    assert load_table("table_surroundocc").dataset == "surroundocc"
