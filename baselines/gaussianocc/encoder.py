"""GaussianOcc's image network: a ResNet without its last stage, and what brings its features to a quarter of the image's size.

Reproduces GANWANSHUI/GaussianOcc networks/resnet_encoder.py:115-214; parameters have the names of its file ``encoder.pth``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.images import build_mmdet, imagenet_rgb

STRIDE = 4  # pixels of the image between two of the features


class _Convolved(nn.Module):
    """Two convolutions, each followed by instance normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)


class ImageEncoder(nn.Module):
    """Images [N, 3, H, W], as loaders give them, -> features [N, channels, H / 4, W / 4]. H and W must be multiples of 4; of 16
    as published.

    resnet    mmdet's ResNet, a config; its second and third stage are read
    widths    channels of the second stage, of the third, and of both layers behind them: 512, 1024, 512, 256 as published
    channels  of the output
    """

    def __init__(self, resnet: dict[str, Any], widths: tuple[int, int, int, int], channels: int) -> None:
        super().__init__()
        network = build_mmdet(resnet)
        for module in network.modules():  # as torchvision starts: mmengine would not know the network from its parts
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        parts = (network.conv1, network.norm1, network.relu, network.maxpool, network.layer1, network.layer2)
        self.backbone = nn.Sequential(*parts)
        self.layer3 = network.layer3
        self.upsampling_layer = _Convolved(widths[0] + widths[1], widths[2])
        self.Upsampling_4 = _Convolved(widths[2], widths[3])
        self.depth_layer = nn.Conv2d(widths[3], channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.backbone(imagenet_rgb(images))
        # To the size of the finer features, which is twice its own unless their number is odd.
        coarse = F.interpolate(self.layer3(fine), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        joined = self.upsampling_layer(torch.cat([fine, coarse], dim=1))
        wide = F.interpolate(joined, scale_factor=2, mode="bilinear", align_corners=False)
        return self.depth_layer(self.Upsampling_4(wide))
