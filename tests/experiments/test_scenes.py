"""Models that follow scenes, evaluated: no number depends on the order of frames, the size of batches or the processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import occ3d_layout
import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.evaluator import Evaluator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from two_ranks import outputs_of_two_ranks

from baselines.following import Follower, FrameMissing
from baselines.gaussianflowocc import gaussianflowocc_config
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from experiments.cell.evaluation import ShuffledImages
from experiments.cell.scenes import SceneFrames, SceneLoop, SceneSampler, predicted, scene_order
from experiments.datasets.frames import collate
from experiments.datasets.kitti360 import SSCBenchKITTI360
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError
from experiments.metrics.evaluator import OccupancyMetric

GRID = OccupancyGrid((0.0, 0.0, 0.0), (4.0, 4.0, 2.0), 1.0, ("a", "b", "free"), empty=2)
SCENES = {"one": (0, 3, 1, 6), "two": (2,), "three": (5, 4)}
"""The frames of each scene in order of time, by their index in the data set."""


class Remembering(Follower):
    """Answers with a mixture of the image's values of all frames so far."""

    def step(self, batch: OccupancyBatch, memory: Tensor | None, motion: Tensor | None) -> tuple[OccupancyPrediction, Tensor]:
        assert (memory is None) == (motion is None)
        own = batch.images[0, 0].flatten()[: 3 * 32]
        kept = own if memory is None else own + 1.5 * memory.roll(5)
        return OccupancyPrediction((kept.view(1, 3, *GRID.shape),)), kept

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        raise AssertionError("it is followed")


class Frames(Dataset[OccupancyBatch]):
    """Seven frames; ``order``: which of them lies at an index."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)) -> None:
        self.order = order
        of_scene = {frame: (scene, place) for scene, frames in SCENES.items() for place, frame in enumerate(frames)}
        self.before = [None if (at := of_scene[f])[1] == 0 else order.index(SCENES[at[0]][at[1] - 1]) for f in order]
        self.scenes = [of_scene[frame][0] for frame in order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> OccupancyBatch:
        g = torch.Generator().manual_seed(self.order[index])
        before = self.before[index]
        meta = {
            "token": f"t{self.order[index]}",
            "scene": self.scenes[index],
            "index": index,
            "previous": None if before is None else f"t{self.order[before]}",
            "to_global": np.eye(4),
        }
        return OccupancyBatch(
            images=torch.rand(1, 1, 3, 8, 8, generator=g),
            projection=torch.eye(4).expand(1, 1, 4, 4),
            intrinsics=torch.eye(3).expand(1, 1, 3, 3),
            reference_to_camera=torch.eye(4).expand(1, 1, 4, 4),
            camera_size=(8, 8),
            labels=torch.randint(0, 3, (1, *GRID.shape), generator=g),
            camera_mask=torch.ones(1, *GRID.shape, dtype=torch.bool),
            reference_to_lidar=torch.eye(4)[None],
            meta=[meta],
        )


def evaluated(frames: Frames, batch_size: int = 1, scored: Any = None, dataset: Dataset[OccupancyBatch] | None = None) -> Any:
    """The metric after a loop over all frames, or those that are scored."""
    asked = SceneFrames(dataset or frames, frames.before, range(len(frames)) if scored is None else scored)
    loader = DataLoader(asked, batch_size=batch_size, sampler=SceneSampler(asked), collate_fn=collate)
    runner = SimpleNamespace(model=Remembering(GRID, loss={"class_weights": (1.0,) * 3}), call_hook=lambda *_, **__: None)
    metric = OccupancyMetric(GRID, rays=False, any_order=True)
    metrics = SceneLoop(runner, loader, Evaluator([metric])).run()
    return metrics, metric


def test_frames_that_come_before_are_gone_through_too() -> None:
    before = Frames().before
    assert scene_order(before, range(7)) == [[0, 3, 1, 6], [2], [5, 4]]
    assert scene_order(before, [1, 4]) == [[0, 3, 1], [5, 4]] and scene_order(before, [2]) == [[2]]
    assert scene_order(before, []) == []


def test_processes_share_whole_scenes() -> None:
    frames = Frames()
    asked = SceneFrames(frames, frames.before, range(7))
    assert list(SceneSampler(asked, 0, 2)) == [0, 3, 1, 6, 5, 4] and list(SceneSampler(asked, 1, 2)) == [2]
    assert [len(SceneSampler(asked, rank, 4)) for rank in range(4)] == [4, 1, 2, 0]
    assert list(SceneSampler(asked)) == [0, 3, 1, 6, 2, 5, 4] and len(asked) == 7


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5, 6), (6, 4, 2, 0, 1, 5, 3)])
def test_batches_and_the_order_of_the_data_change_no_number(batch_size: int, order: tuple[int, ...]) -> None:
    plain, _ = evaluated(Frames())
    found, _ = evaluated(Frames(order), batch_size)
    assert found == plain and "mIoU" in found and 0 < found["mIoU"] < 100


def test_some_frames_alone_have_the_numbers_that_they_have_among_all() -> None:
    """Those before them are looked at and not scored."""
    frames = Frames()
    _, whole = evaluated(frames)
    everything = OccupancyMetric(GRID, rays=False, any_order=True)
    model = Remembering(GRID, loss={"class_weights": (1.0,) * 3})
    states: Any = {}
    for index in (0, 3, 1):
        prediction, states = model.follow(frames[index], states)
    sample = frames[1]
    everything.process({"batch": sample}, [{"labels": prediction.labels[0]}])
    assert evaluated(frames, scored=[1])[0] == everything.evaluate(1)
    assert whole.last is not None


def test_shuffled_images_follow_the_scenes_of_the_labels() -> None:
    pairs = Frames()
    pairs.before, pairs.scenes = [None, 0, None, 2, None, 4, 5], ["x", "x", "y", "y", "z", "z", "z"]
    shuffled = ShuffledImages(pairs, pairs.scenes)
    plain, swapped = evaluated(pairs)[0], evaluated(pairs, dataset=shuffled)[0]
    assert swapped != plain and swapped == evaluated(pairs, batch_size=3, dataset=shuffled)[0]


def test_a_wrong_order_is_an_error_and_so_is_a_missing_sample() -> None:
    frames = Frames()
    asked = SceneFrames(frames, frames.before, range(7))
    runner = SimpleNamespace(model=Remembering(GRID, loss={"class_weights": (1.0,) * 3}), call_hook=lambda *_, **__: None)

    def loop(order: list[int]) -> dict[str, float]:
        loader = DataLoader(asked, sampler=order, collate_fn=collate)  # type: ignore[arg-type]
        return SceneLoop(runner, loader, Evaluator([OccupancyMetric(GRID, rays=False, any_order=True)])).run()

    with pytest.raises(FrameMissing, match="frame t1 of scene one comes after t3, but t0 was predicted last"):
        loop([0, 1])
    with pytest.raises(ValueError, match="1 different samples were scored, 7 were to be"):
        loop([0])


_RANK = """
import json, sys, torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_scenes import Frames, evaluated

rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
try:
    found = [evaluated(Frames())[0], evaluated(Frames(), 3, range(3))[0], evaluated(Frames(), 1, [2])[0]]
    with open(f"{{out}}{{rank}}", "w") as file:
        json.dump(found, file)
    dist.barrier()  # neither process leaves while the other may still talk to it
finally:
    dist.destroy_process_group()  # gloo's threads must not outlive the interpreter, which would abort
"""


def test_two_processes_have_the_numbers_of_one(tmp_path: Path) -> None:
    """gloo: all frames, some of them in batches, and a single one, which leaves nothing to the second process."""
    found = outputs_of_two_ranks(_RANK, tmp_path)
    alone = [evaluated(Frames())[0], evaluated(Frames(), 3, range(3))[0], evaluated(Frames(), 1, [2])[0]]
    assert [json.loads(output) for output in found] == [alone, alone]


# Real frames -------------------------------------------------------------------------------------------------------

IMAGE = ImageTransform(width=40, height=16)
FLOW: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet", depth=18, base_channels=8, stem_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
        out_indices=(0, 1, 2), norm_cfg=dict(type="BN", requires_grad=True), norm_eval=False, style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[8, 16, 32], out_channels=16, num_outs=3),
    gaussians=400, dim=16, heads=2, blocks=1, points=2, inducing=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def occ3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return occ3d_layout.write_layout(tmp_path_factory.mktemp("occ3d"))


def test_frames_know_which_one_comes_before(occ3d: Path) -> None:
    frames = Occ3DNuScenes(occ3d, "train", image=IMAGE, follow=True)
    for index, before in enumerate(frames.predecessors()):
        meta = frames[index].meta[0]
        assert meta["previous"] == (None if before is None else frames[before].meta[0]["token"])
        if before is not None:
            earlier = frames[before].meta[0]
            assert meta["scene"] == earlier["scene"] and meta["frame_idx"] == earlier["frame_idx"] + 1
            motion = np.linalg.inv(meta["to_global"]) @ earlier["to_global"]
            shown = Occ3DNuScenes(occ3d, "train", image=IMAGE, history=(-1,))[index].history
            assert shown is not None
            np.testing.assert_allclose(shown.to_reference[0, 0].numpy(), motion, atol=1e-5)
    assert frames.predecessors() == [None, 0, 1] and frames.reachable == len(frames)
    assert "previous" not in Occ3DNuScenes(occ3d, "train", image=IMAGE)[0].meta[0]


def test_what_mini_leaves_out_is_reachable(occ3d: Path) -> None:
    whole, mini = (Occ3DNuScenes(occ3d, "train", image=IMAGE, follow=True, mini=mini) for mini in (False, True))
    assert len(mini) < len(whole) == mini.reachable == len(mini.predecessors())
    tokens = [mini[index].meta[0]["token"] for index in range(mini.reachable)]
    assert sorted(tokens) == sorted(frame.meta[0]["token"] for frame in (whole[i] for i in range(len(whole))))
    for index, before in enumerate(mini.predecessors()):
        assert mini[index].meta[0]["previous"] == (None if before is None else tokens[before])


def test_without_moments_nothing_can_be_followed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="SSCBenchKITTI360 has no order of time"):
        SSCBenchKITTI360(tmp_path, "train", follow=True)


def test_single_frames_are_predicted_as_in_their_scene(occ3d: Path) -> None:
    frames = Occ3DNuScenes(occ3d, "train", image=ImageTransform(width=96, height=48), coarsen=4, chain=True, follow=True)
    torch.manual_seed(0)
    model = MODELS.build(gaussianflowocc_config("toy", frames.grid) | FLOW).eval()
    whole = {index: answer.logits[-1] for index, _, answer in predicted(model, frames, range(len(frames)), follows=True)}
    some = {index: answer.logits[-1] for index, _, answer in predicted(model, frames, [2, 1], follows=True)}
    assert whole.keys() == set(range(len(frames))) and list(some) == [1, 2]
    assert all(some[index].equal(whole[index]) for index in some)
    alone = replace(frames[2], meta=[frames[2].meta[0] | {"previous": None}])
    assert not model.predict(alone).logits[-1].equal(whole[2])
