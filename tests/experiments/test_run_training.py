"""Cells for real, at sizes of seconds: records, figures, tracking, skip and resume, evaluation of checkpoints, bad input."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from run_tiny import TABLES

import experiments.tables
from experiments import records, sources
from experiments.absences import SHUFFLED
from experiments.datasets.layout import OCC3D_CLASSES
from experiments.records import ROOT, Record
from experiments.run import main

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]
ROW = "small+gaussrender"


@functools.cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="tracking-", ignore_cleanup_errors=True)


def store() -> str:
    """URI of the tracking store that all tests of this process share: a new one takes six seconds of a core."""
    return f"sqlite:///{_folder().name}/mlflow.db"


def environment(folder: Path) -> dict[str, str]:
    """Results below ``folder``, for processes of their own."""
    return {
        **os.environ,
        "OCC_RESULTS": str(folder / "results"),
        "MLFLOW_TRACKING_URI": store(),
        "COLUMNS": "200",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",  # at these sizes threads cost more than they bring, most of all on a busy machine
    }


def _prepare(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """This process knows the tests' tables and has its results below ``folder``."""
    patch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, TABLES])
    for name, value in environment(folder).items():
        patch.setenv(name, value)
    for name in ("OCC_DATA_ROOT", "RANK"):
        patch.delenv(name, raising=False)


def _run(words: list[str]) -> int:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return main(words)
    finally:
        torch.set_num_threads(threads)


