"""GaussianOcc's 3D network: three hourglasses over the contracted grid, after PSMNet (Chang and Chen, CVPR 2018).

Reproduces GANWANSHUI/GaussianOcc networks/_3DCNN.py:39-132, 218-391; parameters have the names of its file ``depth.pth``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from baselines.gaussianocc.lifting import ContractedGrid


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm3d(outputs))


def _wider(inputs: int, outputs: int) -> nn.Sequential:
    up = nn.ConvTranspose3d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False)
    return nn.Sequential(up, nn.BatchNorm3d(outputs))


def _head(channels: int, outputs: int, layers: int = 4) -> nn.Sequential:
    """The last convolution is normalised too: its batch normalisation has the outputs' only bias."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [_conv(channels, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, _conv(channels, outputs))


class _Hourglass(nn.Module):
    """To a quarter of the size and back, with what the one before left at half of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.conv1 = nn.Sequential(_conv(channels, wide, 2), nn.ReLU(inplace=True))
        self.conv2 = _conv(wide, wide)
        self.conv3 = nn.Sequential(_conv(wide, wide, 2), nn.ReLU(inplace=True))
        self.conv4 = nn.Sequential(_conv(wide, wide), nn.ReLU(inplace=True))
        self.conv5 = _wider(wide, wide)
        self.conv6 = _wider(wide, channels)

    def forward(self, x: Tensor, before: Tensor | None, after: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Output, and what was at half the size on the way down and on the way up."""
        down = self.conv2(self.conv1(x))
        down = (down if after is None else down + after).relu()
        up = (self.conv5(self.conv4(self.conv3(down))) + (down if before is None else before)).relu()
        return self.conv6(up), down, up


class Hourglasses(nn.Module):
    """[B, inputs, X, Y, Z] -> logits [B, classes, X, Y, Z]; X, Y, Z multiples of 4.

    residual  what the last hourglass says is added to what all of them start from, as in PSMNet; as published it is not, and what
              is finer than half the grid has to pass through the others' answers

    ``classif3`` and ``classif_flow`` belong to published files; nothing runs through them, there neither with these options.
    """

    def __init__(self, inputs: int, planes: int, classes: int, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        channels = 2 * planes
        self.dres0 = nn.Sequential(
            _conv(inputs, channels), nn.ReLU(inplace=True), _conv(channels, channels), nn.ReLU(inplace=True)
        )
        self.dres1 = nn.Sequential(_conv(channels, channels), nn.ReLU(inplace=True), _conv(channels, channels))
        self.dres2, self.dres3, self.dres4 = (_Hourglass(channels) for _ in range(3))
        self.classif3 = _head(channels, 1)
        self.classif_semantic = _head(channels, classes)
        self.classif_flow = _head(channels, 3, layers=3)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=math.sqrt(2 / (math.prod(module.kernel_size) * module.out_channels)))
        for idle in (self.classif3, self.classif_flow):  # no gradient arrives, which distributed training would wait for
            idle.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        start = self.dres0(x.contiguous(memory_format=torch.channels_last_3d))
        start = self.dres1(start) + start
        out, down, up = self.dres2(start, None, None)
        out, _, up = self.dres3(out + start, down, up)
        out, _, _ = self.dres4(out + start, down, up)
        return self.classif_semantic(out + start if self.residual else out)


class _Frequencies(nn.Module):
    """Of a position code that nothing reads; published files have them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("posfreq", torch.tensor([1.0, 2.0, 4.0]))


class VolumeDecoder(nn.Module):
    """What ``depth.pth`` has: the network, and constants of the contracted grid, which are checked on loading and not read.

    splats  it is trained with splats, not as a volume
    """

    def __init__(
        self, space: ContractedGrid, inputs: int, planes: int, classes: int, splats: bool, residual: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("xyz_min", torch.tensor(space.lower, dtype=torch.float64))
        self.register_buffer("xyz_max", torch.tensor(space.upper, dtype=torch.float64))
        self.register_buffer("Zval", space.distances())
        self.register_buffer("scene_centroid", torch.zeros(1, 3))
        self.vox_util = _Frequencies()
        if splats:
            self.gs_vox_util = _Frequencies()
        self._3DCNN = Hourglasses(inputs, planes, classes, residual)

    @property
    def last(self) -> nn.BatchNorm3d:
        """What normalises the logits."""
        layer: nn.BatchNorm3d = self._3DCNN.classif_semantic[-1][1]
        return layer

    def forward(self, features: Tensor) -> Tensor:
        return self._3DCNN(features)
