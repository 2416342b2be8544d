"""The 3D side of MonoScene: a U-Net of three levels with a context prior at the coarsest, and the head that classifies voxels.

Reproduces hustvl/Symphonies ssc_pl/models/decoders/unet3d.py and layers/{ddr,crp3d,modules}.py (arXiv:2112.00726, sections 3
and 3.2). Parameters have the published names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.symphonies.decoder import ASPP

Size3 = tuple[int, int, int]

DILATIONS = (1, 2, 3)
RELATIONS = 4
"""Between two cells: both of one occupied class, of two, both empty, one of them empty (``losses.relations``)."""


class Bottleneck(nn.Module):
    """A residual block whose 3 x 3 x 3 convolution is three, along z, y and x, each added to those before it (DDRNet,
    arXiv:1903.00957).

    stride      1 or 2
    expansion   output channels per inner ones
    downsample  of the input, for the residual; None where shapes stay
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        dilation: int = 1,
        expansion: int = 4,
        downsample: nn.Module | None = None,
    ) -> None:
        super().__init__()

        def there(axis: int, value: int, elsewhere: int) -> Size3:
            x, y, z = (value if i == axis else elsewhere for i in range(3))
            return x, y, z

        def along(axis: int) -> nn.Conv3d:
            kernel, step = there(axis, 3, 1), there(axis, stride, 1)
            spread, border = there(axis, dilation, 1), there(axis, dilation, 0)
            return nn.Conv3d(channels, channels, kernel, step, border, spread, bias=False)

        def shrink(axis: int) -> nn.Sequential:
            window = there(axis, stride, 1)
            conv = nn.Conv3d(channels, channels, 1, bias=False)
            return nn.Sequential(nn.AvgPool3d(window, window), conv, nn.BatchNorm3d(channels))

        self.conv1, self.bn1 = nn.Conv3d(in_channels, channels, 1, bias=False), nn.BatchNorm3d(channels)
        self.conv2, self.bn2 = along(2), nn.BatchNorm3d(channels)
        self.conv3, self.bn3 = along(1), nn.BatchNorm3d(channels)
        self.conv4, self.bn4 = along(0), nn.BatchNorm3d(channels)
        self.conv5 = nn.Conv3d(channels, channels * expansion, 1, bias=False)
        self.bn5 = nn.BatchNorm3d(channels * expansion)
        self.stride, self.downsample = stride, downsample
        if stride != 1:
            self.downsample2, self.downsample3, self.downsample4 = shrink(1), shrink(0), shrink(0)

    def forward(self, volume: Tensor) -> Tensor:
        """[B, F, X, Y, Z] -> [B, channels * expansion, X / stride, Y / stride, Z / stride]."""
        first = F.relu(self.bn1(self.conv1(volume)))
        second = self.bn2(self.conv2(first))
        third = self.bn3(self.conv3(F.relu(second)))
        if self.stride != 1:
            second = self.downsample2(second)
        third = second + third
        fourth = self.bn4(self.conv4(F.relu(third)))
        if self.stride != 1:
            second, third = self.downsample3(second), self.downsample4(third)
        last = self.bn5(self.conv5(F.relu(second + third + fourth)))
        return F.relu((volume if self.downsample is None else self.downsample(volume)) + last)


