"""From image features to Gaussians: blocks of attention to the Gaussians of the frame before, to each other and to the images,
each of which moves the means.

Reproduces boschresearch/GaussianFlowOcc mmdet3d/models/gaussianflowocc_modules/gaussian_decoder.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.gaussianflowocc.config import OPERATIONS
from baselines.interface import OccupancyGrid
from baselines.ops.camera_attention import attend_to_cameras, camera_views, sampling_directions

NEAREST = 0.01  # metres along a camera's axis from which on a mean is seen
DIVISION = 1e-4  # metres that are added to that before the division
SLOPE = 0.01  # of LeakyReLU, for which weights are drawn


@dataclass(frozen=True)
class Cloud:
    """Gaussians as the decoder has them: all but their means is still in their features.

    means     [B, N, 3] metres, in the reference frame
    features  [B, N, F]
    """

    means: Tensor
    features: Tensor

    def moved(self, motion: Tensor) -> Cloud:
        """The same in another reference frame, to which ``motion`` [B, 4, 4] leads; features are not changed."""
        rotation, shift = motion[:, :3, :3].to(self.means), motion[:, :3, 3].to(self.means)
        return Cloud(self.means @ rotation.transpose(1, 2) + shift[:, None], self.features)


@dataclass(frozen=True)
class ImageFeatures:
    """What the V cameras show.

    levels      one [B, V, F, h, w] a level, fine to coarse
    projection  [B, V, 4, 4] reference frame -> pixel of the images (u*z, v*z, z, 1)
    size        (width, height) of the images in pixels
    """

    levels: Sequence[Tensor]
    projection: Tensor
    size: tuple[int, int]


def kaiming(part: nn.Sequential) -> nn.Sequential:
    """``part`` with linear layers that start as the published heads and encoding do."""
    for layer in part:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            nn.init.zeros_(layer.bias)
    return part


class PointEncoding(nn.Module):
    """A code of where a mean is, from its place in the grid's range, not clamped to it."""

    def __init__(self, grid: OccupancyGrid, dim: int) -> None:
        super().__init__()
        self.pc_range = nn.Parameter(torch.tensor([*grid.lower, *grid.upper]), requires_grad=False)
        self.pos_enc = kaiming(
            nn.Sequential(
                nn.Linear(3, dim),
                nn.LeakyReLU(SLOPE),
                nn.Linear(dim, dim),
                nn.LeakyReLU(SLOPE),
                nn.Linear(dim, dim),
                nn.LayerNorm(dim),
            )
        )

    def forward(self, means: Tensor) -> Tensor:
        """[B, N, 3] metres -> [B, N, F]."""
        lower, upper = self.pc_range[:3], self.pc_range[3:]
        code: Tensor = self.pos_enc((means - lower) / (upper - lower))
        return code


class InducedAttention(nn.Module):
    """Attention through a few learned points, which attend to all keys and are then attended to by all queries."""

    def __init__(self, dim: int, heads: int, points: int, dropout: float) -> None:
        super().__init__()
        self.inducing_points = nn.Parameter(torch.randn(points, dim))
        for name in ("induced", "output"):
            attention = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
            layers = (nn.Linear(dim, dim), nn.LeakyReLU(SLOPE), nn.Linear(dim, dim), nn.Dropout(dropout))
            self.add_module(f"{name}_attention", attention)
            self.add_module(f"{name}_ff", nn.Sequential(*layers))
            self.add_module(f"{name}_ln1", nn.LayerNorm(dim))
            self.add_module(f"{name}_ln2", nn.LayerNorm(dim))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """queries [B, N, F], keys [B, K, F] -> [B, N, F]."""
        induced = self._half("induced", self.inducing_points.expand(len(keys), -1, -1), keys)
        return self._half("output", queries, induced)

    def _half(self, name: str, queries: Tensor, keys: Tensor) -> Tensor:
        attention, feed_forward, first, second = (getattr(self, f"{name}_{part}") for part in ("attention", "ff", "ln1", "ln2"))
        seen = first(attention(queries, keys, keys, need_weights=False)[0] + queries)
        out: Tensor = second(feed_forward(seen) + seen)
        return out


