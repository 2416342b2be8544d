"""Voxel, image and depth metrics against cases worked out by hand; sums over samples and processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two_ranks import outputs_of_two_ranks

from baselines.interface import OccupancyBatch, OccupancyGrid
from baselines.published import Published
from experiments.metrics.counts import evaluate, sample_counts
from experiments.metrics.depth import depth_l1, depth_sums
from experiments.metrics.evaluator import OccupancyMetric, counted, masks, of_sums
from experiments.metrics.prior import fit_prior
from experiments.metrics.voxel import confusion, scores

NAMES = ("a", "b", "c", "free")
GRID = OccupancyGrid((0.0, 0.0, 0.0), (4.0, 2.0, 1.0), 1.0, NAMES, empty=3)


def test_golden_scores_by_hand() -> None:
    """Ten voxels: one masked, one ignored, eight counted.

    true  a a a b b f f f | f (masked) 255
    pred  a a b b f f a c | a          a
    a: tp 2, true 3, predicted 3 -> 2/4. b: 1, 2, 2 -> 1/3. c: never true, predicted once. free: 1, 3, 2 -> 1/4.
    occupied: both 4, true 5, predicted 6 -> 4/7.
    """
    target = np.array([0, 0, 0, 1, 1, 3, 3, 3, 3, 255])
    predicted = np.array([0, 0, 1, 1, 3, 3, 0, 2, 0, 0])
    mask = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 1], bool)
    matrix = confusion(predicted, target, mask, num_classes=4)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]]
    published = scores(matrix, NAMES, empty=3, absent="one")
    assert published.per_class == pytest.approx({"a": 50.0, "b": 100 / 3, "c": 100.0, "free": 25.0})
    assert published.miou == pytest.approx((50 + 100 / 3 + 100) / 3)
    assert published.miou_with_empty == pytest.approx((50 + 100 / 3 + 100 + 25) / 4)
    assert published.iou == pytest.approx(400 / 7)
    assert published.absent == ["c"]
    official = scores(matrix, NAMES, empty=3, absent="drop")
    assert official.per_class == pytest.approx({"a": 50.0, "b": 100 / 3, "free": 25.0})
    assert official.miou == pytest.approx((50 + 100 / 3) / 2)
    assert official.iou == pytest.approx(400 / 7)


def test_both_rules_agree_where_all_classes_occur() -> None:
    random = np.random.default_rng(0)
    matrix = confusion(random.integers(0, 4, 500), random.integers(0, 4, 500), num_classes=4)
    assert scores(matrix, NAMES, 3, "one") == scores(matrix, NAMES, 3, "drop")


def test_scores_of_nothing() -> None:
    nothing = np.zeros((4, 4), np.int64)
    for rule in ("one", "drop"):
        found = scores(nothing, NAMES, 3, rule)
        assert np.isnan([found.miou, found.iou, found.miou_with_empty]).all() and found.per_class == {}
    only_empty = np.diag([0, 0, 0, 7])
    published, official = scores(only_empty, NAMES, 3, "one"), scores(only_empty, NAMES, 3, "drop")
    assert published.miou == published.iou == 100.0 and published.absent == ["a", "b", "c"]
    assert np.isnan(official.miou) and official.per_class == {"free": 100.0}
    with pytest.raises(ValueError, match="does not fit 3 classes"):
        scores(nothing, NAMES[:3], 2)


def test_confusion_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        confusion(np.zeros(3, int), np.zeros(4, int), num_classes=2)
    with pytest.raises(ValueError, match="predicted holds class 0..7"):
        confusion(np.array([0, 7]), np.array([0, 1]), num_classes=4)
    assert confusion(np.array([0, 7]), np.array([0, 255]), num_classes=4).sum() == 1


def test_depth_is_pooled_over_pixels_not_images() -> None:
    """Image 1: one pixel with error 2; image 2: three with error 1. Pooled (2 + 3) / 4, or / 5 as published."""
    first = depth_sums(np.array([[3.0, 9.0]]), np.array([[5.0, 0.1]]))  # 0.1 itself does not count
    second = depth_sums(np.array([[1.0, 1.0, 1.0]]), np.array([[2.0, 2.0, 2.0]]))
    assert first.tolist() == [2.0, 1.0]
    assert depth_l1(first + second) == pytest.approx(5 / 5)
    assert depth_l1(first + second, published_denominator=False) == pytest.approx(5 / 4)
    assert depth_l1(np.zeros(2)) == 0.0 and np.isnan(depth_l1(np.zeros(2), published_denominator=False))


def sample(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Random prediction, target, mask and views of the small grid."""
    random = np.random.default_rng(seed)
    views = {
        "pred_semantics": random.integers(0, 4, (2, 3, 5)),
        "gt_semantics": random.integers(0, 4, (2, 3, 5)),
        "pred_depth": random.random((2, 3, 5), np.float32) * 9,
        "gt_depth": random.random((2, 3, 5), np.float32) * 9,
        "pred_bev": random.integers(0, 4, (6, 6)),
        "gt_bev": random.integers(0, 4, (6, 6)),
    }
    return random.integers(0, 4, GRID.shape), random.integers(0, 4, GRID.shape), random.random(GRID.shape) < 0.8, views


