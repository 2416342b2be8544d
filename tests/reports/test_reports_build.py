"""The README section, CSV and figures: content, byte-identical regeneration, --check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.records import ROOT
from reports import build
from reports.build import Outputs, replace_section
from reports.figures import draw
from reports.summary import ReportError

CSV = "reports/tables/table_occ3d.csv"
FIGURE = "reports/figures/table_occ3d--tpvformer+gaussrender--ours-toy-cpu--mIoU.png"


@pytest.fixture
def filled(project: Path, make_record) -> Path:
    root = project / "results/records"
    for seed, (base, row) in enumerate(((10.0, 10.5), (11.0, 12.0), (12.0, 13.5))):
        make_record(root, "tpvformer", seed, base)
        make_record(root, "tpvformer+gaussrender", seed, row)
    make_record(root, "prior", 0, 5.0)
    return project


@pytest.fixture
def cli(monkeypatch, filled):
    """The command as an application on the fabricated project."""
    import typer

    monkeypatch.setattr(build, "ROOT", filled)
    application = typer.Typer()
    application.command()(build.main)
    return lambda *arguments: CliRunner().invoke(application, list(arguments))


def row_of(text: str, *words: str) -> list[str]:
    """Cells of the one table line that starts with these cells."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    (found,) = [line for line in lines if line[: len(words)] == list(words)]
    return found


def test_readme_section(filled) -> None:
    outputs = build.build(filled)
    text = outputs.texts[filled / "README.md"]
    assert text.startswith("# Title\n\n<!-- table_occ3d:start -->\n\n") and text.endswith("<!-- status:end -->\n\nend\n")
    assert "\nold\n" not in text
    quoted, ours = text.split("<!-- table_occ3d:end -->")[0].split("**Ours, `toy` preset**")
    published, gains = quoted.split("**Gains, like for like**")
    assert row_of(published.split("Published numbers per class")[0].split("rendered views")[0], "TPVFormer")[:3] == [
        "TPVFormer",
        "27.83",
        "30.07",
    ]
    pair = "TPVFormer + GaussRender - TPVFormer"
    assert row_of(gains, pair, "mIoU")[2:] == ["+2.65", "+0.41"]
    assert row_of(ours, pair, "mIoU")[2:] == ["+1.00 ± 0.50 (+0.50 to +1.50)"]
    assert "ours, toy, cpu, 3 seeds" in ours and "ours, toy" not in quoted, "toy gains are not beside published ones"
    assert "11.00 ± 1.00" in ours and "12.00 ± 1.50" in ours
    assert "10.00" not in published, "toy numbers stay out of the published table"
    assert ours.index("Not comparable") < ours.index("| Method")
    assert row_of(ours.split("shuffled between frames")[1].split("<details>")[0], "TPVFormer", "cpu")[2:] == [
        "11.00 ± 1.00",
        "5.50 ± 0.50",
        "5.00",
        "2.20 ± 0.20",
        "1.10 ± 0.10",
    ]
    gain = "+1.00 ± 0.50 (+0.50 to +1.50)"
    assert row_of(ours, "car")[1:] == ["6.00 (n=1)", "12.00 ± 1.00", "13.00 ± 1.50", gain]
    assert "free" not in ours, "the empty class is in no mean and in no per-class table"
    assert "0123456789ab" in ours and "test cpu, 2 cores, 8 GB" in ours and "1,234,567" in ours
    assert f"]({FIGURE})" in ours


def test_odd_seed_count_is_stated(filled, make_record) -> None:
    (filled / "results/records/table_occ3d/toy/tpvformer--cpu--seed2.json").unlink()
    text = build.build(filled).texts[filled / "README.md"]
    assert "10.50 ± 0.71 (n=2)" in text
    assert "+0.75 ± 0.35 (+0.50 to +1.00) (n=2)" in text


def test_renderers_get_columns_of_their_own(filled, make_record) -> None:
    make_record(filled / "results/records", "tpvformer", 0, 20.0, renderer="gsplat")
    text = build.build(filled).texts[filled / "README.md"]
    assert "mIoU<br>ours, toy, cpu, 3 seeds" in text and "mIoU<br>ours, toy, gsplat, 1 seed" in text


