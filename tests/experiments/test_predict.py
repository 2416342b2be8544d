"""Saved predictions: what the file holds is what the model says of the frame; every mistake is one line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_tiny import TABLES

import experiments.tables
from experiments import plan, predictions
from experiments.cell import models
from experiments.datasets.build import build_dataset
from experiments.datasets.frames import OccupancyFrames
from experiments.datasets.layout import CAMERAS
from experiments.predict import main
from experiments.predictions import PredictionFileError
from experiments.spec import Cell, load_table

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, results in ``tmp_path`` -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, TABLES])
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    for name in ("OCC_DATA_ROOT", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> Outcome:
        code = main(["table_tiny", "--renderer", "cpu", "--preset", "toy", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def cell_and_frames(row: str) -> tuple[Cell, OccupancyFrames]:
    spec = load_table("table_tiny")
    cell = Cell(spec, spec.row(row), "cpu", "toy", 0, {})
    data_root = plan.toy_data(spec, "toy")
    return cell, build_dataset("occ3d", data_root, "val", replace(cell.preset.data, distort=False), 0)


def test_files_hold_the_frame_and_what_the_model_says_of_it(command: Command, tmp_path: Path) -> None:
    cell, frames = cell_and_frames("small")
    torch.manual_seed(3)
    model = models.build(cell, frames.grid).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "own.pth")
    out = tmp_path / "made" / "predictions"
    code, said, err = command("--row", "small", "--checkpoint", str(tmp_path / "own.pth"), "--index", "1", "0", "--out", str(out))
    assert code == 0, err
    assert "2 frames of val" in said and "python -m reports.visualise" in said
    assert sorted(path.name for path in out.iterdir()) == ["val_00000.npz", "val_00001.npz"]
    for index in (0, 1):
        saved, sample = predictions.load(out / f"val_{index:05d}.npz"), frames[index]
        assert saved.grid == frames.grid
        assert (saved.true == sample.labels[0].numpy()).all() and saved.camera_mask.any()
        assert (saved.camera_mask == sample.camera_mask[0].numpy()).all()
        assert (saved.predicted == model.predict(sample).labels[0].numpy()).all()
        assert len(np.unique(saved.predicted)) > 1, "a constant answer would compare equal by chance"
        for name in ("intrinsics", "reference_to_camera", "projection"):
            assert np.allclose(getattr(saved, name), getattr(sample, name)[0].numpy()), name
        assert saved.camera_size == sample.camera_size and saved.camera_names == CAMERAS
        assert all(Path(path).is_file() and name in path for path, name in zip(saved.image_paths, CAMERAS, strict=True))
        assert (saved.token, saved.scene) == (sample.meta[0]["token"], sample.meta[0]["scene"])
        assert saved.index == index and "small--cpu" in saved.source


def test_a_counted_row_needs_no_weights(command: Command, tmp_path: Path) -> None:
    code, _, err = command("--row", "prior", "--index", "0", "1", "--out", str(tmp_path / "out"))
    assert code == 0, err
    first, second = (predictions.load(tmp_path / "out" / f"val_0000{index}.npz") for index in (0, 1))
    assert (first.predicted == second.predicted).all() and (first.true != second.true).any()
    assert (first.predicted == first.true).mean() > 0.5


def test_a_folder_holds_one_cells_frames_which_may_be_written_again(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert command("--row", "prior", "--index", "0", "--out", str(out))[0] == 0
    before = (out / "val_00000.npz").read_bytes()
    for index in ("0", "1"):  # written over, or mixed up
        code, _, err = command("--row", "prior", "--seed", "1", "--index", index, "--out", str(out))
        assert code == 2 and err.count("\n") == 1
        for part in ("val_00000.npz", "prior--cpu--seed0", "prior--cpu--seed1", "--out"):
            assert part in err
    assert [path.name for path in out.iterdir()] == ["val_00000.npz"] and (out / "val_00000.npz").read_bytes() == before
    assert command("--row", "prior", "--index", "0", "1", "--out", str(out))[0] == 0
    (out / "val_00001.npz").write_bytes(b"not ours")
    code, _, err = command("--row", "prior", "--index", "1", "--out", str(out))
    assert code == 2 and "val_00001.npz is not of" in err and (out / "val_00001.npz").read_bytes() == b"not ours"


def test_a_cell_that_was_run_with_iterations_is_found_with_them(command: Command, tmp_path: Path) -> None:
    cell, frames = cell_and_frames("small")
    weights = tmp_path / "results/table_tiny/toy/small--cpu--seed0--iterations=4--short/weights.pth"
    variant = ("--row", "small", "--iterations", "4", "--index", "0", "--out", str(tmp_path / "out"))
    code, _, err = command(*variant, "--short")
    assert code == 2 and f"no finished weights at {weights}" in err and "--seed 0 --iterations 4 --short" in err
    weights.parent.mkdir(parents=True)
    torch.save({"state_dict": models.build(cell, frames.grid).state_dict()}, weights)
    code, _, err = command(*variant, "--short")
    assert code == 0, err
    assert predictions.load(tmp_path / "out" / "val_00000.npz").source.endswith("iterations=4--short")
    assert command(*variant)[0] == 2, "that is another cell"


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "unknown row": (["--row", "smal", "--index", "0"], ["unknown row 'smal'", "did you mean 'small'?"]),
    "many rows": (["--row", "small*", "--index", "0"], ["--row small*", "small+gaussrender", "name one"]),
    "no index": (["--row", "prior"], ["--index", "--help"]),
    "index in words": (["--row", "prior", "--index", "first"], ["--index", "valid integer"]),
    "index out of range": (["--row", "prior", "--index", "0", "2"], ["--index 2 is not in val", "0 to 1"]),
    "negative index": (["--row", "prior", "--index", "-1"], ["--index -1 is not in val"]),
    "unknown split": (["--row", "prior", "--index", "0", "--split", "vall"], ["unknown split 'vall'", "train, val"]),
    "no finished weights": (["--row", "small", "--index", "0"], ["no finished weights", "experiments.run", "--checkpoint"]),
    "no such checkpoint": (["--row", "small", "--index", "0", "--checkpoint", "gone.pth"], ["gone.pth does not exist"]),
}


@pytest.mark.parametrize("arguments, parts", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_the_way_out(command: Command, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    code, _, err = command(*arguments, "--out", str(tmp_path / "out"))
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err
    assert not (tmp_path / "out").exists()


def test_of_a_row_that_predicts_no_voxels_there_is_nothing_to_save(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["table_gaussianocc_depth", "--preset", "toy", "--row", "gaussianocc-gsp", "--renderer", "cpu", "--index", "0"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: row 'gaussianocc-gsp' predicts no voxels") and err.endswith(
        "rows that do: gaussianocc-stage2\n"
    )


def test_a_folder_that_cannot_be_written_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, _, err = command("--row", "prior", "--index", "0", "--out", str(tmp_path / "file"))
    assert code == 2 and err.count("\n") == 1
    assert f"{tmp_path / 'file'}/val_00000.npz cannot be written" in err and "--out" in err


def test_files_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(PredictionFileError, match="x.npz does not exist"):
        predictions.load(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(PredictionFileError, match="x.npz is not a readable npz"):
        predictions.load(path)
    np.savez(path, labels=np.zeros(3))
    with pytest.raises(PredictionFileError, match="x.npz holds no array 'format'"):
        predictions.load(path)
    np.savez(path, format=np.array([{"a": 1}], dtype=object))
    with pytest.raises(PredictionFileError, match="x.npz is not a readable npz.*pickle"):
        predictions.load(path)
