"""Evaluation of a model: mmengine's test loop around our metrics, and the check with shuffled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from torch import Tensor
from torch.utils.data import Dataset

from baselines.gaussrender import GaussRenderConfig, render_views
from baselines.interface import OccupancyBatch, OccupancyGrid
from renderers import Cameras, Renderer

SHORT = 101  # samples of a short evaluation: `valeoai/GaussRender eval.py` stops after as many
SMOKE = 2  # of one that only shows that everything runs

Views = dict[str, Tensor]


@dataclass(frozen=True)
class ViewRenderer:
    """Renders prediction and labels of a sample from its label cameras and from above, under the published protocol."""

    grid: OccupancyGrid
    renderer: Renderer
    config: GaussRenderConfig

    def __call__(self, logits: Tensor, batch: OccupancyBatch) -> Views:
        """logits [C, X, Y, Z], a batch of one -> the "views" of ``OccupancyMetric`` and pred/gt_bev_depth [H, W]."""
        predicted, true = render_views(
            self.grid, label_cameras(batch), logits[None], batch.labels, renderer=self.renderer, config=self.config
        )
        assert predicted is not None and true is not None
        views: Views = {}
        for who, seen in (("pred", predicted), ("gt", true)):
            views |= {
                f"{who}_semantics": seen.semantics[0],
                f"{who}_depth": seen.depth[0],
                f"{who}_bev": seen.bev_semantics[0],
                f"{who}_bev_depth": seen.bev_depth[0],
            }
        return views


def label_cameras(batch: OccupancyBatch) -> Cameras:
    """The cameras of the labels, where the sensors are."""
    width, height = batch.camera_size
    return Cameras(batch.intrinsics, batch.reference_to_camera, width, height)


class RenderingEvaluator(Evaluator):
    """mmengine's Evaluator that renders every prediction first, for the image metrics.

    The rendered views of a sample are stored in it under "views".
    """

    def __init__(self, metrics: Sequence[Any], views: ViewRenderer) -> None:
        super().__init__(list(metrics))
        self._views = views

    def process(self, data_samples: Sequence[dict[str, Any]], data_batch: dict[str, OccupancyBatch] | None = None) -> None:
        assert data_batch is not None
        with torch.no_grad():
            samples = [
                {**sample, "views": self._views(sample["logits"], data_batch["batch"].one(index))}
                for index, sample in enumerate(data_samples)
            ]
        super().process(samples, data_batch)


class ShuffledImages(Dataset[OccupancyBatch]):
    """A data set whose frames show the images (with depth and earlier ones) of another scene; labels, masks and cameras stay.

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
        shown = self._dataset[self._partner[index]]
        return replace(self._dataset[index], images=shown.images, depth=shown.depth, history=shown.history)
