"""The contracted grid, and what cameras see at its vertices.

Reproduces GANWANSHUI/GaussianOcc utils/vox.py:13-59, 132-150, 378-431 and networks/occupancy_decoder.py:101-121, 182-208.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.interface import OccupancyGrid

Point = tuple[float, float, float]

RATIO = 0.66667  # of each axis that has the box
STEP = 0.5  # voxels from one sample along a ray to the next
NEAR = 0.1  # metres, of the first one
RIM, LOW_RIM = 0.5, 0.05  # voxels by which the outermost vertices are drawn in, across and upwards; beyond is infinity
LEAST = 1e-6  # metres and cameras, so that nothing divides by 0


@dataclass(frozen=True)
class ContractedGrid:
    """All of space in a grid: a box as it is, what is beyond squeezed into the rest, axis by axis.

    lower, upper  corners of the box in metres, in the reference frame
    shape         vertices along x, y, z; the outermost ones stand for what is infinitely far
    ratio         part of each axis that has the box
    """

    lower: Point
    upper: Point
    shape: tuple[int, int, int]
    ratio: float = RATIO

    @classmethod
    def of(cls, grid: OccupancyGrid, shape: tuple[int, int, int]) -> ContractedGrid:
        """Around a grid's box. Raises ValueError for a shape that the hourglasses cannot halve twice."""
        if len(shape) != 3 or any(n < 4 or n % 4 for n in shape):
            raise ValueError(f"shape must be three multiples of 4, got {shape}")
        return cls(grid.lower, grid.upper, shape)

    @property
    def tau(self) -> float:
        return self.ratio / (1 - self.ratio)

    @property
    def range(self) -> tuple[Point, Point]:
        """Lower and upper corner (m) of the grid as it would be without contraction, on which the outermost vertices lie."""
        corners = []
        for sign in (-1, 1):
            axes = zip(self.lower, self.upper, strict=True)
            corners.append(tuple(0.5 * (a + b) + sign * 0.5 * (b - a) / self.ratio for a, b in axes))
        return corners[0], corners[1]  # type: ignore[return-value]

    @property
    def voxel(self) -> float:
        """Metres between vertices in the box, a mean over the axes."""
        inner = int(math.prod(self.shape) * self.ratio**3)
        return float((math.prod(b - a for a, b in zip(self.lower, self.upper, strict=True)) / inner) ** (1 / 3))

    @property
    def diagonal(self) -> float:
        """Metres from corner to corner of the box."""
        return math.dist(self.lower, self.upper)

    @property
    def samples(self) -> int:
        """Of a ray that is rendered as a volume."""
        return int(self.diagonal / 2 / STEP / self.voxel / self.ratio)

    def distances(self) -> Tensor:
        """[1, S] float32 of the samples, as the published file ``depth.pth`` has them."""
        tau = self.tau
        v = torch.linspace(0.0, 1 - STEP / self.shape[0], self.samples) * (tau + 1)
        return self.diagonal * (torch.where(v <= tau, v, tau - 1 + 1 / (tau + 1 - v)) / tau)[None]

    def vertices(self) -> Tensor:
        """[X, Y, Z, 3] float64 metres; the outermost ones are drawn in, as they would be infinitely far."""
        axes = []
        for n, rim, low, high in zip(self.shape, (RIM, RIM, LOW_RIM), self.lower, self.upper, strict=True):
            index = torch.arange(n, dtype=torch.float64).clamp(rim, n - 1 - rim)
            v = (2 * index / (n - 1) - 1) * (self.tau + 1)
            beyond = self.tau - 1 + 1 / (self.tau + 1 - v.abs())
            u = torch.where(v.abs() <= self.tau, v, torch.copysign(beyond, v)) / self.tau
            axes.append(0.5 * (u + 1) * (high - low) + low)
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)

    def at_voxels(self, volume: Tensor, grid: OccupancyGrid) -> Tensor:
        """``volume`` [B, C, X, Y, Z] of the contracted grid at the voxels' centres of ``grid``, which lie in the box:
        [B, C, X', Y', Z']."""
        lower, upper = (volume.new_tensor(corner) for corner in self.range)
        places = 2 * (grid.centres(volume.device, volume.dtype) - lower) / (upper - lower) - 1
        places = places.flip(-1).expand(volume.shape[0], -1, -1, -1, -1)
        return F.grid_sample(volume, places, mode="bilinear", align_corners=True)


def lifted(features: Tensor, projection: Tensor, size: tuple[int, int], vertices: Tensor, published: bool) -> Tensor:
    """The mean over cameras of what they see at vertices, channel by channel over the cameras that see something there (whose
    feature is not 0): [B, C, X, Y, Z].

    features    [B, V, C, h, w]
    projection  [B, V, 4, 4] reference frame -> pixel (u*z, v*z, z, 1) of images of ``size`` (width, height)
    vertices    [X, Y, Z, 3] metres
    published   u and v are stretched about the image's upper left corner by w / (w - 1) and h / (h - 1) before a feature is
                looked up, and half a pixel's rim below them counts, as upstream has it (Q10); False: neither
    """
    batch, cameras, channels, height, width = features.shape
    points = vertices.reshape(-1, 3)
    points = torch.cat([points, torch.ones_like(points[:, :1])], dim=1).to(projection)
    extent = projection.new_tensor([width, height])
    per_pixel = extent / projection.new_tensor(size)
    whole = extent - 1 if published else extent
    least, most = (-0.5, extent - 0.5) if published else (0.0, extent)
    out = []
    for scene in range(batch):
        total = features.new_zeros(channels, len(points))
        count = features.new_zeros(channels, len(points))
        for camera in range(cameras):
            onto = points @ projection[scene, camera, :3].T
            pixels = onto[:, :2] / onto[:, 2:].clamp(min=LEAST) * per_pixel
            seen = ((onto[:, 2:] > 0) & (pixels > least) & (pixels < most)).all(dim=1).nonzero()[:, 0]
            places = (2 * pixels[seen] / whole - 1).clamp(-2, 2).to(features)
            values = F.grid_sample(features[scene, camera][None], places[None, None], align_corners=False)[0, :, 0]
            total = total.index_add(1, seen, values)
            count.index_add_(1, seen, (values.detach() != 0).to(values))
        out.append(total / (count + LEAST))
    return torch.stack(out).unflatten(2, vertices.shape[:3])
