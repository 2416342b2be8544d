"""mIoU and RayIoU for anybody's arrays and tensors, and as classes of torchmetrics: examples run, counts are the evaluator's."""

from __future__ import annotations

import doctest
import importlib.util
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.interface import OccupancyGrid
from camera_occupancy_bench import ROOT
from experiments.datasets.dataset_occ3d import DATASET
from experiments.metrics.counts import evaluate, sample_counts
from experiments.metrics.functions import mean_iou, ray_iou

GRID = DATASET.grid(coarsen=8)
RANDOM = np.random.default_rng(4)
TRUE = np.where(RANDOM.random((3, *GRID.shape)) < 0.2, RANDOM.integers(0, 17, (3, *GRID.shape)), 17)
GUESS = np.where(RANDOM.random(TRUE.shape) < 0.3, np.roll(TRUE, 1, axis=1), TRUE)
MASK = RANDOM.random(TRUE.shape) < 0.5
ORIGINS = [np.array([[0.986, 0.0, 1.84], [5.0, 1.0, 1.84]]), np.array([[0.986, 0.0, 1.84]]), np.array([[-3.0, 0.2, 1.8]])]


@pytest.mark.parametrize("module", ["functions", "torchmetrics_classes"])
def test_the_examples_run(module: str) -> None:
    if module == "torchmetrics_classes":
        pytest.importorskip("torchmetrics")
    found = doctest.testmod(importlib.import_module(f"experiments.metrics.{module}"))
    assert found.attempted > 5 and found.failed == 0


def test_the_pages_examples_run() -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs/scoring.md").read_text(encoding="utf-8"), re.DOTALL)
    assert examples
    scope: dict[str, object] = {}
    for code in examples:
        assert len(code.splitlines()) <= 12
        if "torchmetrics" not in code or importlib.util.find_spec("torchmetrics") is not None:
            exec(code, scope)  # noqa: S102
    assert 0 < float(scope["scores"].rayiou) < 100  # type: ignore[attr-defined]


def test_arrays_tensors_and_batches_get_the_evaluators_numbers() -> None:
    counts = [sample_counts(*frame, GRID, ray_origins=o) for *frame, o in zip(GUESS, TRUE, MASK, ORIGINS, strict=True)]
    expected = evaluate(counts, GRID.class_names, GRID.empty)
    for kind in (np.asarray, torch.from_numpy):
        rays = ray_iou(kind(GUESS), kind(TRUE), [kind(points) for points in ORIGINS], GRID)
        assert rays.rayiou == expected.metrics["RayIoU"] and rays.per_class == expected.per_class["RayIoU"]
        voxels = mean_iou(kind(GUESS), kind(TRUE), kind(MASK), GRID)
        assert voxels.miou == expected.metrics["mIoU_occ3d"] and voxels.iou == expected.metrics["IoU"]
    one = ray_iou(GUESS[0], TRUE[0], ORIGINS[0], GRID)
    assert one.rayiou == evaluate(counts[:1], GRID.class_names, GRID.empty).metrics["RayIoU"]


def test_unknown_voxels_do_not_count() -> None:
    unknown = TRUE[0].copy()
    unknown[:5] = GRID.ignore
    assert mean_iou(GUESS[0], unknown, None, GRID).miou == mean_iou(GUESS[0][5:], TRUE[0][5:], None, half()).miou
    assert ray_iou(GUESS[0], unknown, ORIGINS[0], GRID) == ray_iou(
        GUESS[0], np.where(unknown == GRID.ignore, 17, unknown), ORIGINS[0], GRID
    )


def half() -> OccupancyGrid:
    """The grid without its first five voxels along x."""
    return replace(GRID, lower=(GRID.lower[0] + 5 * GRID.voxel_size, *GRID.lower[1:]))


def test_bad_arguments_are_named() -> None:
    frame, origins = TRUE[0], ORIGINS[0]
    for wrong, message in (
        (frame[1:], "predicted is"),
        (frame.astype(float), "predicted holds float64"),
        (np.full_like(frame, 18), "predicted holds class 18"),
        (np.full_like(frame, GRID.ignore), "predicted holds class 255"),
        (TRUE, "differ in shape"),
    ):
        with pytest.raises(ValueError, match=message):
            mean_iou(wrong, frame, None, GRID)
    with pytest.raises(ValueError, match="origins are of 2 frames, there are 3"):
        ray_iou(TRUE, TRUE, ORIGINS[:2], GRID)
    with pytest.raises(ValueError, match="origins must be finite"):
        ray_iou(frame, frame, origins * np.nan, GRID)


def test_torchmetrics_classes_add_up_over_batches_and_processes() -> None:
    pytest.importorskip("torchmetrics")
    from experiments.metrics.torchmetrics_classes import MeanIoU, RayIoU

    guess, true, mask = (torch.from_numpy(part) for part in (GUESS, TRUE, MASK))
    whole, parts = (MeanIoU(GRID), RayIoU(GRID)), [(MeanIoU(GRID), RayIoU(GRID)) for _ in range(2)]
    whole[0].update(guess, true, mask)
    whole[1].update(guess, true, ORIGINS)
    assert whole[0].scores() == mean_iou(GUESS, TRUE, MASK, GRID) and whole[1].scores() == ray_iou(GUESS, TRUE, ORIGINS, GRID)
    for (miou, rayiou), own in zip(parts, (slice(0, 1), slice(1, 3)), strict=True):
        miou.update(guess[own], true[own], mask[own])
        rayiou.update(guess[own], true[own], ORIGINS[own])
    for number, metric in enumerate(whole):
        # What torchmetrics does with the states of two processes.
        gathered = torch.stack([part[number].counts for part in parts])
        assert metric._reductions["counts"](gathered).equal(metric.counts) and metric.counts.dtype == torch.int64
        value = metric.compute()
        metric.reset()
        assert int(metric.counts.sum()) == 0 and not torch.isnan(value)
