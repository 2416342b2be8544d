"""What GaussianFlowOcc is taught by: rendered images, and voxels if asked for.

Reproduces boschresearch/GaussianFlowOcc mmdet3d/models/gaussianflowocc_modules/rasterizer.py:38-72 and
mmdet3d/models/detectors/gaussianflowocc.py:441-485. Its loss on colours, off as published, is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.gaussianflowocc.recipe import WEIGHTINGS, Weighting
from baselines.options import check_choice, check_not_negative

VoxelTeaching = Literal["none", "all", "seen"]


@dataclass(frozen=True)
class Teaching:
    """How images, and voxels if asked for, teach. The defaults are what was published last.

    weighting        whose weights: those of upstream's last commit ("head"), or of the one before it ("3248a17") (quirk Q1)
    semantic_weight, depth_weight
                     of the terms, None: as ``weighting`` says; at 0 a term is left out, and what it needs is not looked at
    class_weights    of the cross entropy, one a class of the grid (``recipe.FILTERED`` is published for Occ3D as an option);
                     None: all alike. The mean over pixels is not divided by their weights, as published
    normalise_depth  rendered depth is divided by alpha before it is compared; False, as published: what is not opaque is too near
                     (Q4)
    voxels           "none", or voxels teach too: "all" of them, or those that are "seen" by a camera alone
    voxel_weight     of that

    Raises ValueError for what does not go together.
    """

    weighting: Weighting = "head"
    semantic_weight: float | None = None
    depth_weight: float | None = None
    class_weights: Sequence[float] | None = None
    normalise_depth: bool = False
    voxels: VoxelTeaching = "none"
    voxel_weight: float = 1.0

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, tuple(WEIGHTINGS))
        check_choice("voxels", self.voxels, ("none", "all", "seen"))
        weights = ("semantic_weight", "depth_weight", "voxel_weight")
        check_not_negative(self, *(name for name in weights if getattr(self, name) is not None))
        if not self.renders and self.voxels == "none":
            raise ValueError("nothing teaches: give a loss on rendered images a weight, or let voxels teach")

    @property
    def semantic(self) -> float:
        """Weight of the semantic term."""
        return WEIGHTINGS[self.weighting][0] if self.semantic_weight is None else self.semantic_weight

    @property
    def depth(self) -> float:
        """Weight of the depth term."""
        return WEIGHTINGS[self.weighting][1] if self.depth_weight is None else self.depth_weight

    @property
    def renders(self) -> bool:
        """Whether rendered images teach."""
        return self.semantic > 0 or self.depth > 0


def semantic_loss(logits: Tensor, channel: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross entropy over the pixels that have a channel; 0 where none has.

    logits   [..., K] accumulated, not divided by alpha
    channel  [...] int64 which of them should be the largest, -1 where that is not known
    weights  [K], or None: all alike. The sum is divided by the number of pixels, not by that of weights
    """
    # Pixels are weighted, not picked out: on a CPU that takes a third of the time.
    known = channel >= 0
    flat = channel.flatten()
    entropy = F.cross_entropy(logits.flatten(0, -2), flat, reduction="none", ignore_index=-1).view(channel.shape)
    if weights is not None:
        entropy = entropy * weights[channel.clamp(min=0)]
    return entropy.sum() / known.sum().clamp(min=1)


def depth_loss(depth: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared differences in square metres over the pixels whose target [...] is not 0; 0 where all are."""
    known = target > 0
    return ((depth - target) * known).square().sum() / known.sum().clamp(min=1)


def voxel_losses(
    occupancy: Tensor, semantics: Tensor, channel: Tensor, occupied: Tensor, counted: Tensor, weight: float
) -> dict[str, Tensor]:
    """``loss_density_3d``, the binary cross entropy of occupied and empty, and ``loss_semantic_3d``, the cross entropy of the
    classes of occupied voxels.

    occupancy  [...] in 0..1
    semantics  [..., K]
    channel    [...] int64 which of them should be the largest, -1 where there is none
    occupied   [...] bool
    counted    [...] bool, voxels that teach
    """
    known = occupancy[counted]
    density = F.binary_cross_entropy(known, occupied[counted].to(known)) if counted.any() else occupancy.sum() * 0
    kind = semantic_loss(semantics, torch.where(counted & occupied, channel, -1))
    return {"loss_density_3d": weight * density, "loss_semantic_3d": weight * kind}
