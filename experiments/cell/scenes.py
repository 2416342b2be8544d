"""Models that follow scenes, evaluated: whole scenes in order of time, shared out to processes, each frame with what those before
it left. Nothing is kept in the model, and no number depends on the order of the data set, the batch size or the processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from mmengine.dist import get_dist_info
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import TestLoop
from mmengine.runner.amp import autocast
from torch.utils.data import Dataset, Sampler

from baselines.following import Follower, SceneState
from baselines.interface import OccupancyBatch, OccupancyPrediction
from baselines.model import OccupancyModel, answers
from experiments.datasets.frames import OccupancyFrames


def scene_order(predecessors: Sequence[int | None], wanted: Iterable[int]) -> list[list[int]]:
    """The frames to be predicted so that the ``wanted`` ones can be: a list a scene, from its first frame to its last wanted one.

    predecessors  for each frame the index of the one before it in its scene, None for the first one

    Scenes are in the order of their first frames' indices.
    """
    successor = {before: index for index, before in enumerate(predecessors) if before is not None}
    needed: set[int] = set()
    for frame in wanted:
        index: int | None = frame
        while index is not None and index not in needed:
            needed.add(index)
            index = predecessors[index]
    scenes = []
    for first in sorted(index for index in needed if predecessors[index] is None):
        scene = [first]
        while (after := successor.get(scene[-1])) in needed:
            scene.append(after)
        scenes.append(scene)
    return scenes


class SceneFrames(Dataset[OccupancyBatch]):
    """Frames of a data set to be evaluated, with those that come before them: its length is that of the former.

    dataset       what is read, addressed as ``frames`` is
    predecessors  see ``scene_order``
    scored        which frames are evaluated
    """

    def __init__(self, dataset: Dataset[OccupancyBatch], predecessors: Sequence[int | None], scored: Collection[int]) -> None:
        self._dataset = dataset
        self.scored = frozenset(scored)
        self.scenes = scene_order(predecessors, scored)
        self.last = frozenset(scene[-1] for scene in self.scenes)

    def __len__(self) -> int:
        return len(self.scored)

    def __getitem__(self, index: int) -> OccupancyBatch:
        return self._dataset[index]


class SceneSampler(Sampler[int]):
    """One scene after the other, of every ``world``-th scene from ``rank`` on."""

    def __init__(self, frames: SceneFrames, rank: int | None = None, world: int | None = None) -> None:
        own_rank, own_world = get_dist_info()
        rank, world = own_rank if rank is None else rank, own_world if world is None else world
        self._order = [index for scene in frames.scenes[rank::world] for index in scene]

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)


@LOOPS.register_module()
class SceneLoop(TestLoop):
    """mmengine's TestLoop for a loader of ``SceneFrames`` in the order of a ``SceneSampler``: its evaluator gets the frames that
    are scored, one at a time (``OccupancyMetric.any_order`` puts them back into the order of the data set)."""

    def run(self) -> dict[str, float]:
        self._states: dict[str, SceneState] = {}
        metrics: dict[str, float] = super().run()
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        self.runner.call_hook("before_test_iter", batch_idx=idx, data_batch=data_batch)
        model: Follower = self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        batch: OccupancyBatch = data_batch["batch"]
        with autocast(enabled=self.fp16):
            prediction, self._states = model.follow(batch, self._states)
        outputs = []
        for number, (meta, answer) in enumerate(zip(batch.meta, answers(prediction), strict=True)):
            if meta["index"] in self.dataloader.dataset.scored:
                outputs.append(answer)
                self.evaluator.process(data_samples=outputs[-1:], data_batch={"batch": batch.one(number)})
            if meta["index"] in self.dataloader.dataset.last:
                del self._states[meta["scene"]]  # it may be as large as all images of a frame, and nobody comes to ask for it
        self.runner.call_hook("after_test_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


def predicted(
    model: OccupancyModel, frames: OccupancyFrames[Any], wanted: Sequence[int], follows: bool
) -> Iterator[tuple[int, OccupancyBatch, OccupancyPrediction]]:
    """The wanted frames, each with what the model says of it: in their order, or where it ``follows`` scenes one scene after the
    other."""
    if not follows:
        for index in wanted:
            sample = frames[index]
            yield index, sample, model.predict(sample)
        return
    assert isinstance(model, Follower)
    asked = frozenset(wanted)
    for scene in scene_order(frames.predecessors(), asked):
        states: dict[str, SceneState] = {}
        for index in scene:
            sample = frames[index]
            prediction, states = model.follow(sample, states)
            if index in asked:
                yield index, sample, prediction