ORIGINS = np.array([[2.0, 1.0, 0.5]])


def test_evaluate_pools_counts_over_samples() -> None:
    parts = [sample(seed) for seed in range(3)]
    counts = [sample_counts(p, t, m, GRID, ray_origins=ORIGINS, views=v) for p, t, m, v in parts]
    result = evaluate(counts, NAMES, 3)
    assert result.samples == 3
    assert set(result.metrics) == {
        *("mIoU", "IoU", "mIoU_occ3d", "RayIoU", "RayIoU@1", "RayIoU@2", "RayIoU@4"),
        *("image_mIoU", "image_IoU", "bev_mIoU", "bev_IoU", "depth_l1"),
    }
    predicted, target, mask = (np.concatenate([np.ravel(part[i]) for part in parts]) for i in range(3))
    joint = scores(confusion(predicted, target, mask, num_classes=4), NAMES, 3)
    assert result.metrics["mIoU"] == pytest.approx(joint.miou) and result.metrics["IoU"] == pytest.approx(joint.iou)
    images = [np.concatenate([part[3][name].ravel() for part in parts]) for name in ("pred_semantics", "gt_semantics")]
    assert result.metrics["image_mIoU"] == pytest.approx(scores(confusion(*images, num_classes=4), NAMES, 3).miou)
    depths = [np.concatenate([part[3][name].ravel() for part in parts]) for name in ("pred_depth", "gt_depth")]
    assert result.metrics["depth_l1"] == pytest.approx(depth_l1(depth_sums(*depths)))
    assert set(result.per_class) == {"mIoU", "RayIoU", "image_mIoU", "bev_mIoU"}
    assert set(result.per_class["mIoU"]) == {"a", "b", "c"} and result.absent == {}


def test_what_was_not_measured_is_not_reported() -> None:
    predicted, target, mask, views = sample(0)
    assert set(evaluate([sample_counts(predicted, target, mask, GRID)], NAMES, 3).metrics) == {"mIoU", "IoU", "mIoU_occ3d"}
    empty = np.full(GRID.shape, 3)
    nothing = evaluate([sample_counts(empty, empty, mask, GRID, ray_origins=ORIGINS)], NAMES, 3)
    assert nothing.metrics == {"mIoU": 100.0, "IoU": 100.0} and nothing.per_class == {"mIoU": {}, "RayIoU": {}}
    assert nothing.absent == {"mIoU": ["a", "b", "c"], "IoU": ["a", "b", "c"]}
    with pytest.raises(ValueError, match="'gt_depth' but not its counterpart"):
        sample_counts(predicted, target, mask, GRID, views={"gt_depth": views["gt_depth"]})
    with pytest.raises(ValueError, match="measured differently"):
        evaluate([sample_counts(predicted, target, mask, GRID), {"depth": np.zeros(2)}], NAMES, 3)
    with pytest.raises(ValueError, match=r"predicted is \[2, 2, 1\], the grid is \[4, 2, 1\]"):
        sample_counts(predicted[:2], target, mask, GRID)
    with pytest.raises(ValueError, match="no samples"):
        evaluate([], NAMES, 3)


def test_absent_classes_are_named_by_metric_and_where_nothing_counts_there_is_no_number() -> None:
    """Voxels hold a alone, images b alone, the view from above none but the empty class; then nothing is labelled at all."""
    guess = np.full(GRID.shape, 3)
    true, everywhere = np.where(np.arange(guess.size).reshape(guess.shape) < 2, 0, 3), np.ones(GRID.shape, bool)
    free, beside = np.full((2, 3, 5), 3), np.full((2, 3, 5), 1)
    depth = np.full((2, 3, 5), 2.0)
    views = {"pred_semantics": free, "gt_semantics": beside, "pred_bev": free[0], "gt_bev": free[0]}
    views |= {"pred_depth": depth, "gt_depth": depth}
    some = evaluate([sample_counts(guess, true, everywhere, GRID, views=views)], NAMES, 3)
    every = ["a", "b", "c"]
    assert some.absent == {"mIoU": ["b", "c"], "image_mIoU": ["a", "c"], "bev_mIoU": every, "bev_IoU": every}
    assert some.metrics["mIoU"] == some.metrics["image_mIoU"] == pytest.approx(200 / 3)
    assert some.metrics["mIoU_occ3d"] == some.metrics["IoU"] == 0.0
    unknown = {"gt_semantics": np.full_like(free, 255), "gt_bev": np.full_like(free[0], 255), "gt_depth": 0 * depth}
    for hidden, labels in ((~everywhere, true), (everywhere, np.full_like(true, 255))):
        counts = [sample_counts(guess, labels, hidden, GRID, views=views | unknown)]
        nothing = evaluate(counts, NAMES, 3)
        assert nothing.metrics == {} and nothing.absent == {}
        assert nothing.per_class == {"mIoU": {}, "image_mIoU": {}, "bev_mIoU": {}}


