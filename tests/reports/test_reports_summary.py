"""Spread over seeds and like-for-like gains."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.records import RecordError
from experiments.spec import load_table
from reports.summary import QUOTED, RERUN, Group, ReportError, Summary, summarise

TOY = Group("ours", "toy", "cpu")
BASE, ROW = "tpvformer", "tpvformer+gaussrender"


def summary(project: Path) -> Summary:
    return summarise(load_table("table_occ3d"), project / "results/records", project / "results/quoted")


def test_mean_and_sample_deviation_over_seeds(project, make_record) -> None:
    for seed, miou in enumerate((10.0, 12.0, 14.0)):
        make_record(project / "results/records", BASE, seed, miou)
    number = summary(project).number(TOY, BASE, "mIoU")
    assert number is not None
    assert (number.mean, number.std, number.seeds) == (12.0, 2.0, (0, 1, 2))
    assert summary(project).heading(TOY) == "ours, toy, cpu, 3 seeds"


def test_gain_is_paired_by_seed(project, make_record) -> None:
    """Seeds spread by 10 points, the gain only by 1: its deviation is that of the differences, not of the scores."""
    for seed, (base, row) in enumerate(((10.0, 11.0), (20.0, 22.0), (30.0, 33.0))):
        make_record(project / "results/records", BASE, seed, base)
        make_record(project / "results/records", ROW, seed, row)
    gain = summary(project).gain(TOY, ROW, "mIoU")
    assert gain is not None and gain.base == BASE
    assert gain.difference.values == (1.0, 2.0, 3.0)
    assert (gain.difference.mean, gain.difference.std) == (2.0, 1.0)


def test_a_missing_base_seed_is_left_out_and_told(project, make_record) -> None:
    for seed in (0, 1):
        make_record(project / "results/records", BASE, seed, 10.0)
    for seed in (0, 1, 2):
        make_record(project / "results/records", ROW, seed, 12.0 + seed)
    found = summary(project)
    gain = found.gain(TOY, ROW, "mIoU")
    assert gain is not None and gain.difference.seeds == (0, 1) and gain.difference.values == (2.0, 3.0)
    assert any("seeds without a partner (2)" in note for note in found.notes)


def test_no_common_seed_no_gain(project, make_record) -> None:
    make_record(project / "results/records", BASE, 0, 10.0)
    make_record(project / "results/records", ROW, 1, 12.0)
    assert summary(project).gain(TOY, ROW, "mIoU") is None


@pytest.mark.parametrize("change", [{"renderer": "gsplat"}, {"preset": "mini"}])
def test_other_renderer_or_preset_is_never_paired(project, make_record, change) -> None:
    make_record(project / "results/records", BASE, 0, 10.0)
    make_record(project / "results/records", ROW, 0, 12.0, **change)
    assert not [k for k in summary(project).gains if k[0].origin == "ours"]


def test_other_data_is_never_paired_and_told(project, make_record) -> None:
    make_record(project / "results/records", BASE, 0, 10.0)
    make_record(project / "results/records", ROW, 0, 12.0, data_fingerprint="another")
    found = summary(project)
    assert found.gain(TOY, ROW, "mIoU") is None
    assert any("different data" in note for note in found.notes)


def test_published_gains_stay_within_their_origin(project) -> None:
    found = summary(project)
    quoted, rerun = found.gain(QUOTED, ROW, "mIoU"), found.gain(RERUN, ROW, "mIoU")
    assert quoted is not None and quoted.difference.mean == pytest.approx(30.48 - 27.83)
    assert rerun is not None and rerun.difference.mean == pytest.approx(30.48 - 30.07)
    assert found.gain(QUOTED, ROW, "RayIoU").difference.mean == pytest.approx(1.1)
    assert found.gain(RERUN, ROW, "RayIoU") is None


def test_contradicting_figures_are_kept(project) -> None:
    assert any({a.mean, b.mean} == {24.46, 23.93} for a, b in summary(project).conflicts)


def test_the_prior_serves_every_renderer_and_makes_no_column(project, make_record) -> None:
    make_record(project / "results/records", "prior", 0, 5.0, renderer="reference")
    make_record(project / "results/records", BASE, 0, 10.0)
    found = summary(project)
    assert found.ours() == [TOY]
    assert found.number(TOY, "prior", "mIoU").mean == 5.0


def test_records_that_must_not_be_averaged(project, make_record) -> None:
    root = project / "results/records"
    make_record(root, BASE, 0, 10.0)
    other = make_record(root, BASE, 1, 10.0, data_fingerprint="another")
    with pytest.raises(ReportError, match="different data"):
        summary(project)
    other.unlink()
    variant = make_record(root, BASE, 1, 10.0, overrides={"iterations": 5})
    with pytest.raises(ReportError, match="overrides"):
        summary(project)
    variant.unlink()
    copy = root / "table_occ3d/toy/copy.json"
    copy.write_bytes((root / "table_occ3d/toy/tpvformer--cpu--seed0.json").read_bytes())
    with pytest.raises(RecordError, match=r"copy\.json holds the record of tpvformer--cpu--seed0\.json"):
        summary(project)


def test_a_row_the_table_lacks(project, make_record) -> None:
    path = make_record(project / "results/records", BASE, 0, 10.0)
    path.write_text(path.read_text().replace('"row": "tpvformer"', '"row": "tpvfrmer"'))
    with pytest.raises(RecordError, match="tpvformer--cpu--seed0.json: .*did you mean 'tpvformer'"):
        summary(project)


def test_records_of_an_earlier_spec_are_marked(project, make_record) -> None:
    make_record(project / "results/records", BASE, 0, 10.0)
    assert not summary(project).notes
    make_record(project / "results/records", BASE, 0, 10.0, fingerprint="0" * 16)
    assert any("earlier version" in note for note in summary(project).notes)


def test_a_record_is_held_against_the_cell_it_starts_from(project, make_record) -> None:
    """Each has its own part of the data in its record; the run's fingerprint had both."""
    root, spec = project / "results/records", load_table("table_gaussianocc")
    cell = spec.cell(spec.row("gaussianocc"), "cpu", "toy", 0)
    first = cell.first_cell
    run = f"toyworld-test gaussianocc=pixels {first.row.name}=pairs"
    own = dict(table=spec.name, data_fingerprint="toyworld-test+pixels", fingerprint=cell.fingerprint(run))

    def notes() -> list[str]:
        found = summarise(spec, root, project / "results/quoted").notes
        return [note for note in found if "earlier version" in note]

    make_record(root, "gaussianocc", 0, 10.0, **own)
    assert not notes(), "without the first one's record nothing can be said"
    start = dict(table=first.table.name, data_fingerprint="toyworld-test+pairs", fingerprint=first.fingerprint(run))
    make_record(root, first.row.name, 0, 10.0, **start)
    assert not notes()
    make_record(root, "gaussianocc", 0, 10.0, **own | {"fingerprint": cell.fingerprint("toyworld-test+pixels")})
    assert notes() == ["Measured with an earlier version of this table's spec: GaussianOcc: splats, learned poses (toy, cpu)."]
