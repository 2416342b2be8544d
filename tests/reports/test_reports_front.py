"""The README's results: published numbers of each table, ours at small sizes apart from them, links to all pages."""

from __future__ import annotations

from pathlib import Path

from built import readme_section

from reports.front import compact


def blocks(project: Path) -> dict[str, str]:
    """Bold headings of the section, each with the text up to the next."""
    parts = readme_section(project, "results").split("\n**")[1:]
    return {part.split("**")[0]: part for part in parts}


def cells(block: str, method: str) -> list[str]:
    (line,) = [line for line in block.splitlines() if line.startswith(f"| {method} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_toy_numbers_stand_apart_from_published_ones(project: Path, make_record) -> None:
    root = project / "results/records"
    for seed, (base, row) in enumerate(((10.0, 10.5), (11.0, 12.0), (12.0, 13.5))):
        make_record(root, "tpvformer", seed, base)
        make_record(root, "tpvformer+gaussrender", seed, row)
        make_record(root, "tpvformer", seed, base - 4, table="table_surroundocc", renderer="gsplat")
    found = blocks(project)
    titles = list(found)
    assert [t.split("]")[0].strip("[").split(":")[0] for t in titles[:7]] == [
        "Occ3D-nuScenes",
        "Occ3D-nuScenes without 3D labels",
        "GaussianFlowOcc on Occ3D-nuScenes",
        "GaussianOcc on Occ3D-nuScenes",
        "RenderOcc on Occ3D-nuScenes",
        "SurroundOcc-nuScenes",
        "SSCBench-KITTI-360",
    ]
    assert cells(found[titles[0]], "TPVFormer") == ["27.83", "30.07", "41.32", "37.20"]
    small = found["Ours, `toy` preset, not comparable with any published number"]
    assert cells(small, "TPVFormer") == ["11.00 ± 1.00", "7.00 ± 1.00"], "a column a table"
    assert cells(small, "TPVFormer + GaussRender") == ["12.00 ± 1.50<br>+1.00 (-0.24 to +2.24)", "-"]
    assert "mIoU, cpu, 3 seeds" in small and "mIoU, gsplat, 3 seeds" in small and "27.83" not in small
    assert "11.00" not in "".join(found[title] for title in titles[:7])


def test_a_main_table_has_one_column_of_the_renderer_with_most_rows(project: Path, make_record) -> None:
    root = project / "results/records"
    for renderer, miou in (("cpu", 10.0), ("gsplat", 20.0)):
        make_record(root, "tpvformer", 0, miou, renderer=renderer)
    make_record(root, "tpvformer+gaussrender", 0, 21.0, renderer="gsplat")
    make_record(root, "renderocc-3d", 0, 9.0, table="table_renderocc")
    small = blocks(project)["Ours, `toy` preset, not comparable with any published number"]
    assert cells(small, "TPVFormer") == ["20.00"] and "cpu" not in small.split("|")[3]
    assert "With other renderers: on the page of [Occ3D-nuScenes](reports/pages/table_occ3d.md)" in small
    assert "Ours of the other tables: on their pages" in small and "9.00" not in small


def test_ours_at_the_published_configuration_stand_beside_the_published_numbers(project: Path, make_record) -> None:
    for seed, miou in enumerate((29.0, 30.0)):
        make_record(project / "results/records", "tpvformer", seed, miou, preset="paper", renderer="gsplat")
    block = next(iter(blocks(project).values()))
    assert "mIoU<br>ours, paper, gsplat, 2 seeds" in block
    assert cells(block, "TPVFormer")[:3] == ["27.83", "30.07", "29.50 ± 0.71"]
    assert "`toy` preset" not in readme_section(project, "results")


def test_what_must_be_said_beside_a_number_is_marked(project: Path, make_record) -> None:
    root = project / "results/records"
    make_record(root, "tpvformer", 0, 10.0)
    make_record(root, "tpvformer+gaussrender", 0, 11.0)
    small = blocks(project)["Ours, `toy` preset, not comparable with any published number"]
    assert cells(small, "TPVFormer") == ["10.00"]
    assert cells(small, "TPVFormer + GaussRender") == ["11.00<br>+1.00 †1"], "one seed ranks nothing"
    assert "- †1: something must be said beside it: see the page" in small


def test_every_other_page_is_linked_with_what_was_run(project: Path, make_record) -> None:
    make_record(project / "results/records", "camera", 0, 10.0, table="table_ablation_losses")
    lines = readme_section(project, "results").splitlines()
    assert any("(reports/pages/table_ablation_losses.md): ours, toy, cpu, 1 seed" in line for line in lines)
    assert any("(reports/pages/table_ablation_views.md): not run yet" in line for line in lines)
    assert any("(reports/pages/table_renderers.md): not measured yet" in line for line in lines)
    assert any(line.endswith("(reports/pages/table_2d.md)") for line in lines)


def test_compact_tables_are_the_same_tables() -> None:
    assert (
        compact("| a   |   b |\n|:----|----:|\n| x y |   1 |\n\ntwo  blanks")
        == "| a | b |\n|:---|---:|\n| x y | 1 |\n\ntwo  blanks"
    )
