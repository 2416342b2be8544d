"""Pages of views and of brief tables: each number once, ablations beside the main table's cells, costs by ratio."""

from __future__ import annotations

from pathlib import Path

import pytest
from built import page

from experiments.spec import TableSpec, ViewSpec, load_spec, load_table, spec_names
from reports import build
from reports.summary import ONE_SEED, QUOTED, Group, summarise

TOY = Group("ours", "toy", "cpu")


@pytest.fixture
def pair(project: Path, make_record) -> Path:
    """Records of TPVFormer with and without GaussRender in the main table, two seeds."""
    root = project / "results/records"
    for seed in (0, 1):
        make_record(root, "tpvformer", seed, 10.0 + seed)
        make_record(root, "tpvformer+gaussrender", seed, 11.0 + 2 * seed)
    return project


def test_rendered_views_are_shown_once(pair: Path) -> None:
    for part in ("table_occ3d", "table_surroundocc", "table_kitti360"):
        text = page(pair, part)
        assert "image mIoU" not in text and "depth L1" not in text and "BEV" not in text
        assert "](table_2d.md)" in text
    view = page(pair, "table_2d")
    blocks = view.split("\n## ")[1:]
    assert [b.splitlines()[0] for b in blocks] == ["Occ3D-nuScenes", "SurroundOcc-nuScenes", "SSCBench-KITTI-360"]
    assert "| RayIoU" not in view and "54.69" in blocks[0] and "47.60" in blocks[1] and "35.86" in blocks[2]


def test_a_views_block_keeps_origins_apart_and_folds_classes(pair: Path) -> None:
    block = page(pair, "table_2d").split("\n## ")[1]
    published, ours = block.split("**Ours, `toy` preset**")
    assert "-0.455" in published, "depth L1 of the rerun: 1.669 - 2.124"
    assert "+1.50 (-4.85 to +7.85)" in ours and "+1.50" not in published, "gains too, each within its origin"
    assert "15.50 ± 0.71" in ours and "15.50" not in published
    assert ours.index("Not comparable") < ours.index("| Method")
    for part, title in ((published, "Published numbers per class"), (ours, "Ours, toy, per class")):
        assert f"<details><summary>{title}</summary>" in part
        assert "image IoU per class" in part.split(title)[1]


def test_a_block_without_any_number_says_how_to_make_some(project: Path) -> None:
    (project / "results/quoted/table_surroundocc_2d.json").unlink()
    block = page(project, "table_2d").split("\n## ")[2]
    assert "`python -m experiments.run table_surroundocc`" in block and "|" not in block


def test_an_ablation_is_one_line_until_a_row_of_its_own_was_run(pair: Path) -> None:
    text = page(pair, "table_ablation_losses").strip()
    assert "|" not in text and text.endswith("\n\nNot run yet: `python -m experiments.run table_ablation_losses`.")
    assert pair / "reports/tables/table_ablation_losses.csv" not in build.build(pair).texts


def test_an_ablation_stands_beside_the_cells_that_it_shares(pair: Path, make_record) -> None:
    root = pair / "results/records"
    command = "python -m experiments.run table_ablation_losses"
    for seed in (0, 1):
        make_record(root, "tpvformer", seed, 9.0 + seed, table="table_ablation_losses", command=command)
        make_record(root, "tpvformer+gaussrender", seed, 10.0 + 2 * seed, table="table_ablation_losses")
        make_record(root, "views-2", seed, 9.5 + seed, table="table_ablation_views")
    text = page(pair, "table_ablation_views")
    assert text.startswith("# Ablation: cameras rendered in a step")
    assert "Ours, toy, cpu, 2 seeds" in text and "Not comparable with any published number" in text
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "against the row's base: mean of the differences seed by seed" in text and "one seed" not in text
    assert "9.50 ± 0.71" in lines["TPVFormer"] and "<br>" not in lines["TPVFormer"], "not the main table's, of another schedule"
    assert "10.00 ± 0.71<br>**+0.50 (+0.50 to +0.50)**" in lines["2 drawn cameras"]
    assert "11.00 ± 1.41<br>+1.50 (-4.85 to +7.85)" in lines["1 drawn camera, as published"]
    assert "3 drawn cameras" not in lines, "rows that were not run are left out"
    assert command in text, "the conditions of all its records are told"
    summary = summarise(load_table("table_ablation_views"), root, pair / "results/quoted")
    assert not summary.notes, "no record counts as one of an earlier spec"
    assert summary.gain(TOY, "views-2", "mIoU").difference.values == (0.5, 0.5)
    outputs = build.build(pair)
    assert pair / "reports/tables/table_ablation_views.csv" in outputs.texts
    assert not any("ablation" in path.name for path in outputs.figures)
    assert "2 drawn cameras" not in page(pair, "table_occ3d")


