"""Classes that do not occur count 100 % by the published rule: every mean with them says so, and no number stands for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grids import kitti360_grid, occ3d_grid, surroundocc_grid
from rich.console import Console
from test_records import make_record

from baselines.interface import OccupancyGrid
from experiments import absences
from experiments.cell.tracking import Tracker
from experiments.datasets.layouts import layout_of
from experiments.metrics.counts import Scores, evaluate, sample_counts
from experiments.plan import Plan
from experiments.records import Record
from experiments.spec import load_table, views_of
from experiments.summary import print_results

GRIDS: dict[str, Callable[[], OccupancyGrid]] = {
    "occ3d": occ3d_grid,
    "surroundocc": surroundocc_grid,
    "kitti360": kitti360_grid,
}
MEANS = ("mIoU", "image_mIoU", "bev_mIoU")


def scores(dataset: str, present: int, counted: bool = True) -> Scores:
    """Nothing predicted on a scene that holds the first ``present`` classes, in voxels and in all views."""
    grid = GRIDS[dataset]()
    occupied = [index for index in range(grid.num_classes) if index != grid.empty][:present]
    true = np.full(grid.shape, grid.empty)
    true[: len(occupied), 0, 0] = occupied
    seen = np.full((1, 4, 40), grid.empty)
    seen[0, 0, : len(occupied)] = occupied
    depth = np.full(seen.shape, 3.0)
    views: dict[str, Any] = {"pred_semantics": np.full_like(seen, grid.empty), "pred_bev": np.full_like(seen[0], grid.empty)}
    views |= {"gt_semantics": seen, "gt_bev": seen[0], "pred_depth": depth, "gt_depth": depth}
    if not counted:
        views |= {"gt_semantics": np.full_like(seen, grid.ignore), "gt_bev": np.full_like(seen[0], grid.ignore)}
        views |= {"gt_depth": 0 * depth}
    mask = np.full(grid.shape, counted)
    return evaluate([sample_counts(np.full(grid.shape, grid.empty), true, mask, grid, views=views)], grid.class_names, grid.empty)


def record_of(found: Scores, dataset: str = "occ3d", old: bool = False, **changes: Any) -> Record:
    content = {"metrics": found.metrics, "per_class": found.per_class, "absent": {} if old else found.absent}
    return make_record(table=f"table_{dataset}", row="tpvformer", **content | changes)


@pytest.mark.parametrize("dataset", GRIDS)
def test_a_layout_names_the_classes_of_its_grid(dataset: str) -> None:
    grid = GRIDS[dataset]()
    assert layout_of(dataset).classes == tuple(name for name in grid.class_names if name != grid.class_names[grid.empty])


@pytest.mark.parametrize("old", [False, True], ids=["recorded", "derived"])
@pytest.mark.parametrize("dataset", GRIDS)
def test_every_mean_says_how_many_classes_do_not_occur(dataset: str, old: bool) -> None:
    classes = layout_of(dataset).classes
    total, missing = len(classes), len(classes) - 5
    record = record_of(scores(dataset, 5), dataset, old, checks={absences.SHUFFLED: 100 * missing / total})
    for metric in (*MEANS, *([absences.SHUFFLED] if old else [])):
        assert absences.absent(record, metric, classes) == list(classes[5:])
        said = f"{missing} of {total} classes do not occur and count 100 %; over the others 0.00"
        assert absences.note([record], metric, classes) == said
    for metric in ("IoU", "mIoU_occ3d", "image_IoU", "bev_IoU", "depth_l1"):
        assert absences.note([record], metric, classes) == "" and record.metrics[metric] == 0.0
    whole = record_of(scores(dataset, total), dataset, old)
    assert absences.tags(whole, classes) == {} and absences.without_number(whole) == []


def test_the_mean_over_the_others_is_that_of_the_numbers_per_class() -> None:
    classes = layout_of("occ3d").classes
    per_class = {"car": 12.5, "truck": 3.0, "manmade": 41.0}
    known = {"metrics": {"mIoU": (56.5 + 1400) / 17}, "per_class": {"mIoU": per_class}}
    one = make_record(**known, absent={"mIoU": [name for name in classes if name not in per_class]})
    assert absences.of_others(one, "mIoU", classes) == pytest.approx(56.5 / 3)
    assert absences.absent(make_record(**known), "mIoU", classes) == one.absent["mIoU"]
    told_nothing = make_record(**known | {"metrics": {"mIoU": 20.0}})
    assert absences.absent(told_nothing, "mIoU", classes) == [], "other numbers per class are missing for another reason"


def test_where_no_class_occurs_and_where_nothing_counts() -> None:
    classes = layout_of("occ3d").classes
    free = record_of(scores("occ3d", 0))
    for metric in (*MEANS, "IoU", "image_IoU", "bev_IoU"):
        assert free.metrics[metric] == 100.0
        assert absences.note([free], metric, classes) == "none of the 17 classes occurs, which counts 100 %"
    nothing = record_of(scores("occ3d", 5, counted=False))
    assert nothing.metrics == {} and not nothing.absent
    assert set(absences.without_number(nothing)) == {*MEANS, "IoU", "mIoU_occ3d", "image_IoU", "bev_IoU", "depth_l1"}
    assert not absences.uncounted(nothing, "RayIoU"), "it was not measured"


def printed(dataset: str, found: dict[int, Scores]) -> str:
    table = load_table(f"table_{dataset}")
    cells = [table.cell(table.row("tpvformer"), "cpu", "toy", seed) for seed in found]
    plan = Plan(table, "toy", None, "data", ("cpu",), tuple(cells), ())
    console = Console(record=True, width=250, file=open("/dev/null", "w"))
    print_results(console, table, [plan], {cell.key: record_of(found[cell.seed], dataset) for cell in cells}, Path("results"))
    return console.export_text()


@pytest.mark.parametrize("dataset", GRIDS)
def test_a_run_marks_its_numbers(dataset: str) -> None:
    total = len(layout_of(dataset).classes)
    tables = 1 + len(views_of(load_table(f"table_{dataset}")))
    text = printed(dataset, {0: scores(dataset, 5)})
    share = 100 * (total - 5) / total
    assert text.count(f"{share:.2f} [0.00] †1") == 3  # voxels; images and the view from above in the view's table
    line = f"†1: {total - 5} of {total} classes do not occur and count 100 %; in brackets over the others"
    assert text.count(line) == tables == 2
    assert "†" not in printed(dataset, {0: scores(dataset, total)})
    assert "†1: none of the" in (none := printed(dataset, {0: scores(dataset, 0)})) and "100.00 †1" in none
    several = printed(dataset, {0: scores(dataset, 5), 1: scores(dataset, 5)})
    assert f"{share:.2f} ± 0.00 [0.00] †1" in several
    nothing = printed(dataset, {0: scores(dataset, 5, counted=False)})
    assert "- †1" in nothing and nothing.count(f"†1: {absences.NOTHING}") == tables and "100.00" not in nothing


def test_the_tracking_store_is_told(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker, classes = Tracker(pytest.fail, uri), layout_of("occ3d").classes
    run = tracker.start("table", "cell", None, {})
    assert run is not None
    tracker.tags(absences.tags(record_of(scores("occ3d", 15)), classes))
    tags = MlflowClient(tracking_uri=uri).get_run(run).data.tags
    said = f"2 of 17 classes do not occur and count 100 %; over the others 0.00 (absent: {', '.join(classes[15:])})"
    assert {name: tags[f"absent.{name}"] for name in MEANS} == dict.fromkeys(MEANS, said)
    tracker.tags(absences.tags(record_of(scores("occ3d", 5, counted=False)), classes))
    tags = MlflowClient(tracking_uri=uri).get_run(run).data.tags
    assert tags["uncounted"].startswith("mIoU, image_mIoU, bev_mIoU, IoU") and tags["uncounted"].endswith(absences.NOTHING)
