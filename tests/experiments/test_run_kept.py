"""What a run must not lose: trainings whose evaluation failed or whose evaluated data changed, forced runs, old weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_run_training import command_in

from experiments import plan, records, run
from experiments.cell import engine, training
from experiments.records import Record
from experiments.spec import load_table

CELL = "small--cpu--seed0--iterations=2"
Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on a data set of one's own in ``tmp_path``, which is not known to be a generated one."""
    command_in(tmp_path, monkeypatch, capsys)  # for the tables and the environment
    monkeypatch.setattr(training, "_draw", lambda *_: None)
    shutil.copytree(plan.toy_data(load_table("table_tiny"), "toy"), tmp_path / "data")
    fixed = [
        "table_tiny_real",
        "--preset",
        "mini",
        "--renderer",
        "cpu",
        "--iterations",
        "2",
        "--data-root",
        str(tmp_path / "data"),
    ]

    def call(*words: str) -> Outcome:
        capsys.readouterr()
        code = run.main([*fixed, *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def path_of(folder: Path) -> Path:
    return records.path_of("table_tiny_real", "mini", CELL, folder / "results")


def record_of(folder: Path) -> Record:
    return records.load(path_of(folder))


def image_of(folder: Path, split: str) -> Path:
    """An image of the last frame of the split."""
    from experiments.datasets.layouts import layout_of

    return list(layout_of("occ3d").frame_files(folder / "data", split))[-1][1]


def test_a_finished_training_is_evaluated_and_not_trained_again(command: Command, tmp_path: Path) -> None:
    work = path_of(tmp_path).with_suffix("")
    image = image_of(tmp_path, "val")
    whole = image.read_bytes()
    image.unlink()
    code, _, err = command()
    assert code == 2 and err.count("\n") == 1
    for part in ("1 of 14 files are missing", str(image), "python -m experiments.data verify occ3d --data-root"):
        assert part in err
    assert not work.exists(), "refused before anything is trained"

    image.write_bytes(whole[:200])  # what only the evaluation finds
    code, _, err = command()
    assert code == 2 and image.name in err
    assert (work / "iter_2.pth").is_file() and not path_of(tmp_path).exists()
    trained = (work / "iter_2.pth").stat().st_mtime_ns
    image.write_bytes(whole)
    code, out, err = command()
    assert (code, err) == (0, "") and f"{CELL}: is trained already, 2 iterations; it is only evaluated" in out
    first = record_of(tmp_path)
    assert first.iterations == 2 and len(first.first_losses) == 2 and first.train_peak_memory_mb is not None
    weights = work / "weights.pth"
    assert weights.stat().st_mtime_ns > trained and not (work / "iter_2.pth").exists()

    image.write_bytes(whole + b"x")  # downloaded again, say: another size, the training never saw it
    bits = weights.read_bytes()
    code, out, _ = command("--list")
    assert code == 0 and "evaluation changed" in out and "evaluate it again" in out
    code, out, err = command()
    assert code == 0 and "it is only evaluated" in out and "starts" not in out, err
    again = record_of(tmp_path)
    assert weights.read_bytes() == bits and again.re_evaluated is not None
    assert again.data_fingerprint != first.data_fingerprint and again.fingerprint != first.fingerprint
    assert again.metrics == pytest.approx(first.metrics)
    for name in ("started", "first_losses", "train_seconds", "processes", "train_peak_memory_mb"):
        assert getattr(again, name) == getattr(first, name), name
    code, out, _ = command()
    assert code == 0 and "done already" in out

    image = image_of(tmp_path, "train")
    image.write_bytes(image.read_bytes() + b"x")
    code, out, _ = command()
    aside = work.with_name(work.name + ".stale")
    assert code == 0 and f"{CELL}: starts" in out and f"is kept in {aside}" in out
    assert (aside / "weights.pth").read_bytes() == bits, "nobody said that they are not wanted"


def test_a_toy_cell_on_data_of_ones_own_keeps_its_name_when_frames_that_it_does_not_learn_from_change(
    command: Command, tmp_path: Path
) -> None:
    def name() -> str:
        request = plan.Request(load_table("table_tiny"), data_root=tmp_path / "data", rows=("small",))
        (cell,) = {cell.name for cell in plan.make(request, lambda: False).cells if cell.seed == 0}
        return cell

    first = name()
    assert "--data=data-" in first
    for split, same in (("val", True), ("train", False)):
        image = image_of(tmp_path, split)
        image.write_bytes(image.read_bytes() + b"x")
        assert (name() == first) is same, split


def test_a_forced_run_that_was_stopped_goes_on_without_force(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command()[0] == 0
    work = path_of(tmp_path).with_suffix("")
    before, bits = path_of(tmp_path).read_bytes(), (work / "weights.pth").read_bytes()

    def stop(hook: object, runner: object, *arguments: object, **named: object) -> None:
        raise engine.TrainingDiverged("stopped by the test")

    with monkeypatch.context() as patch:
        patch.setattr(engine.FiniteLossHook, "after_train_iter", stop)
        code, out, err = command("--force")
    aside = work.with_name(work.name + ".stale")
    assert code == 1 and "the same command without --force runs only these again" in err and str(aside) in out
    assert path_of(tmp_path).read_bytes() == before, "the old record stays until there is a new one"
    code, out, _ = command("--list")
    assert code == 0 and "begun again" in out and "continue it" in out
    code, _, err = command("--confirm")
    assert code == 2 and "no cell is finished" in err
    code, out, err = command()
    assert code == 0 and "done already" not in out and f"{CELL}: starts" in out, err
    assert record_of(tmp_path).started != records.Record.model_validate_json(before).started
    assert (aside / "weights.pth").read_bytes() == bits
    code, out, _ = command()
    assert code == 0 and "done already" in out
