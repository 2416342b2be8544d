"""RenderOcc's rows for real, at sizes of seconds: trained on the toy world, and what bad files of rays make of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_run_training import Command, command_in, run_within

from experiments import data, records, toyworld
from experiments.spec import Cell, SpecError, load_table
from renderers import registry
from renderers.interface import Availability

ROWS = ("renderocc-2d", "renderocc", "renderocc-seen", "renderocc-3d", "renderocc-3d-seen", "renderocc-rays", "renderocc-splats")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The row that rays alone teach, with results below ``tmp_path``."""
    command = command_in(tmp_path, monkeypatch, capsys, "table_tiny_rays")
    return lambda *words: command("--row", "renderocc-2d", "--preset", "toy", *words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every row was run once."""
    folder = tmp_path_factory.mktemp("rays")
    run_within(folder, "table_tiny_rays", "--renderer", "cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_its_record(finished: Path, row: str) -> None:
    record = records.load(records.path_of("table_tiny_rays", "toy", f"{row}--cpu--seed0", finished / "results"))
    assert {"IoU", "mIoU", "RayIoU", "depth_l1"} <= set(record.metrics) and record.iterations == 2
    losses = record.first_losses[0]
    rendered = {"loss_render_depth", "loss_render_semantic", "loss_sdf_entropy", "loss_sdf_distortion"}
    metric = rendered - {"loss_sdf_distortion"}
    by_rays = {"renderocc-3d": set(), "renderocc-3d-seen": set(), "renderocc-rays": metric, "renderocc-splats": metric}
    voxels = {"loss_3d_geo", "loss_3d_sem"} if row in ("renderocc", "renderocc-seen") or "3d" in row else set()
    assert set(losses) - {"loss"} == by_rays.get(row, rendered) | voxels | {"loss_lss_depth"}
    assert all(np.isfinite(value) for value in losses.values())
    sources = set(record.sources)
    assert ("renderers/rays/cpu/__init__.py" in sources) == (row not in ("renderocc-splats", "renderocc-3d", "renderocc-3d-seen"))
    assert {"baselines/renderocc/model.py", "experiments/datasets/lidar_pixels.py"} <= sources


def test_settings_of_a_rows_losses_are_merged_and_checked_beforehand(run: Command) -> None:
    code, _, err = run("--set", "options.teaching={'farthes': 30.0}", "--dry-run")
    assert code == 2 and "--set does not fit row renderocc-2d" in err and "'farthes'" in err
    code, _, err = run("--set", "data.bevdet=True", "--dry-run")
    assert code == 2 and "data.bevdet has no effect" in err
    row = load_table("table_renderocc").row("renderocc")
    cell = Cell(load_table("table_renderocc"), row, "cpu", "toy", 0, {"options.teaching": {"farthest": 30.0}})
    assert cell.options["teaching"] == {"voxels": "all", "farthest": 30.0}


def test_a_trait_that_no_recipe_has_is_named() -> None:
    row = load_table("table_renderocc").row("renderocc-2d")
    with pytest.raises(SpecError, match="row 'renderocc-2d': a recipe has no ray"):
        _ = replace(row, traits={"ray": 5}).recipe
    with pytest.raises(SpecError, match="trait image_size is by name or size"):
        _ = replace(row, traits={"image_size": (704, 256)}).recipe
    assert replace(row, traits={"frames": {"rays": (0,)}}).recipe.frames == {"history": (-1, -2), "rays": (0,)}


def test_a_backend_that_renders_no_rays_is_refused_by_the_rows_name(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.load("gsplat"), "availability", classmethod(lambda _: Availability(True)))
    code, _, err = run("--renderer", "gsplat")
    assert code == 2 and err.count("\n") == 1
    assert "row 'renderocc-2d': renderer 'gsplat' does not render rays; those that do: reference, cpu" in err


# Bad files. A generated world with RenderOcc's files, damaged one way a test ---------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world") / "data"
    sizes = toyworld.ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=2, val_frames=1, image_width=192)
    toyworld.ensure_at(sizes, root)
    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 0
    return root


def _rewritten(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        change(np.fromfile(path, "<f4").reshape(-1, 3).copy()).astype("<f4").tofile(path)

    return damage


def _with(column: int, value: float) -> Callable[[Path], None]:
    def change(rows: np.ndarray) -> np.ndarray:
        rows[len(rows) // 2, column] = value
        return rows

    return _rewritten(change)


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing": ("depth_gt", lambda path: path.unlink(), "train, rays: 12 of 24 files are missing"),
    "truncated": ("depth_gt", lambda path: path.write_bytes(path.read_bytes()[:-5]), "bytes, expected rows of 12"),
    "one file truncated by rows": ("seg_gt_lidarseg", _rewritten(lambda rows: rows[:-3]), "are others than those of depth_gt"),
    "in another order": ("seg_gt_lidarseg", _rewritten(lambda rows: rows[::-1]), "are others than those of depth_gt"),
    "NaN": ("depth_gt", _with(2, np.nan), "have NaN or infinite values"),
    "no depth": ("depth_gt", _with(2, 0.0), "have a depth of 0 m"),
    "class out of range": ("seg_gt_lidarseg", _with(2, 17), "hold class 17, known: 0..16"),
    "class that is none": ("seg_gt_lidarseg", _with(2, 2.5), "hold class 2.5, known: 0..16"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_in_one_line(run: Command, world: Path, tmp_path: Path, case: str) -> None:
    folder, damage, said = DAMAGE[case]
    root = _copy(world, tmp_path, folder, damage)
    code, _, err = run("--renderer", "cpu", "--data-root", str(root))
    assert code in (1, 2) and "Traceback" not in err
    (line, *_) = [line for line in err.splitlines() if said in line] or pytest.fail(err)
    assert line.startswith("error: ") and str(root) in line
    assert not list((tmp_path / "results/table_tiny_rays/toy").glob("*.json"))


@pytest.mark.slow
def test_a_lift_splat_host_of_gaussrender_trains(finished: Path) -> None:
    plain, rendered = (
        records.load(records.path_of("table_tiny_rays", "toy", f"bevdetocc{more}--cpu--seed0", finished / "results"))
        for more in ("", "+gaussrender")
    )
    assert set(plain.first_losses[0]) - {"loss"} == {"loss_ce", "loss_lss_depth"}
    assert set(rendered.first_losses[0]) > set(plain.first_losses[0]) | {"loss_render_image", "loss_render_depth"}
    assert rendered.parameters > plain.parameters


@pytest.mark.slow
def test_few_far_and_lonely_rays_are_taken_as_they_are(run: Command, world: Path, tmp_path: Path) -> None:
    """A scene of two frames has few others; of fewer rays than asked for all are drawn; rays that end far away teach nothing; an
    image may have no point."""

    def far(rows: np.ndarray) -> np.ndarray:
        rows[: len(rows) // 2, 2] = 1000.0
        return rows

    root = _copy(world, tmp_path, "depth_gt", _rewritten(far))
    for name in ("depth_gt", "seg_gt_lidarseg"):
        image = min((root / "nuscenes" / name).iterdir())
        image.unlink()
        image.touch()
    code, _, err = run("--renderer", "cpu", "--data-root", str(root))
    assert code == 0, err
    (path,) = (tmp_path / "results/table_tiny_rays/toy").glob("renderocc-2d--cpu--seed0*.json")
    assert all(np.isfinite(value) for losses in records.load(path).first_losses for value in losses.values())


def _copy(world: Path, folder: Path, damaged: str, damage: Callable[[Path], None]) -> Path:
    """A data root of links, but for the files of rays in one folder, which are changed."""
    root = folder / "data"
    shutil.copytree(world, root, copy_function=os.link)
    for path in sorted((root / "nuscenes" / damaged).iterdir()):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        damage(path)
    return root
