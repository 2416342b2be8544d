"""Convolution among Gaussians: submanifold convolution (Graham et al., arXiv:1711.10275) on the cells that have any.

Reproduces huang-yh/GaussianFormer model/encoder/gaussian_encoder/spconv3d_module.py, less spconv: a tap of the kernel gathers the
features of the neighbours there, multiplies and adds them up. Weights have spconv's layout.

Of several Gaussians in a cell each has its own features under the kernel's middle, and what others see of the cell is the
features of the first. (There, whatever its hash table holds.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from baselines.gaussianformer2.anchors import Space
from renderers.interface import first_derivative_only


@dataclass(frozen=True)
class Neighbours:
    """Who sees whom under which tap of a kernel; E pairs, tap by tap.

    source  [E] whose features are taken
    target  [E] to whose sum they are added; each once a tap
    counts  pairs of each tap, in the order of the kernel's cells along x, y, z
    """

    source: Tensor
    target: Tensor
    counts: tuple[int, ...]


def neighbours(cells: Tensor, shape: tuple[int, int, int], kernel: int) -> Neighbours:
    """Of Gaussians in ``cells`` [B, N, 3] of a grid of ``shape``, numbered b * N + n, in their own sample; ``kernel`` is odd."""
    batch, count = cells.shape[:2]
    size = cells.new_tensor(shape)
    sample = torch.arange(batch, device=cells.device)[:, None].expand(-1, count).flatten()
    flat, number = cells.flatten(0, 1), torch.arange(batch * count, device=cells.device)

    def place(at: Tensor) -> Tensor:
        return ((sample * shape[0] + at[..., 0]) * shape[1] + at[..., 1]) * shape[2] + at[..., 2]

    none = batch * count
    first = torch.full((batch * math.prod(shape),), none, dtype=torch.long, device=cells.device)
    first = first.scatter_reduce(0, place(flat), number, "amin")
    reach = torch.arange(kernel, device=cells.device) - kernel // 2
    taps = torch.cartesian_prod(reach, reach, reach).view(-1, 1, 3)
    there = flat + taps  # [K, B N, 3]
    inside = ((there >= 0) & (there < size)).all(dim=-1)
    source = torch.where(inside, first[place(there.clamp_min(0).minimum(size - 1))], none)
    source[len(taps) // 2] = number
    tap, target = (source != none).nonzero(as_tuple=True)
    counts = torch.bincount(tap, minlength=len(taps))
    return Neighbours(source[tap, target], target, tuple(counts.tolist()))


class SubmanifoldConvolution(nn.Module):
    """Features [M, inputs] and ``Neighbours`` -> [M, outputs]."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, kernel, kernel, kernel, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))
        nn.init.xavier_uniform_(self.weight)
        bound = 1 / math.sqrt(inputs * kernel**3)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, features: Tensor, seen: Neighbours) -> Tensor:
        taps = self.weight.flatten(1, 3).permute(1, 2, 0)
        summed = _Convolve.apply(features, taps, seen.source, seen.target, seen.counts)
        return first_derivative_only(summed, "submanifold convolution", "convolve a dense grid") + self.bias


class _Convolve(torch.autograd.Function):
    """(features [M, I], taps [K, I, O], source, target, counts) -> [M, O]; gathers again for the gradients, instead of keeping
    what it gathered."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, taps: Tensor, source: Tensor, target: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(features, taps, source, target)
        ctx.counts = counts
        out = features.new_zeros(len(features), taps.shape[2])
        for tap, one, other in zip(taps, source.split(counts), target.split(counts), strict=True):
            if len(one):
                out.index_add_(0, other, features.index_select(0, one) @ tap)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, taps, source, target = ctx.saved_tensors
        grad_features, grad_taps = torch.zeros_like(features), torch.zeros_like(taps)
        pairs = zip(source.split(ctx.counts), target.split(ctx.counts), strict=True)
        for number, (one, other) in enumerate(pairs):
            if len(one):
                arriving = grad.index_select(0, other)
                grad_features.index_add_(0, one, arriving @ taps[number].T)
                grad_taps[number] = features.index_select(0, one).T @ arriving
        return grad_features, grad_taps, None, None, None


class SparseConvolutions(nn.Module):
    """Three convolutions among anchors on a grid of cells, each with norm and ReLU, and a projection.

    cell    edge of a cell in metres
    kernel  cells, odd
    """

    pc_range: Tensor
    grid_size: Tensor

    def __init__(self, dim: int, space: Space, cell: float, kernel: int) -> None:
        super().__init__()
        self.space, self.cell, self.kernel = space, cell, kernel
        x, y, z = (round((high - low) / cell) for low, high in zip(space.lower, space.upper, strict=True))
        self.shape = (x, y, z)
        parts: list[nn.Module] = []
        for _ in range(3):
            parts += [SubmanifoldConvolution(dim, dim, kernel), nn.LayerNorm(dim), nn.ReLU(inplace=True)]
        self.layer = nn.ModuleList(parts)
        self.output_proj = nn.Linear(dim, dim)
        self.register_buffer("pc_range", torch.tensor([*space.lower, *space.upper]))
        self.register_buffer("grid_size", torch.full((3,), cell))

    def forward(self, features: Tensor, anchors: Tensor) -> Tensor:
        """[B, N, F] of features [B, N, F] of anchors [B, N, 11 + K]."""
        means = self.space.metres(anchors.detach())
        cells = ((means - means.new_tensor(self.space.lower)) / self.cell).long()
        seen = neighbours(cells, self.shape, self.kernel)
        flat = features.flatten(0, 1)
        for part in self.layer:
            flat = part(flat, seen) if isinstance(part, SubmanifoldConvolution) else part(flat)
        return self.output_proj(flat.unflatten(0, features.shape[:2]))
