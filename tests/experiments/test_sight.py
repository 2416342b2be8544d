"""Voxels in sight, and class weights counted from labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from experiments.cell import models
from experiments.datasets.registry import DATASETS
from experiments.datasets.sight import in_sight
from experiments.metrics.shares import class_bias, class_shares, class_weights
from experiments.spec import load_table

# A camera at the origin that looks along x of a grid of 10 x 8 x 4 voxels of 1 m.
FORWARD = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
K = np.array([[20.0, 0, 20], [0, 20, 15], [0, 0, 1]])
LOWER = (0.5, -4.0, -2.0)


def seen_of(occupied: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return in_sight(occupied, K[None], FORWARD[None], (40, 30), LOWER, 1.0)


def test_a_wall_hides_what_is_two_voxels_behind_it() -> None:
    occupied = np.zeros((10, 8, 4), bool)
    occupied[5] = True
    seen = seen_of(occupied)
    assert seen[4:7, 3:5, 1:3].all(), "the wall, what is before it, and its neighbours behind"
    assert not seen[7:].any()


def test_an_open_grid_is_seen_within_the_cone_of_the_camera() -> None:
    seen = seen_of(np.zeros((10, 8, 4), bool))
    assert seen[:, 3:5, 1:3].all()
    assert not seen[0, 0].any() and not seen[0, -1].any(), "beside the camera"
    centres = np.stack(
        np.meshgrid(*(np.arange(n) + 0.5 + lo for n, lo in zip((10, 8, 4), LOWER, strict=True)), indexing="ij"), -1
    )
    u, v = -centres[..., 1] / centres[..., 0] * 20 + 20, -centres[..., 2] / centres[..., 0] * 20 + 15
    inside = (u > 0) & (u < 40) & (v > 0) & (v < 30)
    assert seen[inside].all()


def test_looking_away_sees_nothing() -> None:
    backward = np.diag([-1.0, 1, -1, 1]) @ FORWARD
    assert not in_sight(np.zeros((10, 8, 4), bool), K[None], backward[None], (40, 30), LOWER, 1.0).any()


class Frames:
    grid = OccupancyGrid((0, 0, 0), (10, 10, 10), 1.0, ("car", "road", "pole", "empty"), empty=3)

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def labels(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        labels = np.full(1000, 3, np.uint8)
        labels[:5], labels[5:205], labels[999] = 0, 1, 255
        return labels.reshape(10, 10, 10), np.zeros((10, 10, 10), bool)


def test_class_weights_follow_the_shares_of_all_known_voxels() -> None:
    shares = class_shares(Frames())
    assert shares == pytest.approx(np.array([5, 200, 0, 794]) / 999)
    car, road, pole, empty = class_weights(shares)
    assert car == pytest.approx((0.005 / shares[0]) ** 0.5, abs=1e-4)
    assert (road, empty) == (0.3, 0.3), "common classes are not lighter than that"
    assert pole == 6.0, "a class that does not occur is not heavier than that"
    with pytest.raises(ValueError, match="at least one labelled frame"):
        class_shares(Frames(0))


def test_a_classifier_that_starts_from_shares_minimises_the_weighted_cross_entropy_before_it_has_learnt_anything() -> None:
    shares = np.array([0.005, 0.2, 0.1, 0.695])
    weights = class_weights(shares)
    bias = torch.tensor(class_bias(shares, weights), dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        bias.expand(1000, -1),
        torch.arange(4).repeat_interleave(torch.tensor([5, 200, 100, 695])),
        weight=torch.tensor(weights, dtype=torch.float64),
    )
    loss.backward()
    assert bias.grad is not None and bias.grad.abs().max() < 1e-4
    least = class_bias(np.array([0.0, 0.5, 0.5, 0.0]), weights)
    assert min(least) == pytest.approx(np.log(1e-4), abs=1e-3), "a class that does not occur can still be learnt"


@pytest.mark.parametrize(
    ("table", "row", "layers"),
    [
        ("table_occ3d", "tpvformer", 1),
        ("table_occ3d", "surroundocc", 3),
        ("table_kitti360", "symphonies", 1),
        ("table_kitti360", "monoscene", 1),
    ],
)
def test_every_toy_model_starts_from_a_bias(table: str, row: str, layers: int) -> None:
    spec = load_table(table)
    cell = spec.cell(spec.row(row), "reference", "toy", 0)
    assert cell.preset.class_bias == "counted"
    grid = DATASETS.load(spec.dataset).grid(cell.data.coarsen)
    model = models.build(cell, grid)
    model.start_from_bias(range(grid.num_classes))
    assert [layer.bias.tolist() for layer in model.classifiers()] == [[*range(grid.num_classes)]] * layers
    with pytest.raises(ValueError, match=f"each of the {grid.num_classes} classes"):
        model.start_from_bias([0.0])
