"""The image side of MonoScene: EfficientNet and a decoder that goes back up to the image's own resolution.

Reproduces hustvl/Symphonies ssc_pl/models/encoders/unet2d.py, after AdaBins (arXiv:2011.14141). Names below ``decoder`` are the
published ones; below ``encoder`` they are those of mmdet's EfficientNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.images import build_mmdet
from baselines.monoscene.config import STRIDES


class UpSample(nn.Module):
    """A map resized to a finer one beside it, and two convolutions over both."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (in_channels, out_channels):
            layers += [nn.Conv2d(width, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.LeakyReLU()]
        self.cbn = nn.Sequential(*layers)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """[B, C, h, w] and [B, F, H, W] -> [B, out_channels, H, W]."""
        resized = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
        return self.cbn(torch.cat([resized, fine], dim=1))


class ImageDecoder(nn.Module):
    """Maps of the image and of strides 2 to 32 -> maps of ``scales``, each ``dim`` wide.

    width   of the coarsest map; halved at each step towards the image
    padded  see ``MonoScene``'s padded_bottleneck
    """

    def __init__(self, in_channels: Sequence[int], width: int, dim: int, scales: Sequence[int], padded: bool) -> None:
        super().__init__()
        finer = (3, *in_channels[:-1])
        widths = [width // 2 ** (len(finer) - i) for i in range(len(finer) + 1)]
        self.indices = [STRIDES.index(scale) for scale in scales]
        self.conv = nn.Conv2d(in_channels[-1], width, 1, padding=int(padded))
        self.resizes = nn.ModuleList(nn.Conv2d(widths[i], dim, 1) for i in self.indices)
        # Finer ones than are looked at would neither be used nor trained.
        self.finest = min(self.indices)
        self.upsamples = nn.ModuleList(
            UpSample(widths[i + 1] + finer[i], widths[i]) if i >= self.finest else nn.Identity() for i in range(len(finer))
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The image [B, 3, H, W] and the backbone's maps, fine to coarse -> [B, dim, H / s, W / s] for each scale s."""
        *finer, coarsest = maps
        found = {len(finer): self.conv(coarsest)}
        for i in reversed(range(self.finest, len(finer))):
            found[i] = self.upsamples[i](found[i + 1], finer[i])
        return [resize(found[i]) for i, resize in zip(self.indices, self.resizes, strict=True)]


class ImageNetwork(BaseModule):
    """Backbone (an mmdet config with outputs of strides 2, 4, 8, 16, 32) and decoder."""

    def __init__(
        self,
        backbone: dict[str, Any],
        in_channels: Sequence[int],
        width: int,
        dim: int,
        scales: Sequence[int],
        padded: bool,
    ) -> None:
        super().__init__()
        self.encoder = build_mmdet(backbone)
        self.decoder = ImageDecoder(in_channels, width, dim, scales, padded)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images [B, 3, H, W], normalised for the backbone -> float32 maps [B, dim, H / s, W / s], one a scale s."""
        return [level.float() for level in self.decoder([images, *self.encoder(images)])]
