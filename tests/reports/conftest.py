"""Fabricated records: invented numbers, for tests only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from built import run_with

from experiments import records
from experiments.datasets.layouts import layout_of
from experiments.records import Hardware, Record
from experiments.spec import load_table
from reports import publish

Make = Callable[..., Path]


@pytest.fixture(scope="session")
def make_record() -> Make:
    """Writes one invented record of a table (table_occ3d) below a folder and returns its path."""

    def make(root: Path, row: str, seed: int, miou: float, table: str = "table_occ3d", **changes: object) -> Path:
        spec = load_table(table)
        empty = layout_of(spec.dataset).empty
        fields = {"preset": "toy", "renderer": "cpu", "overrides": {}, "data_fingerprint": "toyworld-test"} | changes
        cell = spec.cell(spec.row(row), fields["renderer"], fields["preset"], seed, fields["overrides"])
        record = Record(
            **{
                "table": spec.name,
                "row": row,
                "seed": seed,
                "metrics": {"mIoU": miou, "IoU": 2 * miou, "image_mIoU": miou + 5, "depth_l1": 1.5},
                "per_class": {
                    "mIoU": {"car": miou + 1, "truck": miou - 1, empty: 90.0},
                    "image_mIoU": {"car": miou + 6, "truck": miou + 4},
                },
                "checks": {} if row == "prior" else {"mIoU_shuffled_images": miou / 2},
                "fingerprint": cell.fingerprint(fields["data_fingerprint"]),
                "git_commit": "0123456789abcdef",
                "git_dirty": False,
                "command": "python -m experiments.run table_occ3d --data-root /home/someone/nuscenes",
                "versions": {"python": "3.11", "torch": "2"},
                "hardware": Hardware(cpu="test cpu", cores=2, memory_gb=8),
                "started": "2025-01-01T00:00:00+0000",
                "iterations": 10,
                "train_seconds": 100.0 + seed,
                "eval_seconds": 5.0,
                "peak_memory_mb": 500.0,
                "parameters": 1234567,
                "samples": {"train": 8, "val": 4},
            }
            | fields
        )
        path = records.path_of(spec.name, record.preset, cell.name, root)
        records.save(record, path)
        return path

    return make


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project: a README with markers, no records, the real quoted numbers."""
    empty = "<!-- status:start -->\n<!-- status:end -->\n"
    (tmp_path / "README.md").write_text(f"# Title\n\n<!-- results:start -->\nold\n<!-- results:end -->\n\n{empty}\nend\n")
    quoted = tmp_path / "results/quoted"
    quoted.mkdir(parents=True)
    for path in records.QUOTED.glob("*.json"):
        (quoted / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch) -> tuple[Path, Path]:
    """Local and committed records."""
    local, committed = tmp_path / "local", tmp_path / "records"
    monkeypatch.setenv("OCC_RESULTS", str(local))
    monkeypatch.setattr(records, "COMMITTED", committed)
    return local, committed


@pytest.fixture
def cli():
    return run_with(publish.main)
