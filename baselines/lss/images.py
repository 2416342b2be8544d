"""Image networks of stereo models: backbones that give their finest features besides, and BEVDet's FPN_LSS and CustomFPN.

A stereo backbone maps images [N, 3, H, W] to a list of maps [N, C_i, h_i, w_i], the first of which stereo compares and the others
of which go to the neck; ``first_stage`` gives the first map alone, without the cost of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from mmdet.models.backbones import ResNet, SwinTransformer
from mmdet.models.necks import FPN
from mmdet.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F


@MODELS.register_module()
class StereoSwin(SwinTransformer):
    """mmdet's Swin transformer; its first map is the first stage's, without the norm of outputs, at a quarter of the images.

    Parameters have mmdet's names, which are those of BEVDet's own Swin transformer.
    """

    def first_stage(self, images: Tensor) -> Tensor:
        return self._as_map(*next(self._stages(images)))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = []
        for number, (tokens, shape) in enumerate(self._stages(images)):
            if number == 0:
                maps.append(self._as_map(tokens, shape))
            if number in self.out_indices:
                maps.append(self._as_map(getattr(self, f"norm{number}")(tokens), shape))
        return maps

    def _stages(self, images: Tensor) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        tokens, shape = self.patch_embed(images)
        if self.use_abs_pos_embed:
            tokens = tokens + self.absolute_pos_embed
        tokens = self.drop_after_pos(tokens)
        for stage in self.stages:
            tokens, shape, own, own_shape = stage(tokens, shape)
            yield own, own_shape

    @staticmethod
    def _as_map(tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        return tokens.transpose(1, 2).unflatten(2, shape).contiguous()


@MODELS.register_module()
class StereoResNet(ResNet):
    """mmdet's ResNet; its first map is its first stage's, so that ``out_indices`` begins with 0."""

    def first_stage(self, images: Tensor) -> Tensor:
        x = self.stem(images) if self.deep_stem else self.relu(self.norm1(self.conv1(images)))
        return getattr(self, self.res_layers[0])(self.maxpool(x))


@MODELS.register_module()
class ImageNeck(nn.Module):
    """Two maps joined at the finer one's size, then two convolutions with norms (BEVDet's FPN_LSS without its last step)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[N, C_i, h_i, w_i], fine and coarse, with ``inputs`` channels together -> [N, outputs, h_0, w_0]."""
        fine, coarse = maps
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=True)
        return self.conv(torch.cat([fine, coarse], dim=1))


@MODELS.register_module()
class FinestFPN(FPN):
    """mmdet's FPN less all outputs but the finest (BEVDet's CustomFPN)."""

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__(list(in_channels), out_channels, num_outs=len(in_channels))
        self.fpn_convs = self.fpn_convs[:1]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[N, in_channels[i], h_i, w_i], fine to coarse -> [N, out_channels, h_0, w_0]."""
        *finer, joined = (lateral(one) for lateral, one in zip(self.lateral_convs, maps, strict=True))
        for one in reversed(finer):
            joined = one + F.interpolate(joined, size=one.shape[-2:], mode="nearest")
        return self.fpn_convs[0](joined)
