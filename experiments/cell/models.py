"""From a cell to its model, as its baseline's recipe says."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from baselines.interface import OccupancyGrid
from baselines.model import OccupancyModel
from baselines.recipe import FirstWeights
from baselines.registry import BASELINES
from experiments.datasets.layouts import layout_of
from experiments.spec import Cell


def build(cell: Cell, grid: OccupancyGrid, class_weights: tuple[float, ...] | None = None) -> OccupancyModel:
    """The cell's model with initial weights (drawn from PyTorch's generator); ValueError for options that cannot be.

    class_weights  of the cross entropy, in place of the data set's published ones
    """
    if class_weights is None and cell.preset.class_weights == "counted" and grid.published.class_weights is None:
        class_weights = (1.0,) * grid.num_classes  # nothing was counted: it is not to be trained
    model: OccupancyModel = BASELINES.part(cell.row.recipe.model)(**_configuration(cell, grid, class_weights))
    return model


def check(cell: Cell) -> None:
    """Raise ValueError or TypeError for a cell that ``build`` would refuse for its baseline or for the names of its options."""
    from baselines.gaussrender import GaussRenderConfig

    GaussRenderConfig(**(cell.gaussrender or {}))
    config = _configuration(cell, layout_of(cell.table.dataset).grid(cell.data.coarsen), None)
    known = inspect.signature(BASELINES.part(cell.row.recipe.model)).parameters
    unknown = [name for name in config if name not in known]
    if unknown:
        raise ValueError(f"'{cell.row.model}' has no option {', '.join(unknown)} (known: {', '.join(known)})")


def _configuration(cell: Cell, grid: OccupancyGrid, class_weights: tuple[float, ...] | None) -> dict[str, Any]:
    recipe, preset = cell.row.recipe, cell.preset
    if preset.model_size not in recipe.sizes:
        sizes = ", ".join(recipe.sizes)
        raise ValueError(f"'{cell.row.model}' comes in no size {preset.model_size} of preset {cell.preset_name} (known: {sizes})")
    rendering: dict[str, Any] = {}
    if recipe.renderer == "gaussians":
        rendering = {"gaussrender": cell.gaussrender, "renderer": cell.renderer}
    elif cell.row.gaussrender:
        raise ValueError(f"'{cell.row.model}' renders no Gaussians: row '{cell.row.name}' cannot have gaussrender=True")
    elif recipe.renderer == "rays":
        rendering = {"renderer": cell.renderer}
    config: dict[str, Any] = BASELINES.part(recipe.config)(
        size=preset.model_size,
        grid=grid,
        camera_seed=cell.seed,
        loss={"class_weights": class_weights, "in_sight": preset.loss_in_sight, "coarse": preset.coarse_labels},
        **rendering,
    )
    config.pop("type", None)  # the name in mmdet3d's registry
    config |= copy.deepcopy(cell.options)
    if recipe.options:
        BASELINES.part(recipe.options)(config)
    return config


def load_first_weights(weights: FirstWeights, model: OccupancyModel, path: Path) -> None:
    """Start a model from others' weights in a file; raises CheckpointError if it does not fit."""
    BASELINES.part(weights.load)(model, path)


def trainable_parameters(model: nn.Module) -> int:
    """Number of values that training changes, each parameter once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
