"""The published numbers that are committed: readable, sourced, and the sheet's values."""

from __future__ import annotations

import pytest

from experiments.records import QUOTED, QuotedNumber, load_quoted
from experiments.spec import load_table
from reports.summary import EMPTY_CLASSES

TABLES = sorted(path.stem for path in QUOTED.glob("*.json"))


def entry(table: str, row: str, metric: str, kind: str) -> QuotedNumber:
    (found,) = [e for e in load_quoted(table) if (e.row, e.metric, e.kind) == (row, metric, kind)]
    return found


def test_every_table_of_the_paper_is_there() -> None:
    assert {"table_occ3d", "table_surroundocc", "table_kitti360", "table_occ3d_2d"} <= set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_schema_and_sources(table: str) -> None:
    entries = load_quoted(table)
    assert entries
    for e in entries:
        assert e.table == table and e.source
    assert len({(e.row, e.metric, e.kind, e.source, e.value) for e in entries}) == len(entries), "duplicates"
    lines = (QUOTED / f"{table}.json").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(entries) + 2, "one entry a line"


@pytest.mark.parametrize("table", TABLES)
def test_classes_average_to_the_mean(table: str) -> None:
    """Transposed digits in a class would show; the sources round to 0.01, one of them to its own 0.01 (27.84 / 27.83)."""
    for e in load_quoted(table):
        scored = [v for name, v in e.per_class.items() if name not in EMPTY_CLASSES]
        if scored:
            assert sum(scored) / len(scored) == pytest.approx(e.value, abs=0.011), (e.row, e.metric, e.kind)


@pytest.mark.parametrize(
    ("table", "row", "metric", "kind", "value"),
    [
        ("table_occ3d", "tpvformer+gaussrender", "mIoU", "readme", 30.48),
        ("table_occ3d", "tpvformer", "mIoU", "readme", 27.83),
        ("table_occ3d", "tpvformer", "mIoU", "paper", 27.83),
        ("table_occ3d", "tpvformer", "mIoU", "authors_log", 30.07),
        ("table_occ3d", "tpvformer", "IoU", "authors_log", 41.32),
        ("table_occ3d", "tpvformer", "RayIoU", "readme", 37.2),
        ("table_occ3d", "renderocc", "RayIoU", "readme", 19.5),
        ("table_occ3d_2d", "tpvformer", "image_mIoU", "authors_log", 54.69),
        ("table_occ3d_2d", "tpvformer+gaussrender", "depth_l1", "authors_log", 1.669),
        ("table_occ3d_2d", "surroundocc+gaussrender", "bev_IoU", "authors_log", 55.65),
        ("table_surroundocc", "surroundocc", "mIoU", "authors_log", 20.53),
        ("table_surroundocc", "tpvformer+gaussrender", "mIoU", "third_party_quote", 20.85),
        ("table_surroundocc", "tpvformer+gaussrender", "mIoU", "readme", 20.58),
    ],
)
def test_spot_values(table: str, row: str, metric: str, kind: str, value: float) -> None:
    assert entry(table, row, metric, kind).value == value


def test_class_values_and_order() -> None:
    classes = entry("table_occ3d", "tpvformer", "mIoU", "authors_log").per_class
    assert list(classes)[:2] == ["others", "barrier"] and list(classes)[-1] == "free"
    assert (classes["bus"], classes["vegetation"], classes["free"]) == (40.65, 19.25, 84.06)


def test_conflicting_figures_keep_both_sources() -> None:
    figures = {e.source: e.value for e in load_quoted("table_kitti360") if (e.row, e.metric) == ("symphonies", "mIoU")}
    assert sorted(figures.values()) == [17.82, 18.58]


@pytest.mark.parametrize("table", ["table_occ3d", "table_surroundocc"])
def test_rows_of_the_spec_have_published_numbers(table: str) -> None:
    rows = {e.row for e in load_quoted(table)}
    spec = load_table(table)
    first = {r.starts_from for r in spec.rows}
    published = {r.name for r in spec.rows if "paper" in r.presets and "a row of this project" not in r.note} - first
    assert published <= rows