def command_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], table: str = "table_tiny"
) -> Command:
    """The command in this process, with results below ``folder``. Its cells draw no pictures: a third of their time."""
    _prepare(folder, monkeypatch)
    monkeypatch.setattr("experiments.cell.training._draw", lambda *_: None)

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = _run([table, *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def record_of(folder: Path, cell: str) -> Record:
    return records.load(records.path_of("table_tiny", "toy", cell, folder / "results"))


def run_apart(folder: Path, *words: str) -> str:
    """What ``experiments.run`` prints of a table of the tests, in a process of its own, with results below ``folder``."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_tiny.py")), *words],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "alembic" not in done.stderr
    return done.stdout


def run_within(folder: Path, *words: str) -> str:
    """As ``run_apart`` in this process, which has the libraries: their import takes longer than most cells of the tests."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        _prepare(folder, patch)
        code = _run(list(words))
    assert code == 0, err.getvalue()
    assert "Traceback" not in err.getvalue() and "alembic" not in err.getvalue()
    return out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole tiny table was run once, by a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "stdout").write_text(run_apart(folder, "table_tiny"))
    return folder


def test_the_printed_table_holds_every_row_and_says_where_things_are(finished: Path) -> None:
    text = (finished / "stdout").read_text()
    for part in (
        "Prior",
        "Small + GaussRender",
        "mIoU",
        "rendered views",
        "image mIoU",
        "records:",
        "mlflow ui --backend-store-uri",
        "preset toy",
    ):
        assert part in text
    assert "†1: 5 of 17 classes do not occur and count 100 %; in brackets over the others" in text
    assert "train 6/6" in text and "s left" in text and "render_image" in text, "progress in lines, with live losses"


def test_a_smoke_test_goes_through_everything_as_a_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command_in(tmp_path, monkeypatch, capsys)("--row", "small", "--smoke")
    assert code == 0, err
    record = record_of(tmp_path, "small--cpu--seed0--iterations=3--smoke")
    assert record.iterations == 3 and record.samples["val"] == 2 and SHUFFLED in record.checks
    assert "VARIANT iterations=3--smoke" in " ".join(out.split())


@pytest.mark.parametrize("row", ["prior", "small", ROW])
def test_a_record_says_everything_its_number_depends_on(finished: Path, row: str) -> None:
    record = record_of(finished, f"{row}--cpu--seed0")
    assert {"mIoU", "IoU", "RayIoU", "RayIoU@1", "image_mIoU", "bev_mIoU", "depth_l1"} <= set(record.metrics)
    for metric in ("mIoU", "image_mIoU", "bev_mIoU"):
        assert sorted([*record.per_class[metric], *record.absent.get(metric, [])]) == sorted(OCC3D_CLASSES[:17])
    assert record.absent.get(SHUFFLED) == (None if row == "prior" else record.absent.get("mIoU")), "the same labels"
    assert len(record.absent["image_mIoU"]) == 5, "what the two frames' cameras do not see"
    assert record.samples == {"train": 3, "val": 2}
    assert record.iterations == (0 if row == "prior" else 6)
    assert (record.train_seconds > 0) == (row != "prior")
    assert ("mIoU_shuffled_images" in record.checks) == (row != "prior")
    assert (record.parameters > 0) == (row != "prior")
    assert record.eval_seconds > 0 and record.peak_memory_mb > 100
    assert record.versions["torch"] == torch.__version__
    assert record.mlflow_run_id
    assert (record.processes, record.batch_size) == ((None, None) if row == "prior" else (1, 1))
    assert record.code == sources.code(record.sources) and sources.changed_since(record) == []
    assert ("baselines/tpvformer/model.py" in record.sources) == (row != "prior")
    assert len(record.first_losses) == (0 if row == "prior" else 3)
    for losses in record.first_losses:
        assert losses["loss"] > 0 and "loss_ce" in losses and ("loss_render_image" in losses) == (row == ROW)


def test_work_folders_keep_weights_log_and_figures_but_no_optimizer(finished: Path) -> None:
    work = finished / "results" / "table_tiny" / "toy" / f"{ROW}--cpu--seed0"
    assert sorted(p.name for p in work.iterdir()) == ["figures", "state.json", "train.log", "weights.pth"]
    assert {p.stem.split("_")[0] for p in (work / "figures").iterdir()} == {"input", "occupancy", "cameras", "above"}
    assert set(torch.load(work / "weights.pth", weights_only=True)) == {"state_dict"}


def test_mlflow_holds_the_run_with_curves_and_figures(finished: Path) -> None:
    from mlflow import MlflowClient

    record = record_of(finished, f"{ROW}--cpu--seed0")
    client = MlflowClient(tracking_uri=store())
    assert record.mlflow_run_id is not None
    run = client.get_run(record.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["schedule.lr"] == "0.001" and run.data.params["version.torch"] == torch.__version__
    assert run.data.metrics["mIoU"] == pytest.approx(record.metrics["mIoU"])
    assert run.data.tags["absent.image_mIoU"].startswith("5 of 17 classes do not occur and count 100 %; over the others ")
    assert {"train/loss", "train/loss_render_image", "train/lr"} <= set(run.data.metrics)
    assert any(name.startswith("system/") for name in run.data.metrics)
    assert len(client.list_artifacts(record.mlflow_run_id, "figures")) == 8


def test_a_second_call_runs_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run = command_in(finished, monkeypatch, capsys)
    before = {p: p.stat().st_mtime_ns for p in (finished / "results").rglob("*") if p.is_file()}
    code, out, _ = run()
    assert code == 0
    assert out.count("done already") == 3
    assert {p: p.stat().st_mtime_ns for p in (finished / "results").rglob("*") if p.is_file()} == before


def test_own_weights_evaluate_to_the_same_numbers_as_a_variant(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = command_in(finished, monkeypatch, capsys)
    weights = finished / "results" / "table_tiny" / "toy" / f"{ROW}--cpu--seed0" / "weights.pth"
    code, _, err = run("--row", ROW, "--eval-only", "--checkpoint", str(weights))
    assert (code, err) == (0, "")
    [variant] = (finished / "results" / "table_tiny" / "toy").glob(f"{ROW}--cpu--seed0--checkpoint=weights-*.json")
    evaluated, trained = records.load(variant), record_of(finished, f"{ROW}--cpu--seed0")
    assert evaluated.metrics == pytest.approx(trained.metrics, rel=1e-6)
    assert evaluated.iterations == 0 and evaluated.overrides["checkpoint"].startswith("weights-")
    variant.unlink()


@pytest.mark.parametrize("content", ["other model", "text", "pickle"])
def test_a_foreign_checkpoint_is_refused_by_name(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    run = command_in(finished, monkeypatch, capsys)
    path = tmp_path / "foreign.pth"
    if content == "other model":
        torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, path)
    elif content == "text":
        path.write_text("weights")
    else:
        torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Path("x")}, path)
    code, _, err = run("--row", "small", "--eval-only", "--checkpoint", str(path))
    assert code == 2
    assert err.count("\n") == 1 and "foreign.pth" in err
    if content == "other model":
        [report] = (finished / "results").rglob("checkpoint_mismatch.txt")
        assert str(report) in err
        lines = report.read_text().splitlines()
        assert "unknown to the model: layer.weight" in lines
        assert "missing in the file: head.level_embeds" in lines
        assert len(lines) == int(re.search(r"All (\d+), one a line", err)[1])  # type: ignore[index]


def test_a_nan_loss_stops_its_cell_names_it_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from baselines.model import OccupancyModel

    run = command_in(tmp_path, monkeypatch, capsys)
    real = OccupancyModel.loss

    def poisoned(model: OccupancyModel, batch: object) -> dict[str, torch.Tensor]:
        losses = real(model, batch)  # type: ignore[arg-type]
        if model.iteration == 4:
            losses["loss_ce"] = losses["loss_ce"] * float("nan")
        return losses

    monkeypatch.setattr(OccupancyModel, "loss", poisoned)
    code, _, err = run("--row", "prior", "small", "--short")
    assert code == 1
    assert "small--cpu--seed0--short failed: loss_ce became nan at iteration 5" in err
    assert "Traceback" not in err
    assert record_of(tmp_path, "prior--cpu--seed0--short").metrics
    work = tmp_path / "results" / "table_tiny" / "toy" / "small--cpu--seed0--short"
    assert sorted(p.name for p in work.glob("iter_*.pth")) == ["iter_2.pth", "iter_4.pth"]

    monkeypatch.setattr(OccupancyModel, "loss", real)
    code, out, err = run("--row", "small", "--short")
    assert code == 0, err + "".join(path.read_text() for path in work.glob("error.txt"))
    assert "continues at iteration 4" in out and "warning" not in out, out
    assert record_of(tmp_path, "small--cpu--seed0--short").mlflow_run_id, "the same run goes on under another command"


@pytest.mark.parametrize("damage", ["label", "image"])
def test_damaged_data_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    import shutil

    from experiments import toyworld
    from experiments.spec import load_table

    run = command_in(tmp_path, monkeypatch, capsys)
    config = toyworld.ToyWorldConfig(**load_table("table_tiny").preset("toy").data.toyworld)
    root = tmp_path / "data"
    shutil.copytree(toyworld.ensure(config), root)
    if damage == "label":
        victim = sorted((root / "gts").rglob("labels.npz"))[-1]
        victim.write_bytes(victim.read_bytes()[:100])
    else:
        victim = sorted((root / "nuscenes" / "samples" / "CAM_FRONT").glob("*.jpg"))[-1]
        victim.unlink()
    code, _, err = run("--row", "prior", "--data-root", str(root))
    assert code == 2
    assert err.count("\n") == 1 and victim.name in err


def test_a_change_of_the_spec_makes_a_record_outdated_and_its_checkpoints_are_not_used(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    from experiments.spec import load_table

    shutil.copytree(finished / "results", tmp_path / "results")
    run = command_in(tmp_path, monkeypatch, capsys)
    table = load_table("table_tiny")
    toy = table.presets["toy"]
    changed = replace(toy, schedule=replace(toy.schedule, lr=2e-3))
    monkeypatch.setattr("experiments.run.load_spec", lambda _: replace(table, presets={**table.presets, "toy": changed}))
    code, out, _ = run("--list", "--row", "small")
    assert code == 0 and "outdated" in out


def started(folder: Path, until: int, *words: str, **options: Any) -> subprocess.Popen[str]:
    """A training of ``table_tiny`` that waits behind iteration ``until``: however late a signal comes, it finds it there."""
    program = (
        "import sys, time; from run_tiny import TABLES, main; import experiments.tables\n"
        "from experiments.cell.engine import IterationTimesHook\n"
        "last = int(sys.argv[1]) - 1\n"
        "IterationTimesHook.after_train_iter = lambda _, runner, *rest, **more: runner.iter == last and time.sleep(600)\n"
        "experiments.tables.__path__.append(TABLES); sys.exit(main(sys.argv[2:]))"
    )
    known = environment(folder)
    known["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    command = [sys.executable, "-c", program, str(until), "table_tiny", *words]
    return subprocess.Popen(command, env=known, cwd=folder, text=True, **options)


@pytest.mark.slow
def test_kill_9_leaves_a_resumable_cell_and_every_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--row", "prior", "small", "--iterations", "12"]
    work = tmp_path / "results" / "table_tiny" / "toy" / "small--cpu--seed0--iterations=12"
    process = started(tmp_path, 7, *words, stdout=subprocess.DEVNULL)
    deadline = time.time() + 1200
    while not (work / "iter_4.pth").is_file():
        assert time.time() < deadline and process.poll() is None, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    prior = records.path_of("table_tiny", "toy", "prior--cpu--seed0", tmp_path / "results")
    before = prior.read_bytes()
    run_id = json.loads((work / "state.json").read_text())["mlflow_run_id"]
    assert not work.with_suffix(".json").exists()

    code, out, err = command_in(tmp_path, monkeypatch, capsys)(*words)
    assert code == 0, err
    assert "small--cpu--seed0--iterations=12: continues at iteration" in out
    assert "prior--cpu--seed0: done already" in out
    assert prior.read_bytes() == before
    record = record_of(tmp_path, "small--cpu--seed0--iterations=12")
    assert record.iterations == 12 and record.mlflow_run_id == run_id


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    process = started(
        tmp_path,
        3,
        "--row",
        "small",
        "--iterations",
        "400",
        stderr=subprocess.PIPE,
        # As from a terminal: a shell that runs the tests in the background makes its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    work = tmp_path / "results" / "table_tiny" / "toy" / "small--cpu--seed0--iterations=400"
    deadline = time.time() + 1200
    while not (work / "iter_2.pth").is_file():
        assert time.time() < deadline and process.poll() is None, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted" in err and "continues small--cpu--seed0--iterations=400 from iteration" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_two_runs_at_once_train_a_cell_once_and_both_finish(tmp_path: Path) -> None:
    start = [sys.executable, str(Path(__file__).with_name("run_tiny.py")), "table_tiny"]
    both = [
        subprocess.Popen(
            [*start, "--row", *rows],
            env=environment(tmp_path),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rows in (("small", ROW), (ROW, "small"))
    ]
    outputs = [process.communicate(timeout=3600) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    text = "".join(out for out, _ in outputs)
    assert text.count(": starts") == 2 and text.count("done already") == 2
    for row in ("small", ROW):
        assert record_of(tmp_path, f"{row}--cpu--seed0").metrics


@pytest.mark.slow
def test_two_gloo_processes_get_the_numbers_of_one_and_alone_can_confirm_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = f"{ROW}--cpu--seed0--iterations=2"
    words = ["--row", ROW, "--iterations", "2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    start = [*torchrun, str(Path(__file__).with_name("run_tiny.py")), "table_tiny", *words, "--launcher", "pytorch"]

    def by_two(*more: str) -> str:
        done = subprocess.run([*start, *more], env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout

    assert by_two().count(": starts") == 1, "the first process speaks for all"
    two = record_of(tmp_path, cell)
    assert (two.processes, two.batch_size) == (2, 2)
    run = command_in(tmp_path, monkeypatch, capsys)
    weights = tmp_path / "results" / "table_tiny" / "toy" / cell / "weights.pth"
    code, _, err = run("--row", ROW, "--eval-only", "--checkpoint", str(weights))
    assert code == 0, err
    [variant] = (tmp_path / "results" / "table_tiny" / "toy").glob("*checkpoint=weights-*.json")
    one = records.load(variant)
    assert one.metrics == pytest.approx(two.metrics, rel=1e-5)
    assert one.samples["val"] == two.samples["val"] == 2

    code, out, _ = run(*words, "--confirm")
    assert code == 1 and "trained by 2 process(es), here are 1" in out
    assert by_two("--confirm").count("comes out to the last bit") == 1
