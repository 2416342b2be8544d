"""The image side that the camera models share: mmdet backbone and neck over all cameras at once."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from baselines.interface import OccupancyBatch


def build_image_network(backbone: dict[str, Any], neck: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """mmdet's backbone and neck from their configs; ``DCNv2Portable`` is known to them."""
    from mmdet.registry import MODELS

    import baselines.ops  # noqa: F401  registers DCNv2Portable

    # The scope is named because a Runner in the same process may have made another one the default; the copies
    # because mmdet takes options out of nested dicts.
    return (
        MODELS.build(copy.deepcopy(backbone) | {"_scope_": "mmdet"}),
        MODELS.build(copy.deepcopy(neck) | {"_scope_": "mmdet"}),
    )


def image_features(backbone: nn.Module, neck: nn.Module, batch: OccupancyBatch, most_cameras: int) -> list[Tensor]:
    """float32 maps [B, V, F, h, w], one a level, fine to coarse.

    Raises ValueError for images or projections of the wrong shape or more than ``most_cameras`` cameras.
    """
    images = batch.images
    if images.dim() != 5 or images.shape[2] != 3:
        raise ValueError(f"images must be [B, V, 3, H, W], got {list(images.shape)}")
    b, v = images.shape[:2]
    if not 1 <= v <= most_cameras:
        raise ValueError(f"images have {v} cameras, the model was built for 1 to {most_cameras}")
    if list(batch.projection.shape) != [b, v, 4, 4]:
        raise ValueError(f"projection must be [{b}, {v}, 4, 4], got {list(batch.projection.shape)}")
    return [level.float().unflatten(0, (b, v)) for level in neck(backbone(images.flatten(0, 1)))]
