"""Views and ablations for real, at sizes of seconds: what runs, where records land, and that nothing is trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from grids import occ3d_grid
from run_tiny import TABLES
from test_run_training import command_in, run_within

import experiments.tables
from baselines.gaussrender import gaussian_scale
from experiments import records
from experiments.cell import engine, models
from experiments.cell.engine import IterationTimesHook
from experiments.records import Record
from experiments.spec import load_table


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, TABLES])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the ablation was run once."""
    folder = tmp_path_factory.mktemp("ablation")
    (folder / "stdout").write_text(run_within(folder, "table_tiny_ablation", "--seed", "0"))
    return folder


def record(folder: Path, table: str, cell: str) -> Record:
    return records.load(records.path_of(table, "toy", cell, folder / "results"))


@pytest.mark.slow
def test_a_row_that_is_another_tables_cell_is_recorded_there(finished: Path) -> None:
    files = sorted(p.relative_to(finished / "results").as_posix() for p in (finished / "results").glob("*/*/*.json"))
    assert files == ["table_tiny/toy/small--cpu--seed0.json", "table_tiny_ablation/toy/wide--cpu--seed0.json"]
    base = record(finished, "table_tiny", "small--cpu--seed0")
    spec = load_table("table_tiny")
    assert base.table == "table_tiny"
    assert base.fingerprint == spec.cell(spec.row("small"), "cpu", "toy", 0).fingerprint(base.data_fingerprint)
    text = (finished / "stdout").read_text()
    assert "Wide Gaussians, all cameras" in text and "none" in text and "time" in text


@pytest.mark.slow
def test_a_record_says_what_training_cost(finished: Path) -> None:
    for table, cell in (("table_tiny", "small--cpu--seed0"), ("table_tiny_ablation", "wide--cpu--seed0")):
        found = record(finished, table, cell)
        assert found.iterations == 6 and found.seconds_per_iteration is not None, "six iterations, five of warm-up"
        assert 0 < found.seconds_per_iteration < found.train_seconds
        assert found.train_peak_memory_mb is not None and 100 < found.train_peak_memory_mb <= found.peak_memory_mb
        assert found.number("seconds_per_iteration") == found.seconds_per_iteration
        assert found.number("parameters") == found.parameters and found.number("mIoU") == found.metrics["mIoU"]
        assert found.number("samples") is None and found.number("no_such_number") is None


@pytest.mark.slow
def test_the_base_is_not_trained_again_and_a_view_shows_it(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results/table_tiny/toy/small--cpu--seed0.json").read_bytes()
    code, text, err = command_in(finished, monkeypatch, capsys)("--row", "small")
    assert code == 0 and "small--cpu--seed0: done already" in text, err
    code, text, err = command_in(finished, monkeypatch, capsys, "table_tiny_2d")("--row", "small")
    assert code == 0, err
    assert "small--cpu--seed0: done already" in text and "image mIoU" in text and "depth L1" in text
    assert (finished / "results/table_tiny/toy/small--cpu--seed0.json").read_bytes() == before
    value = json.loads(before)["metrics"]["image_mIoU"]
    assert f"{value:.2f}" in text
    assert not (finished / "results/table_tiny_2d").exists(), "nothing is stored under a view's name"


def test_a_rows_options_reach_the_model_and_its_grid() -> None:
    spec = load_table("table_tiny_ablation")
    cell = spec.cell(spec.row("wide"), "cpu", "toy", 0)
    grid = occ3d_grid(4)
    plugin = models.build(cell, grid).gaussrender
    assert plugin is not None
    assert plugin.config.camera_indices == (0, 1, 2, 3, 4, 5) and not plugin.config.with_occupancy
    assert plugin.config.bev_reduction == 4, "the preset's options are kept"
    assert plugin.renderer_prep.scale == plugin.renderer.scale == pytest.approx(2 * gaussian_scale(grid))


def test_an_iteration_is_timed_after_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(engine, "time", SimpleNamespace(perf_counter=lambda: clock))
    hook = IterationTimesHook(warm_up=2)
    assert hook.median is None
    for seconds in (50, 60, 3, 1, 2):
        hook.before_train_iter(None, 0)  # type: ignore[arg-type]
        clock += seconds
        hook.after_train_iter(None, 0)  # type: ignore[arg-type]
    assert hook.seconds == [3, 1, 2] and hook.median == 2
