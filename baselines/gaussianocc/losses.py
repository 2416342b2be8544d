"""What GaussianOcc's second stage is taught by: classes that models see in its images, and the images just before and after.

Reproduces GANWANSHUI/GaussianOcc runner.py:301-310, 1093-1232 and networks/occupancy_decoder.py:327-329, 422-430, 534-537,
750-760.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.options import check_choice, check_not_negative
from baselines.photometric.losses import Photometric
from baselines.photometric.scales import check_scales

Unlabelled = Literal["free", "ignored"]


@dataclass(frozen=True)
class Teaching:
    """How images teach. The defaults are what was published.

    photometric_weight  of the error of warped images; at 0 they are not looked at
    photometric         fields of ``Photometric``, how images are compared, but for smoothness. Others are the model's
    scales              images are compared at their size divided by these (``baselines.photometric.scales``). None: the model's
    smoothness_weight   of the depth's edges where the image has none
    semantic_weight, entropy_weight, regulariser_weight
                        of the classes; of how undecided opacities are; of what neighbouring voxels differ by, or with volumes of
                        the distortion along rays. None: the model's, as published for what is rendered (``recipe.WEIGHTS``)
    unlabelled          pixels without a class are "free", as published: the sky is, and what no prompt has found (Q3); "ignored":
                        they teach nothing
    normalise_depth     rendered depth is divided by alpha; False, as published: what is not opaque is too near (Q5). None: the
                        model's
    farthest            metres, largest rendered depth, whatever is measured beyond (Q4); None: 80, of volumes 200, as published

    Raises ValueError for what does not go together.
    """

    photometric_weight: float = 1.0
    photometric: dict[str, Any] = field(default_factory=dict)
    scales: Sequence[int] | None = None
    smoothness_weight: float = 1e-3
    semantic_weight: float | None = None
    entropy_weight: float | None = None
    regulariser_weight: float | None = None
    unlabelled: Unlabelled = "free"
    normalise_depth: bool | None = None
    farthest: float | None = None

    def __post_init__(self) -> None:
        check_choice("unlabelled", self.unlabelled, ("free", "ignored"))
        names = ("photometric_weight", "smoothness_weight", "semantic_weight", "entropy_weight", "regulariser_weight")
        check_not_negative(self, *(name for name in names if getattr(self, name) is not None))
        if self.farthest is not None and not self.farthest > 0:
            raise ValueError(f"farthest must be positive, got {self.farthest}")
        compared_by(self.photometric)
        if self.scales is not None:
            check_scales(self.scales)
        if self.semantic_weight == 0 and self.photometric_weight == 0:
            raise ValueError("nothing teaches: give classes or images a weight")

    def weights(self, others: Sequence[float]) -> tuple[float, float, float]:
        """Of classes, entropy and regulariser; those that are not given are taken from the ``others``."""
        own = (self.semantic_weight, self.entropy_weight, self.regulariser_weight)
        chosen = tuple(there if given is None else given for given, there in zip(own, others, strict=True))
        return chosen  # type: ignore[return-value]


def compared_by(settings: Mapping[str, Any]) -> Photometric:
    """How images are compared, of fields of ``Photometric``; ValueError or TypeError for wrong ones."""
    if "smoothness" in settings:
        raise ValueError("photometric has no smoothness here: teaching's smoothness_weight is its weight")
    return Photometric(**settings)


def semantic_loss(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted mean of the cross entropy over the pixels with a target; 0 where none has, or all that have weigh nothing.

    logits   [..., C] accumulated, not divided by alpha
    target   [...] int64 class id, -1 where there is none
    weights  [C], or None: all alike. The sum is divided by that of the weights
    """
    flat = target.flatten()
    known = flat >= 0
    counts = known.to(logits)
    if weights is not None:
        counts = counts * weights.to(logits)[flat.clamp(min=0)]
    entropy = F.cross_entropy(logits.flatten(0, -2), flat, reduction="none", ignore_index=-1)
    return (counts * entropy).sum() / counts.sum().clamp(min=torch.finfo(logits.dtype).tiny)


def total_variation(volume: Tensor) -> Tensor:
    """Mean over the three axes of the mean difference between neighbours of ``volume`` [B, C, X, Y, Z]. (Upstream calls it a
    distortion.)"""
    return torch.stack([volume.diff(dim=axis).abs().mean() for axis in (2, 3, 4)]).mean()
