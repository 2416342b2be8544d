"""Models that follow scenes: what is handed on is explicit, whole, and moved to where the vehicle is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lift_rig import lift_batch
from test_gaussianflowocc import SMALL, toy

from baselines.following import FrameMissing, SceneState
from baselines.gaussianflowocc import GaussianFlowOcc
from baselines.interface import OccupancyBatch
from experiments.datasets.frames import collate

ORDER = (("a", 0), ("a", 1), ("b", 0), ("a", 2), ("b", 1))  # two scenes, the frames of each in order


def frame(scene: str, number: int) -> OccupancyBatch:
    """A frame of a scene whose vehicle goes 1.5 m forward and 9 degrees to the left from one to the next."""
    to_global = np.eye(4)
    turn = np.deg2rad(9.0) * number
    to_global[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    to_global[:2, 3] = 1000.0 + 1.5 * number, -300.0
    previous = f"{scene}{number - 1}" if number else None
    meta = {"token": f"{scene}{number}", "scene": scene, "previous": previous, "to_global": to_global}
    plain = lift_batch(SMALL, seed=10 * (scene == "a") + number)
    return replace(plain, history=None, rays=None, depth=None, meta=[meta])


@pytest.fixture(scope="module")
def model() -> GaussianFlowOcc:
    return toy().eval()


def in_one_go(model: GaussianFlowOcc, size: int, order: tuple[tuple[str, int], ...] = ORDER) -> dict[str, torch.Tensor]:
    """Logits by token, predicted in batches of ``size``."""
    states: dict[str, SceneState] = {}
    found = {}
    for first in range(0, len(order), size):
        batch = collate([frame(*one) for one in order[first : first + size]])["batch"]
        prediction, states = model.follow(batch, states)
        found |= {meta["token"]: logits for meta, logits in zip(batch.meta, prediction.logits[-1], strict=True)}
    return found


def test_batches_and_the_order_of_scenes_change_nothing(model: GaussianFlowOcc) -> None:
    alone = in_one_go(model, 1)
    scenes_in_a_row = tuple(sorted(ORDER, reverse=True, key=lambda one: (one[0], -one[1])))
    for other in (in_one_go(model, 3), in_one_go(model, 1, scenes_in_a_row)):
        assert other.keys() == alone.keys()
        assert all(other[token].equal(alone[token]) for token in alone)
    first_only, _ = model.follow(replace(frame("a", 1), meta=[frame("a", 1).meta[0] | {"previous": None}]), {})
    assert not first_only.logits[-1][0].equal(alone["a1"]), "what came before must tell"


def test_the_state_is_neither_changed_nor_kept(model: GaussianFlowOcc) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, states = model.follow(frame("a", 0), {})
    held = states["a"].memory
    means = held.means.clone()
    once, after = model.follow(frame("a", 1), states)
    again, _ = model.follow(frame("a", 1), states)
    assert once.logits[-1].equal(again.logits[-1]) and states["a"].token == "a0" and after["a"].token == "a1"
    assert held.means.equal(means) and all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_means_are_where_they_are_for_the_next_frame(model: GaussianFlowOcc) -> None:
    first, second = frame("a", 0), frame("a", 1)
    _, states = model.follow(first, {})
    prediction, _ = model.follow(second, states)
    memory = states["a"].memory
    motion = np.linalg.inv(second.meta[0]["to_global"]) @ first.meta[0]["to_global"]
    points = torch.cat([memory.means[0].double(), torch.ones(150, 1, dtype=torch.float64)], dim=1) @ torch.from_numpy(motion).T
    moved = type(memory)(points[None, :, :3].float(), memory.features)
    with torch.no_grad():
        expected = model.voxelised(model.attributes(model.decoded(model._own(second), moved)))
    torch.testing.assert_close(prediction.logits[-1], expected.logits[-1], rtol=1e-3, atol=1e-3)


def test_the_first_frame_is_gone_through_twice_unless_told(model: GaussianFlowOcc) -> None:
    once = toy(first_twice=False).eval()
    first = frame("a", 0)
    with torch.no_grad():
        images = once._own(first)
        cloud = once.decoded(images, None)
        second = once.decoded(images, cloud)
        expected = [model.voxelised(model.attributes(one)).logits[-1] for one in (cloud, second)]
    assert once.follow(first, {})[0].logits[-1].equal(expected[0])
    assert model.follow(first, {})[0].logits[-1].equal(expected[1])
    assert model.predict(first).logits[-1].equal(expected[1])


def test_a_frame_without_the_one_before_is_an_error(model: GaussianFlowOcc) -> None:
    with pytest.raises(FrameMissing, match="frame a1 of scene a comes after a0, but none of its scene was predicted yet"):
        model.follow(frame("a", 1), {})
    _, states = model.follow(frame("a", 0), {})
    with pytest.raises(FrameMissing, match="comes after a1, but a0 was predicted last"):
        model.follow(frame("a", 2), states)
    with pytest.raises(FrameMissing, match="scene b"):
        model.follow(frame("b", 1), states)
    with pytest.raises(FrameMissing, match="frame a0 of scene a comes after a1"):  # batches are gone through in their order
        swapped: list[Any] = [replace(frame("a", 0), meta=[frame("a", 0).meta[0] | {"previous": "a1"}])]
        model.follow(collate(swapped)["batch"], states)


@pytest.mark.parametrize("name", ["token", "scene", "previous", "to_global"])
def test_what_meta_lacks_is_named(model: GaussianFlowOcc, name: str) -> None:
    one = frame("a", 0)
    meta = {key: value for key, value in one.meta[0].items() if key != name}
    with pytest.raises(ValueError, match=f"has no {name}"):
        model.follow(replace(one, meta=[meta]), {})
