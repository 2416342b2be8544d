"""The README's summaries, pages, CSV and figures: content, byte-identical regeneration, --check, other folders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from built import page, run_with

from experiments.records import ROOT
from reports import build
from reports.build import Outputs, replace_section
from reports.figures import draw
from reports.summary import ReportError

CSV = "reports/tables/table_occ3d.csv"
PAGE = "reports/pages/table_occ3d.md"
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
    """The command on the fabricated project."""
    monkeypatch.setattr(build, "ROOT", filled)
    return run_with(build.main)


def row_of(text: str, *words: str) -> list[str]:
    """Cells of the one table line that starts with these cells."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    (found,) = [line for line in lines if line[: len(words)] == list(words)]
    return found


def test_the_readmes_sections_are_replaced_and_nothing_else(filled) -> None:
    text = build.build(filled).texts[filled / "README.md"]
    assert text.startswith("# Title\n\n<!-- results:start -->\n\n") and text.endswith("<!-- status:end -->\n\nend\n")
    assert "\nold\n" not in text


def test_a_tables_page(filled) -> None:
    text = page(filled, "table_occ3d")
    assert text.startswith("# Occ3D-nuScenes: semantic occupancy") and text.endswith("\n") and not text.endswith("\n\n")
    assert "`python -m experiments.run table_occ3d`" in text
    quoted, ours = text.split("**Ours, `toy` preset**")
    published, gains = quoted.split("**Gains, like for like**")
    assert row_of(published.split("Published numbers per class")[0], "TPVFormer")[:3] == [
        "TPVFormer",
        "27.83",
        "30.07",
    ]
    pair = "TPVFormer + GaussRender - TPVFormer"
    assert row_of(gains, pair, "mIoU")[2:] == ["+2.65", "+0.41"]
    assert row_of(ours, pair, "mIoU")[2:] == ["+1.00 (-0.24 to +2.24)"]
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
    places = ours.split("**Places** of the rows with several seeds")[1].split("Does the network")[0]
    assert row_of(places, "TPVFormer")[1:] == ["2 (1 to 2)"] * 2, "one a metric"
    assert row_of(places, "TPVFormer + GaussRender")[1:] == ["1 (1 to 2)"] * 2 and "Per-voxel prior" not in places
    gain = "+1.00 (-0.24 to +2.24)"
    assert row_of(ours, "car")[1:] == ["6.00 (n=1)", "12.00 ± 1.00", "13.00 ± 1.50", gain]
    assert "free" not in ours, "the empty class is in no mean and in no per-class table"
    assert "0123456789ab" in ours and "test cpu, 2 cores, 8 GB" in ours and "1,234,567" in ours
    assert f"](../figures/{Path(FIGURE).name})" in ours and "](../tables/table_occ3d.csv)" in quoted


def test_odd_seed_count_is_stated(filled, make_record) -> None:
    (filled / "results/records/table_occ3d/toy/tpvformer--cpu--seed2.json").unlink()
    text = page(filled, "table_occ3d")
    assert "10.50 ± 0.71 (n=2)" in text
    assert "+0.75 (-2.43 to +3.93) (n=2)" in text


def test_renderers_get_columns_of_their_own(filled, make_record) -> None:
    make_record(filled / "results/records", "tpvformer", 0, 20.0, renderer="gsplat")
    text = page(filled, "table_occ3d")
    assert "mIoU<br>ours, toy, cpu, 3 seeds" in text and "mIoU<br>ours, toy, gsplat, 1 seed" in text


def test_paper_preset_stands_beside_the_published_numbers(filled, make_record) -> None:
    make_record(filled / "results/records", "tpvformer", 0, 29.5, preset="paper", renderer="gsplat")
    published = page(filled, "table_occ3d").split("Published numbers per class")[0]
    line = row_of(published, "TPVFormer")
    assert line[1:4] == ["27.83", "30.07", "29.50"]
    assert "(not run)" not in published


def test_without_records_the_published_numbers_stand_alone(project) -> None:
    text = page(project, "table_occ3d")
    assert "ours, paper" not in text and "has not been run yet" in text
    assert "`toy` preset" not in text


def test_csv_names_origin_and_source(filled) -> None:
    lines = build.build(filled).texts[filled / CSV].splitlines()
    assert any(line.startswith("value,tpvformer,,mIoU,,ours,toy,cpu,0 1 2,11,1,10,12,") for line in lines)
    assert any("value,tpvformer,,mIoU,,rerun,,,,30.07," in line and "std_gpus1_qosdev" in line for line in lines)
    assert any(line.startswith("gain,tpvformer+gaussrender,tpvformer,mIoU,,ours,toy,cpu,0 1 2,1,0.5,0.5,1.5,") for line in lines)


def test_regeneration_is_byte_identical(filled) -> None:
    build.build(filled).write()
    files = {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()}
    assert filled / FIGURE in files and filled / CSV in files
    assert build.build(filled).write() == []
    (filled / FIGURE).unlink()
    assert build.build(filled).write() == [filled / FIGURE]
    assert {p: p.read_bytes() for p in filled.rglob("*") if p.is_file()} == files


