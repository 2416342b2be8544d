"""Publishing a record whose code changed since is told, with commit, date and files."""

from __future__ import annotations

import shutil

from experiments import sources
from experiments.spec import load_table


def test_a_record_whose_code_changed_is_published_with_a_note(folders, cli, make_record) -> None:
    local, committed = folders
    table = load_table("table_occ3d")
    now = sources.of_cell(table.cell(table.row("tpvformer"), "cpu", "toy", 0))
    before = {**now, "baselines/losses.py": "0" * 16}
    for row, fields, remark in (
        ("prior", {}, "made before digests were kept"),
        ("tpvformer", {"code": sources.code(now), "sources": now}, ""),
        ("tpvformer", {"code": sources.code(before), "sources": before}, "its code changed since: baselines/losses.py"),
    ):
        path = make_record(local, row, 0, 10.0, **fields)
        result = cli("table_occ3d", "--row", row)
        assert result.exit_code == 0
        notes = [line for line in result.output.splitlines() if line.startswith("note:")]
        assert notes == ([f"note: toy/{row}--cpu--seed0: of 0123456, 2025-01-01; {remark}"] if remark else [])
        path.unlink()
        shutil.rmtree(committed)
