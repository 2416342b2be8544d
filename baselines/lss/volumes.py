"""Convolutions on volumes: BEVDet's CustomResNet3D and LSSFPN3D (mmdet3d/models/backbones/resnet.py, necks/lss_fpn.py).

Volumes are [B, C, X, Y, Z], as everywhere here; kernels are [.., z, y, x], as published, and turned around for it. (BEVDet's
volumes are [B, C, Z, Y, X]. PyTorch has a fast convolution on a CPU for ours, not for those: 10 times slower.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvZYX(nn.Conv3d):
    """A convolution of volumes [B, C, X, Y, Z] whose kernel is [.., z, y, x]; same along all three axes."""

    def forward(self, volume: Tensor) -> Tensor:
        kernel = self.weight.permute(0, 1, 4, 3, 2)
        return F.conv3d(volume, kernel, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv3D(nn.Module):
    """Convolution, norm if asked for (then without bias), ReLU if asked for; kernels start by Kaiming, as mmcv's."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, norm: bool = True, activation: bool = True) -> None:
        super().__init__()
        self.conv = ConvZYX(inputs, outputs, size, stride=stride, padding=size // 2, bias=not norm)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if norm:
            self.bn: nn.BatchNorm3d | None = nn.BatchNorm3d(outputs)
        else:
            self.bn = None
            assert self.conv.bias is not None
            nn.init.zeros_(self.conv.bias)
        self.activation = activation

    def forward(self, volume: Tensor) -> Tensor:
        """[B, inputs, X, Y, Z] -> [B, outputs, X', Y', Z']."""
        volume = self.conv(volume)
        volume = volume if self.bn is None else self.bn(volume)
        return volume.relu() if self.activation else volume


class Block3D(nn.Module):
    """Two convolutions and a shortcut: the identity, or a third one."""

    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1 = Conv3D(inputs, outputs, 3, stride)
        self.conv2 = Conv3D(outputs, outputs, 3, activation=False)
        self.downsample = Conv3D(inputs, outputs, 3, stride, activation=False) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return (self.conv2(self.conv1(x)) + shortcut).relu()


class ResNet3D(nn.Module):
    """Stages of blocks. As published the first block of each has a convolution for a shortcut, also at stride 1.

    inputs                    channels of the volume
    blocks, channels, strides  one number a stage
    """

    def __init__(self, inputs: int, blocks: Sequence[int], channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        stages = []
        for count, outputs, stride in zip(blocks, channels, strides, strict=True):
            first = Block3D(inputs, outputs, stride, projected=True)
            stages.append(nn.Sequential(first, *(Block3D(outputs, outputs, 1, projected=False) for _ in range(count - 1))))
            inputs = outputs
        self.layers = nn.Sequential(*stages)

    def forward(self, volume: Tensor) -> list[Tensor]:
        """[B, C, X, Y, Z] -> the output of every stage."""
        out = []
        for stage in self.layers:
            volume = stage(volume)
            out.append(volume)
        return out


class Neck3D(nn.Module):
    """Volumes of all stages at the size of the first, side by side, mixed by a convolution of size 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv3D(inputs, outputs, 1)

    def forward(self, volumes: Sequence[Tensor]) -> Tensor:
        """[B, C_i, X_i, Y_i, Z_i], finest first -> [B, outputs, X_0, Y_0, Z_0]."""
        size = volumes[0].shape[2:]
        coarse = [F.interpolate(volume, size=size, mode="trilinear", align_corners=True) for volume in volumes[1:]]
        return self.conv(torch.cat([volumes[0], *coarse], dim=1))
