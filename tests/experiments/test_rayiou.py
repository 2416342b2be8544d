"""RayIoU against hand-made cases and a brute-force oracle."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.metrics import rayiou
from experiments.metrics.rayiou import THRESHOLDS, cast, ray_counts, ray_directions, ray_scores

FREE = 17
NAMES = tuple(str(c) for c in range(18))
OCC3D = {"lower": (-40.0, -40.0, -1.0), "voxel_size": 0.4, "empty": FREE}


def test_rays_are_the_published_set() -> None:
    rays = ray_directions()
    assert rays.shape == (14040, 3) and rays.dtype == np.float32
    assert np.linalg.norm(rays, axis=1) == pytest.approx(1.0, abs=1e-6)
    pitch = np.rad2deg(np.arcsin(rays[::360, 2].astype(np.float64)))
    published = [-45.0, -26.565, -18.435, -14.036, -11.310, -9.462, -8.130, -7.125, -6.340, -5.711]
    assert pitch[:10] == pytest.approx(published, abs=1e-3)
    assert np.diff(pitch[9:]) == pytest.approx(0.6296, abs=1e-3)
    assert len(pitch) == 39 and pitch[-1] == pytest.approx(12.548, abs=1e-3)
    azimuth = np.rad2deg(np.arctan2(rays[:360, 1], rays[:360, 0])) % 360
    assert azimuth == pytest.approx(np.arange(360), abs=1e-3)


def one_ray(grid: np.ndarray, origin: list[float], direction: list[float], voxel: float = 1.0) -> tuple[int, float]:
    """Class and distance of a single ray in a grid whose lower corner is the origin of space."""
    classes, distances = cast(
        grid[None],
        np.array([origin]),
        lower=(0.0, 0.0, 0.0),
        voxel_size=voxel,
        empty=FREE,
        directions=np.array([direction], np.float32),
    )
    return int(classes[0, 0, 0]), float(distances[0, 0, 0])


def test_distance_is_measured_to_the_far_side() -> None:
    grid = np.full((8, 4, 4), FREE, np.uint8)
    assert one_ray(grid, [0.5, 1.5, 1.5], [1, 0, 0]) == (FREE, 7.5)  # nothing hit: the last voxel inside
    assert one_ray(grid, [0.5, 1.5, 1.5], [-1, 0, 0]) == (FREE, 0.5)
    grid[3, 1, 1] = 4
    assert one_ray(grid, [0.5, 1.5, 1.5], [1, 0, 0]) == (4, 3.5)  # enters at 2.5, leaves at 3.5
    grid[0, 1, 1] = 9
    assert one_ray(grid, [0.5, 1.5, 1.5], [1, 0, 0]) == (9, 0.5)  # the origin's own voxel counts
    assert one_ray(grid, [0.25, 0.75, 0.75], [1, 0, 0], voxel=0.5) == (9, pytest.approx(0.25))


def test_diagonal_ray_by_hand() -> None:
    """From (0.5, 0.25, 0.5) along (1, 1, 0): x borders at .5, 1.5, .., y borders at .75, 1.75, .. (times sqrt 2)."""
    grid = np.full((4, 4, 1), FREE, np.uint8)
    direction = [2**-0.5, 2**-0.5, 0.0]
    grid[1, 1, 0] = 5
    assert one_ray(grid, [0.5, 0.25, 0.5], direction) == (5, pytest.approx(1.5 * 2**0.5, rel=1e-6))
    grid[1, 0, 0] = 6
    assert one_ray(grid, [0.5, 0.25, 0.5], direction) == (6, pytest.approx(0.75 * 2**0.5, rel=1e-6))


def test_rays_from_outside() -> None:
    grid = np.full((4, 4, 4), FREE, np.uint8)
    grid[2, 1, 1] = 3
    assert one_ray(grid, [-3.0, 1.5, 1.5], [1, 0, 0]) == (3, 6.0)
    grid[0, 0, 0] = 8  # what a ray that never comes inside reports, at a distance of -1 voxel
    assert one_ray(grid, [-3.0, 1.5, 1.5], [-1, 0, 0], voxel=0.4) == (8, pytest.approx(-0.4))


def oracle(grid: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> tuple[int, float]:
    """First occupied voxel of an origin inside the grid, from the sorted border crossings of the whole ray."""
    crossings = [0.0]
    for axis in range(3):
        if direction[axis] != 0.0:
            t = (np.arange(grid.shape[axis] + 1) - origin[axis]) / direction[axis]
            crossings += t[t > 0].tolist()
    crossings.sort()
    last = (-1, -1.0)
    for near, far in zip(crossings, crossings[1:], strict=False):
        voxel = np.floor(origin + 0.5 * (near + far) * direction).astype(int)
        if (voxel < 0).any() or (voxel >= grid.shape).any():
            break
        last = int(grid[tuple(voxel)]), far
        if last[0] != FREE:
            break
    return last


def test_casting_agrees_with_a_brute_force_oracle() -> None:
    random = np.random.default_rng(7)
    directions = random.normal(size=(150, 3))
    directions = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)
    for density, size, voxel in ((0.02, (12, 9, 5), 0.4), (0.2, (7, 11, 6), 0.8), (0.0, (5, 5, 5), 1.0)):
        grids = np.where(random.random((2, *size)) < density, random.integers(0, 17, (2, *size)), FREE).astype(np.uint8)
        lower = np.array([-1.0, 2.0, 0.5])
        origins = lower + random.random((4, 3)) * size * voxel
        classes, distances = cast(grids, origins, lower=lower, voxel_size=voxel, empty=FREE, directions=directions)
        for g, o, r in np.ndindex(classes.shape):
            expected = oracle(grids[g], (origins[o] - lower) / voxel, directions[r].astype(np.float64))
            assert classes[g, o, r] == expected[0]
            assert distances[g, o, r] == pytest.approx(expected[1] * voxel, abs=1e-4)


def world(seed: int) -> np.ndarray:
    """An Occ3D-sized scene: ground and some blocks of all classes."""
    random = np.random.default_rng(seed)
    grid = np.full((200, 200, 16), FREE, np.uint8)
    grid[:, :, 1] = 11
    for _ in range(80):
        x, y = random.integers(0, 190, 2)
        grid[x : x + random.integers(2, 10), y : y + random.integers(2, 10), 2:8] = random.integers(0, 17)
    return grid


ORIGINS = np.array([[0.986, 0.0, 1.84], [6.0, 1.0, 1.84], [-30.0, 2.0, 1.8]])


def count(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    return ray_counts(predicted, target, ORIGINS, num_classes=18, **OCC3D)


def test_a_perfect_prediction_scores_everything() -> None:
    target = world(0)
    scores = ray_scores(count(target, target), NAMES, FREE)
    assert scores.rayiou == 100.0 and set(scores.at.values()) == {100.0}
    assert len(scores.per_class) > 10 and set(scores.per_class.values()) == {100.0}


def test_an_empty_prediction_scores_nothing() -> None:
    target = world(0)
    counts = count(np.full_like(target, FREE), target)
    assert ray_scores(counts, NAMES, FREE).rayiou == 0.0
    assert counts[4, FREE] == counts[3].sum() and counts[3, FREE] == 0
    swapped = count(target, np.full_like(target, FREE))  # nothing to hit: all rays are left out
    assert swapped.sum() == 0 and np.isnan(ray_scores(swapped, NAMES, FREE).rayiou)


def test_a_shift_of_one_voxel_costs_more_at_tight_thresholds() -> None:
    target = world(1)
    scores = ray_scores(count(np.roll(target, 1, axis=0), target), NAMES, FREE)
    assert scores.at[1.0] <= scores.at[2.0] <= scores.at[4.0] < 100.0
    assert scores.at[1.0] > 50.0
    assert scores.rayiou == pytest.approx(np.mean(list(scores.at.values())), abs=1e-9)


def test_score_by_hand() -> None:
    """Two classes and free. 1: 6 true, 5 predicted, hits 2, 3, 4; 0: 2 true, 2 predicted, hits 0, 0, 1."""
    counts = np.array([[0, 2, 0], [0, 3, 0], [1, 4, 0], [2, 6, 0], [2, 5, 1]])
    scores = ray_scores(counts, ("x", "y", "free"), 2)
    y = [2 / 9, 3 / 8, 4 / 7]
    x = [0.0, 0.0, 1 / 3]
    assert list(scores.at) == list(THRESHOLDS)
    assert list(scores.at.values()) == pytest.approx([50 * (a + b) for a, b in zip(x, y, strict=True)])
    assert scores.rayiou == pytest.approx(100 * np.mean([x, y]))
    assert scores.per_class == pytest.approx({"x": 100 * np.mean(x), "y": 100 * np.mean(y)})
    counts[:, 0] = 0  # a class that occurs nowhere is left out
    assert ray_scores(counts, ("x", "y", "free"), 2).rayiou == pytest.approx(100 * np.mean(y))
    with pytest.raises(ValueError, match="do not fit 2 classes"):
        ray_scores(counts, ("x", "free"), 1)


def test_thresholds_are_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall one metre behind the true one is exactly 1 m off, which the 1 m threshold does not accept."""
    monkeypatch.setattr(rayiou, "ray_directions", lambda: np.array([[1, 0, 0]], np.float32))
    target = np.full((8, 4, 4), FREE, np.uint8)
    predicted = target.copy()
    target[5], predicted[6] = 4, 4
    counts = ray_counts(
        predicted, target, np.array([[0.5, 1.5, 1.5]]), lower=(0.0, 0.0, 0.0), voxel_size=1.0, num_classes=18, empty=FREE
    )
    assert counts[:, 4].tolist() == [0, 1, 1, 1, 1] and counts.sum() == 4


def test_counts_add_up_over_samples() -> None:
    a, b = (world(1), world(2)), (world(3), world(4))
    pooled = count(*a) + count(*b)
    assert ray_scores(pooled, NAMES, FREE).rayiou != pytest.approx(
        np.mean([ray_scores(count(*pair), NAMES, FREE).rayiou for pair in (a, b)])
    )
    assert pooled[3].sum() == count(*a)[3].sum() + count(*b)[3].sum()


def test_bad_arguments_are_named() -> None:
    grid = np.zeros((1, 2, 2, 2), np.uint8)
    with pytest.raises(ValueError, match="origins must be finite"):
        cast(grid, np.array([[np.nan, 0, 0]]), **OCC3D)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"grids must be \[G, X, Y, Z\]"):
        cast(grid[0], np.zeros((1, 3)), **OCC3D)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="differ in shape"):
        ray_counts(grid[0], grid[0, :1], np.zeros((1, 3)), num_classes=18, **OCC3D)  # type: ignore[arg-type]
