"""Evaluation of a model: mmengine's test loop around our metrics, and the check with shuffled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from torch import Tensor
from torch.utils.data import Dataset

from baselines.interface import OccupancyBatch
from renderers import Cameras

SHORT = 101  # samples of a short evaluation: `valeoai/GaussRender eval.py` stops after as many

Views = dict[str, Tensor]


class RenderingEvaluator(Evaluator):
    """mmengine's Evaluator that renders every prediction first, for the image metrics.

    views  (logits [C, X, Y, Z], batch of that one sample) -> rendered views, stored under "views" in the sample
    """

    def __init__(self, metrics: Sequence[Any], views: Callable[[Tensor, OccupancyBatch], Views]) -> None:
        super().__init__(list(metrics))
        self._views = views

    def process(self, data_samples: Sequence[dict[str, Any]], data_batch: dict[str, OccupancyBatch] | None = None) -> None:
        assert data_batch is not None
        with torch.no_grad():
            samples = [
                {**sample, "views": self._views(sample["logits"], one(data_batch["batch"], index))}
                for index, sample in enumerate(data_samples)
            ]
        super().process(samples, data_batch)


def one(batch: OccupancyBatch, index: int) -> OccupancyBatch:
    """Sample ``index`` of a batch, as a batch of one."""
    names = ("images", "projection", "intrinsics", "reference_to_camera", "labels", "camera_mask", "reference_to_lidar")
    tensors = {name: getattr(batch, name)[index : index + 1] for name in names}
    return replace(batch, **tensors, meta=batch.meta[index : index + 1])


def label_cameras(batch: OccupancyBatch) -> Cameras:
    """The cameras of the labels, where the sensors are."""
    width, height = batch.camera_size
    return Cameras(batch.intrinsics, batch.reference_to_camera, width, height)


class ShuffledImages(Dataset[OccupancyBatch]):
    """A data set whose frames show the images of another scene; labels, masks and cameras stay.

    What a model scores on it is what it knows without looking. The partner of a frame is fixed: frames are ordered by
    scene and shifted by the size of the largest one. Raises ValueError if one scene holds more than half of the frames.
    """

    def __init__(self, dataset: Dataset[OccupancyBatch], scenes: Sequence[str]) -> None:
        order = sorted(range(len(scenes)), key=lambda index: (scenes[index], index))
        shift = max(scenes.count(scene) for scene in set(scenes))
        if 2 * shift > len(scenes):
            raise ValueError("images cannot be shuffled between scenes: one scene holds more than half of the frames")
        self._dataset = dataset
        self._partner = {index: order[(place + shift) % len(order)] for place, index in enumerate(order)}

    def __len__(self) -> int:
        return len(self._partner)

    def __getitem__(self, index: int) -> OccupancyBatch:
        return replace(self._dataset[index], images=self._dataset[self._partner[index]].images)


