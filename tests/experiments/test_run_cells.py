"""Cells on disk: what is finished, what can be continued, what is out of date, who holds it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from test_records import make_record as any_record

from experiments import records
from experiments.cell.folder import CellFolder, Progress, ResultsError, now
from experiments.spec import Cell, load_table

FINGERPRINT = "f" * 16


def make_record(**changes: object) -> records.Record:
    """Of the cell in ``folder``."""
    return any_record(table="table_occ3d", row="tpvformer", **changes)


@pytest.fixture
def folder(tmp_path: Path) -> CellFolder:
    table = load_table("table_occ3d")
    return CellFolder(Cell(table, table.row("tpvformer"), "cpu", "toy", 0), tmp_path)


def start(folder: CellFolder, fingerprint: str = FINGERPRINT, iterations: tuple[int, ...] = ()) -> None:
    folder.prepare(fingerprint, fresh=False)
    folder.remember(Progress(fingerprint, "2026-01-01T00:00:00+0000", 12.0, "run"))
    for iteration in iterations:
        (folder.work_dir / f"iter_{iteration}.pth").write_bytes(b"weights")


def test_newest_checkpoint_comes_first_by_number_not_by_name(folder: CellFolder) -> None:
    start(folder, iterations=(900, 1000, 50))
    (folder.work_dir / "iter_last.pth").write_bytes(b"")
    assert [p.stem for p in folder.checkpoints()] == ["iter_1000", "iter_900", "iter_50"]
    assert folder.describe(FINGERPRINT) == "stopped at iteration 1000"


def test_the_same_fingerprint_is_continued(folder: CellFolder) -> None:
    start(folder, iterations=(100,))
    progress = folder.prepare(FINGERPRINT, fresh=False)
    assert progress is not None
    assert (progress.train_seconds, progress.mlflow_run_id) == (12.0, "run")
    assert folder.checkpoints()


@pytest.mark.parametrize("fresh", [False, True])
def test_other_fingerprint_or_force_starts_again_and_keeps_the_old_aside(folder: CellFolder, fresh: bool) -> None:
    start(folder, iterations=(100,))
    assert folder.prepare(FINGERPRINT if fresh else "0" * 16, fresh) is None
    assert folder.checkpoints() == []
    stale = folder.work_dir.with_name(folder.work_dir.name + ".stale")
    assert (stale / "iter_100.pth").is_file()


def test_weights_and_checkpoints_aside_are_never_deleted_and_it_is_said_where_they_are(folder: CellFolder) -> None:
    said: list[str] = []
    for number, name in enumerate(("weights.pth", "iter_100.pth", "weights.pth", "log.txt"), 1):
        start(folder)
        (folder.work_dir / name).write_bytes(b"%d" % number)
        assert folder.prepare(FINGERPRINT, True, "", said.append) is None
        assert list(folder.work_dir.iterdir()) == []
    aside = [folder.work_dir.with_name(f"{folder.work_dir.name}.stale{number}") for number in ("", "-2", "-3")]
    assert [[path.read_bytes() for path in place.glob("*.pth")] for place in aside] == [[b"1"], [b"2"], [b"3"]]
    assert len(said) == 3 and all(str(place) in line for place, line in zip(aside, said, strict=True))
    assert not folder.work_dir.with_name(f"{folder.work_dir.name}.stale-4").exists(), "a log alone is nothing to keep"


def test_a_training_is_continued_when_only_the_data_of_its_evaluation_changed(folder: CellFolder) -> None:
    start(folder, iterations=(100,))
    folder.update(training="t" * 16)
    assert folder.describe("0" * 16, "t" * 16) == "stopped at iteration 100"
    assert folder.describe("0" * 16, "u" * 16) == folder.describe("0" * 16, "") == "not run"
    assert folder.prepare("0" * 16, False, "t" * 16) is not None
    assert folder.checkpoints()
    assert folder.prepare("0" * 16, False, "u" * 16) is None
    assert not folder.checkpoints()


def test_finished_weights_without_their_record_are_not_written_over(folder: CellFolder) -> None:
    start(folder)
    (folder.work_dir / "weights.pth").write_bytes(b"weights")
    assert folder.prepare(FINGERPRINT, fresh=False) is None
    assert (folder.work_dir.with_name(folder.work_dir.name + ".stale") / "weights.pth").is_file()


def test_a_superseded_record_is_not_finished_until_the_new_one_is_written(folder: CellFolder) -> None:
    start(folder)
    records.save(old := make_record(fingerprint=FINGERPRINT), folder.record_path)
    assert folder.finished(FINGERPRINT) and folder.settled(FINGERPRINT, False, "keep") is not None
    folder.update(supersedes=old.started)
    assert not folder.finished(FINGERPRINT) and folder.settled(FINGERPRINT, False, "keep") is None
    assert folder.describe(FINGERPRINT) == "begun again" and folder.record() == old
    records.save(make_record(fingerprint=FINGERPRINT, started="2030-01-01T00:00:00+0000"), folder.record_path)
    assert folder.finished(FINGERPRINT)


def test_a_training_that_replaces_one_of_the_same_second_is_told_from_it(folder: CellFolder) -> None:
    start(folder)
    old, _, new = now(), time.sleep(0.001), now()
    folder.update(started=new, supersedes=old)
    records.save(make_record(fingerprint=FINGERPRINT, started=old), folder.record_path)
    assert folder.describe(FINGERPRINT) == "begun again"
    records.save(make_record(fingerprint=FINGERPRINT, started=new), folder.record_path)
    assert folder.describe(FINGERPRINT) == "done"


def test_checkpoints_without_a_state_file_are_not_trusted(folder: CellFolder) -> None:
    start(folder, iterations=(100,))
    (folder.work_dir / "state.json").write_text("{")
    assert folder.progress() is None
    assert folder.prepare(FINGERPRINT, fresh=False) is None
    assert folder.checkpoints() == []


def test_a_record_counts_only_with_its_fingerprint(folder: CellFolder) -> None:
    assert folder.describe(FINGERPRINT) == "not run"
    records.save(make_record(fingerprint=FINGERPRINT), folder.record_path)
    assert folder.finished(FINGERPRINT)
    assert folder.describe(FINGERPRINT) == "done"
    assert not folder.finished("0" * 16)
    assert folder.describe("0" * 16).startswith("outdated")


def test_a_second_run_waits_for_the_first_and_says_so_once(folder: CellFolder) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with CellFolder(folder.cell, folder.root).lock(said.append):
            order.append("second")

    with folder.lock(said.append):
        thread = threading.Thread(target=second)
        thread.start()
        end = time.monotonic() + 60
        while not said and time.monotonic() < end:
            time.sleep(0.01)
        thread.join(0.3)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    assert len(said) == 1 and "another run works on it" in said[0]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    table = load_table("table_occ3d")
    folder = CellFolder(Cell(table, table.row("prior"), "cpu", "toy", 0), blocked)
    with pytest.raises(ResultsError, match="cannot be written .*--results or OCC_RESULTS"), folder.lock(print):
        pass


def test_a_variant_never_takes_the_place_of_the_plain_cell() -> None:
    table = load_table("table_occ3d")
    row = table.row("tpvformer")
    plain = Cell(table, row, "cpu", "toy", 0)
    variant = Cell(table, row, "cpu", "toy", 0, {"iterations": 5, "short": True})
    assert plain.name == "tpvformer--cpu--seed0"
    assert variant.name == "tpvformer--cpu--seed0--iterations=5--short"
    assert plain.fingerprint("d") != variant.fingerprint("d")
    assert plain.fingerprint("d") != plain.fingerprint("e")
    assert plain.fingerprint("d") == Cell(table, row, "cpu", "toy", 0).fingerprint("d")
