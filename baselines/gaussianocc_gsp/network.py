"""Depth and Gaussian attributes of every pixel: an image network and a U-Net decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.images import build_mmdet

ATTRIBUTES = 9
"""Depth 1, scale 3, rotation 4, opacity 1."""


class _Layer(nn.Sequential):
    """A convolution and an ELU, as in Monodepth2's decoder."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ELU())


class PixelNetwork(nn.Module):
    """Images [N, 3, H, W] -> raw attributes [N, 9, H / 2, W / 2] of pixels.

    backbone           mmdet backbone, a config for mmdet's registry
    backbone_channels  of its outputs, fine to coarse, the finest at a quarter of the image
    decoder_channels   as many: of the layers at those sizes; the last step, to half of the image, has those of the finest
    """

    def __init__(self, backbone: dict[str, Any], backbone_channels: Sequence[int], decoder_channels: Sequence[int]) -> None:
        super().__init__()
        if len(backbone_channels) != len(decoder_channels):
            raise ValueError(
                f"decoder_channels must be as many as backbone_channels, got {len(decoder_channels)} and {len(backbone_channels)}"
            )
        self.backbone = build_mmdet(backbone)
        coarser = [backbone_channels[-1], *reversed(decoder_channels[1:])]
        self.before = nn.ModuleList(
            _Layer(inputs, outputs) for inputs, outputs in zip(coarser, reversed(decoder_channels), strict=True)
        )
        skips = [*reversed(backbone_channels[:-1]), 0]
        self.after = nn.ModuleList(
            _Layer(outputs + skip, outputs) for outputs, skip in zip(reversed(decoder_channels), skips, strict=True)
        )
        self.head = nn.Conv2d(decoder_channels[0], ATTRIBUTES, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[-2] // 2, images.shape[-1] // 2)
        *finer, joined = self.backbone(images)
        for before, after, skip in zip(self.before, self.after, [*reversed(finer), None], strict=True):
            joined = before(joined)
            joined = F.interpolate(joined, size=size if skip is None else skip.shape[-2:], mode="nearest")
            joined = after(joined if skip is None else torch.cat([joined, skip], dim=1))
        return self.head(joined)
