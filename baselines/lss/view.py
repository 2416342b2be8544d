"""Images to a volume: depth network, lift, splat (BEVDet's LSSViewTransformerBEVStereo)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.interface import OccupancyGrid
from baselines.lss.depth_net import DepthNet, cost_volume
from baselines.lss.geometry import depth_bins, pixel_grid, unproject
from baselines.lss.pooling import splat


@dataclass(frozen=True)
class StereoView:
    """What stereo compares of one moment's images.

    features    [B, V, F, h, w] fine features
    projection  [B, V, 4, 4] reference frame of the key frame -> pixel of these images
    """

    features: Tensor
    projection: Tensor


class ViewTransformer(nn.Module):
    """Features of all cameras -> volume over the grid, and the distribution over depth.

    grid                OccupancyGrid of the volume
    inputs              channels of the image features, also inside the depth network
    outputs             channels of the volume
    depth               (first, end, step) of the depths in metres
    reduction           pixels of an image per cell of a feature map
    stereo_reduction    and per cell of the maps that stereo compares; None without stereo
    aspp                channels of each branch of the depth network's ASPP
    out_of_view         see ``cost_volume``
    published_rounding  see ``voxel_numbers``
    dropout             after the ASPP
    """

    def __init__(
        self,
        grid: OccupancyGrid,
        inputs: int,
        outputs: int,
        depth: tuple[float, float, float],
        reduction: int,
        stereo_reduction: int | None,
        aspp: int,
        out_of_view: float,
        published_rounding: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.bounds = depth
        self.reduction, self.stereo_reduction = reduction, stereo_reduction
        self.out_of_view = out_of_view
        self.published_rounding = published_rounding
        halvings = None if stereo_reduction is None else (reduction // stereo_reduction).bit_length() - 1
        self.depth_net = DepthNet(inputs, inputs, outputs, self.num_depths, aspp, halvings, dropout)

    @property
    def num_depths(self) -> int:
        first, end, step = self.bounds
        return round((end - first) / step)

    def forward(
        self, features: Tensor, vector: Tensor, projection: Tensor, size: tuple[int, int], cost: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Volume [B, C, Z, Y, X] and shares of the depths [B, V, D, h, w].

        features    [B, V, F, h, w]
        vector      [B, V, 27], see ``camera_vector``
        projection  [B, V, 4, 4] reference frame -> pixel of images of ``size`` (width, height)
        cost        from ``compare``; None without stereo
        """
        shape = features.shape[:2]
        logits, context = self.depth_net(
            features.flatten(0, 1), vector.flatten(0, 1), None if cost is None else cost.flatten(0, 1)
        )  # fmt: skip
        shares = logits.softmax(dim=1).unflatten(0, shape)
        depths = depth_bins(self.bounds).to(features.device)
        points = unproject(projection, pixel_grid(size, self.reduction, features.device), depths)
        return splat(context.unflatten(0, shape), shares, points, self.grid, self.published_rounding), shares

    def compare(self, current: StereoView, earlier: StereoView, size: tuple[int, int]) -> Tensor:
        """The cost volume [B, V, D, h', w'] of two moments' images of ``size`` (width, height)."""
        assert self.stereo_reduction is not None
        device = current.features.device
        return cost_volume(
            current.features,
            earlier.features,
            current.projection,
            earlier.projection,
            pixel_grid(size, self.stereo_reduction, device),
            depth_bins(self.bounds).to(device),
            size,
            self.out_of_view,
        )

    def depth_targets(self, depth: Tensor) -> Tensor:
        """Depth of each cell of a feature map as its number among the depths, [B, V, h, w] int64, -1 where it is none of them:
        the nearest of what is known in the cell.

        depth  [B, V, H, W] metres at the pixels of the images, 0 where unknown
        """
        known = depth.where(depth > 0, depth.new_tensor(torch.inf))
        nearest = -F.max_pool2d(-known, self.reduction)
        first, _, step = self.bounds
        number = ((nearest - first) / step).floor()
        return number.where((number >= 0) & (number < self.num_depths), number.new_tensor(-1)).long()

    def depth_loss(self, shares: Tensor, depth: Tensor) -> Tensor:
        """Binary cross entropy of the shares of all depths, summed, per cell whose depth is known; 0 where none is.

        shares  [B, V, D, h, w] of the depths, from ``forward``
        depth   [B, V, H, W] metres at the pixels of the images, 0 where unknown

        BEVDepth's loss (view_transformer.py:737-790), without a weight. Raises ValueError for depth of another shape.
        """
        target = self.depth_targets(depth)
        if target.shape != shares[:, :, 0].shape:
            raise ValueError(
                f"depth {list(depth.shape)} has {list(target.shape[2:])} cells of {self.reduction} pixels, the features have "
                f"{list(shares.shape[3:])}"
            )
        known = target >= 0
        shares = shares.movedim(2, -1)[known]
        loss = F.binary_cross_entropy(shares, F.one_hot(target[known], self.num_depths).to(shares), reduction="sum")
        return loss / known.sum().clamp(min=1)
