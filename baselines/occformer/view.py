"""OccFormer's view transformer: the one of ``baselines.lss`` without stereo, whose depth network is BEVDepth's own.

Reproduces zhangyp15/OccFormer projects/mmdet3d_plugin/occformer/image2bev/ViewTransformerLSSBEVDepth.py and
ViewTransformerLSSVoxel.py; parameters have its names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.interface import OccupancyGrid
from baselines.lss.depth_net import DepthNet
from baselines.lss.view import ViewTransformer
from baselines.ops import modulated_deform_conv2d

DEFORMED_GROUPS = 4


class _LoneNorm(_BatchNorm):
    """Batch norm that trains too where a batch has a single value a channel, and so no deviation (one image of one camera): by
    the running statistics, with that value in their mean. Published are statistics of all GPUs together."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        assert self.running_mean is not None and self.momentum is not None and self.num_batches_tracked is not None
        with torch.no_grad():
            self.running_mean.lerp_(x.detach().flatten().to(self.running_mean), self.momentum)
            self.num_batches_tracked += 1
        return F.batch_norm(x, self.running_mean.clone(), self.running_var, self.weight, self.bias, eps=self.eps)


class LoneNorm1d(_LoneNorm, nn.BatchNorm1d):
    """Of [N, C]."""


class LoneNorm2d(_LoneNorm, nn.BatchNorm2d):
    """Of [N, C, h, w]."""


class DeformConv(nn.Module):
    """A deformable convolution of size 3 without modulation (DCNv1, arXiv:1703.06211), with the parameters of mmcv's ``DCN``:
    ``weight`` [C, C / groups, 3, 3] and ``conv_offset``, which starts at zero."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width, width // groups, 3, 3))
        self.conv_offset = nn.Conv2d(width, 18, 3, padding=1)
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, C, h, w]."""
        offset = self.conv_offset(x)
        whole = torch.ones_like(offset[:, ::2])
        backend = None if x.is_cuda else "grid_sample"  # mmcv's takes ten times as long on a CPU, backwards
        return modulated_deform_conv2d(x, offset, whole, self.weight, padding=1, groups=self.groups, backend=backend)


class DeformedDepthNet(DepthNet):
    """The shared depth network with as many channels in the ASPP's branches as outside, and a deformable convolution before the
    last one."""

    def __init__(self, width: int, context: int, depths: int, dropout: float) -> None:
        super().__init__(width, width, context, depths, aspp=width, halvings=None, dropout=dropout)
        self.bn = LoneNorm1d(self.bn.num_features)
        pool = self.depth_conv[3].global_avg_pool
        pool[2] = LoneNorm2d(pool[2].num_features)
        self.depth_conv.insert(4, DeformConv(width, DEFORMED_GROUPS))


class VolumeView(ViewTransformer):
    """Features of all cameras -> volume over the grid, and the distribution over depth, see ViewTransformer.

    late_depths  a depth is taught as the bin that is half a step to one and a half steps nearer, as published
                 (``get_downsampled_gt_depth``), so that what is lifted lies a step too near on average. False: as the one up
                 to a step nearer, as BEVDet does it
    """

    def __init__(
        self,
        grid: OccupancyGrid,
        inputs: int,
        outputs: int,
        depth: tuple[float, float, float],
        reduction: int,
        dropout: float,
        published_rounding: bool,
        late_depths: bool,
    ) -> None:
        super().__init__(grid, inputs, outputs, depth, reduction, None, inputs, 0.0, published_rounding, dropout)
        self.depth_net = DeformedDepthNet(inputs, outputs, self.num_depths, dropout)
        self.late_depths = late_depths

    def depth_targets(self, depth: Tensor) -> Tensor:
        if self.late_depths:
            depth = depth.where(depth == 0, depth - self.bounds[2] / 2)
        return super().depth_targets(depth)
