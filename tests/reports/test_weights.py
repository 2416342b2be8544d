"""Evaluations of weights that the authors released: published when named, and a group of their own in every table."""

from __future__ import annotations

from pathlib import Path

import pytest
from built import page, readme_section

from experiments import records
from experiments.spec import load_table
from reports import build
from reports.summary import ONE_SEED, Group, ReportError, summarise

BASE, ROW = "tpvformer", "tpvformer+gaussrender"
FILE = "occ3d_tpv-1a2b3c4d"
EVALUATED = {"overrides": {"checkpoint": FILE}, "preset": "paper", "renderer": "gsplat", "iterations": 0}
WEIGHTS, OURS = Group("weights", "paper", "gsplat"), Group("ours", "paper", "gsplat")


def test_published_when_named_alone(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, BASE, 0, 27.0, **EVALUATED)
    make_record(local, BASE, 0, 29.0, preset="paper", renderer="gsplat")
    result = cli("table_occ3d")
    assert result.exit_code == 0 and f"--checkpoint {FILE} takes it" in result.output
    assert [r.overrides for _, r in records.load_all(committed)] == [{}]
    result = cli("table_occ3d", "--checkpoint", "occ3d_tpv-*")
    assert result.exit_code == 0 and f"wrote    paper/tpvformer--gsplat--seed0--checkpoint={FILE}" in result.output
    folder = committed / "table_occ3d/paper"
    assert sorted(p.name for p in folder.iterdir()) == [
        f"tpvformer--gsplat--seed0--checkpoint={FILE}.json",
        "tpvformer--gsplat--seed0.json",
    ]
    assert "no finished record" in cli("table_occ3d", "--checkpoint", "another-*").output


def test_other_variants_are_refused_also_when_named(folders, cli, make_record) -> None:
    local, committed = folders
    for more in ({"short": True}, {"data": "frames"}):
        make_record(local, BASE, 0, 27.0, **EVALUATED | {"overrides": {"checkpoint": FILE} | more})
    result = cli("table_occ3d", "--checkpoint", "*")
    assert result.exit_code == 2 and not committed.exists()
    assert "short=True" in cli("table_occ3d").output


def test_two_files_for_one_row_are_refused(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, BASE, 0, 27.0, **EVALUATED)
    make_record(local, BASE, 0, 27.0, **EVALUATED | {"overrides": {"checkpoint": "other-00000000"}})
    result = cli("table_occ3d", "--checkpoint", "*")
    assert result.exit_code == 2 and "two weights" in result.output and not committed.exists()


@pytest.fixture
def shown(project: Path, make_record) -> Path:
    root = project / "results/records"
    make_record(root, BASE, 0, 27.0, **EVALUATED)
    make_record(root, ROW, 0, 28.0, **EVALUATED | {"overrides": {"checkpoint": "occ3d_render-5e6f7a8b"}})
    for seed, miou in enumerate((20.0, 22.0)):
        make_record(root, BASE, seed, miou, preset="paper", renderer="gsplat")
    return project


def test_never_in_a_mean_with_trained_ones(shown: Path) -> None:
    found = summarise(load_table("table_occ3d"), shown / "results/records", shown / "results/quoted")
    assert found.ours() == [OURS, WEIGHTS] and found.trained() == [OURS]
    assert found.number(OURS, BASE, "mIoU").values == (20.0, 22.0)
    assert found.number(WEIGHTS, BASE, "mIoU").values == (27.0,) and found.number(WEIGHTS, BASE, "mIoU").source == FILE
    gain = found.gain(WEIGHTS, ROW, "mIoU")
    assert gain.difference.values == (1.0,) and gain.noise == ONE_SEED
    assert found.gain(OURS, ROW, "mIoU") is None and not found.notes


def test_a_column_of_their_own_beside_the_published_numbers(shown: Path) -> None:
    section = page(shown, "table_occ3d")
    heading = next(line for line in section.splitlines() if line.startswith("| Method"))
    assert "mIoU<br>authors' weights, our evaluation, paper, gsplat" in heading and "ours, paper, gsplat, 2 seeds" in heading
    line = next(line for line in section.splitlines() if line.startswith("| TPVFormer "))
    assert [c.strip() for c in line.strip("|").split("|")][:5] == ["TPVFormer", "27.83", "30.07", "21.00 ± 1.41", "27.00"]
    assert f"TPVFormer `{FILE}`, TPVFormer + GaussRender `occ3d_render-5e6f7a8b`" in section
    assert "evaluation of weights that the papers' authors released: Occ3D-nuScenes (gsplat, 1 seed)" in readme_section(
        shown, "status"
    )
    csv = build.build(shown).texts[shown / "reports/tables/table_occ3d.csv"]
    assert any(line.startswith(f"value,{BASE},,mIoU,,weights,paper,gsplat,0,27,,27,27,,,{FILE}") for line in csv.splitlines())


def test_without_trained_cells_the_page_still_says_so(project: Path, make_record) -> None:
    make_record(project / "results/records", BASE, 0, 27.0, **EVALUATED)
    said = "Ours at the published configuration (preset `paper`) has not been run yet."
    assert said in page(project, "table_occ3d")
    assert "preset `paper` (the published configuration): **nothing yet**" in readme_section(project, "status")


def test_committed_variants_of_other_kinds_stay_an_error(project: Path, make_record) -> None:
    make_record(project / "results/records", BASE, 0, 27.0, **EVALUATED | {"overrides": {"checkpoint": FILE, "short": True}})
    with pytest.raises(ReportError, match="overrides"):
        build.build(project)
