"""Gaussians in and around a small grid, what plain formulas of them need, and how ops are held to those."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid

FIELDS = ("means", "quaternions", "scales", "opacities", "features")
Inputs = dict[str, Tensor]


def a_grid(shape: tuple[int, int, int] = (9, 7, 5)) -> OccupancyGrid:
    lower = (-1.6, -1.2, -0.4)
    upper = tuple(low + 0.4 * n for low, n in zip(lower, shape, strict=True))
    return OccupancyGrid(lower, upper, 0.4, ("thing", "empty"), 1)  # type: ignore[arg-type]


GRID = a_grid()


def some(count: int = 40, channels: int = 6, seed: int = 0, grid: OccupancyGrid = GRID) -> Inputs:
    """Gaussians in and around the grid, thin and fat ones, float32."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(grid.lower) - 1.0, torch.tensor(grid.upper) + 1.0
    return {
        "means": low + (high - low) * torch.rand(count, 3, generator=generator),
        "quaternions": torch.randn(count, 4, generator=generator),
        "scales": 0.03 * 40 ** torch.rand(count, 3, generator=generator),
        "opacities": torch.rand(count, generator=generator),
        "features": torch.randn(count, channels, generator=generator),
    }


def double(inputs: Inputs) -> Inputs:
    return {name: value.detach().double() for name, value in inputs.items()}


def largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


def covariances(quaternions: Tensor, scales: Tensor) -> Tensor:
    """[N, 3, 3] of Gaussians."""
    w, x, y, z = (quaternions / quaternions.norm(dim=1, keepdim=True)).unbind(1)
    rotation = torch.stack(
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
         2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
         2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1
    ).view(-1, 3, 3)  # fmt: skip
    return rotation @ torch.diag_embed(scales**2) @ rotation.mT


def away(means: Tensor, grid: OccupancyGrid) -> Tensor:
    """[N, X, Y, Z] how many voxels each is away from that of a mean, on the axis where that is most."""
    index = torch.stack(torch.meshgrid(*(torch.arange(n) for n in grid.shape), indexing="ij"), -1)
    # in float32, as the op sees them: a mean on a voxel's edge belongs to one or the other
    base = ((means.detach().float() - torch.tensor(grid.lower)) / grid.voxel_size).floor().long()
    return (index[None] - base[:, None, None, None]).abs().amax(-1)


def differentiated(function: Any, inputs: Inputs, *arguments: Any) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    leaves = {name: value.detach().clone().requires_grad_() for name, value in inputs.items()}
    outputs = function(leaves, *arguments)
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in outputs]
    ((outputs[0] * weights[0]).sum() + (outputs[1] * weights[1]).sum()).backward()
    return tuple(t.detach() for t in outputs), {name: leaf.grad for name, leaf in leaves.items()}  # type: ignore[misc, return-value]


def check_gradients(gradients: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    """Each Gaussian's within ``tolerance`` of the largest of its own, at least 1."""
    for name, gradient in right.items():
        rows = gradient.flatten(1) if gradient.dim() > 1 else gradient[:, None]
        scale = rows.abs().amax(1, keepdim=True).clamp_min(1.0)
        assert largest((gradients[name].view_as(rows) - rows) / scale) <= tolerance, f"gradient of {name}"