def test_at_full_size_an_ablation_shows_the_main_tables_cells(project: Path, make_record) -> None:
    root = project / "results/records"
    for table, row, miou in (("table_occ3d", "tpvformer", 30.0), ("table_ablation_scale", "scale-2", 31.0)):
        make_record(root, row, 0, miou, table=table, preset="paper")
    lines = page(project, "table_ablation_scale").splitlines()
    assert any(line.startswith("| TPVFormer") and "30.00" in line for line in lines)
    assert any("31.00<br>+1.00" in line for line in lines)
    assert any("+1.00 †1" in line for line in lines) and f"- †1: {ONE_SEED}" in lines


def test_cost_is_compared_by_ratio(project: Path, make_record) -> None:
    root = project / "results/records"
    costs = {"tpvformer": (0.5, 0.4, 1000.0, 200), "tpvformer+gaussrender": (0.55, 0.5, 1100.0, 203)}
    for row, (first, second, memory, parameters) in costs.items():
        for seed, seconds in enumerate((first, second)):
            make_record(
                root,
                row,
                seed,
                1.0,
                table="table_cost",
                seconds_per_iteration=seconds,
                train_peak_memory_mb=memory,
                parameters=parameters,
            )
    text = page(project, "table_cost")
    line = next(line for line in text.splitlines() if line.startswith("| TPVFormer + GaussRender"))
    assert "0.525 ± 0.035<br>+17.5 % (-77.8 to +112.8)" in line, "+10 % and +25 %, seed by seed"
    assert "1100 ± 0<br>**+10.0 % (+10.0 to +10.0)**" in line and "203 ± 0<br>**+1.5 % (+1.5 to +1.5)**" in line
    assert "median of all iterations but the first five" in text
    assert "trained parameters (lower is better)" in text, "a count has no unit"


def test_a_record_without_the_later_fields_has_no_cost(project: Path, make_record) -> None:
    make_record(project / "results/records", "tpvformer", 0, 1.0, table="table_cost")
    text = page(project, "table_cost")
    assert "time of an iteration" not in text and "1234567" in text


def test_classes_of_a_contradicting_source_are_shown_and_told(project: Path) -> None:
    text = page(project, "table_occ3d")
    assert "prints 24.46, RenderOcc paper text, Table I 23.93" in text and "the values per class are the latter's" in text
    found = summarise(load_table("table_occ3d"), project / "results/records", project / "results/quoted")
    assert found.number(QUOTED, "renderocc-2d", "mIoU").mean == 24.46
    assert found.number(QUOTED, "renderocc-2d", "mIoU", "driveable_surface").source == "RenderOcc paper text, Table I"


@pytest.mark.parametrize("name", [*spec_names(), "table_renderers"])
def test_every_table_has_a_page_that_the_readme_links(project: Path, name: str) -> None:
    from experiments.records import ROOT

    assert project / f"reports/pages/{name}.md" in build.build(project).texts
    assert (ROOT / f"reports/pages/{name}.md").is_file()
    assert f"](reports/pages/{name}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_part_of_a_view_is_a_table_whose_section_is_in_full() -> None:
    for name in spec_names():
        spec = load_spec(name)
        if isinstance(spec, ViewSpec):
            assert all(isinstance(t, TableSpec) and not t.brief for t in spec.tables())
