"""The image side that the camera models share: mmdet backbone and neck over all cameras at once."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from baselines.interface import OccupancyBatch

RGB_DEVIATION = (58.395, 57.12, 57.375)
"""ImageNet's, of colours in 0..255; loaders take off its means and leave the scale."""


def build_mmdet(config: dict[str, Any]) -> nn.Module:
    """A backbone or neck from its config for mmdet's registry; ``DCNv2Portable`` is known to it."""
    from mmdet.registry import MODELS

    import baselines.ops  # noqa: F401  registers DCNv2Portable

    # The scope is named because a Runner in the same process may have made another one the default; the copy because
    # mmdet takes options out of nested dicts.
    return MODELS.build(copy.deepcopy(config) | {"_scope_": "mmdet"})


def build_image_network(backbone: dict[str, Any], neck: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """mmdet's backbone and neck from their configs."""
    return build_mmdet(backbone), build_mmdet(neck)


def imagenet_rgb(images: Tensor) -> Tensor:
    """Images [..., 3, H, W] as loaders give them (blue, green, red, less ImageNet's means) -> red, green, blue over ImageNet's
    deviations."""
    return images.flip(-3) / images.new_tensor(RGB_DEVIATION)[:, None, None]


def check_images(batch: OccupancyBatch, most_cameras: int) -> None:
    """ValueError for images or projections of the wrong shape or more than ``most_cameras`` cameras."""
    images = batch.images
    if images.dim() != 5 or images.shape[2] != 3:
        raise ValueError(f"images must be [B, V, 3, H, W], got {list(images.shape)}")
    b, v = images.shape[:2]
    if not 1 <= v <= most_cameras:
        raise ValueError(f"images have {v} cameras, the model was built for 1 to {most_cameras}")
    if list(batch.projection.shape) != [b, v, 4, 4]:
        raise ValueError(f"projection must be [{b}, {v}, 4, 4], got {list(batch.projection.shape)}")


def image_features(backbone: nn.Module, neck: nn.Module, batch: OccupancyBatch, most_cameras: int) -> list[Tensor]:
    """float32 maps [B, V, F, h, w], one a level, fine to coarse.

    Raises ValueError for images or projections of the wrong shape or more than ``most_cameras`` cameras.
    """
    check_images(batch, most_cameras)
    shape = batch.images.shape[:2]
    return [level.float().unflatten(0, shape) for level in neck(backbone(batch.images.flatten(0, 1)))]
