"""Finished cells whose code changed: told, kept or run again, confirmed to the last bit, measured anew; and mixed trainings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_run_training import Command, command_in, record_of, run_within
from torch import Tensor

from baselines.model import OccupancyModel
from experiments import sources
from experiments.cell import engine, revisit
from experiments.metrics.evaluator import OccupancyMetric
from experiments.records import Hardware, Record

CELL = "small--cpu--seed0--iterations=4"
ONE = ("--row", "small", "--iterations", "4")
FILE = "baselines/losses.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished cell."""
    folder = tmp_path_factory.mktemp("trained")
    run_within(folder, "table_tiny", *ONE)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """The command, in a copy of that folder."""
    shutil.copytree(trained / "results", tmp_path / "results")
    yield command_in(tmp_path, monkeypatch, capsys)
    sources._closure.cache_clear()


def change_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a file that acts in the cell had other content now."""
    real = sources._digest
    monkeypatch.setattr(sources, "_digest", lambda file: "0" * 16 if file.as_posix().endswith(FILE) else real(file))
    sources._closure.cache_clear()


def change_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cross entropy counts for nothing."""
    real = OccupancyModel.loss

    def loss(model: OccupancyModel, batch: object) -> dict[str, Tensor]:
        losses = real(model, batch)  # type: ignore[arg-type]
        return {**losses, "loss_ce": losses["loss_ce"] * 0}

    monkeypatch.setattr(OccupancyModel, "loss", loss)


def change_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    real = OccupancyMetric.compute_metrics
    monkeypatch.setattr(
        OccupancyMetric, "compute_metrics", lambda metric, results: (m := real(metric, results)) | {"mIoU": m["mIoU"] + 1}
    )


def path_of(folder: Path) -> Path:
    return folder / "results" / "table_tiny" / "toy" / f"{CELL}.json"


