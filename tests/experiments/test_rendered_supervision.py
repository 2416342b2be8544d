"""Every row of every table that trains with rendering, on a small grid: each parameter of the plug-in has a gradient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from grids import published

from baselines.gaussrender import GaussRender, GaussRenderConfig
from baselines.interface import OccupancyGrid
from experiments.spec import load_table, table_names
from renderers import Cameras, get

NAMES = ("empty", "car", "road", "tree")


def rendered_rows() -> Iterator[Any]:
    """(data set, fields of GaussRenderConfig) of all tables, rows and presets, each once."""
    seen = set()
    for name in table_names():
        table = load_table(name)
        for row in table.rows:
            for preset in table.presets:
                if not row.gaussrender:
                    continue
                options = {**table.preset(preset).gaussrender, **row.gaussrender_options}
                key = (table.dataset, json.dumps(options, sort_keys=True, default=str))
                if key not in seen:
                    seen.add(key)
                    yield pytest.param(table.dataset, options, id=f"{name}-{row.name}-{preset}")


@pytest.mark.parametrize(("dataset", "options"), rendered_rows())
def test_every_parameter_has_a_gradient(dataset: str, options: dict[str, Any]) -> None:
    grid = OccupancyGrid((-4.0, -4.0, -1.0), (4.0, 4.0, 3.0), 1.0, NAMES, empty=0, dataset=dataset, published=published(dataset))
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, *grid.shape, generator=g).requires_grad_()
    features = torch.randn(2, 6, *grid.shape, generator=g).requires_grad_()
    labels = torch.randint(0, 4, (2, *grid.shape), generator=g)
    labels[torch.rand(labels.shape, generator=g) < 0.7] = 0
    k = torch.tensor([[24.0, 0, 20], [0, 24, 12], [0, 0, 1]])
    ahead = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 6], [0, 0, 0, 1]])
    back = torch.tensor([[0.0, 1, 0, 0], [0, 0, -1, 1], [-1, 0, 0, 6], [0, 0, 0, 1]])
    poses = torch.stack([ahead, back] * 3)  # as many as nuScenes has
    cameras = Cameras(k.expand(2, 6, 3, 3), poses.expand(2, 6, 4, 4), 40, 24)
    torch.manual_seed(0)
    config = GaussRenderConfig(**{**options, "bev_reduction": 10, "image_reduction": 1})
    plugin = GaussRender(grid, get("cpu"), 6, config)
    plugin(logits, features, cameras, labels).backward()
    assert logits.grad is not None and logits.grad.any()
    for name, parameter in plugin.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    if config.reads_features:
        assert features.grad is not None and features.grad.any()
    else:
        assert not list(plugin.parameters())
