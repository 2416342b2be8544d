"""Records that do not go together: found, marked where they are shown, refused where they would be published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from built import page, readme_section
from rich.console import Console

from experiments import records
from experiments.comparable import Marks, differences, mixed
from experiments.plan import Plan
from experiments.records import Confirmation, Hardware, Record
from experiments.spec import load_table
from experiments.summary import print_results
from reports import build
from reports.summary import ONE_SEED, Group, summarise

BASE, ROW = "tpvformer", "tpvformer+gaussrender"
MACHINE = {"cpu": "test cpu", "cores": 2, "memory_gb": 8}
TOLD: dict[str, Any] = {
    "code": "aaaaaaaaaaaaaaaa",
    "batch_size": 2,
    "processes": 1,
    "hardware": Hardware(**MACHINE, instruction_sets={"torch": "AVX2"}),
}
"""What a record of today tells."""

OTHER: dict[str, dict[str, Any]] = {
    "code": {"code": "bbbbbbbbbbbbbbbb"},
    "iterations": {"iterations": 20},
    "batch": {"batch_size": 4},
    "processes": {"processes": 2},
    "torch": {"versions": {"torch": "3"}},
    "mmcv": {"versions": {"torch": "2", "mmcv": "2.1"}},
    "instruction sets": {"hardware": Hardware(**MACHINE, instruction_sets={"torch": "AVX512"})},
    "GPU": {"hardware": Hardware(**MACHINE, gpu="test gpu", instruction_sets={"torch": "AVX2"})},
}
UNTOLD: dict[str, dict[str, Any]] = {
    "code": {"code": "", "git_commit": "b" * 40},
    "batch": {"batch_size": None},
    "processes": {"processes": None},
    "instruction sets": {"hardware": Hardware(**MACHINE)},
}


@pytest.fixture
def made(tmp_path: Path, make_record):
    """A record of TPVFormer that tells everything, with changes."""

    def make(seed: int = 0, **changes: Any) -> Record:
        return records.load(make_record(tmp_path / "made", BASE, seed, 10.0, **TOLD | changes))

    return make


def confirmation(**changes: Any) -> Confirmation:
    content = {"when": "2025-03-01T00:00:00+0000", "git_commit": "b" * 40, "git_dirty": False, "code": "bbbbbbbbbbbbbbbb"}
    return Confirmation(**content | {"versions": {"torch": "2"}, "hardware": TOLD["hardware"]} | changes)


# ---- the comparison


def test_alike_records_have_no_difference(made) -> None:
    assert differences([made(0), made(1)]) == differences([made(0)]) == differences([]) == [] and mixed([made(0)]) == ""


@pytest.mark.parametrize("aspect", OTHER)
def test_what_decides_numbers_is_found(made, aspect: str) -> None:
    (found,) = differences([made(0), made(1, **OTHER[aspect])])
    assert (found.aspect, found.certain, len(found.values)) == (aspect, True, 2)


@pytest.mark.parametrize("aspect", UNTOLD)
def test_what_a_record_does_not_tell_is_a_group_of_its_own(made, aspect: str) -> None:
    (found,) = differences([made(0), made(1, **UNTOLD[aspect])])
    assert (found.aspect, found.certain) == (aspect, False) and found.values[-1].startswith("not recorded")


def test_known_difference_beside_an_untold_one_is_certain(made) -> None:
    (found,) = differences([made(0), made(1, **OTHER["code"]), made(2, code="", git_commit="c" * 40)])
    assert found.certain and [value[:8] for value in found.values] == ["aaaaaaaa", "bbbbbbbb", "not reco"]


def test_records_without_digests_of_one_clean_commit_have_one_code(made) -> None:
    assert differences([made(0, code=""), made(1, code="")]) == []
    (found,) = differences([made(0, code=""), made(1, code="", git_commit="b" * 40)])
    assert str(found) == "code not recorded (commit 0123456789ab, commit bbbbbbbbbbbb)" and not found.certain
    dirty = [made(seed, code="", git_dirty=True, started=f"2025-01-0{seed + 1}T00:00:00+0000") for seed in (0, 1)]
    (found,) = differences(dirty)
    assert not found.certain and "uncommitted changes" in str(found)


def test_a_confirmed_record_stands_for_the_later_code_too(made) -> None:
    newer = made(1, **OTHER["code"])
    for older in (made(0, confirmed=[confirmation()]), made(0, code="", confirmed=[confirmation()])):
        assert differences([older, newer]) == []
    (found,) = differences([made(0, confirmed=[confirmation(code="c" * 16, git_commit="c" * 40)]), newer])
    assert found.aspect == "code" and found.certain


def test_a_confirmation_counts_as_a_whole(made) -> None:
    """With the newer code it was confirmed with another torch alone: nothing says what newer code and torch 2 give."""
    older = made(0, confirmed=[confirmation(versions={"torch": "3"})])
    assert {d.aspect for d in differences([older, made(1, **OTHER["code"])])} == {"code"}
    assert differences([older, made(1, **OTHER["code"] | {"versions": {"torch": "3"}})]) == []


def test_cells_of_other_files_are_compared_by_those_that_both_use(made) -> None:
    first = made(0, sources={"shared.py": "1", "one.py": "1"})
    same = made(1, code="d" * 16, git_commit="b" * 40, sources={"shared.py": "1", "other.py": "1"})
    changed = made(1, code="d" * 16, git_commit="b" * 40, sources={"shared.py": "2", "other.py": "1"})
    assert differences([first, same]) == [] and [d.aspect for d in differences([first, changed])] == ["code"]


def test_untrained_rows_have_no_batch_to_tell(made) -> None:
    untrained = {"iterations": 0, "batch_size": None, "processes": None}
    assert differences([made(0, **untrained), made(1, **untrained)]) == []


def test_measured_times_are_of_one_machine(made) -> None:
    other = made(1, hardware=Hardware(**MACHINE | {"cpu": "other cpu"}, instruction_sets={"torch": "AVX2"}))
    assert differences([made(0), other]) == [] and [d.aspect for d in differences([made(0), other], timed=True)] == ["machine"]


def test_marks_number_notes_once() -> None:
    marks = Marks()
    assert [marks("a"), marks(""), marks("b", "a"), marks("a", "")] == [" †1", "", " †2 †1", " †1"]
    assert marks.lines() == ["†1: a", "†2: b"]


# ---- shown


def test_the_table_marks_means_and_gains_over_two_codes(project: Path, make_record) -> None:
    root = project / "results/records"
    for seed in (0, 1):
        make_record(root, BASE, seed, 10.0 + seed, **TOLD)
        make_record(root, ROW, seed, 11.0 + 2 * seed, **TOLD | (OTHER["code"] if seed else {}))
    ours = page(project, "table_occ3d").split("**Ours, `toy` preset**")[1]
    lines = [line for line in ours.splitlines() if line.startswith("| TPVFormer")]
    assert any("10.50 ± 0.71 |" in line for line in lines), "the base's seeds are of one code"
    assert any("12.00 ± 1.41 †1" in line for line in lines)
    assert any("+1.50 (-4.85 to +7.85) †1" in line for line in lines)
    said = "- †1: its records differ: code aaaaaaaa (commit 0123456789ab) / bbbbbbbb (commit 0123456789ab)"
    assert ours.count(said) == 5, "below numbers, gains, checks, classes and times"
    assert "†1: its records differ: code" in page(project, "table_2d")
    csv = build.build(project).texts[project / "reports/tables/table_occ3d.csv"]
    assert any(line.startswith("gain,") and "its records differ: code" in line for line in csv.splitlines())


def test_each_row_alone_may_be_alike_and_the_gain_not(project: Path, make_record) -> None:
    root = project / "results/records"
    for seed in (0, 1):
        make_record(root, BASE, seed, 10.0, **TOLD)
        make_record(root, ROW, seed, 11.0, **TOLD | OTHER["iterations"])
    found = summarise(load_table("table_occ3d"), root, project / "results/quoted")
    group = Group("ours", "toy", "cpu")
    assert found.number(group, ROW, "mIoU").mixed == found.number(group, BASE, "mIoU").mixed == ""
    assert found.gain(group, ROW, "mIoU").difference.mixed == "its records differ: iterations 10 / 20"


def test_a_difference_of_renderers_is_marked(project: Path, make_record) -> None:
    root = project / "results/records"
    make_record(root, BASE, 0, 10.0, **TOLD)
    make_record(root, BASE, 0, 11.0, renderer="gsplat", **TOLD | OTHER["torch"])
    text = page(project, "table_occ3d")
    assert "+1.00, 1 seed †1 †2" in text and "- †1: its records differ: torch 2 / 3" in text and f"- †2: {ONE_SEED}" in text


def test_one_seed_is_never_shown_without_a_word_on_noise(project: Path, make_record) -> None:
    root = project / "results/records"
    make_record(root, BASE, 0, 10.0)
    make_record(root, ROW, 0, 11.0)
    for name in ("table_occ3d", "table_2d"):
        ours = page(project, name).split("**Ours, `toy` preset**")[1]
        gains = [part for line in ours.splitlines() if line.startswith("|") for part in line.split("|") if "+1.00" in part]
        assert gains and all(part.strip() == "+1.00 †1" for part in gains) and f"- †1: {ONE_SEED}" in ours
    figure = next(f for f in build.build(project).figures.values() if "ours-toy-cpu" in f.name)
    assert figure.remarks == (ONE_SEED,)  # type: ignore[attr-defined]
    csv = build.build(project).texts[project / "reports/tables/table_occ3d.csv"]
    assert any(line.startswith("gain,") and ONE_SEED in line for line in csv.splitlines())


def test_no_column_is_empty(project: Path, make_record) -> None:
    make_record(project / "results/records", BASE, 0, 10.0)  # no prior, no base, no RayIoU
    for line_block in build.build(project).texts[project / "README.md"].split("\n\n"):
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in line_block.splitlines() if line.startswith("|")]
        for column in list(zip(*rows[2:], strict=True))[1:]:
            assert set(column) - {"-", ""}, rows[0]


def test_the_first_words_say_what_was_run_and_what_not(project: Path, make_record) -> None:
    nothing = readme_section(project, "status")
    assert nothing.count("**nothing yet**") == 4 and "no published number has been reproduced here yet" in nothing
    for seed in (0, 1):
        make_record(project / "results/records", BASE, seed, 10.0)
    toy = readme_section(project, "status")
    assert "Occ3D-nuScenes (cpu, 2 seeds)" in toy and toy.count("**nothing yet**") == 3
    assert "preset `paper` (the published configuration): **nothing yet**" in toy
    assert "no published number has been reproduced here yet" in toy
    make_record(project / "results/records", BASE, 0, 30.0, preset="paper", renderer="gsplat")
    paper = readme_section(project, "status")
    assert "Occ3D-nuScenes (gsplat, 1 seed)" in paper and "no published number" not in paper
    for seed in (0, 1, 2):
        make_record(project / "results/records", "gaussianocc-gsp", seed, 2.0, table="table_gaussianocc_depth")
    make_record(project / "results/records", "gaussianocc-sensors", 0, 2.0, table="table_gaussianocc")
    borrowed = readme_section(project, "status")
    assert "`table_gaussianocc_depth` (cpu, 3 seeds)" in borrowed
    assert "GaussianOcc on Occ3D-nuScenes (cpu, 1 seed)" in borrowed, "seeds of another table's cells are that table's"


# ---- printed after a run


def printed(made: dict[tuple[str, int], Record], preset: str = "toy") -> str:
    table = load_table("table_occ3d")
    cells = [table.cell(table.row(row), "cpu", preset, seed) for row, seed in made]  # type: ignore[arg-type]
    plan = Plan(table, preset, None, "data", ("cpu",), tuple(cells), ())  # type: ignore[arg-type]
    console = Console(record=True, width=250, file=open("/dev/null", "w"))
    print_results(console, table, [plan], {cell.key: made[cell.row.name, cell.seed] for cell in cells}, Path("results"))
    return console.export_text()


def test_a_run_marks_its_means(made) -> None:
    text = printed({(BASE, 0): made(0), (BASE, 1): made(1, metrics={"mIoU": 12.0}, **OTHER["iterations"])})
    assert "11.00 ± 1.41 †1" in text and "†1: its records differ: iterations 10 / 20" in text
    assert "†" not in printed({(BASE, 0): made(0), (BASE, 1): made(1)})


def test_a_run_of_several_seeds_prints_differences_with_their_intervals(made) -> None:
    scores = {(BASE, 0): 10.0, (BASE, 1): 11.0, (ROW, 0): 10.5, (ROW, 1): 11.6, (ROW, 2): 99.0}
    found = {(row, seed): made(seed, metrics={"mIoU": score}) for (row, seed), score in scores.items()}
    text = printed(found)
    line = next(line for line in text.splitlines() if "TPVFormer + GaussRender - TPVFormer" in line)
    assert "+0.55 (-0.09 to +1.19)" in line and " *" not in line, "of the two seeds that both have"
    del found[ROW, 1]
    assert "differences to the base" not in printed(found), "one seed has no interval"


def test_a_run_at_toy_size_prints_no_published_numbers(made) -> None:
    text = printed({(BASE, 0): made(0)})
    assert "10.00" in text and "27.83" not in text and "quoted" not in text and "OccFormer" not in text
    assert "toy numbers do not compare with published ones, which are in reports/pages/table_occ3d.md" in text
    assert "RayIoU" not in text, "a column without a number"
    paper = printed({(BASE, 0): made(0)}, "paper")
    assert "27.83" in paper and "do not compare" not in paper


# ---- published


@pytest.mark.parametrize("aspect", OTHER)
def test_a_set_that_mixes_is_not_published(folders, cli, make_record, aspect: str) -> None:
    local, committed = folders
    make_record(local, BASE, 0, 10.0, **TOLD)
    make_record(local, BASE, 1, 10.0, **TOLD | OTHER[aspect])
    result = cli("table_occ3d")
    assert result.exit_code == 2 and f"the mean of TPVFormer (toy, cpu) would mix {aspect} " in result.output
    assert "--force" in result.output and not committed.exists()


def test_a_row_that_does_not_go_with_its_committed_base_is_not_published(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(committed, BASE, 0, 10.0, **TOLD)
    make_record(local, ROW, 0, 10.0, **TOLD | OTHER["code"])
    result = cli("table_occ3d")
    assert result.exit_code == 2 and "the gain of TPVFormer + GaussRender (toy, cpu) would mix code" in result.output
    make_record(local, BASE, 0, 10.0, **TOLD | OTHER["code"])
    assert cli("table_occ3d", "--replace").exit_code == 0, "together they go"
    assert len(list(records.load_all(committed))) == 2


def test_another_seed_without_a_base_does_not_matter_to_the_gain(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(committed, BASE, 0, 10.0, **TOLD)
    make_record(local, ROW, 1, 10.0, **TOLD | OTHER["code"])
    assert cli("table_occ3d").exit_code == 0


def test_older_records_are_flagged_and_published(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(committed, BASE, 0, 10.0)
    make_record(local, BASE, 1, 10.0, **TOLD | {"git_commit": "b" * 40})
    result = cli("table_occ3d")
    assert result.exit_code == 0 and len(list(records.load_all(committed))) == 2
    assert "note     the mean of TPVFormer (toy, cpu) may mix code aaaaaaaa" in result.output
    assert "not recorded (commit 0123456789ab)" in result.output


def test_a_confirmed_record_goes_with_the_later_ones(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(committed, BASE, 0, 10.0, **TOLD | {"confirmed": [confirmation()]})
    make_record(local, BASE, 1, 10.0, **TOLD | OTHER["code"])
    result = cli("table_occ3d")
    assert result.exit_code == 0 and "mix" not in result.output


def test_seeds_on_different_data_are_not_published(folders, cli, make_record) -> None:
    local, committed = folders
    make_record(local, BASE, 0, 10.0)
    make_record(local, BASE, 1, 10.0, data_fingerprint="another")
    result = cli("table_occ3d")
    assert result.exit_code == 2 and "different data" in result.output and not committed.exists()