class ImageAttention(nn.Module):
    """Deformable attention around where each camera sees a mean, averaged over the cameras that do."""

    def __init__(self, dim: int, heads: int, points: int, levels: int, cameras: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.points, self.levels = heads, points, levels
        samples = heads * levels * points
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.cams_embeds = nn.Parameter(torch.empty(cameras, dim))
        self.level_embeds = nn.Parameter(torch.empty(levels, dim))
        self.ln = nn.LayerNorm(dim)
        # Offsets fan out, one direction a head and one distance a point.
        start = sampling_directions(heads)[:, None, None] * torch.arange(1, points + 1)[:, None].expand(levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.flatten())
        for weight in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            nn.init.zeros_(weight)
        for layer in (self.value_proj, self.output_proj):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.cams_embeds)

    def forward(self, cloud: Cloud, images: ImageFeatures) -> Tensor:
        """Features [B, N, F], the residual included."""
        cameras, features = images.projection.shape[1], cloud.features
        codes = self.cams_embeds[:cameras, None] + self.level_embeds[:, None, None]
        tokens = [level.flatten(3).transpose(2, 3) + code for level, code in zip(images.levels, codes, strict=True)]
        value = self.value_proj(torch.cat(tokens, dim=2).flatten(0, 1)).unflatten(-1, (self.heads, -1))
        shapes = [(level.shape[-2], level.shape[-1]) for level in images.levels]
        offsets = self.sampling_offsets(features).unflatten(-1, (self.heads, self.levels, 1, self.points, 2))
        weights = self.attention_weights(features).unflatten(-1, (self.heads, -1)).softmax(dim=-1)
        views = camera_views(*seen(cloud.means, images.projection, images.size))
        found = attend_to_cameras(value, shapes, offsets, weights.unflatten(-1, (self.levels, -1)), views)
        out: Tensor = self.ln(self.dropout(self.output_proj(found)) + features)
        return out


def seen(means: Tensor, projection: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where cameras see means [B, N, 3]; arguments as in ``ImageFeatures``.

    Returns positions [B, V, N, 1, 2] in 0..1 of the image, x first, differentiable in the means, and bool [B, V, N, 1]: in front
    of the camera and inside the image. Positions that are not are of no use.
    """
    points = means[:, None] @ projection[..., :3, :3].transpose(2, 3).to(means) + projection[:, :, None, :3, 3].to(means)
    depth = points[..., 2:]
    before = depth > NEAREST
    # Where nothing is seen, a division by nearly 0 would make gradients of 0 NaN.
    position = points[..., :2] / (torch.where(before, depth, 1.0) + DIVISION) / means.new_tensor(size)
    inside = before[..., 0] & (position > 0).all(dim=-1) & (position < 1).all(dim=-1)
    return position[..., None, :], inside[..., None]


class Rectifier(nn.Module):
    """Moves means by what their features say, in metres and without limit."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean_head = nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(SLOPE), nn.Linear(dim, 3))

    def forward(self, cloud: Cloud) -> Cloud:
        return Cloud(cloud.means + self.mean_head(cloud.features), cloud.features)


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of the decoder and what its blocks do; the fields are arguments of ``GaussianFlowOcc``, and ``levels`` that of
    feature maps."""

    blocks: int
    dim: int
    heads: int
    levels: int
    points: int
    inducing: int
    cameras: int
    dropout: float
    operations: tuple[str, ...] = OPERATIONS


class DecoderBlock(nn.Module):
    """Attention to the frame before, to all Gaussians, to the images; then the means move. As far as ``operations`` name them."""

    def __init__(self, s: DecoderSizes) -> None:
        super().__init__()

        def induced(name: str) -> InducedAttention | None:
            return InducedAttention(s.dim, s.heads, s.inducing, s.dropout) if name in s.operations else None

        self.cross_att = ImageAttention(s.dim, s.heads, s.points, s.levels, s.cameras, s.dropout)
        self.temporal_attn = induced("temporal_att")
        self.self_attn = induced("self_att")
        self.gaussian_rectifier = Rectifier(s.dim) if "rect" in s.operations else None

    def forward(self, cloud: Cloud, before: Tensor, images: ImageFeatures) -> Cloud:
        """before [B, K, F]: features of the Gaussians of the frame before, with the code of where they are."""
        features = cloud.features
        if self.temporal_attn is not None:
            features = self.temporal_attn(features, before)
        if self.self_attn is not None:
            features = self.self_attn(features, features)
        seen = Cloud(cloud.means, self.cross_att(Cloud(cloud.means, features), images))
        if self.gaussian_rectifier is None:
            return seen
        moved: Cloud = self.gaussian_rectifier(seen)
        return moved


class GaussianDecoder(nn.Module):
    """The blocks. The code of where a mean is is added to its features before each of them."""

    def __init__(self, grid: OccupancyGrid, sizes: DecoderSizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DecoderBlock(sizes) for _ in range(sizes.blocks))
        self.pos_enc = PointEncoding(grid, sizes.dim)

    def forward(self, start: Cloud, before: Cloud | None, images: ImageFeatures) -> Cloud:
        """``start`` after all blocks; ``before``: of the frame before, in this one's reference frame, None where there is none,
        which the start then stands for."""
        earlier = before or start
        keys = self.pos_enc(earlier.means) + earlier.features
        cloud = start
        for block in self.blocks:
            cloud = block(Cloud(cloud.means, self.pos_enc(cloud.means) + cloud.features), keys, images)
        return cloud
