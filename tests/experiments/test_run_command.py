"""The command line: every mistake is one line with the way out; defaults are said; nothing runs before all is checked."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import occ3d_layout
import pytest
from run_tiny import TABLES
from test_records import make_record

import experiments.tables
from experiments import plan, preflight, records, run, toyworld
from experiments.cell import environment, revisit, runner
from experiments.cell.folder import CellFolder
from experiments.run import main, spread_lists
from experiments.spec import Cell, load_table
from experiments.toyworld import ToyWorldConfig
from renderers import registry
from renderers.interface import Availability

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, results and tracking in ``tmp_path`` -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, TABLES])
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("OCC_DATA_ROOT", "OCC_CKPTS", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Outcome:
        code = main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "unknown table": (["table_tyni"], ["unknown table 'table_tyni'", "did you mean 'table_tiny'?"]),
    "no table": ([], ["Missing argument", "--help"]),
    "unknown option": (["table_tiny", "--rendrer", "cpu"], ["--rendrer", "--renderer"]),
    "unknown row": (["table_tiny", "--row", "smal"], ["unknown row 'smal'", "did you mean 'small'?"]),
    "row that is only quoted": (["table_tiny", "--row", "quoted"], ["quoted only", "small+gaussrender"]),
    "unknown row of a view": (["table_tiny_2d", "--row", "smal"], ["unknown row 'smal'", "did you mean 'small'?"]),
    "checkpoint for a view": (
        ["table_tiny_2d", "--eval-only", "--checkpoint", "x.pth"],
        ["one model of one table", "table_tiny or table_tiny_surroundocc"],
    ),
    "unknown preset": (["table_tiny", "--preset", "toys"], ["unknown preset 'toys'", "did you mean 'toy'?"]),
    "unknown renderer": (["table_tiny", "--renderer", "gsplatt"], ["unknown renderer 'gsplatt'", "did you mean 'gsplat'?"]),
    "no data for a preset": (
        ["table_tiny", "--preset", "paper"],
        ["preset paper needs the real data", "--data-root or OCC_DATA_ROOT"],
    ),
    "data root that is not there": (["table_tiny", "--data-root", "/nowhere"], ["data root /nowhere is not a folder"]),
    "generated world of a width that its layout does not take": (
        ["table_tiny", "--set", 'data.toyworld={"image_width":100}'],
        ["table_tiny: data of preset 'toy' cannot be generated", "image_width must be a multiple of 16"],
    ),
    "generated world with an unknown field": (
        ["table_tiny", "--set", 'data.toyworld={"image_wdth":192}'],
        ["data of preset 'toy' cannot be generated", "'image_wdth'"],
    ),
    "no iterations": (["table_tiny", "--iterations", "0"], ["--iterations must be a positive number, got 0"]),
    "iterations in words": (["table_tiny", "--iterations", "many"], ["--iterations", "valid integer"]),
    "negative seed": (["table_tiny", "--seed", "-1"], ["--seed must not be negative"]),
    "evaluation of nothing": (
        ["table_tiny", "--eval-only", "--row", "small"],
        ["--eval-only needs a checkpoint", "--checkpoint FILE"],
    ),
    "checkpoint to train from": (["table_tiny", "--checkpoint", "x.pth"], ["--checkpoint goes with --eval-only"]),
    "checkpoint that is not there": (
        ["table_tiny", "--eval-only", "--row", "small", "--checkpoint", "gone.pth"],
        ["checkpoint gone.pth does not exist"],
    ),
    "checkpoint for many rows": (["table_tiny", "--eval-only", "--checkpoint", "x.pth"], ["name one row with --row", "small"]),
    "a smoke test of another length": (["table_tiny", "--smoke", "--short"], ["--smoke", "does not go with --short"]),
    "unknown launcher": (["table_tiny", "--launcher", "mpi"], ["unknown launcher 'mpi'", "none, pytorch, slurm"]),
    "launcher without its processes": (["table_tiny", "--launcher", "pytorch"], ["--launcher pytorch", "torchrun"]),
}


@pytest.mark.parametrize("arguments, parts", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_the_way_out(command: Command, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err
    assert not list((tmp_path / "results").rglob("*.json")), "nothing may have run"


def test_a_renderer_that_cannot_run_is_never_replaced(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def availability(name: str, kind: str) -> Availability:
        return Availability(name != "gsplat", "no CUDA device was found", "use a machine with one")

    monkeypatch.setattr(registry, "availability", availability)
    code, _, err = command("table_tiny", "--renderer", "cpu", "gsplat")
    assert code == 2
    assert "renderer 'gsplat' is not available here: no CUDA device was found" in err
    assert "use a machine with one" in err


def test_a_results_folder_that_cannot_be_written_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = command("table_tiny", "--row", "prior", "--results", str(tmp_path / "file" / "results"))
    assert code == 2
    assert "results folder" in err and "OCC_RESULTS" in err


def test_a_second_run_takes_the_next_cell_and_waits_when_nothing_else_is_left(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, order = load_table("table_tiny"), []
    first = CellFolder(table.cell(table.row("prior"), "cpu", "toy", 0), tmp_path / "results")
    held = contextlib.ExitStack()

    def run_cell(cell: Cell, job: Any, wait: bool) -> None:
        with CellFolder(cell, tmp_path / "results").lock(
            lambda _: held.close(), wait
        ):  # the first run ends once it is waited for
            order.append(cell.seed)
        raise runner.CellFailed("this is all")

    monkeypatch.setattr(runner, "run_cell", run_cell)
    monkeypatch.setattr(revisit, "measure_on_new_data", lambda *_: None)
    monkeypatch.setattr(run, "_job", lambda *_: object())
    held.enter_context(first.lock(print))
    code, out, err = command("table_tiny", "--row", "prior", "--seed", "0", "1", "2", "--renderer", "cpu")
    assert (code, order) == (1, [1, 2, 0])
    assert out.count("another run works on it; the others are taken first") == 1 and "3 of 3 cells failed" in err


def test_a_folder_without_the_data_names_the_file_that_is_missing(command: Command, tmp_path: Path) -> None:
    code, _, err = command("table_tiny", "--data-root", str(tmp_path))
    assert code == 2
    assert "bevdetv2-nuscenes_infos_train.pkl" in err


def test_a_view_leaves_out_the_tables_whose_data_is_not_there(command: Command, tmp_path: Path) -> None:
    world = ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=1, val_frames=1, image_width=64)
    root = toyworld.ensure_at(world, tmp_path / "data")
    arguments = ("--preset", "toy", "--data-root", str(root), "--dry-run")
    code, out, err = command("table_tiny_2d", *arguments)
    assert code == 0 and "error" not in err
    assert "small--cpu--seed0--data=data-" in out
    assert "table_tiny_surroundocc is left out: no data set pickle" in out and "surroundocc+gaussrender--cpu" not in out
    (tmp_path / "empty").mkdir()
    code, _, err = command("table_tiny_2d", "--data-root", str(tmp_path / "empty"))
    assert code == 2 and "bevdetv2-nuscenes_infos_train.pkl" in err, "nothing is left"


def test_data_roots_of_one_name_are_not_one_cell(command: Command, tmp_path: Path) -> None:
    """What is told apart is the data: a moved folder has the cells it had, its place has those of what lies there now."""

    def cell(root: Path) -> str:
        code, out, _ = command("table_tiny", "--row", "small", "--preset", "toy", "--data-root", str(root), "--dry-run")
        assert code == 0
        return re.findall(r"small--cpu--seed0--data=[\w.-]+", out)[0]

    first, other = occ3d_layout.write_layout(tmp_path / "a/data", 1), occ3d_layout.write_layout(tmp_path / "b/data", 2)
    names = [cell(first), cell(other)]
    assert names[0] != names[1] and all(name.startswith("small--cpu--seed0--data=data-") for name in names)
    long = [tmp_path / f"{'x' * 60}{end}" for end in "ab"]
    assert len({cell(occ3d_layout.write_layout(root, frames)) for root, frames in zip(long, (1, 2), strict=True)}) == 2
    (tmp_path / "c").mkdir()
    moved = first.rename(tmp_path / "c/data")
    other.rename(first)
    assert [cell(moved), cell(first)] == names
    (tmp_path / "link").mkdir()
    (tmp_path / "link/data").symlink_to(moved)
    assert cell(tmp_path / "link/data") == names[0]


def test_missing_first_weights_are_found_before_anything_runs(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCC_CKPTS", str(tmp_path / "ckpts"))
    code, _, err = command("table_occ3d", "--preset", "paper", "--data-root", str(tmp_path))
    assert code == 2
    assert "r101_dcn_fcos3d_pretrain.pth" in err and "OCC_CKPTS" in err


def test_a_damaged_record_stops_the_command_and_names_the_file(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "results" / "table_tiny" / "toy" / "prior--cpu--seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    code, _, err = command("table_tiny", "--row", "prior")
    assert code == 2
    assert str(path) in err and "run the cell again" in err


def test_list_and_dry_run_show_cells_and_run_nothing(command: Command, tmp_path: Path) -> None:
    code, out, err = command("table_tiny", "--list", "--seed", "0", "1")
    assert (code, err) == (0, "")
    assert "small+gaussrender--cpu--seed1" in out and "not run" in out and "quoted only" in out
    code, out, _ = command("table_tiny", "--dry-run", "--row", "small", "--iterations", "3")
    assert code == 0
    assert "small--cpu--seed0--iterations=3" in out and "run it" in out and "prior" not in out
    assert "VARIANT iterations=3" in out and "time: unknown for 1 cells" in out and "nothing would stop this run" in out
    code, out, _ = command("table_tiny", "--dry-run", "--row", "small", "prior", "--smoke")
    assert code == 0 and "small--cpu--seed0--iterations=3--smoke" in out and "prior--cpu--seed0--smoke" in out
    assert not (tmp_path / "results").exists()


def test_a_dry_run_finds_what_would_stop_a_run(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = load_table("table_tiny")
    rows = [replace(r, options={"hidden_": 1}) if r.name == "small" else r for r in table.rows]
    rows = [replace(r, gaussrender_options={"bev": 1}) if r.gaussrender else r for r in rows]
    monkeypatch.setattr(run, "load_spec", lambda _: replace(table, rows=tuple(rows)))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    (tmp_path / "results").write_text("")
    code, _, err = command("table_tiny", "--dry-run", "--launcher", "pytorch", "--renderer", "cpu")
    assert code == 2
    for part in ("torchrun", "results", "no option hidden_ (known: ", "'bev'"):
        assert part in err
    unknown = replace(table.row("small"), name="x", model="tpv")
    monkeypatch.setattr(run, "load_spec", lambda _: replace(table, rows=(*rows, unknown)))
    code, _, err = command("table_tiny", "--dry-run", "--renderer", "cpu")
    assert code == 2 and "row 'x' names a model that is not there: unknown model 'tpv'; did you mean 'tpvformer'?" in err
    code, _, err = command("table_tiny", "--dry-run", "--results", str(tmp_path / "elsewhere"), "--row", "prior")
    assert code == 2 and "1.0 GB are free" in err


def test_a_dry_run_tells_the_time_by_records_of_the_row(command: Command, tmp_path: Path) -> None:
    table = load_table("table_tiny")
    cells = tuple(table.cell(table.row("small"), "cpu", "toy", seed) for seed in (0, 1))
    planned = plan.Plan(table, "toy", None, "data", ("cpu",), cells, ())
    assert "unknown for 2 cells" in preflight.estimate([planned], tmp_path, False, "keep")
    here = {"hardware": environment.hardware(), "train_seconds": 600.0, "eval_seconds": 60.0, "started": "2026-01-01T00:00:00"}
    for seed, fingerprint in ((0, cells[0].fingerprint("data")), (7, "other")):
        cell = table.cell(table.row("small"), "cpu", "toy", seed)
        about = {"table": "table_tiny", "row": "small", "iterations": cell.schedule.iterations, "fingerprint": fingerprint}
        known = make_record(**about, **here)
        records.save(known, CellFolder(cell, tmp_path).record_path)
    text = preflight.estimate([planned], tmp_path, False, "keep")
    assert text == "time: about 11 min (1 by earlier runs on this machine)", "the finished cell takes none"
    half = replace(cells[1], overrides={"iterations": (cells[1].schedule.iterations or 0) // 2})
    text = preflight.estimate([replace(planned, cells=(half,))], tmp_path, False, "keep")
    assert "about 6 min" in text or "about 5 min" in text


def test_a_view_lists_the_cells_of_its_tables_and_an_ablation_those_that_it_shares(command: Command) -> None:
    code, out, err = command("table_tiny_2d", "--list")
    assert (code, err) == (0, "")
    assert "cells of table_tiny, preset toy" in out and "cells of table_tiny_surroundocc, preset toy" in out
    assert "surroundocc+gaussrender--cpu--seed0" in out and "prior--cpu--seed0" not in out, "trained rows only, unless named"
    assert out.count("the generated driving world is used") == 1
    code, out, _ = command("table_tiny_2d", "--dry-run", "--row", "prior", "small")
    assert code == 0 and out.count("prior--cpu--seed0") == 2 and "small--cpu--seed0" in out
    code, out, _ = command("table_tiny_ablation", "--list", "--seed", "0", "table_tiny_ablation")
    assert code == 2, "a table's name is never taken for a value"
    code, out, _ = command("--seed", "0", "1", "table_tiny_ablation", "--list")
    assert code == 0 and "small--cpu--seed1 (of table_tiny)" in out and "wide--cpu--seed1" in out


@pytest.mark.parametrize(
    "given, meant",
    [
        (["t", "--renderer", "a", "b", "--force"], ["t", "--renderer", "a", "--renderer", "b", "--force"]),
        (["--seed", "0", "1", "2", "table_occ3d"], ["--seed", "0", "--seed", "1", "--seed", "2", "table_occ3d"]),
        (["t", "--row", "x*", "--row", "y"], ["t", "--row", "x*", "--row", "y"]),
        (["t", "--preset", "toy", "--list"], ["t", "--preset", "toy", "--list"]),
    ],
)
def test_lists_may_be_written_with_spaces(given: list[str], meant: list[str]) -> None:
    assert spread_lists(given) == meant


class TestDefaults:
    """Which preset, data and renderer a bare command means."""

    @pytest.fixture(autouse=True)
    def prepare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OCC_DATA_ROOT", raising=False)
        monkeypatch.setattr(registry, "availability", lambda name, kind: Availability(True))
        monkeypatch.setattr(plan, "_data_fingerprints", lambda *_: ("data", "train"))
        monkeypatch.setattr(plan, "_check_first_weights", lambda *_: None)

    @staticmethod
    def make(cuda: bool = False, **options: object) -> plan.Plan:
        return plan.make(plan.Request(load_table("table_occ3d"), **options), lambda: cuda)  # type: ignore[arg-type]

    def test_without_data_the_generated_world_at_toy_size(self) -> None:
        made = self.make()
        assert (made.preset, made.data_root, made.renderers) == ("toy", None, ("cpu",))
        assert [cell.name for cell in made.cells] == [
            "prior--cpu--seed0",
            "tpvformer--cpu--seed0",
            "tpvformer+gaussrender--cpu--seed0",
            "surroundocc--cpu--seed0",
            "surroundocc+gaussrender--cpu--seed0",
            "occformer--cpu--seed0",
            "occformer+gaussrender--cpu--seed0",
            "renderocc-2d--cpu--seed0",
            "renderocc--cpu--seed0",
            "tpvformer+gaussrender-images-only--cpu--seed0",
        ]
        assert "generated driving world" in made.said[0]

    def test_with_data_and_cuda_the_paper(self, tmp_path: Path) -> None:
        made = self.make(cuda=True, data_root=tmp_path)
        assert (made.preset, made.data_root, made.renderers) == ("paper", tmp_path, ("gsplat", "triton"))
        assert {cell.renderer for cell in made.cells if "renderocc" in cell.name} == {"triton"}, "gsplat renders no rays"
        assert "renderer triton: the default with a CUDA device for rows taught by rays" in made.said
        assert "prior--gsplat--seed0" not in [cell.name for cell in made.cells], "the prior is a toy row"

    def test_cuda_without_triton_renders_rays_with_the_reference_and_it_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = Availability(False, "the package triton is not installed", "pip install triton")
        monkeypatch.setattr(registry, "availability", lambda name, kind: missing if name == "triton" else Availability(True))
        made = self.make(cuda=True, data_root=tmp_path)
        assert {cell.renderer for cell in made.cells if "renderocc" in cell.name} == {"reference"}
        line = "renderer reference: the default with a CUDA device for rows taught by rays, as triton is not available"
        assert any(said.startswith(line) for said in made.said)

    def test_with_data_but_no_cuda_the_toy_model_as_a_variant_and_it_is_said(self, tmp_path: Path) -> None:
        data = tmp_path / "real frames"
        data.mkdir()
        made = self.make(data_root=data)
        assert (made.preset, made.data_root) == ("toy", data)
        assert made.cells[1].name == "tpvformer--cpu--seed0--data=real_frames-train"
        assert "toy-size model" in made.said[0]

    def test_the_toy_preset_by_name_means_its_own_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OCC_DATA_ROOT", str(tmp_path))
        assert self.make(preset="toy").data_root is None
        assert self.make(preset="toy", data_root=tmp_path).data_root == tmp_path
        assert self.make().data_root == tmp_path

    def test_options_of_training_do_not_touch_the_prior(self) -> None:
        names = [cell.name for cell in self.make(iterations=5, short=True).cells]
        assert names[0] == "prior--cpu--seed0--short"
        assert names[1] == "tpvformer--cpu--seed0--iterations=5--short"

    def test_a_column_group_for_every_renderer_and_every_seed(self) -> None:
        made = self.make(renderers=("cpu", "reference"), seeds=(3, 4), rows=("tpvformer",))
        assert [cell.name for cell in made.cells] == [
            "tpvformer--cpu--seed3",
            "tpvformer--reference--seed3",
            "tpvformer--cpu--seed4",
            "tpvformer--reference--seed4",
        ]
