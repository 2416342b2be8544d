"""Answers every image with the same voxels."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel


class PriorModel(OccupancyModel):
    """Answers every image with the same voxels: each voxel's most frequent training label.

    It runs through the same evaluation as the trained models, so that its numbers mean the same.
    """

    def __init__(self, grid: OccupancyGrid, loss: dict[str, Any] | None = None) -> None:
        super().__init__(grid, loss=loss)
        self.register_buffer("voxels", torch.full(grid.shape, grid.empty, dtype=torch.int64))

    def fit(self, labels: NDArray[Any]) -> None:
        """Take class ids [X, Y, Z] as the answer."""
        self.voxels: Tensor
        self.voxels.copy_(torch.from_numpy(labels.astype("int64")))

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Logits 0 for the prior's class and -100 for the others."""
        hot = nn.functional.one_hot(self.voxels, self.grid.num_classes).movedim(-1, 0).float()
        logits = ((hot - 1.0) * 100.0).expand(batch.batch_size, *hot.shape)
        return OccupancyPrediction((logits,))


def prior_config(size: str, grid: OccupancyGrid, camera_seed: int = 0, loss: dict[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of PriorModel: it has one size, draws nothing and has no use for a loss but that a grid has weights for it."""
    return {"grid": grid, "loss": {"class_weights": (1.0,) * grid.num_classes}}
