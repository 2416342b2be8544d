"""Learned motion against that of sensors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from baselines.interface import Neighbours, OccupancyBatch, OccupancyGrid
from experiments.metrics.counts import total
from experiments.metrics.evaluator import OccupancyMetric, of_sums
from experiments.metrics.motion import (
    direction_error,
    motion_sums,
    rotation_error,
    scale_by_frame,
    scale_over_trajectory,
)

GRID = OccupancyGrid((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 2.0, ("thing", "empty"), 1)


def pose(shift: tuple[float, float, float], degrees: float = 0.0) -> Tensor:
    out = torch.eye(4)
    out[:3, :3] = torch.tensor(Rotation.from_euler("z", degrees, degrees=True).as_matrix())
    out[:3, 3] = torch.tensor(shift)
    return out


def neighbours(motions: list[Tensor], valid: list[list[bool]] | None = None) -> Neighbours:
    """Of two cameras that move as the rig does, mounted differently."""
    mounted = torch.stack([pose((1.0, 0.5, 1.5), 30.0), pose((-1.0, 0.0, 1.5), 200.0)])
    moved = torch.linalg.inv(mounted) @ torch.stack(motions)[:, None] @ mounted
    t = len(motions)
    return Neighbours(
        images=torch.zeros(1, t, 2, 3, 2, 2),
        current=torch.zeros(1, 2, 3, 2, 2),
        intrinsics=torch.eye(3).expand(1, 2, 3, 3),
        camera_to_ego=mounted[None],
        camera_motion=moved[None],
        valid=torch.tensor([valid or [[True, True]] * t]),
    )


def numbers(*frames: tuple[list[Tensor], Neighbours]) -> tuple[float, float, float, float]:
    sums, _ = total(motion_sums(torch.stack(said), around) for said, around in frames)
    return tuple(of(sums, GRID) for of in (scale_by_frame, scale_over_trajectory, direction_error, rotation_error))  # type: ignore[return-value]


def test_the_true_motion_is_right() -> None:
    true = [pose((-2.0, 0.1, 0.0), 3.0), pose((1.0, 0.0, 0.0), -2.0)]
    assert numbers((true, neighbours(true))) == pytest.approx((1, 1, 0, 0), abs=1e-3)


def test_ratios_are_of_each_moment_and_of_all_metres() -> None:
    true = [pose((-4.0, 0.0, 0.0)), pose((1.0, 0.0, 0.0), 10.0)]
    said = [pose((0.0, 2.0, 0.0)), pose((1.0, 0.0, 0.0), 14.0)]
    assert numbers((said, neighbours(true))) == pytest.approx(((0.5 + 1) / 2, 3 / 5, 45, 2), abs=1e-3)
    back = [pose((4.0, 0.0, 0.0)), pose((1.0, 0.0, 0.0), 10.0)]
    assert numbers((back, neighbours(true))) == pytest.approx((1, 1, 90, 0), abs=1e-3), "the wrong way round shows"


def test_standing_still_has_no_ratio_and_what_is_not_there_does_not_count() -> None:
    still, wrong = [pose((0.01, 0.0, 0.0)), pose((2.0, 0.0, 0.0))], [pose((5.0, 0.0, 0.0), 8.0), pose((1.0, 0.0, 0.0))]
    assert numbers((wrong, neighbours(still))) == pytest.approx((0.5, 0.5, 0, 4), abs=1e-3)
    one = neighbours(still, [[True, True], [False, False]])
    *of_shifts, degrees = numbers((wrong, one))
    assert np.isnan(of_shifts).all() and degrees == pytest.approx(8, abs=1e-3)
    assert np.isnan(rotation_error({}, GRID)), "of a model that says no motion"


def test_sums_of_frames_are_exact() -> None:
    true = [[pose((float(n), 0.2 * n, 0.0), n)] for n in range(1, 5)]
    said = [[pose((0.5 * n + 1, 0.0, 0.0), 2 * n)] for n in range(1, 5)]
    frames = [(own, neighbours(real)) for own, real in zip(said, true, strict=True)]
    assert numbers(*frames) == pytest.approx(numbers(*frames[::-1]))
    shares = [numbers(frame)[0] for frame in frames]
    assert numbers(*frames)[0] == pytest.approx(np.mean(shares)) and numbers(*frames)[3] == pytest.approx(2.5, abs=1e-3)


def frames(count: int, seed: int = 0) -> tuple[OccupancyBatch, list[dict[str, Tensor]]]:
    """A batch whose rig moves by random shifts, and what a model says of it."""
    draw = np.random.default_rng(seed)
    true = [[pose(tuple(draw.uniform(0.5, 2, 3)), draw.uniform(-5, 5))] for _ in range(count)]
    said = [pose(tuple(draw.uniform(0.5, 2, 3)), draw.uniform(-5, 5)) for _ in range(count)]
    batch = OccupancyBatch(
        images=torch.zeros(count, 2, 3, 2, 2),
        projection=torch.eye(4).expand(count, 2, 4, 4),
        intrinsics=torch.eye(3).expand(count, 2, 3, 3),
        reference_to_camera=torch.eye(4).expand(count, 2, 4, 4),
        camera_size=(2, 2),
        labels=torch.ones(count, *GRID.shape, dtype=torch.int64),
        camera_mask=torch.ones(count, *GRID.shape, dtype=torch.bool),
        reference_to_lidar=torch.eye(4).expand(count, 4, 4),
        neighbours=Neighbours.joined([neighbours(one) for one in true], [1] * count),
    )
    return batch, [{"labels": labels, "motion": motion[None]} for labels, motion in zip(batch.labels, said, strict=True)]


def test_the_evaluation_measures_it_whatever_the_batch_size() -> None:
    names = ("motion_scale", "motion_scale_by_frame", "motion_direction", "motion_rotation")
    batch, said = frames(3)
    whole, single = (OccupancyMetric(GRID, rays=False, of_sums=of_sums(names)) for _ in range(2))
    whole.process({"batch": batch}, said)
    for number in range(3):
        single.process({"batch": batch.one(number)}, said[number : number + 1])
    found = whole.evaluate(3)
    assert set(names) <= set(found) and found == single.evaluate(3)
    without = OccupancyMetric(GRID, rays=False, of_sums=of_sums(names))
    without.process({"batch": batch}, [{"labels": one["labels"]} for one in said])
    assert not set(names) & set(without.evaluate(3)), "a model that says no motion has no such number"
    with pytest.raises(ValueError, match="measured by the batch's neighbours"):
        whole.process({"batch": replace(batch, neighbours=None)}, said)


def test_of_a_model_that_predicts_no_voxels_none_are_scored() -> None:
    names = ("motion_scale", "mIoU_15_classes", "IoU_15_classes", "mIoU_moving_classes")
    batch, said = frames(2)
    metric = OccupancyMetric(GRID, of_sums=of_sums(names), voxels=False)
    metric.process({"batch": batch}, said)
    assert set(metric.evaluate(2)) == {"motion_scale"}
    assert metric.last is not None and (metric.last.per_class, metric.last.absent) == ({}, {})


def test_other_moments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"predicted motion must be \[1, 4, 4\], got \[2, 4, 4\]"):
        motion_sums(torch.eye(4).expand(2, 4, 4), neighbours([torch.eye(4)]))
