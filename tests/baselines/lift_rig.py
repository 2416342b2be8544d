"""What lift-splat models read besides: chains, earlier frames, rays and depth under the rig of ``surround_rig``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from surround_rig import surround_batch
from torch import Tensor
from torch.nn import functional as F

from baselines.interface import CameraChain, History, OccupancyBatch, OccupancyGrid, RaySupervision

SPEED = 1.0  # metres forward from one frame to the next


def forward(metres: float) -> Tensor:
    """[4, 4] key vehicle's frame -> the frame of a vehicle that is so many metres behind it."""
    out = torch.eye(4)
    out[0, 3] = metres
    return out


def random_rays(grid: OccupancyGrid, batch: int, count: int, seed: int = 0) -> RaySupervision:
    """``count`` rays of each sample from the middle of the grid, all around and slightly downwards."""
    g = torch.Generator().manual_seed(seed)
    total = batch * count
    yaw = torch.rand(total, generator=g) * 6.2832
    directions = torch.stack([yaw.cos(), yaw.sin(), -0.1 * torch.rand(total, generator=g)], dim=-1)
    semantic = torch.randint(0, grid.num_classes - 1, (total,), generator=g)
    return RaySupervision(
        origins=torch.randn(total, 3, generator=g) * 0.5 + torch.tensor([0.0, 0.0, 1.5]),
        directions=directions * (1 + torch.rand(total, 1, generator=g) * 0.3),
        depth=2 + 25 * torch.rand(total, generator=g),
        semantic=semantic + (semantic >= grid.empty).long(),
        weight=torch.ones(total),
        scene=torch.arange(batch).repeat_interleave(count),
    )


def lift_batch(
    grid: OccupancyGrid, batch: int = 1, width: int = 96, height: int = 64, frames: int = 2, rays: int = 200, seed: int = 0
) -> OccupancyBatch:
    """``surround_batch`` with all parts: neither images nor the reference frame are augmented."""
    plain = surround_batch(grid, batch, width, height, seed=seed)
    g = torch.Generator().manual_seed(seed + 1)
    cameras = plain.images.shape[1]
    square = torch.eye(3).expand(batch, cameras, 3, 3)
    chain = CameraChain(plain.intrinsics, torch.linalg.inv(plain.reference_to_camera), square, torch.eye(3).expand(batch, 3, 3))
    history = History(
        images=torch.randn(batch, frames, cameras, 3, height, width, generator=g),
        projection=torch.stack([plain.projection @ forward(SPEED * (t + 1)) for t in range(frames)], dim=1),
    )
    depth = torch.rand(batch, cameras, height, width, generator=g) * 60
    depth[torch.rand(depth.shape, generator=g) > 0.05] = 0
    return replace(plain, chain=chain, history=history, rays=random_rays(grid, batch, rays, seed), depth=depth)


@dataclass(frozen=True)
class Plain:
    """Rendered rays, as far as the losses read them."""

    features: Tensor
    depth: Tensor
    alpha: Tensor
    transmittance: Tensor
    squares: Tensor
    spread: Tensor
    samples: Tensor


def plain_caster(grid: OccupancyGrid, steps: int = 48, step: float = 0.8):  # type: ignore[no-untyped-def]
    """A renderer of rays for the models' tests: equal steps, all pairs of samples; no contraction, thresholds or transform."""

    def cast(density: Tensor, features: Tensor, origins: Tensor, directions: Tensor) -> Plain:
        t = (torch.arange(steps) + 0.5) * step
        points = origins[:, None] + t[:, None] * directions[:, None]
        lower, upper = torch.tensor(grid.lower), torch.tensor(grid.upper)
        place = ((points - lower) / (upper - lower) * 2 - 1).flip(-1)
        values = torch.cat([density[..., None], features], dim=-1).movedim(-1, 0)[None]
        found = F.grid_sample(values, place[None, None], align_corners=False)[0, :, 0].movedim(0, -1)
        alpha = 1 - torch.exp(-0.2 * found[..., 0])
        passed = torch.cumprod(1 - alpha, dim=1)
        w = alpha * torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], dim=1)
        pairs = w[:, :, None] * w[:, None] * (t[:, None] - t).abs()
        return Plain(
            features=(w[..., None] * found[..., 1:]).sum(1),
            depth=(w * t).sum(1),
            alpha=w.sum(1),
            transmittance=passed[:, -1],
            squares=(w**2).sum(1),
            spread=pairs.sum((1, 2)),
            samples=torch.full((len(origins),), steps),
        )

    return cast
