"""Records: atomic, strict, found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import records
from experiments.records import Hardware, Record, RecordError


def make_record(**changes: object) -> Record:
    content: dict[str, object] = dict(
        table="table_x",
        preset="toy",
        row="model",
        renderer="cpu",
        seed=0,
        metrics={"mIoU": 12.5},
        fingerprint="f" * 16,
        data_fingerprint="d",
        git_commit="c" * 40,
        git_dirty=False,
        command="python -m experiments.run table_x",
        versions={"torch": "2.13.0"},
        hardware=Hardware(cpu="test", cores=2, memory_gb=8.0),
        started="2026-01-01T00:00:00+0000",
        iterations=5,
        train_seconds=1.5,
        eval_seconds=0.5,
        peak_memory_mb=100.0,
        parameters=10,
        samples={"train": 2, "val": 1},
    )
    return Record.model_validate(content | changes)


def test_a_record_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    record = make_record(per_class={"mIoU": {"car": 3.0}}, checks={"mIoU_shuffled_images": 4.0}, overrides={"iterations": 5})
    path = records.path_of("table_x", "toy", "model--cpu--seed0", tmp_path)
    records.save(record, path)
    assert records.load(path) == record
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file may stay behind"


def test_a_failed_write_leaves_the_old_record_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t" / "toy" / "r.json"
    records.save(make_record(), path)

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("camera_occupancy_bench.files.os.fsync", full_disk)
    with pytest.raises(RecordError, match=r"r\.json cannot be written \(No space left on device\); free some space"):
        records.save(make_record(metrics={"mIoU": 99.0}), path)
    assert records.load(path).metrics == {"mIoU": 12.5}
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}', '{"table": "t"}'])
def test_a_damaged_record_names_the_file_and_the_way_out(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"broken\.json is not a valid record .* run the cell again"):
        records.load(path)


def test_numbers_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        make_record(metrics={"mIoU": float("nan")})


def test_only_records_are_found_not_the_files_of_work_folders(tmp_path: Path) -> None:
    for name in ("a--cpu--seed0", "b--cpu--seed0"):
        records.save(make_record(row=name[0]), records.path_of("table_x", "toy", name, tmp_path))
    work = tmp_path / "table_x" / "toy" / "a--cpu--seed0"
    work.mkdir()
    (work / "state.json").write_text(json.dumps({"fingerprint": "x"}))
    assert [record.row for _, record in records.load_all(tmp_path)] == ["a", "b"]
    assert [record.row for _, record in records.load_all(tmp_path, "table_y")] == []
