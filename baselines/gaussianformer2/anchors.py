"""Anchors, which are Gaussians before their activations, and what they stand for.

Reproduces huang-yh/GaussianFormer model/utils/safe_ops.py and model/encoder/gaussian_encoder/{utils,anchor_encoder_module,
refine_module_v2}.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmcv.cnn import Scale
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.interface import OccupancyGrid

PLACE, SCALE, ROTATION, OPACITY = slice(0, 3), slice(3, 6), slice(6, 10), slice(10, 11)
CLASSES = 11
"""Columns of an anchor: place, scale, quaternion (w, x, y, z), opacity, and from this one on the logits of classes."""

LARGEST_LOGIT, LARGEST_SHARE = 9.21, 0.9999
UNIT = (4.0, 4.0, 1.0)
"""Metres along each axis that a block can move a Gaussian by."""


def share(raw: Tensor) -> Tensor:
    """The sigmoid of what is held to +-``LARGEST_LOGIT``."""
    return raw.clamp(-LARGEST_LOGIT, LARGEST_LOGIT).sigmoid()


def raw_of(shares: Tensor) -> Tensor:
    """The logit of shares that are held to 0.0001 .. 0.9999."""
    held = shares.clamp(1 - LARGEST_SHARE, LARGEST_SHARE)
    return (held / (1 - held)).log()


@dataclass(frozen=True)
class Space:
    """Where Gaussians can be, metres in the reference frame, and how wide.

    lower, upper  corners of the range
    scale_range   the least and the largest standard deviation, metres
    """

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    scale_range: tuple[float, float]

    def metres(self, anchors: Tensor) -> Tensor:
        """[..., 3] means of anchors."""
        low, high = (anchors.new_tensor(corner) for corner in (self.lower, self.upper))
        return low + share(anchors[..., PLACE]) * (high - low)

    def raw(self, means: Tensor) -> Tensor:
        """[..., 3] places of anchors with these means."""
        low, high = (means.new_tensor(corner) for corner in (self.lower, self.upper))
        return raw_of((means - low) / (high - low))

    def scales(self, anchors: Tensor) -> Tensor:
        """[..., 3] standard deviations of anchors along their own axes."""
        least, largest = self.scale_range
        return least + (largest - least) * share(anchors[..., SCALE])

    def inside(self, points: Tensor) -> Tensor:
        """[...] bool of points [..., 3] in metres."""
        return ((points >= points.new_tensor(self.lower)) & (points < points.new_tensor(self.upper))).all(dim=-1)


def space_of(grid: OccupancyGrid, scale_range: Sequence[float]) -> Space:
    """The range of ``grid``."""
    return Space(grid.lower, grid.upper, (scale_range[0], scale_range[1]))


def layers(dim: int, linear: int, times: int, inputs: int | None = None) -> list[nn.Module]:
    """``times`` x (``linear`` x (linear, ReLU), norm)."""
    parts: list[nn.Module] = []
    width = dim if inputs is None else inputs
    for _ in range(times):
        for _ in range(linear):
            parts += [nn.Linear(width, dim), nn.ReLU(inplace=True)]
            width = dim
        parts.append(nn.LayerNorm(dim))
    return parts


class AnchorEncoder(nn.Module):
    """Anchors [..., 11 + K] -> codes [..., F]."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.xyz_fc = nn.Sequential(*layers(dim, 1, 2, 3))
        self.scale_fc = nn.Sequential(*layers(dim, 1, 2, 3))
        self.rot_fc = nn.Sequential(*layers(dim, 1, 2, 4))
        self.opacity_fc = nn.Sequential(*layers(dim, 1, 2, 1))
        self.semantics_fc = nn.Sequential(*layers(dim, 1, 2, classes))
        self.output_fc = nn.Sequential(*layers(dim, 1, 2))

    def forward(self, anchors: Tensor) -> Tensor:
        shape = self.xyz_fc(anchors[..., PLACE]) + self.scale_fc(anchors[..., SCALE]) + self.rot_fc(anchors[..., ROTATION])
        return self.output_fc(shape + self.opacity_fc(anchors[..., OPACITY]) + self.semantics_fc(anchors[..., CLASSES:]))


class Refinement(nn.Module):
    """Features of anchors -> anchors: places are moved by up to ``UNIT``, all else is new."""

    def __init__(self, dim: int, classes: int, space: Space) -> None:
        super().__init__()
        self.space = space
        outputs = CLASSES + classes
        self.layers = nn.Sequential(*layers(dim, 2, 2), nn.Linear(dim, outputs), Scale([1.0] * outputs))

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs, scaled, are what is new of anchors."""
        linear = self.layers[-2]
        assert isinstance(linear, nn.Linear)
        return linear

    def forward(self, features: Tensor, anchors: Tensor, codes: Tensor) -> Tensor:
        new = self.layers(features + codes)
        means = self.space.metres(anchors) + (2 * share(new[..., PLACE]) - 1) * new.new_tensor(UNIT)
        return torch.cat(
            [self.space.raw(means), new[..., SCALE], F.normalize(new[..., ROTATION], dim=-1), new[..., OPACITY.start :]], dim=-1
        )
