"""Publishing: what is copied, what is refused, what is taken out."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import records
from reports import publish


def stems(committed: Path) -> list[str]:
    return sorted(str(p.relative_to(committed).with_suffix("")) for p in committed.rglob("*.json"))


def test_copies_and_takes_machine_paths_out(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, "tpvformer", 0, 10.0)
    result = cli("table_occ3d")
    assert result.exit_code == 0 and "wrote    toy/tpvformer--cpu--seed0" in result.output
    assert stems(committed) == ["table_occ3d/toy/tpvformer--cpu--seed0"]
    (_, record), *_ = records.load_all(committed)
    assert record.command == "python -m experiments.run table_occ3d --data-root .../nuscenes"
    assert record.metrics["mIoU"] == 10.0
    assert "same     toy/tpvformer--cpu--seed0: committed already" in cli("table_occ3d").output


def test_what_is_committed_is_replaced_when_told_alone(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, "tpvformer", 0, 10.0)
    assert "wrote    toy/tpvformer--cpu--seed0: commit 0123456789ab of 2025-01-01" in cli("table_occ3d").output
    before = {path: path.read_bytes() for path in committed.rglob("*.json")}
    make_record(local, "tpvformer", 0, 11.0, git_commit="f" * 40, started="2025-02-03T00:00:00+0000")
    make_record(local, "tpvformer", 1, 12.0, git_commit="f" * 40)
    shown = (
        "committed: commit 0123456789ab of 2025-01-01; local: commit ffffffffffff of 2025-02-03",
        "mIoU: 10 -> 11",
        "IoU: 20 -> 22",
        "image mIoU: 15 -> 16",
        "depth L1: 1.5, the same",
        "fields that differ: per_class, checks, git_commit, started",
    )
    listed, refused = cli("table_occ3d", "--list"), cli("table_occ3d")
    assert listed.exit_code == 0 and refused.exit_code == 2
    for output in (listed.output, refused.output):
        assert "toy/tpvformer--cpu--seed0" in output and all(line in output for line in shown)
    assert "nothing was published: a local record differs" in refused.output and "--replace" in refused.output
    assert {path: path.read_bytes() for path in committed.rglob("*.json")} == before, "the new seed is not written either"
    done = cli("table_occ3d", "--replace")
    assert done.exit_code == 0 and all(line in done.output for line in shown)
    assert "replaced toy/tpvformer--cpu--seed0: commit ffffffffffff of 2025-02-03" in done.output
    assert sorted(r.metrics["mIoU"] for _, r in records.load_all(committed)) == [11.0, 12.0]


def test_a_change_of_the_last_bit_shows(folders, cli, make_record) -> None:
    make_record(folders[0], "tpvformer", 0, 10.0)
    cli("table_occ3d")
    make_record(folders[0], "tpvformer", 0, 10.000000000000002)
    assert "mIoU: 10.0 -> 10.000000000000002" in cli("table_occ3d").output


def test_selection(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, "tpvformer", 0, 10.0)
    make_record(local, "tpvformer+gaussrender", 0, 10.0)
    make_record(local, "tpvformer", 0, 10.0, renderer="gsplat")
    make_record(local, "tpvformer", 0, 10.0, preset="mini")
    assert cli("table_occ3d", "--preset", "toy", "--row", "tpvformer", "--renderer", "cpu").exit_code == 0
    assert stems(committed) == ["table_occ3d/toy/tpvformer--cpu--seed0"]
    assert len(cli("table_occ3d", "--list").output.splitlines()) == 4
    assert stems(committed) == ["table_occ3d/toy/tpvformer--cpu--seed0"], "--list writes nothing"


def test_variants_are_refused(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, "tpvformer", 0, 10.0, overrides={"iterations": 5})
    result = cli("table_occ3d")
    assert result.exit_code == 2 and "iterations=5" in result.output and "error: nothing was published" in result.output
    assert stems(committed) == []
    make_record(local, "tpvformer", 0, 10.0)
    result = cli("table_occ3d")
    assert result.exit_code == 0 and "refused" in result.output
    assert stems(committed) == ["table_occ3d/toy/tpvformer--cpu--seed0"]


def test_uncommitted_changes_are_told(folders, cli, make_record) -> None:
    make_record(folders[0], "tpvformer", 0, 10.0, git_dirty=True)
    result = cli("table_occ3d")
    assert result.exit_code == 0 and "warning: run with uncommitted changes" in result.output


def test_work_folders_beside_records_are_no_records(folders, cli, make_record) -> None:
    path = make_record(folders[0], "tpvformer", 0, 10.0)
    (path.with_suffix("")).mkdir()
    (path.with_suffix("") / "state.json").write_text("{}")
    assert cli("table_occ3d").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table_occd"], "did you mean 'table_occ3d'"),
        (["table_occ3d", "--row", "tpvfomer"], "did you mean 'tpvformer'"),
        (["table_occ3d", "--preset", "tiny"], "unknown preset 'tiny'"),
        (["table_occ3d", "--renderer", "gsplat"], "nothing to publish"),
        (["table_occ3d", "--preset", "paper"], "finished: toy/tpvformer--cpu--seed0"),
    ],
)
def test_mistakes_are_one_line(folders, cli, make_record, arguments, message) -> None:
    make_record(folders[0], "tpvformer", 0, 10.0)
    result = cli(*arguments)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


def test_nothing_finished(folders, cli) -> None:
    result = cli("table_occ3d")
    assert result.exit_code == 2 and "finished: none" in result.output and "experiments.run table_occ3d" in result.output


def test_a_record_under_a_wrong_name(folders, cli, make_record) -> None:
    path = make_record(folders[0], "tpvformer", 0, 10.0)
    path.rename(path.with_name("tpvformer--cpu--seed7.json"))
    result = cli("table_occ3d")
    assert result.exit_code == 2 and "holds the record of tpvformer--cpu--seed0.json" in result.output


@pytest.mark.parametrize(
    ("private", "public"),
    [
        ("/home/me/.venv/bin/python -m experiments.run t", ".../python -m experiments.run t"),
        ("python -m x --results=/mnt/disk/out --seed 0", "python -m x --results=.../out --seed 0"),
        ("python -m x --row 'tpv*'", "python -m x --row 'tpv*'"),
    ],
)
def test_public_command(private, public) -> None:
    assert publish.public_command(private) == public


def test_a_view_publishes_the_tables_that_it_shows(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, "tpvformer", 0, 10.0)
    make_record(local, "surroundocc", 0, 10.0, table="table_surroundocc")
    listed = cli("table_2d", "--list").output
    assert "new       table_occ3d/toy/tpvformer--cpu--seed0" in listed and "table_surroundocc/toy/surroundocc" in listed
    assert cli("table_2d", "--row", "tpv*").exit_code == 0
    assert stems(committed) == ["table_occ3d/toy/tpvformer--cpu--seed0"]
    assert cli("table_2d").exit_code == 0
    assert stems(committed) == ["table_occ3d/toy/tpvformer--cpu--seed0", "table_surroundocc/toy/surroundocc--cpu--seed0"]
    assert "unknown row 'nope'" in cli("table_2d", "--row", "nope").output


def test_an_ablation_publishes_the_cells_that_it_shares(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, "tpvformer", 0, 10.0, table="table_ablation_losses")
    make_record(local, "camera", 0, 10.0, table="table_ablation_losses")
    make_record(local, "tpvformer", 0, 10.0)  # the main table's, of another schedule
    make_record(local, "views-2", 0, 10.0, table="table_ablation_views")
    result = cli("table_ablation_views")
    assert result.exit_code == 0
    assert "wrote    toy/views-2--cpu--seed0" in result.output
    assert "wrote    table_ablation_losses/toy/tpvformer--cpu--seed0" in result.output
    expected = ["table_ablation_losses/toy/tpvformer--cpu--seed0", "table_ablation_views/toy/views-2--cpu--seed0"]
    assert stems(committed) == expected
