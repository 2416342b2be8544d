"""A full disk while anything is written: what was there is there still, or what is new, whole; nothing lies beside it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_records import make_record

from baselines.interface import OccupancyGrid
from camera_occupancy_bench.files import WriteError
from experiments import predictions, records, run
from experiments.cell import figures, runner
from experiments.cell.folder import CellFolder, Progress
from experiments.predictions import PredictionFileError
from experiments.records import ROOT, RecordError
from experiments.spec import load_table
from reports import build
from reports.build import Outputs


@contextmanager
def full_behind(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` bytes, as on a disk with as much left."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def prediction(path: Path) -> None:
    grid = OccupancyGrid((0.0, 0.0, 0.0), (4.0, 4.0, 2.0), 1.0, ("car", "free"), 1)
    labels, cameras = np.zeros(grid.shape, np.uint8), np.eye(4)[None]
    saved = (labels, labels, labels > 0, cameras[:, :3, :3], cameras, (8, 6), cameras, ("front",), ("a.jpg",), "t", "s", 0, "x")
    predictions.save(predictions.SavedPrediction(grid, *saved), path)


def figure(path: Path) -> None:
    figures.save(Figure((2, 2)), path)


def page(path: Path) -> None:
    Outputs(texts={path: "x" * 3000}).write()


WRITERS: dict[str, Callable[[Path], object]] = {
    "r.json": lambda path: records.save(make_record(), path),
    "f.npz": prediction,
    "f.png": figure,
    "README.md": page,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_at_any_byte(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write = WRITERS[name]
    write(path)
    size = path.stat().st_size
    for left in (0, 1, size // 3, size - 1):
        path.write_bytes(b"old")
        with full_behind(left), pytest.raises((WriteError, RecordError, PredictionFileError), match=name):
            write(path)
        assert path.read_bytes() == b"old" and os.listdir(tmp_path) == [name]
    with full_behind(size):
        write(path)
    assert path.stat().st_size == size and os.listdir(tmp_path) == [name]


def folder_of(tmp_path: Path) -> CellFolder:
    spec = load_table("table_occ3d")
    folder = CellFolder(spec.cell(spec.row("tpvformer"), "cpu", "toy", 0), tmp_path)
    folder.work_dir.mkdir(parents=True)
    return folder


def test_a_cells_state_survives_a_full_disk(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.remember(Progress("f", "2026"))
    with full_behind(10), pytest.raises(WriteError):
        folder.update(trained=5)
    assert folder.progress() == Progress("f", "2026") and os.listdir(folder.work_dir) == ["state.json"]


def test_what_went_wrong_is_told_where_it_cannot_be_written(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    wrong = OSError(errno.ENOSPC, "No space left on device", "iter_2.pth")
    with full_behind(10):
        told = str(runner.explained(wrong, folder.cell, folder))
    file = folder.work_dir / "error.txt"
    assert told.startswith(f"{folder.cell.name} failed: iter_2.pth: No space left on device (traceback: {file} cannot be written")
    assert os.listdir(folder.work_dir) == []


@pytest.mark.parametrize("command", [["experiments.run", "table_occ3d", "--list"], ["renderers.compare", "--help"]])
def test_a_command_whose_output_nobody_takes(command: list[str]) -> None:
    words = [sys.executable, "-m", *command]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr and "fault of this program" not in done.stderr
    if "--list" in command:
        assert done.returncode == 1 and "No space left on device" in done.stderr
    piped = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert piped.stdout is not None and piped.stderr is not None
    piped.stdout.readline()
    piped.stdout.close()
    assert piped.stderr.read() == "" and piped.wait() == 0


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["--seed", str(1 << 70)], {}, "--seed must be below"),
        (["--iterations", str(10**20)], {}, "--iterations must be"),
        (["--list"], {"RANK": "x"}, "RANK must be a process's number"),
        (["--list", "--results", "x" * 300], {}, "File name too long"),
        (["--list", "--data-root", "/" + "x" * 300], {}, "File name too long"),
    ],
)
def test_arguments_beyond_all_bounds_are_mistakes(
    words: list[str],
    environment: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = run.main(["table_occ3d", "--row", "prior", *words])
    out, err = capsys.readouterr()
    assert code == 2 and err.count("\n") == 1 and said in err, out + err


def test_an_output_folder_in_a_circle_of_links_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, to in (("a", "b"), ("b", "a")):
        (tmp_path / name).symlink_to(tmp_path / to)
    monkeypatch.setattr(build, "read", lambda *_: pytest.fail("it is told before anything is made"))
    for words in (["--results", "results/records", "--out"], ["--latex"]):
        code = build.main([*words, str(tmp_path / "a/out")])
        err = capsys.readouterr().err
        assert code == 2 and "symbolic links" in err and "fault" not in err


def test_asking_for_the_commit_leaves_no_lock(tmp_path: Path) -> None:
    """A git that refreshes its index where the disk is full leaves a lock behind, at which each later ``git commit`` fails."""
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a", "commit", "-qm", "x"]):
        (tmp_path / "file").write_text("x")
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    os.utime(tmp_path / "file", (1, 1))  # what git status would note
    program = f"""
import resource
from pathlib import Path
from camera_occupancy_bench import checkout
checkout.ROOT = Path({str(tmp_path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
print(checkout.git_state().dirty)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n" and not (tmp_path / ".git/index.lock").exists()
