"""OccFormer's network on the volume: blocks of two paths, one within each horizontal slice, one on all slices in one.

Reproduces zhangyp15/OccFormer projects/mmdet3d_plugin/occformer/backbones/ (dualpath_block.py, occnet.py, modules/); parameters
have its names. Volumes are [B, C, X, Y, Z].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.backbones.swin import SwinBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from baselines.lss.depth_net import ASPP

HEAD_WIDTH = 32
"""Channels of an attention head."""
REDUCTION = 4
"""Of the channels within the ASPP."""


def bottleneck_groups(inside: int, groups: int) -> int:
    """Groups of the norms among ``inside`` channels of an ASPP: those of the network, or two channels each where they are few."""
    return groups if inside > groups else inside // 2


class BottleneckASPP(nn.Module):
    """A map, and the same through an ASPP with a quarter of the channels; [B, C, X, Y] -> [B, C, X, Y]."""

    def __init__(self, width: int, groups: int, dropout: float) -> None:
        super().__init__()
        inside = width // REDUCTION
        self.input_conv = _conv_norm(nn.Conv2d(width, inside, 1, bias=False), inside, groups)
        self.aspp = ASPP(inside, inside, dropout)
        _normalise_by_groups(self.aspp, bottleneck_groups(inside, groups))
        self.output_conv = _conv_norm(nn.Conv2d(inside, width, 1, bias=False), width, groups)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.input_conv(x)
        return x + self.output_conv(inside + self.aspp(inside))


def _conv_norm(conv: nn.Module, width: int, groups: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.GroupNorm(groups, width), nn.ReLU(inplace=True))


def _normalise_by_groups(module: nn.Module, groups: int) -> None:
    """Group norms in place of all batch norms."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(groups, child.num_features))
        else:
            _normalise_by_groups(child, groups)


class DualPathBlock(nn.Module):
    """Convolution; attention within windows of every slice and of the mean of all slices, with the same weights; an ASPP on the
    latter, which is added to every slice with a weight of each voxel; a shortcut around it all.

    Where a side is no multiple of the window, zeros are put behind it and take part in the attention, as published.

    shift  windows are moved by half their size
    """

    def __init__(
        self, inputs: int, width: int, stride: int, shift: bool, groups: int, window: int, drop_path: float, dropout: float
    ) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv3d(inputs, width, 1, stride=stride, bias=False), nn.GroupNorm(groups, width))
        self.input_conv = _conv_norm(nn.Conv3d(inputs, width, 3, stride=stride, padding=1, bias=False), width, groups)
        self.bev_encoder = SwinBlock(
            width, width // HEAD_WIDTH, feedforward_channels=width, window_size=window, shift=shift, drop_path_rate=drop_path
        )
        self.aspp = BottleneckASPP(width, groups, dropout)
        self.combine_coeff = nn.Conv3d(width, 1, 1)

    def forward(self, volume: Tensor) -> Tensor:
        """[B, inputs, X, Y, Z] -> [B, width, X / stride, Y / stride, Z / stride], rounded up."""
        local = self.input_conv(volume)
        batch, _, x, y, _ = local.shape
        slices = torch.cat([local.mean(dim=-1, keepdim=True), local], dim=-1)
        tokens = slices.permute(0, 4, 2, 3, 1).flatten(0, 1).flatten(1, 2)  # [B * (1 + Z), X * Y, C]
        slices = self.bev_encoder(tokens, (x, y)).unflatten(1, (x, y)).unflatten(0, (batch, -1)).permute(0, 4, 2, 3, 1)
        local = slices[..., 1:]
        flat = self.aspp(slices[..., 0].contiguous())
        local = local + self.combine_coeff(local).sigmoid() * flat[..., None]
        return local + self.downsample(volume)


class OccupancyEncoder(nn.Module):
    """Stages of blocks; the windows of every other block are moved.

    widths, blocks  of each stage; the first one's input is as wide as itself, each further one halves the volume
    checkpointing   stages are computed anew in the backward pass
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        groups: int,
        window: int,
        drop_path: float,
        dropout: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        stages, inputs, number = [], widths[0], 0
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            own = []
            for block in range(count):
                stride = 2 if stage and not block else 1
                own.append(DualPathBlock(inputs, width, stride, bool(number % 2), groups, window, drop_path, dropout))
                inputs, number = width, number + 1
            stages.append(nn.Sequential(*own))
        self.layers = nn.ModuleList(stages)

    def forward(self, volume: Tensor) -> list[Tensor]:
        """[B, widths[0], X, Y, Z] -> the output of every stage."""
        out = []
        for stage in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                volume = checkpoint(stage, volume, use_reentrant=False)
            else:
                volume = stage(volume)
            out.append(volume)
        return out