def batch_of(seeds: list[int]) -> tuple[dict[str, OccupancyBatch], list[dict[str, object]]]:
    """A batch as the loader makes it, with tensors, and the predictions for it."""
    parts = [sample(seed) for seed in seeds]
    b = len(parts)
    batch = OccupancyBatch(
        images=torch.zeros(b, 1, 3, 2, 2),
        projection=torch.eye(4).expand(b, 1, 4, 4),
        intrinsics=torch.eye(3).expand(b, 1, 3, 3),
        reference_to_camera=torch.eye(4).expand(b, 1, 4, 4),
        camera_size=(2, 2),
        labels=torch.from_numpy(np.stack([t for _, t, _, _ in parts])),
        camera_mask=torch.from_numpy(np.stack([m for _, _, m, _ in parts])),
        reference_to_lidar=torch.eye(4).expand(b, 4, 4),
        meta=[{"token": str(seed), "ray_origins": ORIGINS} for seed in seeds],
    )
    samples = [{"labels": torch.from_numpy(p), "views": {k: torch.from_numpy(x) for k, x in v.items()}} for p, _, _, v in parts]
    return {"batch": batch}, samples  # type: ignore[return-value]


def test_metric_equals_plain_evaluation_whatever_the_batches() -> None:
    expected = evaluate(
        [sample_counts(p, t, m, GRID, ray_origins=ORIGINS, views=v) for p, t, m, v in map(sample, range(4))], NAMES, 3
    )
    for split in ([[0], [1], [2], [3]], [[0, 1, 2], [3]]):
        metric = OccupancyMetric(GRID)
        for seeds in split:
            metric.process(*batch_of(seeds))
        assert metric.evaluate(4) == expected.metrics
        assert metric.last == expected


def test_scores_over_the_classes_that_images_teach() -> None:
    """Voxels whose true class models of images have no prompt for are left out; predicted elsewhere, it is wrong like another."""
    grid = replace(GRID, published=Published(unseen_classes=("b",)))
    of_metrics = of_sums(["mIoU", "mIoU_15_classes", "IoU_15_classes", "RayIoU_15_classes"])
    assert list(of_metrics) == ["mIoU_15_classes", "IoU_15_classes", "RayIoU_15_classes"]
    metric = OccupancyMetric(grid, of_sums=of_metrics)
    metric.process(*batch_of([0, 1, 2]))
    found = metric.evaluate(3)
    parts = [sample(seed) for seed in range(3)]
    predicted, target, mask = (np.concatenate([np.ravel(part[i]) for part in parts]) for i in range(3))
    matrix = confusion(predicted, target, mask & (target != 1), num_classes=4)
    assert matrix[:, 1].any()  # b is predicted where something else is
    kept = scores(matrix, NAMES, 3, absent="drop")
    assert found["mIoU_15_classes"] == pytest.approx((kept.per_class["a"] + kept.per_class["c"]) / 2)
    assert found["IoU_15_classes"] == pytest.approx(kept.iou) != found["IoU"]
    assert metric.last is not None
    rays = metric.last.per_class["RayIoU"]
    assert found["RayIoU_15_classes"] == pytest.approx(np.mean([rays[name] for name in "ac" if name in rays]))
    # Of a data set all of whose classes have a prompt, or that has no rays, there is no such number.
    without = OccupancyMetric(GRID, of_sums=of_metrics)
    without.process(*batch_of([0]))
    assert not set(of_metrics) & set(without.evaluate(1))
    no_rays = OccupancyMetric(grid, rays=False, of_sums=of_metrics)
    no_rays.process(*batch_of([0]))
    assert set(of_metrics) - set(no_rays.evaluate(1)) == {"RayIoU_15_classes"}


def test_the_classes_that_move_have_a_mean_of_their_own() -> None:
    """Over those that occur, on the voxels of the mean over 15 classes; a data set of which nothing is published has none."""
    grid = replace(GRID, published=Published(unseen_classes=("b",), moving=("a", "b")))
    of_metrics = of_sums(["mIoU_moving_classes"])
    parts = [sample(seed) for seed in range(3)]
    predicted, target, mask = (np.concatenate([np.ravel(part[i]) for part in parts]) for i in range(3))
    kept = scores(confusion(predicted, target, mask & (target != 1), num_classes=4), NAMES, 3, absent="drop")
    metric = OccupancyMetric(grid, of_sums=of_metrics)
    metric.process(*batch_of([0, 1, 2]))
    assert metric.evaluate(3)["mIoU_moving_classes"] == pytest.approx(kept.per_class["a"])
    without = OccupancyMetric(GRID, of_sums=of_metrics)
    without.process(*batch_of([0]))
    assert "mIoU_moving_classes" not in without.evaluate(1)


