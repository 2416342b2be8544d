"""Modulated deformable convolution (DCNv2, arXiv:1811.11168) with the parameters of mmcv's ``DCNv2`` layer.

The layer runs mmcv's op where mmcv has one for the tensor's device, else torchvision's, else a PyTorch formula; all
three give the same numbers. ``DCNv2Portable`` is its name in mmengine's model registry, for the ``dcn`` argument of
mmdet's ResNet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from renderers.interface import first_derivative_only


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    backend: str | None = None,
) -> Tensor:
    """Convolution whose k * k taps are moved by ``offset`` pixels and scaled by ``mask``.

    x       [B, C, H, W]
    offset  [B, G * 2 * k * k, H', W'] (y, x) per tap, taps row by row, for each of the G deformable groups of channels
    mask    [B, G * k * k, H', W']
    weight  [O, C / groups, k, k], bias [O]
    backend "mmcv", "torchvision" or "grid_sample"; None takes the first of them that runs on the device of ``x``

    Returns [B, O, H', W']. Raises ValueError for an unknown backend or one that cannot run on the device.
    """
    name = backend or next(n for n in _BACKENDS if _runs(n, x.device.type))
    if name not in _BACKENDS:
        raise ValueError(f"unknown deformable convolution backend '{name}' (known: {', '.join(_BACKENDS)})")
    if not _runs(name, x.device.type):
        raise ValueError(f"deformable convolution backend '{name}' does not run on {x.device.type} here")
    return _BACKENDS[name](x, offset, mask, weight, bias, stride, padding, dilation, groups)


@cache
def _runs(name: str, device: str) -> bool:
    """Whether a backend has the op for a device type: mmcv is often built without CUDA, torchvision often absent."""
    if name == "grid_sample":
        return True
    one = torch.zeros(1, 1, 1, 1, device=device)
    try:
        _BACKENDS[name](one, one.expand(1, 2, 1, 1).contiguous(), one, one, None, 1, 0, 1, 1)
    except (ImportError, RuntimeError, NotImplementedError):
        return False
    return True


def _mmcv(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int,
    dilation: int, groups: int,
) -> Tensor:  # fmt: skip
    from mmcv.ops import modulated_deform_conv2d as op

    deform_groups = mask.shape[1] // weight.shape[2] // weight.shape[3]
    out = op(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)
    return first_derivative_only(out, "deformable convolution backend 'mmcv'", "take 'grid_sample'")


def _torchvision(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int,
    dilation: int, groups: int,
) -> Tensor:  # fmt: skip
    from torchvision.ops import deform_conv2d  # refuses second derivatives by itself; finds the number of groups from the shapes

    return deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask)


def _grid_sample(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int,
    dilation: int, groups: int,
) -> Tensor:  # fmt: skip
    batch, channels, height, width = x.shape
    rows, cols = offset.shape[-2:]
    outputs, _, kernel, kernel_w = weight.shape
    deform_groups = mask.shape[1] // (kernel * kernel_w)
    maps = x.reshape(batch * deform_groups, channels // deform_groups, height, width)
    shift = offset.reshape(batch * deform_groups, kernel * kernel_w, 2, rows, cols)
    scale = mask.reshape(batch * deform_groups, kernel * kernel_w, 1, rows, cols)
    base_y = torch.arange(rows, device=x.device, dtype=x.dtype)[:, None] * stride - padding
    base_x = torch.arange(cols, device=x.device, dtype=x.dtype)[None, :] * stride - padding
    per_group = weight.reshape(groups, outputs // groups, channels // groups, kernel * kernel_w)
    total = x.new_zeros(batch, groups, outputs // groups, rows * cols)
    for tap in range(kernel * kernel_w):
        y = base_y + tap // kernel_w * dilation + shift[:, tap, 0]
        u = base_x + tap % kernel_w * dilation + shift[:, tap, 1]
        grid = torch.stack([(2 * u + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False) * scale[:, tap]
        samples = samples.reshape(batch, groups, channels // groups, rows * cols)
        total = total + per_group[..., tap] @ samples
    out = total.reshape(batch, outputs, rows, cols)
    return out if bias is None else out + bias[:, None, None]


_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "mmcv": _mmcv,
    "torchvision": _torchvision,
    "grid_sample": _grid_sample,
}


@MODELS.register_module(name="DCNv2Portable")
class ModulatedDeformConv2dPack(nn.Module):
    """A DCNv2 layer that predicts its own offsets and masks.

    Parameters ``weight`` [O, C / groups, k, k], ``bias`` [O] if wanted, and the convolution ``conv_offset`` with 3 k^2
    channels for each deformable group: the first two thirds are offsets, the last the masks' logits. Starts as half a
    plain convolution, as ``conv_offset`` is zero (mask = sigmoid(0)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.conv_offset = nn.Conv2d(in_channels, deform_groups * 3 * kernel_size**2, kernel_size, stride, padding, dilation)
        self.init_weights()

    def init_weights(self) -> None:
        """Uniform in +-1/sqrt(fan in) as mmcv's layer; offsets and mask logits zero."""
        limit = 1.0 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -limit, limit)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, O, H', W']."""
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        offset = torch.cat([first, second], dim=1)
        return modulated_deform_conv2d(
            x, offset, mask.sigmoid(), self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