def test_a_figure_of_the_same_data_has_the_same_bytes(filled) -> None:
    figure = build.build(filled).figures[filled / FIGURE]
    assert figure.differences == {"car": (0.5, 1.0, 1.5), "truck": (0.5, 1.0, 1.5)}
    assert draw(figure) == draw(figure)


def test_check(cli, filled, make_record) -> None:
    stale = cli("--check")
    assert stale.exit_code == 1 and "stale: README.md" in stale.output and PAGE in stale.output and FIGURE in stale.output
    assert not (filled / CSV).exists() and not (filled / PAGE).exists(), "--check writes nothing"
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
    assert Outputs(texts={tmp_path / "a": "x\n"}).stale() == [tmp_path / "a"]


def test_reports_need_no_torch_and_no_model() -> None:
    heavy = ("torch", "mmdet3d", "mmengine", "mlflow")
    code = f"import sys, reports.build, reports.publish; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


# ---- from any records, elsewhere


@pytest.fixture
def own(tmp_path, monkeypatch, make_record) -> Path:
    """A folder of local records, OCC_RESULTS: a pair, and what no table has a place for."""
    folder = tmp_path / "own"
    make_record(folder, "tpvformer", 0, 10.0)
    make_record(folder, "tpvformer+gaussrender", 0, 10.5)
    make_record(folder, "tpvformer", 1, 37.77, overrides={"iterations": 3})
    gone = make_record(folder, "tpvformer", 2, 66.66)
    gone.write_text(gone.read_text().replace('"row": "tpvformer"', '"row": "no longer there"'))
    monkeypatch.setenv("OCC_RESULTS", str(folder))
    return folder


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_local_records_make_the_same_pages_elsewhere(cli, filled, own, tmp_path) -> None:
    before = {p: p.read_bytes() for p in filled.rglob("*") if p.is_file() and tmp_path / "out" not in p.parents}
    result = cli("--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    made = names(tmp_path / "out")
    assert made >= {Path(f).relative_to("reports").as_posix() for f in (PAGE, CSV, FIGURE)}
    text = (tmp_path / "out/pages/table_occ3d.md").read_text()
    assert "+0.50 †" in text and "27.83" in text, "our gain, and the quoted numbers"
    for link in re.findall(r"\]\(([^)#]+\.(?:png|csv|md))\)", text):
        assert (tmp_path / "out/pages" / link).is_file(), link
    assert "left out: " in result.output and "a variant (iterations=3)" in result.output
    assert "unknown row 'no longer there'" in result.output and result.output.count("left out: ") == 2
    assert "37.77" not in text and "66.66" not in text
    assert {p: p.read_bytes() for p in before} == before, "the project is left alone"
    again = cli("--out", str(tmp_path / "out"), "--check")
    assert again.exit_code == 0 and "up to date" in again.output


def test_named_records_and_a_folder_with_things_of_the_users(cli, filled, own, tmp_path) -> None:
    out = tmp_path / "out"
    (out / "tables").mkdir(parents=True)
    (out / "tables/mine.csv").write_text("1,2\n")
    assert cli("--results", str(filled / "results/records"), "--out", str(out)).exit_code == 0
    assert (out / "tables/mine.csv").read_text() == "1,2\n", "nothing of the user's is removed"
    page_there = (out / "pages/table_occ3d.md").read_text()
    assert page_there == page(filled, "table_occ3d"), "the same page from the same records"


def test_elsewhere_needs_records_and_another_folder(cli, filled, own, tmp_path) -> None:
    for words, said in (
        (("--results", str(own)), "--results needs --out"),
        (("--results", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")), "holds no records"),
        (("--out", str(filled / "reports")), "name another folder"),
    ):
        result = cli(*words)
        assert result.exit_code == 2 and said in result.output and result.output.count("\n") == 1, result.output
    assert not (tmp_path / "out").exists()


# ---- the committed README


def test_the_readme_can_be_read() -> None:
    """At most 18 KB, of which at most half is generated."""
    text = (ROOT / "README.md").read_bytes()
    generated = re.findall(rb"<!-- (\w+):start -->\n\n(.*?)\n\n<!-- \1:end -->", text, re.DOTALL)
    written = sum(len(section) for name, section in generated if name != b"gaussrender")
    assert {name for name, _ in generated} >= {b"status", b"results"}
    assert len(text) <= 18 * 1024 and 2 * written <= len(text), (len(text), written)


def test_committed_reports_are_up_to_date() -> None:
    """What ``python -m reports.build --check`` says of the checkout."""
    assert [str(p.relative_to(ROOT)) for p in build.build(ROOT).stale()] == []


def test_a_record_of_an_unknown_row_is_named(filled, make_record, cli) -> None:
    path = make_record(filled / "results/records", "tpvformer", 7, 11.0)
    path.write_text(path.read_text().replace('"row": "tpvformer"', '"row": "3.0"'))
    result = cli()
    assert result.exit_code == 2 and f"{path}: unknown row '3.0'" in result.output.replace("\n", "")


def test_a_figure_says_how_many_seeds_it_has(filled, make_record) -> None:
    """Not how many the row of the table with most of them has."""
    before = build.build(filled).figures[filled / FIGURE].caption
    for seed in range(4, 10):
        make_record(filled / "results/records", "surroundocc", seed, 11.0)
    assert build.build(filled).figures[filled / FIGURE].caption == before