class Process(nn.Module):
    """Residual blocks, one a dilation."""

    def __init__(self, dim: int, dilations: Sequence[int] = DILATIONS) -> None:
        super().__init__()
        self.blks = nn.Sequential(*(Bottleneck(dim, dim // 4, dilation=d) for d in dilations))

    def forward(self, volume: Tensor) -> Tensor:
        """[B, F, X, Y, Z] in and out."""
        return self.blks(volume)


class Downsample(nn.Module):
    """Half the cells along each axis, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        residual = nn.Sequential(nn.AvgPool3d(2, 2), nn.Conv3d(dim, 2 * dim, 1, bias=False), nn.BatchNorm3d(2 * dim))
        self.btnk = Bottleneck(dim, dim // 4, stride=2, expansion=8, downsample=residual)

    def forward(self, volume: Tensor) -> Tensor:
        """[B, F, X, Y, Z] -> [B, 2 F, X / 2, Y / 2, Z / 2]."""
        return self.btnk(volume)


class Upsample(nn.Module):
    """Twice the cells along each axis, half the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.up_bn = nn.Sequential(
            nn.ConvTranspose3d(dim, dim // 2, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm3d(dim // 2), nn.ReLU()
        )

    def forward(self, volume: Tensor) -> Tensor:
        """[B, F, X, Y, Z] -> [B, F / 2, 2 X, 2 Y, 2 Z]."""
        return self.up_bn(volume)


class ContextPrior(nn.Module):
    """Each cell gathers the context of the scene, once for each relation, weighted by how likely it has that relation to what it
    gathers from: blocks of 2 x 2 x 2 cells, numbered (x * Y + y) * Z + z like the cells.

    cells  (x, y, z), even
    """

    def __init__(self, dim: int, cells: Size3) -> None:
        super().__init__()
        blocks = math.prod(n // 2 for n in cells)
        self.mega_context = nn.Conv3d(dim, 2 * dim, 3, stride=2, padding=1)
        self.context_prior_logits = nn.ModuleList(nn.Conv3d(dim, blocks, 1) for _ in range(RELATIONS))
        self.aspp = ASPP(dim, DILATIONS)
        self.resize = nn.Sequential(nn.Conv3d(2 * dim * RELATIONS + dim, dim, 1, bias=False), Process(dim, dilations=(1,)))

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F, X, Y, Z] -> the same with context, and logits [B, 4, N, M] of the relations between N cells and M blocks."""
        gathered = self.aspp(volume)
        context = self.mega_context(gathered).flatten(2).transpose(1, 2)  # [B, M, 2 F]
        relations = torch.stack([layer(gathered).flatten(2).transpose(1, 2) for layer in self.context_prior_logits], dim=1)
        found = (relations.sigmoid() @ context[:, None]).transpose(2, 3).flatten(1, 2).unflatten(-1, volume.shape[2:])
        return self.resize(torch.cat([volume, found], dim=1)), relations


class SegmentationHead(nn.Module):
    """Voxel features and their classes (LMSCNet's head, arXiv:2008.10559)."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv3d(dim, dim, 3, padding=1)
        self.aspp = ASPP(dim, DILATIONS)
        self.conv_cls = nn.Conv3d(dim, classes, 3, padding=1)

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """[B, F, X, Y, Z] -> logits [B, C, X, Y, Z], and the features [B, F, X, Y, Z] before the last convolution."""
        features = self.aspp(F.relu(self.conv0(volume)))
        return self.conv_cls(features), features


class VolumeOutput(NamedTuple):
    """logits [B, C, X, Y, Z] and features [B, F, X, Y, Z] of the voxels, and logits of relations [B, 4, N, M]."""

    logits: Tensor
    features: Tensor
    relations: Tensor


class SceneNetwork(nn.Module):
    """Features of a scene of ``cells`` -> classes of voxels, ``volume_scale`` (1 or 2) times as many along each axis."""

    def __init__(self, dim: int, cells: Size3, classes: int, volume_scale: int) -> None:
        super().__init__()
        self.process_l1 = nn.Sequential(Process(dim), Downsample(dim))
        self.process_l2 = nn.Sequential(Process(2 * dim), Downsample(2 * dim))
        x, y, z = cells
        self.CP_mega_voxels = ContextPrior(4 * dim, (x // 4, y // 4, z // 4))
        self.up_13_l2, self.up_12_l1 = Upsample(4 * dim), Upsample(2 * dim)
        self.up_l1_full = Upsample(dim) if volume_scale > 1 else nn.Identity()
        self.ssc_head = SegmentationHead(dim // volume_scale, classes)

    def forward(self, volume: Tensor) -> VolumeOutput:
        """volume [B, dim, *cells]."""
        half = self.process_l1(volume)
        quarter, relations = self.CP_mega_voxels(self.process_l2(half))
        half = self.up_13_l2(quarter) + half
        logits, features = self.ssc_head(self.up_l1_full(self.up_12_l1(half) + volume))
        return VolumeOutput(logits, features, relations)
