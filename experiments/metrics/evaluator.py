"""The scores inside mmengine's evaluation loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray

from baselines.interface import OccupancyBatch, OccupancyGrid
from experiments.metrics.counts import Counts, Scores, array, evaluate, sample_counts, total
from experiments.metrics.lidar import depth_sums
from experiments.metrics.motion import motion_sums
from experiments.metrics.registry import METRICS, Counted

OfSums = Callable[[Counts, OccupancyGrid], float]

_OTHER = "metric "  # before its name, the counts of a metric that not every evaluation computes


def counted(names: Iterable[str]) -> dict[str, Counted]:
    """Of these metrics those that not every evaluation counts, ready to count."""
    targets = {name: METRICS.load(name).counted for name in names}
    return {name: METRICS.part(target)() for name, target in targets.items() if target}


def masks(names: Iterable[str]) -> dict[str, str]:
    """Of these metrics those that count other voxels than the data set's own mask says: name -> their mask."""
    return {name: mask for name in names if (mask := METRICS.load(name).mask)}


def of_sums(names: Iterable[str]) -> dict[str, OfSums]:
    """Of these metrics those that follow from what every evaluation counts, and that not every one prints."""
    metrics = {name: metric for name in names if (metric := METRICS.load(name)).of_sums}
    functions = {name: METRICS.part(metric.of_sums) for name, metric in metrics.items()}
    return {
        name: partial(functions[name], number=metric.number) if metric.number else functions[name]
        for name, metric in metrics.items()
    }


class OccupancyMetric(BaseMetric):
    """mmengine metric over ``Scores.metrics``; sums are exact under any launcher.

    Each process keeps the counts of its own samples. mmengine gathers them, puts them back into the order of the data
    set and cuts off the samples with which a distributed sampler filled up the last round, so every sample counts
    once (upstream counts the duplicates, and leaves depth to rank 0 alone).

    grid  grid of labels and predictions
    rays  compute RayIoU; needs ``meta["ray_origins"]`` in every sample
    others  further metrics by name, see ``counted``
    of_sums  and those that follow from what is counted anyway, see ``of_sums``
    masks  those of ``others`` that count other voxels than the data set's own mask says, see ``masks``
    mask_of  ``meta["index"]`` of a sample -> its masks [X, Y, Z] by name (``OccupancyFrames.other_masks``), for ``masks``
    voxels  False: what is predicted says nothing about voxels (``Recipe.predicts_voxels``), and no score of them is computed
    any_order  samples come in any order and on any process, not as a distributed sampler deals them out: they are put back by
           ``meta["index"]``, each once

    ``process`` takes ``{"batch": OccupancyBatch}`` and one dict a sample of it, in order: "labels" [X, Y, Z], the
    predicted class ids, optionally "views", see ``sample_counts``, and "motion", see ``motion_sums``, and where the batch has
    ``lidar`` "depth", a ``RenderedDepth`` of the sample alone. Other keys are not read. After ``evaluate``
    the main process finds everything, per class included, in ``last`` (None elsewhere).
    """

    default_prefix = None
    results: list[Any]

    def __init__(
        self,
        grid: OccupancyGrid,
        rays: bool = True,
        collect_device: str = "cpu",
        others: Mapping[str, Counted] | None = None,
        of_sums: Mapping[str, OfSums] | None = None,
        any_order: bool = False,
        masks: Mapping[str, str] | None = None,
        mask_of: Callable[[int], Mapping[str, NDArray[np.bool_]]] = lambda index: {},
        voxels: bool = True,
    ) -> None:
        super().__init__(collect_device=collect_device)
        self.grid = grid
        self.others = dict(others or {})
        self.of_sums = dict(of_sums or {})
        self.masks, self.mask_of = dict(masks or {}), mask_of
        self.rays, self.voxels = rays and voxels, voxels
        self.any_order = any_order
        self._indices: list[int] = []
        self.last: Scores | None = None

    def process(self, data_batch: Mapping[str, OccupancyBatch], data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Add the counts of one batch; raises ValueError if predictions and batch do not fit."""
        batch = data_batch["batch"]
        if len(data_samples) != batch.batch_size:
            raise ValueError(f"{len(data_samples)} prediction(s) for a batch of {batch.batch_size}")
        for index, sample in enumerate(data_samples):
            origins = None
            if self.rays:
                meta = batch.meta[index] if index < len(batch.meta) else {}
                if "ray_origins" not in meta:
                    raise ValueError(f"sample {meta.get('token', index)} has no meta['ray_origins'], RayIoU needs it")
                origins = meta["ray_origins"]
            self.results.append(self._of_voxels(sample, batch, index, origins) if self.voxels else {})
            if self.any_order:
                self._indices.append(int(batch.meta[index]["index"]))
            if batch.lidar is not None:
                if "depth" not in sample:
                    raise ValueError("rendered depth is to be measured, but the model renders none (Recipe.renders_depth)")
                self.results[-1] |= depth_sums(sample["depth"], batch.lidar.one(index), self.grid)
            if "motion" in sample:
                if batch.neighbours is None:
                    raise ValueError("predicted motion is measured by the batch's neighbours, which are not there")
                self.results[-1] |= motion_sums(sample["motion"], batch.neighbours.one(index))

    def _of_voxels(self, sample: Mapping[str, Any], batch: OccupancyBatch, index: int, origins: Any) -> Counts:
        labels, true, mask = sample["labels"], batch.labels[index], batch.camera_mask[index]
        counts = sample_counts(labels, true, mask, self.grid, ray_origins=origins, views=sample.get("views"))
        both, own = (array(labels), array(true)), array(mask).astype(bool)
        known = self.mask_of(int(batch.meta[index]["index"])) if self.masks else {}
        for name, other in self.others.items():
            chosen = self.masks.get(name)
            if chosen is not None and chosen not in known:
                raise ValueError(f"metric '{name}' counts voxels of the {chosen}, which these labels do not have")
            counts[_OTHER + name] = other.count(*both, own if chosen is None else known[chosen], self.grid)
        return counts

    def evaluate(self, size: int) -> dict[str, float]:
        """As mmengine does it; ``size``: number of different samples. Raises ValueError if, in any order, others came."""
        if self.any_order:
            everywhere = all_gather_object(list(zip(self._indices, self.results, strict=True)))
            found = dict(sorted((pair for process in everywhere for pair in process), key=lambda pair: pair[0]))
            if len(found) != size:
                raise ValueError(f"{len(found)} different samples were scored, {size} were to be")
            ordered, (rank, world) = list(found.values()), get_dist_info()
            # As a distributed sampler would have dealt them out, which fills the last round up.
            self.results = [ordered[number % size] for number in range(rank, -(-size // world) * world, world)]
            self._indices = []
        scores: dict[str, float] = super().evaluate(size)
        return scores

    def compute_metrics(self, results: list[Counts]) -> dict[str, float]:
        """Called by mmengine on the main process with the counts of all samples."""
        self.last = evaluate(results, self.grid.class_names, self.grid.empty)
        summed, _ = total(results)
        others = self.others if self.voxels else {}
        scores = {name: float(other.score(summed[_OTHER + name], self.grid)) for name, other in others.items()}
        scores |= {name: function(summed, self.grid) for name, function in self.of_sums.items()}
        self.last.metrics.update({name: score for name, score in scores.items() if not math.isnan(score)})
        return self.last.metrics
