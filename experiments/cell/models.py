"""From a cell to its model: the only place that knows which builder key means which baseline."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction
from baselines.model import OccupancyModel
from experiments.datasets.grids import GRIDS
from experiments.spec import Cell

IMAGE_NETWORKS = ("img_backbone", "encoder.model")
"""Parts of the models, by parameter name, that schedules give a learning rate of their own (``Schedule.backbone_lr``)."""

MODEL_KEYS = ("prior", "tpvformer", "surroundocc", "symphonies")


class PriorModel(OccupancyModel):
    """Answers every image with the same voxels: each voxel's most frequent training label.

    It runs through the same evaluation as the trained models, so that its numbers mean the same.
    """

    def __init__(self, grid: OccupancyGrid) -> None:
        super().__init__(grid)
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


def takes_depth(cell: Cell) -> bool:
    """Whether the cell's model reads ``OccupancyBatch.depth``."""
    return cell.row.takes_depth


def build(cell: Cell, grid: OccupancyGrid, class_weights: tuple[float, ...] | None = None) -> OccupancyModel:
    """The cell's model with initial weights (drawn from PyTorch's generator); ValueError for an unknown builder key.

    class_weights  of the cross entropy, in place of the data set's published ones
    """
    if cell.row.model == "prior":
        return PriorModel(grid)
    from mmdet3d.registry import MODELS

    return cast(OccupancyModel, MODELS.build(_configuration(cell, grid, class_weights)))


def check(cell: Cell) -> None:
    """Raise ValueError for a cell that ``build`` would refuse for its builder key or for the names of its options."""
    if cell.row.model == "prior":
        return
    from mmdet3d.registry import MODELS

    from baselines.gaussrender import GaussRenderConfig

    if cell.table.dataset not in GRIDS:
        raise ValueError(f"unknown data set '{cell.table.dataset}' (known: {', '.join(GRIDS)})")
    GaussRenderConfig(**(cell.gaussrender or {}))
    config = _configuration(cell, GRIDS[cell.table.dataset](cell.data.coarsen), None)
    known = inspect.signature(MODELS.get(config["type"])).parameters
    unknown = [name for name in config if name != "type" and name not in known]
    if unknown:
        raise ValueError(f"'{cell.row.model}' has no option {', '.join(unknown)} (known: {', '.join(known)})")


def _configuration(cell: Cell, grid: OccupancyGrid, class_weights: tuple[float, ...] | None) -> dict[str, Any]:
    key, preset = cell.row.model, cell.preset
    if key is None or key not in MODEL_KEYS:
        raise ValueError(f"row '{cell.row.name}' names the unknown model '{key}' (known: {', '.join(MODEL_KEYS)})")
    from baselines.surroundocc import surroundocc_config
    from baselines.symphonies import symphonies_config
    from baselines.tpvformer import tpvformer_config

    configurations: dict[str, Callable[..., dict[str, Any]]] = {
        "tpvformer": tpvformer_config,
        "surroundocc": surroundocc_config,
        "symphonies": symphonies_config,
    }
    config = configurations[key](
        size=preset.model_size,
        grid=grid,
        gaussrender=cell.gaussrender,
        renderer=cell.renderer,
        camera_seed=cell.seed,
        loss={"class_weights": class_weights, "in_sight": preset.loss_in_sight, "coarse": preset.coarse_labels},
    )
    return config | copy.deepcopy(cell.row.options)


def load_pretrained(cell: Cell, model: OccupancyModel, path: Path) -> None:
    """Start the cell's image network from the file that its row or preset names; raises CheckpointError if it does not fit."""
    from baselines.checkpoints import load_fcos3d_pretrain, load_maskdino_pretrain

    load = load_fcos3d_pretrain if cell.row.pretrained_model is None else load_maskdino_pretrain
    load(model, path)


def trainable_parameters(model: nn.Module) -> int:
    """Number of values that training changes, each parameter once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