def rewrite(folder: Path, **changes: object) -> Record:
    """Change the cell's record on disk."""
    path = path_of(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return record_of(folder, CELL)


def test_a_change_of_the_code_is_told_with_commit_date_and_files_and_the_number_is_kept(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(*ONE)
    assert code == 0 and "done already" in out and "code changed" not in out
    before, record = path_of(tmp_path).read_bytes(), record_of(tmp_path, CELL)
    change_code(monkeypatch)
    code, out, err = run(*ONE)
    assert (code, err) == (0, "")
    assert "but its code changed since" in out and ": starts" not in out
    for arguments, action in (
        (ONE, ""),
        ((*ONE, "--list"), "skip it"),
        ((*ONE, "--dry-run", "--stale", "rerun"), "run it again"),
    ):
        code, out, _ = run(*arguments)
        assert code == 0
        for part in (record.git_commit[:7], record.started[:10], FILE, "--confirm", "--stale rerun", action):
            assert part in out, (arguments, part)
    assert path_of(tmp_path).read_bytes() == before


def test_rerun_trains_it_again_and_goes_on_where_that_was_stopped(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, record = path_of(tmp_path).read_bytes(), record_of(tmp_path, CELL)
    change_code(monkeypatch)
    real = engine.FiniteLossHook.after_train_iter

    def stop(hook: object, runner: object, *arguments: object, **named: object) -> None:
        if runner.iter == 2:  # type: ignore[attr-defined]
            raise engine.TrainingDiverged("stopped by the test")

    monkeypatch.setattr(engine.FiniteLossHook, "after_train_iter", stop)
    code, out, _ = run(*ONE, "--stale", "rerun")
    assert code == 1 and f"{CELL}: starts" in out
    assert path_of(tmp_path).read_bytes() == before, "the old record stays until there is a new one"
    monkeypatch.setattr(engine.FiniteLossHook, "after_train_iter", real)
    code, out, err = run(*ONE, "--stale", "rerun")
    assert code == 0 and f"{CELL}: continues at iteration 2" in out, out + err
    new = record_of(tmp_path, CELL)
    assert new.sources[FILE] == "0" * 16 and new.started != record.started
    assert new.first_losses[:2] == record.first_losses[:2] and len(new.first_losses) == 3, "those of its very start"
    assert new.continued == []
    code, out, _ = run(*ONE, "--stale", "rerun")
    assert code == 0 and "done already" in out and "code changed" not in out


def test_what_comes_out_to_the_last_bit_is_confirmed_and_counts_as_of_today(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(tmp_path, CELL)
    change_code(monkeypatch)
    code, out, err = run(*ONE, "--confirm")
    assert (code, err) == (0, ""), out
    assert f"{CELL}: comes out to the last bit" in out and record.git_commit[:7] in out
    confirmed = record_of(tmp_path, CELL)
    [seen] = confirmed.confirmed
    assert confirmed.model_copy(update={"confirmed": []}) == record
    assert seen.code != record.code and seen.when and seen.versions == record.versions and seen.hardware == record.hardware
    code, out, _ = run(*ONE)
    assert code == 0 and "done already" in out and "changed since" not in out
    code, out, _ = run(*ONE, "--list")
    assert "done" in out and "changed since" not in out
    code, out, _ = run(*ONE, "--confirm")
    assert code == 0 and "which its record says already" in out
    assert record_of(tmp_path, CELL) == confirmed


def test_losses_that_differ_are_named_and_leave_the_record_alone(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, first = path_of(tmp_path).read_bytes(), record_of(tmp_path, CELL).first_losses
    change_code(monkeypatch)
    change_losses(monkeypatch)
    code, out, err = run(*ONE, "--confirm")
    assert code == 1 and err.count("\n") == 1 and "1 of 1 finished cells" in err
    assert f"iteration 1: loss {first[0]['loss']} -> {first[0]['loss_lovasz']}, loss_ce {first[0]['loss_ce']} -> 0.0\n" in out
    assert "iteration 2:" in out and "iteration 3:" in out and "mIoU" not in out, "its weights are measured as they were"
    assert FILE in out and "not promised" not in out and "--re-evaluate" not in out
    assert path_of(tmp_path).read_bytes() == before


def test_where_the_same_bits_cannot_be_promised_a_difference_is_put_down_to_that(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware = {**record_of(tmp_path, CELL).hardware.model_dump(), "cpu": "Another One", "instruction_sets": {}}
    losses = record_of(tmp_path, CELL).first_losses
    rewrite(tmp_path, hardware=hardware, first_losses=[{**losses[0], "loss": 1.0}, *losses[1:]])
    code, out, _ = run(*ONE, "--confirm")
    assert code == 1
    assert f"iteration 1: loss 1.0 -> {losses[0]['loss']}" in out and "iteration 2" not in out
    assert "same bits are not promised here: it was made on Another One" in out


CPU = Hardware(cpu="A", cores=2, memory_gb=1.0, threads=2, instruction_sets={"torch": "AVX2"})


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({}, None),
        ({"cpu": "B", "cores": 8, "memory_gb": 2.0}, None),  # held to the same instructions
        ({"cpu": "B", "instruction_sets": {}}, "made on A, this is B"),
        ({"instruction_sets": {"torch": "NEON"}}, "torch AVX2, here torch NEON"),
        ({"gpu": "H100"}, "made on a CPU, this is H100"),
        ({"threads": 1}, "2 thread(s), here are 1"),
        ({"threads": None}, None),
    ],
)
def test_what_decides_the_last_bits(changes: dict[str, object], reason: str | None) -> None:
    said = list(revisit._unlike_hardware(CPU, CPU.model_copy(update=changes)))
    assert said == [] if reason is None else len(said) == 1 and reason in said[0]
    assert list(revisit._unlike_versions({"torch": "2", "numpy": "1"}, {"torch": "2", "numpy": "1"})) == []
    assert "torch 2, here is 3" in next(iter(revisit._unlike_versions({"torch": "2"}, {"torch": "3"})))


def test_metrics_that_changed_are_named_and_measured_anew_without_training(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, record = path_of(tmp_path).read_bytes(), record_of(tmp_path, CELL)
    change_code(monkeypatch)
    change_metric(monkeypatch)
    code, out, _ = run(*ONE, "--confirm")
    changed = record.metrics["mIoU"] + 1
    assert code == 1 and path_of(tmp_path).read_bytes() == before
    assert f"  mIoU {record.metrics['mIoU']} -> {changed}\n" in out and "iteration 1:" not in out
    assert "--re-evaluate measures it anew" in out

    code, out, err = run(*ONE, "--re-evaluate")
    assert code == 0 and "measured anew" in out and "train 1/" not in out, err
    new = record_of(tmp_path, CELL)
    assert new.metrics == record.metrics | {"mIoU": changed}
    kept = ("train_seconds", "first_losses", "git_commit", "code", "sources", "started", "iterations", "processes", "command")
    for name in kept:
        assert getattr(new, name) == getattr(record, name), name
    assert new.re_evaluated is not None and new.re_evaluated.code != record.code and new.mlflow_run_id
    code, out, _ = run(*ONE)
    assert "but its code changed since" in out, "whether it would be trained to the same weights is not known yet"
    code, out, _ = run(*ONE, "--confirm")
    assert code == 0 and "stands for this code too" in out
    assert sources.changed_since(record_of(tmp_path, CELL)) == []


@pytest.mark.parametrize("gone", ["no file", "of another training"])
def test_without_the_weights_of_its_numbers_a_record_is_neither_confirmed_nor_measured(
    run: Command, tmp_path: Path, gone: str
) -> None:
    work = path_of(tmp_path).with_suffix("")
    if gone == "no file":
        (work / "weights.pth").unlink()
    else:
        state = json.loads((work / "state.json").read_text())
        (work / "state.json").write_text(json.dumps(state | {"started": "2020-01-01T00:00:00+0000"}))
    before = path_of(tmp_path).read_bytes()
    code, out, _ = run(*ONE, "--confirm")
    assert code == 1
    assert "not kept in its work folder" in out and "came out, but they alone do not vouch for its numbers" in out
    code, out, _ = run(*ONE, "--re-evaluate")
    assert code == 1 and "not kept in its work folder" in out
    assert path_of(tmp_path).read_bytes() == before


def test_weights_that_do_not_fit_any_more_are_said_to(run: Command, tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, path_of(tmp_path).with_suffix("") / "weights.pth")
    before = path_of(tmp_path).read_bytes()
    for option in ("--confirm", "--re-evaluate"):
        code, out, _ = run(*ONE, option)
        assert code == 1 and "its weights cannot be loaded any more" in out
    assert path_of(tmp_path).read_bytes() == before


def test_records_made_before_digests_were_kept_say_so(run: Command, tmp_path: Path) -> None:
    rewrite(tmp_path, code="", sources={}, first_losses=[])
    code, out, _ = run(*ONE)
    assert code == 0 and "done already" in out and "made before digests were kept" in out
    code, out, _ = run(*ONE, "--list")
    assert "made before digests were kept" in out and "skip it" in out
    code, out, _ = run(*ONE, "--confirm")
    assert code == 1 and "made before digests were kept" in out and "--force trains it again" in out


def test_an_untrained_cell_is_confirmed_and_measured_as_a_whole(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = ("--row", "prior")
    assert run(*prior, "--confirm")[0] == 2, "nothing is finished"
    assert run(*prior)[0] == 0
    change_code(monkeypatch)
    assert run(*prior, "--confirm")[0] == 0
    assert len(record_of(tmp_path, "prior--cpu--seed0").confirmed) == 1
    change_metric(monkeypatch)
    code, out, _ = run(*prior, "--confirm")
    assert code == 1 and "mIoU" in out
    assert run(*prior, "--re-evaluate")[0] == 0
    new = record_of(tmp_path, "prior--cpu--seed0")
    assert new.re_evaluated is None and new.sources[FILE] == "0" * 16 and new.confirmed == []


@pytest.fixture
def stopped(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The work folder of the cell, stopped behind iteration 2."""
    path_of(tmp_path).unlink()
    shutil.rmtree(path_of(tmp_path).with_suffix(""))
    with monkeypatch.context() as patch:
        patch.setattr("experiments.cell.training._keep_weights", lambda *_: (_ for _ in ()).throw(OSError("stopped by the test")))
        assert run(*ONE)[0] == 1
    work = path_of(tmp_path).with_suffix("")
    (work / "iter_4.pth").unlink()
    assert (work / "iter_2.pth").is_file()
    return work


def test_a_training_is_not_continued_with_another_number_of_processes_unasked(
    run: Command, stopped: Path, tmp_path: Path
) -> None:
    state = json.loads((stopped / "state.json").read_text())
    assert (state["processes"], state["batch_size"]) == (1, 1)
    (stopped / "state.json").write_text(json.dumps(state | {"processes": 2, "batch_size": 2}))
    files = {path.name for path in stopped.iterdir()}
    code, _, err = run(*ONE)
    assert code == 2 and err.count("\n") == 1
    for part in (
        CELL,
        "2 process(es), 2 samples",
        "1 process(es), 1 samples",
        "iteration 2",
        "--force",
        "--allow-other-processes",
    ):
        assert part in err, part
    assert {path.name for path in stopped.iterdir()} == files and not path_of(tmp_path).exists()
    code, out, _ = run(*ONE, "--allow-other-processes")
    assert code == 0 and "continues at iteration 2" in out
    record = record_of(tmp_path, CELL)
    assert record.continued == ["from iteration 2 with 1 processes, not 2"] and record.processes == 2
    assert record.continued[0] in out, "the table's number comes with a remark"
    code, out, _ = run(*ONE, "--confirm")
    assert code == 1 and "from iteration 2 with 1 processes, not 2" in out and "cannot vouch" in out


def test_a_training_continued_with_other_code_says_so_and_counts_as_of_its_start(
    run: Command, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_code(monkeypatch)
    code, out, _ = run(*ONE)
    assert code == 0 and "continues at iteration 2" in out and f"its code changed since it was started ({FILE})" in out
    record = record_of(tmp_path, CELL)
    assert record.continued == [f"from iteration 2 with other code: {FILE}"]
    assert sources.changed_since(record) == [FILE]


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("--stale", "drop"), ("--stale must be keep or rerun, got 'drop'",)),
        (("--confirm", "--re-evaluate"), ("--confirm", "does not go with --re-evaluate")),
        (("--confirm", "--force"), ("--confirm", "does not go with --force")),
        (("--re-evaluate", "--stale", "rerun"), ("--re-evaluate", "does not go with --stale rerun")),
        (("--confirm", "--seed", "5"), ("no cell is finished, there is nothing to confirm",)),
    ],
)
def test_options_that_make_no_sense_are_refused(run: Command, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert all(part in err for part in parts)
