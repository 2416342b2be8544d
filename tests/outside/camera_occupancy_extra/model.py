"""A baseline: what the images show on average, and a learned code a voxel."""

from typing import Any

import torch
from torch import nn

from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel


class ColumnModel(OccupancyModel):
    """width: of the features. The others are those of every model here."""

    def __init__(
        self,
        grid: OccupancyGrid,
        width: int = 8,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(grid, camera_seed=camera_seed, loss=loss)
        self.eye = nn.Conv2d(3, width, 7, stride=4)
        self.places = nn.Parameter(0.1 * torch.randn(width, *grid.shape))
        self.head = nn.Conv3d(width, grid.num_classes, 1)
        if gaussrender is not None:
            plugin = GaussRender(grid, renderer, feature_channels=width, config=GaussRenderConfig(**gaussrender))
            self.attach_rendering(plugin, self.head)

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        seen = self.eye(batch.images.flatten(0, 1)).mean((-2, -1)).unflatten(0, batch.images.shape[:2]).mean(1)
        features = (seen[..., None, None, None] + self.places).relu()
        return OccupancyPrediction((self.head(features),), features)


def config(size: str, **arguments: Any) -> dict[str, Any]:
    """The model's arguments at a size; there is one."""
    return {"width": 8, **arguments}
