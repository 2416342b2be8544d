"""The published schedule by its numbers, and an order of data that a resume continues."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from experiments.cell.engine import EndlessSampler, FirstLossesHook, HeldCosineLR, RampedAverage, WarmupCosineLR, scalars
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


def test_a_held_rate_falls_once_an_epoch() -> None:
    """GaussianFlowOcc's: 18 epochs of 100 iterations, held for 9, warm-up of 200."""
    optimizer = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-4, 1e-5)])
    schedule = HeldCosineLR(optimizer, floor=1e-2, warmup=200, held=9, epochs=18, iterations=1800)
    seen = []
    for _ in range(1800):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert seen[0] == pytest.approx([1e-7, 1e-8]) and seen[100] == pytest.approx([0.5005e-4, 0.5005e-5])
    assert seen[200] == seen[999] == [1e-4, 1e-5]
    for epoch in range(9, 18):
        expected = 1e-6 + 0.5 * (1e-4 - 1e-6) * (1 + math.cos(math.pi * (epoch - 9) / 9))
        assert seen[100 * epoch][0] == seen[100 * epoch + 99][0] == pytest.approx(expected)
    assert seen[-1][0] == pytest.approx(1e-6 + 0.99e-4 * 0.5 * (1 + math.cos(math.pi * 8 / 9)))


def test_the_momentum_of_averages_falls_as_published() -> None:
    """decay = 0.999 (1 - exp(-n / 2000)), n counted from 10560."""
    model = torch.nn.Linear(1, 1, bias=False)
    average = RampedAverage(model, start=10560, momentum=0.001)
    torch.nn.init.zeros_(model.weight)
    average.update_parameters(model)  # the first one is copied
    expected = 0.0
    for n in range(1, 6):
        torch.nn.init.constant_(model.weight, float(n))
        average.update_parameters(model)
        decay = 0.999 * (1 - math.exp(-(10560 + n) / 2000))
        expected = decay * expected + (1 - decay) * n
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-4)


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
