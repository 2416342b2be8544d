"""From image features to a distribution over depth and features to lift, told of the camera and of another view.

BEVDepth's network (arXiv:2206.10092) with BEVStereo's cost volume (arXiv:2209.10248). Reproduces BEVDet's
mmdet3d/models/necks/view_transformer.py:335-655; parameters have its names.
"""

from __future__ import annotations

import torch
from mmdet.models.backbones.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.lss.geometry import VECTOR_LENGTH, reproject

_CHUNK = 16  # channels of a stereo map that are warped at a time, for the memory's sake


class CameraMlp(nn.Module):
    """Two layers on the camera's vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(VECTOR_LENGTH, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, vector: Tensor) -> Tensor:
        return self.fc2(self.fc1(vector).relu())


class CameraGate(nn.Module):
    """Features [N, F, h, w] times a gate in 0..1 a channel, made of what is known of the camera [N, F]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(width, width, 1)
        self.conv_expand = nn.Conv2d(width, width, 1)

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:
        return features * self.conv_expand(self.conv_reduce(camera[..., None, None]).relu()).sigmoid()


class DilatedConv(nn.Module):
    """A convolution with holes, norm, ReLU; as wide as the hole asks for."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        size = 1 if dilation == 1 else 3
        self.atrous_conv = nn.Conv2d(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.atrous_conv(x)).relu()


class ASPP(nn.Module):
    """Convolutions with holes of 1, 6, 12 and 18 pixels and the mean of the map, side by side; convolutions start by Kaiming."""

    def __init__(self, width: int, middle: int, dropout: float) -> None:
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = (DilatedConv(width, middle, dilation) for dilation in (1, 6, 12, 18))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * middle, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])
        branches = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), mean]
        return self.dropout(self.bn1(self.conv1(torch.cat(branches, dim=1))).relu())


class DepthNet(nn.Module):
    """Image features and a camera's vector -> logits of the depths and features to lift.

    inputs, width  channels of the image features and inside
    context        features to lift
    depths         D
    aspp           channels of each branch of the ASPP
    halvings       how often a cost volume is halved along both sides to have the map's size; None without stereo
    dropout        after the ASPP
    """

    def __init__(
        self, inputs: int, width: int, context: int, depths: int, aspp: int, halvings: int | None, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.reduce_conv = nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.context_conv = nn.Conv2d(width, context, 1)
        self.bn = nn.BatchNorm1d(VECTOR_LENGTH)
        self.depth_mlp, self.depth_se = CameraMlp(width), CameraGate(width)
        self.context_mlp, self.context_se = CameraMlp(width), CameraGate(width)
        joined, shortcut = width, None
        if halvings is not None:
            steps = [(nn.Conv2d(depths, depths, 3, stride=2, padding=1), nn.BatchNorm2d(depths)) for _ in range(halvings)]
            self.cost_volumn_net = nn.Sequential(*(layer for step in steps for layer in step))  # the published spelling
            joined = width + depths
            shortcut = nn.Conv2d(joined, width, 1)
        self.depth_conv = nn.Sequential(
            BasicBlock(joined, width, downsample=shortcut),
            BasicBlock(width, width),
            BasicBlock(width, width),
            ASPP(width, aspp, dropout),
            nn.Conv2d(width, depths, 1),
        )

    def forward(self, features: Tensor, vector: Tensor, cost: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [N, D, h, w] of the depths and features [N, context, h, w].

        features  [N, inputs, h, w]
        vector    [N, 27], see ``camera_vector``
        cost      [N, D, h', w'] cost volume, of a network with stereo
        """
        vector = self.bn(vector)
        features = self.reduce_conv(features)
        context = self.context_conv(self.context_se(features, self.context_mlp(vector)))
        depth = self.depth_se(features, self.depth_mlp(vector))
        if cost is not None:
            depth = torch.cat([depth, self.cost_volumn_net(cost)], dim=1)
        return self.depth_conv(depth), context


@torch.no_grad()
def cost_volume(
    current: Tensor,
    earlier: Tensor,
    projection: Tensor,
    earlier_projection: Tensor,
    pixels: Tensor,
    depths: Tensor,
    size: tuple[int, int],
    out_of_view: float,
) -> Tensor:
    """How well a pixel at each depth agrees with what an earlier image has there: shares of the depths, [B, V, D, h, w].

    current, earlier                [B, V, F, h, w] features of the same places of the two images
    projection, earlier_projection  [B, V, 4, 4] one reference frame -> pixel of the two images
    pixels                          [h, w, 2] that the features' cells stand for, corner to corner
    size                            (width, height) of the images in pixels
    out_of_view                     added to the absolute differences, summed over the features, where the earlier image does not
                                    show the place

    Published is that a place is not shown where one certain warped feature is exactly 0 (view_transformer.py:595-599); that is
    the same but for features that are 0 by themselves. Has no gradient.
    """
    b, v, channels, h, w = current.shape
    points, front = reproject(projection, earlier_projection, pixels, depths)
    extent = points.new_tensor([size[0] - 1, size[1] - 1])
    place = points / extent * 2 - 1
    # less than one cell outside an image its border still counts in part
    margin = 2 / points.new_tensor([w - 1, h - 1])
    shown = front & (place.abs() < 1 + margin).all(dim=-1)
    place = place.where(shown[..., None], place.new_tensor(-3.0)).flatten(0, 1).flatten(1, 2)
    current, earlier = current.flatten(0, 1), earlier.flatten(0, 1)
    cost = current.new_zeros(b * v, len(depths), h, w)
    for first in range(0, channels, _CHUNK):
        part = slice(first, first + _CHUNK)
        warped = F.grid_sample(earlier[:, part], place, align_corners=True).unflatten(2, (len(depths), h))
        cost += (current[:, part, None] - warped).abs().sum(dim=1)
    cost = cost.unflatten(0, (b, v)) + out_of_view * ~shown
    return (-cost).softmax(dim=2)