def test_metric_names_what_is_missing() -> None:
    metric = OccupancyMetric(GRID)
    batch, samples = batch_of([0, 1])
    with pytest.raises(ValueError, match=r"1 prediction\(s\) for a batch of 2"):
        metric.process(batch, samples[:1])
    del batch["batch"].meta[0]["ray_origins"]
    with pytest.raises(ValueError, match=r"sample 0 has no meta\['ray_origins'\]"):
        metric.process(batch, samples)
    without = OccupancyMetric(GRID, rays=False)
    without.process(batch, samples)
    assert "RayIoU" not in without.evaluate(2)


def test_a_metric_of_another_mask_counts_its_voxels_and_names_a_mask_that_is_not_there() -> None:
    name = "mIoU_occ3d_camera_and_lidar_mask"
    batch, samples = batch_of([0, 1])
    for index, meta in enumerate(batch["batch"].meta):
        meta["index"] = index
    other = [np.random.default_rng(index).random(GRID.shape) < 0.5 for index in range(2)]

    def metric(mask_of: Callable[[int], dict[str, Any]]) -> OccupancyMetric:
        return OccupancyMetric(GRID, others=counted([name, "mIoU"]), masks=masks([name, "mIoU"]), mask_of=mask_of)

    masked = metric(lambda index: {"camera and lidar mask": other[index]})
    masked.process(batch, samples)
    parts = [sample(seed) for seed in range(2)]
    matrix = sum(confusion(p, t, mask, num_classes=4) for (p, t, _, _), mask in zip(parts, other, strict=True))
    found = masked.evaluate(2)
    assert found[name] == pytest.approx(scores(matrix, NAMES, 3, absent="drop").miou) != found["mIoU_occ3d"]
    with pytest.raises(ValueError, match=f"metric '{name}' counts voxels of the camera and lidar mask, which these labels"):
        metric(lambda index: {}).process(batch, samples)


_TWO_PROCESSES = """
import sys, torch.distributed as dist
sys.path.insert(0, {tests!r})
from mmengine.dataset import DefaultSampler
from test_metrics import GRID, batch_of
from experiments.metrics.evaluator import OccupancyMetric

rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
try:
    metric = OccupancyMetric(GRID)
    seen = list(DefaultSampler(range(5), shuffle=False))
    assert len(seen) == 3, seen  # five samples on two ranks: one is repeated
    for index in seen:
        metric.process(*batch_of([index]))
    values = metric.evaluate(5)
    assert (metric.last is not None) == (rank == 0)
    with open(f"{{out}}{{rank}}", "w") as file:
        file.write(repr(sorted(values.items())))
    dist.barrier()  # neither process leaves while the other may still talk to it
finally:
    dist.destroy_process_group()  # gloo's threads must not outlive the interpreter, which would abort
"""


def test_two_processes_count_every_sample_once(tmp_path: Path) -> None:
    """gloo: five samples on two ranks (one filled up twice) give the single process's numbers on both."""
    found = outputs_of_two_ranks(_TWO_PROCESSES, tmp_path)
    metric = OccupancyMetric(GRID)
    for index in range(5):
        metric.process(*batch_of([index]))
    alone = repr(sorted(metric.evaluate(5).items()))
    assert found == [alone, alone]


class _Frames:
    grid = GRID

    def __init__(self, frames: list[np.ndarray]) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def labels(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.frames[index], np.ones(GRID.shape, bool)


def test_prior_is_each_voxels_most_frequent_label() -> None:
    frames = [np.full(GRID.shape, 3, np.uint8) for _ in range(4)]
    for frame, label in zip(frames, (1, 1, 2, 3), strict=True):
        frame[0, 0, 0] = label
    for frame, label in zip(frames, (2, 0, 2, 0), strict=True):
        frame[1, 0, 0] = label  # a tie
    for frame, label in zip(frames, (255, 255, 255, 2), strict=True):
        frame[2, 1, 0] = label
    for frame in frames:
        frame[3, 1, 0] = 255
    prior = fit_prior(_Frames(frames))
    assert prior.dtype == np.uint8 and prior.shape == GRID.shape
    assert (prior[0, 0, 0], prior[1, 0, 0], prior[2, 1, 0], prior[3, 1, 0]) == (1, 0, 2, 3)
    assert (prior == 3).sum() == prior.size - 3
    with pytest.raises(ValueError, match="at least one labelled frame"):
        fit_prior(_Frames([]))
