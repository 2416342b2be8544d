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
