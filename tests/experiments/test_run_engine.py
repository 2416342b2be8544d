"""The published schedule by its numbers, and an order of data that a resume continues."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from experiments.cell.engine import EndlessSampler, FirstLossesHook, WarmupCosineLR, scalars
from experiments.datasets.sampling import TrainSampler


def rates(iterations: int, upto: int) -> list[tuple[float, float]]:
    """Rates of a head (2e-4) and a backbone (2e-5) at every iteration."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (2e-4, 2e-5)]
    optimizer = torch.optim.AdamW(groups)
    schedule = WarmupCosineLR(optimizer, lr=2e-4, lr_min=2e-7, warmup=500, iterations=iterations)
    seen = []
    for _ in range(upto):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"]))
        optimizer.step()
        schedule.step()
    return seen


def test_warm_up_and_cosine_are_the_published_ones() -> None:
    seen = rates(iterations=2000, upto=2001)
    assert seen[0] == pytest.approx((6.6667e-5, 6.6667e-5), rel=1e-4), "the backbone starts above its own rate"
    assert seen[250] == pytest.approx((1.33333e-4, 4.33333e-5), rel=1e-4)
    # The cosine has run since iteration 0: at 500 of 2000 it is at cos(pi / 4), not at its start.
    assert seen[500] == pytest.approx((2e-7 + 1.998e-4 * 0.853553, 2e-7 + 1.98e-5 * 0.853553), rel=1e-5)
    assert seen[1000] == pytest.approx((1.001e-4, 1.01e-5), rel=1e-5)
    assert seen[2000] == pytest.approx((2e-7, 2e-7), rel=1e-5), "the floor is absolute"


@pytest.mark.parametrize("start", [0, 3, 5, 12])
def test_the_order_of_data_goes_on_where_it_stopped(start: int) -> None:
    whole = list(itertools.islice(EndlessSampler(TrainSampler(5, seed=7)), 20))
    rest = list(itertools.islice(EndlessSampler(TrainSampler(5, seed=7), start), 20 - start))
    assert rest == whole[start:]
    assert sorted(index for index, _ in whole[:5]) == [0, 1, 2, 3, 4]
    assert [epoch for _, epoch in whole] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert len(EndlessSampler(TrainSampler(5))) == 5


def test_log_values_become_numbers_without_their_graph() -> None:
    loss = torch.ones(1, requires_grad=True) * 2
    assert scalars({"loss": loss, "count": 3}) == {"loss": 2.0, "count": 3.0}
    assert scalars(None) == {}


def losses_of(hook: FirstLossesHook, start: int, stop: int) -> list[dict[str, float]]:
    for iteration in range(start, stop):
        hook.after_train_iter(SimpleNamespace(iter=iteration), iteration, outputs={"loss": torch.tensor(0.1 * iteration)})  # type: ignore[arg-type]
    return hook.losses


@pytest.mark.parametrize("stopped, checkpoint", [(2, 2), (2, 0), (3, 2), (9, 8), (0, 0)])
def test_the_first_losses_are_those_of_the_very_start_whatever_stopped_in_between(stopped: int, checkpoint: int) -> None:
    saved: list[list[dict[str, float]]] = []
    whole = losses_of(FirstLossesHook(3, 0, [], lambda losses: saved.append(list(losses))), 0, 10)
    assert whole == [{"loss": 0.0}, {"loss": float(torch.tensor(0.1))}, {"loss": float(torch.tensor(0.2))}]
    assert saved == [whole[:1], whole[:2], whole]
    resumed = FirstLossesHook(3, checkpoint, whole[:stopped], lambda losses: None)
    assert losses_of(resumed, checkpoint, 10) == whole


def test_losses_that_would_not_be_the_first_are_not_kept() -> None:
    assert losses_of(FirstLossesHook(3, 2, [], lambda losses: None), 2, 10) == []
    assert losses_of(FirstLossesHook(3, 8, [{"loss": 0.0}], lambda losses: None), 8, 10) == []
