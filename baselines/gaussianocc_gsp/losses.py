"""What GaussianOcc's first stage is taught by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor

from baselines.options import check_choice, check_not_negative
from baselines.photometric.losses import Photometric, photometric_error

Rig = Literal["mounted", "timed", "compensated"]

NUSCENES_EXPOSURES = (-0.0355, -0.0275, -0.0430, -0.0104, -0.0004, -0.0198)
"""Seconds from a key frame to the exposures of its cameras, in the order of nuScenes' images here: each is triggered when the
lidar's beam passes the middle of what it sees, so that they stay the same within a millisecond."""


@dataclass(frozen=True)
class Teaching:
    """How images teach.

    temporal_weight    of the photometric loss with the neighbours in time, 1 as in the second stage; at 0 it is left out
    cross_view_weight  of that between cameras; at 0 nothing is splatted, and how large a metre is, is said by turns alone, by
                       nothing where the pose network finds none. The published weight is not known
    photometric        fields of ``Photometric``
    overlap            (nearest, farthest) metres of the distances along a pixel's ray at which another camera may see it, and
                       their number; chosen here
    overlap_share      more than this share of them must be seen; binarised at what is not described. At 0 one is enough, and what
                       is only seen far away can only be covered by depths that are too large, which it then teaches
    rig                where cameras stand to each other: as they are "mounted", as if all exposed at once, as published; "timed",
                       where each was at its ``exposures`` by the motion that the pose network says, which learns nothing by
                       that; or "compensated", where the vehicle's sensors say that it was. Metres are only what the rig says:
                       of a moving vehicle, cameras that expose one after the other are further apart, or closer, than they
                       are mounted
    exposures          seconds at which the cameras of a "timed" rig expose, from any moment in common
    frame_time         seconds from one camera frame to the next one, nuScenes' 12 Hz
    erosion            pixels of the rendered images that are taken off the overlap's rim; described without a number

    Raises ValueError for what does not go together.
    """

    temporal_weight: float = 1.0
    cross_view_weight: float = 1.0
    photometric: dict[str, Any] = field(default_factory=dict)
    overlap: tuple[float, float, int] = (3.0, 40.0, 16)
    overlap_share: float = 0.5
    erosion: int = 1
    rig: Rig = "mounted"
    exposures: Sequence[float] = NUSCENES_EXPOSURES
    frame_time: float = 1 / 12

    def __post_init__(self) -> None:
        check_not_negative(self, "temporal_weight", "cross_view_weight")
        if not self.temporal_weight + self.cross_view_weight > 0:
            raise ValueError("nothing teaches: give the temporal or the cross-view loss a weight")
        nearest, farthest, count = self.overlap
        if not (0 < nearest < farthest and count >= 1):
            raise ValueError(f"overlap must be nearest < farthest metres and a number of distances, got {self.overlap}")
        if not 0 <= self.overlap_share < 1:
            raise ValueError(f"overlap_share must be within 0..1 and not 1, got {self.overlap_share}")
        check_choice("rig", self.rig, get_args(Rig))
        if not self.frame_time > 0:
            raise ValueError(f"frame_time must be a positive number of seconds, got {self.frame_time}")
        check_not_negative(self, "erosion")
        self.images  # noqa: B018  refuses what it refuses

    @property
    def images(self) -> Photometric:
        """How images are compared."""
        return Photometric(**self.photometric)


def cross_view_loss(rendered: Tensor, current: Tensor, overlap: Tensor, ssim: float) -> Tensor:
    """Mean photometric error of ``rendered`` [B, V, 3, h, w] against ``current`` over the pixels in ``overlap`` [B, V, h, w]; 0
    where there are none."""
    error = photometric_error(rendered, current, ssim)
    return (error * overlap).sum() / overlap.sum().clamp(min=1)
