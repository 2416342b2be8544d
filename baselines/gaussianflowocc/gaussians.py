"""From the decoder's features to Gaussians that can be rendered, and their way through time.

Reproduces boschresearch/GaussianFlowOcc mmdet3d/models/detectors/gaussianflowocc.py and
mmdet3d/models/gaussianflowocc_modules/temporal_module.py, utils.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.gaussianflowocc.decoder import SLOPE, Cloud, kaiming
from baselines.interface import OccupancyGrid


@dataclass(frozen=True)
class Attributes:
    """N Gaussians a sample, K classes.

    means        [B, N, 3] metres, in the reference frame
    quaternions  [B, N, 4] (w, x, y, z), of length 1
    scales       [B, N, 3] standard deviations in metres, from 0 to the largest one; an underflow may make them 0
    opacities    [B, N] in 0..1
    logits       [B, N, K] of the classes that images show by name
    """

    means: Tensor
    quaternions: Tensor
    scales: Tensor
    opacities: Tensor
    logits: Tensor


def drawn_start(grid: OccupancyGrid, count: int, dim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Means [count, 3] all over the grid's range in metres, and features [count, dim] that are N(0, 1), from a CPU generator."""
    places = torch.rand(count, 3, generator=generator, device="cpu")
    lower, upper = (torch.tensor(corner, device="cpu") for corner in (grid.lower, grid.upper))
    return lower + places * (upper - lower), torch.randn(count, dim, generator=generator, device="cpu")


def head(dim: int, outputs: int) -> nn.Sequential:
    """[..., dim] -> [..., outputs]."""
    wide = 2 * dim
    layers = (nn.Linear(dim, wide), nn.LeakyReLU(SLOPE), nn.Linear(wide, wide), nn.LeakyReLU(SLOPE), nn.Linear(wide, outputs))
    return kaiming(nn.Sequential(*layers))


class Flow(nn.Module):
    """How far Gaussians of moving classes are from where they are now at other times.

    horizon  key frames to either side that have a code
    moving   channels of the logits; a Gaussian moves if the largest of its logits is one of them
    """

    moving: Tensor

    def __init__(self, dim: int, horizon: int, layers: int, moving: Sequence[int]) -> None:
        super().__init__()
        self.horizon = horizon
        self.time_embed = nn.Embedding(2 * horizon + 1, dim)
        wide = 3 * dim
        parts: list[nn.Module] = [nn.Linear(2 * dim, wide), nn.LeakyReLU(SLOPE)]
        for _ in range(layers):
            parts += [nn.Linear(wide, wide), nn.LeakyReLU(SLOPE)]
        self.ffn = nn.Sequential(*parts, nn.Linear(wide, 3))
        self.register_buffer("moving", torch.tensor(moving, dtype=torch.long), persistent=False)

    def forward(self, cloud: Cloud, logits: Tensor, steps: Tensor) -> Tensor:
        """Means [B, T, N, 3] at ``steps`` [B, T] key frames from now; of step 0, and of what does not move, those of now.

        Offsets are computed for what moves alone, where they are published to be computed for all and then set to 0. Raises
        ValueError for steps beyond the horizon.
        """
        beyond = steps[steps.abs() > self.horizon]
        if len(beyond):
            raise ValueError(f"views: steps must be within {self.horizon} key frames, got {int(beyond[0])}")
        batch, count, times = *cloud.features.shape[:2], steps.shape[1]
        moves = torch.isin(logits.argmax(dim=-1), self.moving).flatten().nonzero()[:, 0]
        features = cloud.features.flatten(0, 1).index_select(0, moves)
        codes = self.time_embed(steps + self.horizon).index_select(0, moves // count)
        pairs = torch.cat([features[:, None].expand(-1, times, -1), codes], dim=-1)
        offsets = self.ffn(pairs) * (steps != 0).index_select(0, moves // count)[..., None]
        still = cloud.means.new_zeros(batch * count, times, 3)
        moved = still.index_copy(0, moves, offsets.to(still.dtype)).unflatten(0, (batch, count))
        return cloud.means[:, None] + moved.transpose(1, 2)
