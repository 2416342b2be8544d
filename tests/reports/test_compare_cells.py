"""Two sets of cells against each other, and tables as LaTeX: what is chosen, paired, said and refused."""

from __future__ import annotations

import csv
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from reports import build, compare, latex
from reports.summary import summarise

BASE, ROW = "tpvformer", "tpvformer+gaussrender"
A, B = f"table_occ3d/toy/{ROW}--cpu", f"table_occ3d/toy/{BASE}--cpu"


@pytest.fixture
def found(tmp_path: Path, monkeypatch, make_record) -> Path:
    """Three seeds of two rows, and one more of the base."""
    local = tmp_path / "local"
    monkeypatch.setenv("OCC_RESULTS", str(local))
    for seed, gain in enumerate((0.3, 0.36, 0.4)):
        make_record(local, BASE, seed, 10.0 + seed)
        make_record(local, ROW, seed, 10.0 + seed + gain)
    make_record(local, BASE, 3, 40.0)
    return local


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = compare.main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_rows_are_compared_seed_by_seed(found: Path, capsys) -> None:
    code, out, err = run(capsys, A, B)
    assert code == 0 and not err
    line = next(line for line in out.splitlines() if line.startswith("| mIoU "))
    assert "11.35 ± 1.05" in line and "**+0.35 (+0.23 to +0.48)**" in line
    assert "| IoU, car " in out and "seeds without a partner are in the means, not in the differences: 3" in out
    assert "depth_l1" in out and "+0.00 (+0.00 to +0.00)" in out


def test_csv_holds_every_number(found: Path, capsys, tmp_path: Path) -> None:
    assert run(capsys, A, B, "--format", "csv", "--out", str(tmp_path / "made/out.csv"))[0] == 0
    lines = {(x["metric"], x["class"]): x for x in csv.DictReader((tmp_path / "made/out.csv").open())}
    whole = lines["mIoU", ""]
    assert (
        float(whole["difference"]) == pytest.approx(0.35333, abs=1e-4)
        and whole["seeds"] == "0 1 2"
        and whole["resolved"] == "True"
    )
    assert float(lines["mIoU", "car"]["low"]) == pytest.approx(float(whole["low"]))


def test_latex_is_a_table_with_booktabs(found: Path, capsys) -> None:
    code, out, _ = run(capsys, A, B, "--format", "latex")
    assert code == 0 and "\\toprule" in out and "\\textbf{+0.35 (+0.23 to +0.48)}" in out and "11.35 $\\pm$ 1.05" in out
    well_formed(out)


def well_formed(text: str) -> None:
    """What LaTeX would stumble over: open braces, bare special characters, lines of another number of columns."""
    assert text.count("{") == text.count("}") and text.count("$") % 2 == 0
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        for line in tabular[1].splitlines():
            if line.endswith("\\\\"):
                assert len(re.findall(r"(?<!\\)&", line)) == len(tabular[0]) - 1
                assert not re.search(r"(?<!\\)[%#_]", line)


def test_a_plot_is_drawn(found: Path, capsys, tmp_path: Path) -> None:
    code, _, err = run(capsys, A, B, "--plot", str(tmp_path / "plot.png"))
    assert code == 0 and "wrote" in err
    assert Image.open(BytesIO((tmp_path / "plot.png").read_bytes())).size[0] > 500


def test_renderers_presets_commits_and_folders_can_be_compared(found: Path, capsys, tmp_path: Path, make_record) -> None:
    other = tmp_path / "elsewhere"
    for seed in range(3):
        make_record(found, BASE, seed, 12.0 + seed, renderer="gsplat")
        make_record(found, BASE, seed, 20.0 + seed, preset="mini", data_fingerprint="frames")
        make_record(other, BASE, seed, 13.0 + seed, git_commit="b" * 40)
    assert "**+2.00 (+2.00 to +2.00)**" in run(capsys, "table_occ3d/toy/tpvformer--gsplat", B)[1]
    out = run(capsys, "table_occ3d/mini/tpvformer--cpu", B)[1]
    assert "not like for like: they were run on different data" in out and "presets differ" in out
    assert "**+3.00 (+3.00 to +3.00)**" in run(capsys, f"{other}/{B}", B)[1]
    assert run(capsys, f"{other}/{B}@bbbbbbb", B)[0] == 0
    code, _, err = run(capsys, f"{other}/{B}@ccccccc", B)
    assert code == 2 and "no record of" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("table_occ3d", B), "is not TABLE/PRESET/ROW--RENDERER"),
        (("table_occ3d/toy/tpvformer", B), "is not TABLE/PRESET/ROW--RENDERER"),
        (("table_nothing/toy/tpvformer--cpu", B), "table_nothing"),
        (("table_occ3d/toy/tpvfromer--cpu", B), "tpvfromer"),
        (("table_occ3d/tiny/tpvformer--cpu", B), "tiny"),
        (("table_occ3d/toy/tpvformer--nope", B), f"; there are {A}, {B}"),
        ((A, B, "--results", "/nowhere"), "no record of"),
        ((A, B, "--format", "word"), "word"),
        ((A, B, "--out", "/proc/nothing/out.md"), "/proc/nothing"),
    ],
)
def test_mistakes_are_named(found: Path, capsys, words: tuple[str, ...], said: str) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2 and said in err and err.count("\n") == 1


def test_no_seed_of_both_is_an_error(found: Path, capsys, tmp_path: Path, make_record) -> None:
    make_record(tmp_path / "other", BASE, 7, 10.0)
    code, _, err = run(capsys, f"{tmp_path / 'other'}/{B}", A)
    assert code == 2 and "no number of the same seed (seeds 7 and 0, 1, 2)" in err


def test_a_damaged_record_is_named(found: Path, capsys) -> None:
    path = next(found.glob("table_occ3d/toy/tpvformer--cpu--seed0*.json"))
    path.write_text("{")
    code, _, err = run(capsys, A, B)
    assert code == 2 and str(path) in err


def test_every_table_can_be_had_as_latex(project: Path, make_record, tmp_path: Path, capsys) -> None:
    for seed, gain in enumerate((0.3, 0.36, 0.4)):
        make_record(project / "results/records", BASE, seed, 10.0 + seed)
        make_record(project / "results/records", ROW, seed, 10.0 + seed + gain)
    from experiments.spec import load_table

    text = latex.render(summarise(load_table("table_occ3d"), project / "results/records", project / "results/quoted"))
    well_formed(text)
    published, ours = text.split("\\label{tab:table_occ3d-toy}")
    assert "27.83" in published and "27.83" not in ours and "\\textbf{+0.35 (+0.23 to +0.48)}" in ours
    assert build.main(["--latex", str(tmp_path / "tex"), "--results", str(project / "results/records")]) == 0
    assert (tmp_path / "tex/table_occ3d.tex").read_text() == text
    assert build.main(["--latex", str(tmp_path), "--check"]) == 2