def test_paper_preset_stands_beside_the_published_numbers(filled, make_record) -> None:
    make_record(filled / "results/records", "tpvformer", 0, 29.5, preset="paper", renderer="gsplat")
    published = build.build(filled).texts[filled / "README.md"].split("Published numbers per class")[0]
    line = row_of(published.split("rendered views")[0], "TPVFormer")
    assert line[1:4] == ["27.83", "30.07", "29.50"]
    assert "(not run)" not in published


def test_without_records_the_published_numbers_stand_alone(project) -> None:
    text = build.build(project).texts[project / "README.md"]
    assert "ours, paper" not in text and "has not been run yet" in text
    assert "`toy` preset" not in text


def test_csv_names_origin_and_source(filled) -> None:
    lines = build.build(filled).texts[filled / CSV].splitlines()
    assert any(line.startswith("value,tpvformer,,mIoU,,ours,toy,cpu,0 1 2,11,1,10,12,") for line in lines)
    assert any("value,tpvformer,,mIoU,,rerun,,,,30.07," in line and "std_gpus1_qosdev" in line for line in lines)
    assert any(line.startswith("gain,tpvformer+gaussrender,tpvformer,mIoU,,ours,toy,cpu,0 1 2,1,0.5,0.5,1.5,") for line in lines)


def test_regeneration_is_byte_identical(filled) -> None:
    build.build(filled).write(filled)
    files = {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()}
    assert filled / FIGURE in files and filled / CSV in files
    assert build.build(filled).write(filled) == []
    (filled / FIGURE).unlink()
    assert build.build(filled).write(filled) == [filled / FIGURE]
    assert {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()} == files


def test_a_figure_of_the_same_data_has_the_same_bytes(filled) -> None:
    figure = build.build(filled).figures[filled / FIGURE]
    assert figure.differences == {"car": (0.5, 1.0, 1.5), "truck": (0.5, 1.0, 1.5)}
    assert draw(figure) == draw(figure)


def test_check(cli, filled, make_record) -> None:
    stale = cli("--check")
    assert stale.exit_code == 1 and "stale: README.md" in stale.output and FIGURE in stale.output
    assert not (filled / CSV).exists(), "--check writes nothing"
    assert cli().exit_code == 0
    fresh = cli("--check")
    assert fresh.exit_code == 0 and "up to date" in fresh.output
    make_record(filled / "results/records", "tpvformer", 2, 12.5)
    again = cli("--check")
    assert again.exit_code == 1 and f"stale: {CSV}" in again.output and f"stale: {FIGURE}" in again.output


def test_files_no_longer_produced_are_removed(cli, filled) -> None:
    cli()
    for path in (filled / "results/records").rglob("*.json"):
        path.unlink()
    assert FIGURE in cli("--check").output
    assert f"removed: {FIGURE}" in cli().output and not (filled / FIGURE).exists()


def test_missing_markers_and_damaged_records_are_one_line(cli, filled) -> None:
    (filled / "README.md").write_text("# no markers\n")
    result = cli()
    assert result.exit_code == 2 and "error: README.md needs the markers" in result.output
    assert "Traceback" not in result.output
    (filled / "results/records/table_occ3d/toy/prior--cpu--seed0.json").write_text("{")
    result = cli()
    assert result.exit_code == 2 and "prior--cpu--seed0.json is not a valid record" in result.output


def test_markers_in_the_wrong_order() -> None:
    with pytest.raises(ReportError, match="in this order"):
        replace_section("<!-- t:end --><!-- t:start -->", "t", "x")


def test_outputs_compare_bytes(tmp_path) -> None:
    (tmp_path / "a").write_bytes(b"x\r\n")
    assert Outputs(texts={tmp_path / "a": "x\n"}).stale(tmp_path) == [tmp_path / "a"]


def test_reports_need_no_torch_and_no_model() -> None:
    heavy = ("torch", "mmdet3d", "mmengine", "mlflow")
    code = f"import sys, reports.build, reports.publish; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_committed_reports_are_up_to_date() -> None:
    """What ``python -m reports.build --check`` says of the checkout."""
    assert [str(p.relative_to(ROOT)) for p in build.build(ROOT).stale(ROOT)] == []
