"""Convolutions on volumes: BEVDet's CustomResNet3D and LSSFPN3D (mmdet3d/models/backbones/resnet.py, necks/lss_fpn.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional as F


def conv3d(inputs: int, outputs: int, size: int, stride: int = 1, activation: bool = True) -> ConvModule:
    """Convolution without bias, norm and, if asked for, ReLU."""
    return ConvModule(
        inputs,
        outputs,
        size,
        stride=stride,
        padding=size // 2,
        bias=False,
        conv_cfg=dict(type="Conv3d"),
        norm_cfg=dict(type="BN3d"),
        act_cfg=dict(type="ReLU") if activation else None,
    )


class Block3D(nn.Module):
    """Two convolutions and a shortcut: the identity, or a third one."""

    def __init__(self, inputs: int, outputs: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1 = conv3d(inputs, outputs, 3, stride)
        self.conv2 = conv3d(outputs, outputs, 3, activation=False)
        self.downsample = conv3d(inputs, outputs, 3, stride, activation=False) if projected else None

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
        """[B, C, Z, Y, X] -> the output of every stage."""
        out = []
        for stage in self.layers:
            volume = stage(volume)
            out.append(volume)
        return out


class Neck3D(nn.Module):
    """Volumes of all stages at the size of the first, side by side, mixed by a convolution of size 1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3d(inputs, outputs, 1)

    def forward(self, volumes: Sequence[Tensor]) -> Tensor:
        """[B, C_i, Z_i, Y_i, X_i], finest first -> [B, outputs, Z_0, Y_0, X_0]."""
        size = volumes[0].shape[2:]
        coarse = [F.interpolate(volume, size=size, mode="trilinear", align_corners=True) for volume in volumes[1:]]
        return self.conv(torch.cat([volumes[0], *coarse], dim=1))
