"""Numbers in which classes count that do not occur, in every part of the reports: marked, with the mean over the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from built import page

from experiments import absences
from experiments.datasets.layouts import layout_of
from reports import build, publish

BASE, ROW = "tpvformer", "tpvformer+gaussrender"
CLASSES = layout_of("occ3d").classes
KNOWN = 9
SAID = "8 of 17 classes do not occur and count 100 %"
MARK = f": {SAID}; in brackets over the others"


def content(value: float, old: bool = False) -> dict[str, Any]:
    """Of a record: ``value`` for each of the nine classes that occur."""
    mean = (KNOWN * value + 800) / 17
    checked = (KNOWN * value / 2 + 800) / 17
    per_class = dict.fromkeys(CLASSES[:KNOWN], value)
    means = ("mIoU", "image_mIoU", "bev_mIoU")
    return {
        "metrics": dict.fromkeys(means, mean) | {"IoU": 30.0},
        "per_class": {name: per_class for name in means},
        "checks": {absences.SHUFFLED: checked},
        "absent": {} if old else {name: list(CLASSES[KNOWN:]) for name in (*means, absences.SHUFFLED)},
    }


@pytest.mark.parametrize("old", [False, True], ids=["recorded", "derived"])
def test_a_tables_numbers_gains_checks_and_csv_say_it(project: Path, make_record, old: bool) -> None:
    for seed in (0, 1):
        make_record(project / "results/records", "prior", seed, 0.0, **content(2.0, old) | {"checks": {}})
        make_record(project / "results/records", BASE, seed, 0.0, **content(4.0, old))
        make_record(project / "results/records", ROW, seed, 0.0, **content(5.0 + seed, old))
    text = page(project, "table_occ3d")
    assert "49.18 ± 0.00 [4.00] †1" in text and f"- †1{MARK}" in text
    assert "+0.79 (-2.57 to +4.16) [+1.50] †1" in text, "a gain, over the others as well"
    assert "48.12 ± 0.00 [2.00] †1" in text, "images shuffled"
    assert "48.12 [2.00] †1" in text, "the prior"
    assert "1.02 ± 0.00 [2.00] †1" in text and "1.00 ± 0.00 [1.00] †1" in text, "ratios to the prior"
    assert "30.00 ± 0.00 |" in text, "IoU has no mark: something is occupied"
    views = page(project, "table_2d")
    assert views.count("49.18 ± 0.00 [4.00] †1") == 2 and f"- †1{MARK}" in views, "images, and the view from above"
    frame = pd.read_csv(build_csv(project), keep_default_na=False)
    ours = frame[(frame.origin == "ours") & (frame["class"] == "") & frame.metric.isin(["mIoU", "image_mIoU", "bev_mIoU"])]
    assert len(ours) == 12 and all(SAID in note for note in ours.note)
    (gain,) = ours[(ours.quantity == "gain") & (ours.metric == "mIoU")].note
    assert f"{SAID}; over the others 1.5" in gain
    rest = frame.drop(ours.index)
    assert not any("do not occur" in note for note in rest.note)


def build_csv(project: Path) -> Path:
    path = project / "table_occ3d.csv"
    path.write_text(build.build(project).texts[project / "reports/tables/table_occ3d.csv"])
    return path


def test_an_ablations_numbers_and_two_renderers_differences_say_it(project: Path, make_record) -> None:
    for renderer, value in (("cpu", 4.0), ("reference", 5.0)):
        make_record(project / "results/records", ROW, 0, 0.0, renderer=renderer, **content(value))
    assert "+0.53, 1 seed [+1.00] †1 †2" in page(project, "table_occ3d")
    make_record(project / "results/records", "camera", 0, 0.0, table="table_ablation_losses", **content(4.0))
    brief = page(project, "table_ablation_losses")
    assert "49.18 [4.00] †" in brief and MARK in brief


def test_where_every_class_occurs_nothing_is_said(project: Path, make_record) -> None:
    whole = {"metrics": {"mIoU": 10.0}, "per_class": {"mIoU": dict.fromkeys(CLASSES, 10.0)}, "absent": {}}
    for seed in (0, 1):
        make_record(project / "results/records", BASE, seed, 0.0, **whole)
    text = page(project, "table_occ3d")
    assert "10.00 ± 0.00" in text and "do not occur" not in text and "†" not in text


def test_where_nothing_counts_the_reader_is_told(project: Path, make_record) -> None:
    nothing = {
        "metrics": dict.fromkeys(("RayIoU", "RayIoU@1", "RayIoU@2", "RayIoU@4"), 3.0),
        "per_class": {"mIoU": {}, "RayIoU": {"car": 3.0}},
        "checks": {},
    }
    make_record(project / "results/records", BASE, 0, 0.0, **nothing)
    text = page(project, "table_occ3d")
    assert "> TPVFormer (toy, cpu): no mIoU, IoU, mIoU_occ3d: nothing in the ground truth counts for it." in text
    assert "100.00" not in text and "nan" not in text


def test_what_a_replaced_record_changes_is_told_with_it(tmp_path: Path, make_record) -> None:
    local, committed = tmp_path / "local", tmp_path / "records"
    make_record(committed, BASE, 0, 0.0, **content(4.0, old=True))
    make_record(local, BASE, 0, 0.0, **content(5.0))
    table = build.load_spec("table_occ3d")
    chosen = publish.select(table, local, committed, None, None, None, None)
    text = "\n".join(publish.publish(chosen, committed, replace=True))
    assert "mIoU: 49.1765 -> 49.7059" in text
    for who, over in (("committed", "4.00"), ("local", "5.00")):
        assert f"mIoU, {who}: {SAID}; over the others {over}" in text
        assert f"BEV mIoU, {who}: {SAID}; over the others {over}" in text
