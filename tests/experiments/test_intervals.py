"""Intervals of paired differences: against the definition, their coverage, and when one row is called better."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy import stats

from experiments import intervals

DRAWN = np.random.default_rng(0)


@pytest.mark.parametrize("count", [2, 3, 5, intervals.MANY - 1])
def test_few_differences_have_students_interval(count: int) -> None:
    differences = DRAWN.normal(1.0, 2.0, count).tolist()
    half = stats.t.ppf(0.975, count - 1) * stdev(differences) / math.sqrt(count)
    assert intervals.interval(differences) == pytest.approx((fmean(differences) - half, fmean(differences) + half))


def test_it_holds_the_true_mean_as_often_as_it_says() -> None:
    for count, runs in ((3, 1000), (20, 60)):
        held = 0
        for _ in range(runs):
            low, high = intervals.interval(DRAWN.normal(0.5, 1.0, count).tolist())
            held += low <= 0.5 <= high
        assert abs(held / runs - intervals.CONFIDENCE) < 4 * math.sqrt(0.95 * 0.05 / runs)


def test_many_differences_are_resampled_with_the_same_draws_each_time() -> None:
    skewed = DRAWN.exponential(1.0, 40).tolist()
    low, high = intervals.interval(skewed)
    assert (low, high) == intervals.interval(skewed)
    assert high - fmean(skewed) > fmean(skewed) - low, "longer to the side of the long tail, which Student's is not"


def test_better_only_where_the_interval_leaves_0_out() -> None:
    assert intervals.interval([0.5]) is None and not intervals.resolved([0.5])
    assert intervals.marked([0.5], 2) == "+0.50"
    assert not intervals.resolved([1.0, 2.0, 3.0]) and intervals.marked([1.0, 2.0, 3.0], 2) == "+2.00 (-0.48 to +4.48)"
    assert intervals.resolved([-0.3, -0.35, -0.4]) and intervals.marked([-0.3, -0.35, -0.4], 2) == "**-0.35 (-0.47 to -0.23)**"
    assert intervals.interval([2.0, 2.0]) == (2.0, 2.0)


def test_differences_are_of_the_seeds_that_both_have() -> None:
    assert intervals.paired({0: 3.0, 2: 5.0, 3: 1.0}, {2: 4.0, 0: 2.0, 1: 9.0}) == {0: 1.0, 2: 1.0}
    assert intervals.paired({0: 3.0}, {0: 2.0}, relative=True) == {0: pytest.approx(50.0)}


def test_places_are_open_as_far_as_differences_are() -> None:
    rows = {
        "a": {0: 10.0, 1: 11.0, 2: 12.0},
        "b": {0: 9.0, 1: 12.0, 2: 10.5},  # not told from a
        "c": {0: 5.0, 1: 6.1, 2: 7.0},  # below a in every seed by the same
        "d": {0: 1.0},  # one seed: open to all
    }
    found = {name: str(place) for name, place in intervals.places(rows, higher_is_better=True).items()}
    assert found == {"a": "1 (1 to 3)", "b": "2 (1 to 3)", "c": "3 (3 to 4)", "d": "4 (1 to 4)"}
    assert intervals.resolved(list(intervals.paired(rows["b"], rows["c"]).values())), "so that c is below both"
    turned = intervals.places(rows, higher_is_better=False)
    assert [(p.place, p.best, p.worst) for p in turned.values()] == [(4, 2, 4), (3, 2, 4), (2, 1, 2), (1, 1, 4)]


def test_equal_rows_share_a_place_and_a_place_lies_within_its_interval() -> None:
    same = {"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 1.0}}
    assert [str(place) for place in intervals.places(same, True).values()] == ["1 (1 to 2)", "1 (1 to 2)"]
    for _ in range(50):
        rows = {name: dict(enumerate(DRAWN.normal(size=DRAWN.integers(1, 5)))) for name in "abcdef"}
        for place in intervals.places(rows, True).values():
            assert 1 <= place.best <= place.place <= place.worst <= 6
