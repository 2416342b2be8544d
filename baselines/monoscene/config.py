"""MonoScene's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baselines.interface import OccupancyGrid
from baselines.options import configuration

STRIDES = (1, 2, 4, 8, 16)
"""Of the maps that the image network makes; those that voxels look at are among them."""

# hustvl/Symphonies configs/models/monoscene.yaml and configs/datasets/kitti_360.yaml. mmdet's EfficientNet is the one that is
# published there, tf_efficientnet_b7_ns of rwightman/gen-efficientnet-pytorch, layer by layer; its outputs are those that
# ssc_pl/models/encoders/unet2d.py takes, of strides 2, 4, 8, 16 and 32.
PAPER: dict[str, Any] = dict(
    backbone=dict(type="EfficientNet", arch="b7", out_indices=(1, 2, 3, 4, 6), norm_cfg=dict(type="BN", eps=1e-3)),
    in_channels=(32, 48, 80, 224, 2560),
    width=2560,
    padded_bottleneck=True,
    dim=64,
    view_scales=(1, 2, 4, 8),
    volume_scale=2,
    unknown_unrelated=True,
    frustum_size=8,
)

# The same model for images of 94 x 352 and a grid of 64 x 64 x 8, trained from scratch. At half the resolution of that grid the
# coarsest of the three levels would be one cell high, and its context is of pairs of cells. The image network's coarsest map has
# 3 x 11 cells: with the published border nearly half of what is spread over the image would be border.
TOY: dict[str, Any] = PAPER | dict(
    backbone=PAPER["backbone"] | dict(arch="b0"),
    in_channels=(16, 24, 40, 112, 1280),
    width=256,
    padded_bottleneck=False,
    dim=16,
    volume_scale=1,
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


def check_options(config: dict[str, Any]) -> None:
    """Raise ValueError for arguments of the model that do not fit each other or the grid."""
    sizes = [config[name] for name in ("in_channels", "width", "dim", "view_scales", "volume_scale", "frustum_size")]
    check_sizes(OccupancyGrid(**config["grid"]), *sizes)


def check_sizes(
    grid: OccupancyGrid,
    in_channels: Sequence[int],
    width: int,
    dim: int,
    view_scales: Sequence[int],
    volume_scale: int,
    frustum_size: int,
) -> None:
    """Raise ValueError for sizes that cannot be."""
    if len(in_channels) != len(STRIDES):
        raise ValueError(f"in_channels must be {len(STRIDES)} numbers, one an output of the backbone, got {tuple(in_channels)}")
    if not width > 0 or width % 32:
        raise ValueError(f"width must be a multiple of 32, it is halved at each of five up-samplings; got {width}")
    if not dim > 0 or dim % 4:
        raise ValueError(f"dim must be a multiple of 4, got {dim}")
    if not view_scales or len({*view_scales} & {*STRIDES}) != len(view_scales):
        raise ValueError(f"view_scales must be some of {', '.join(map(str, STRIDES))}, each once, got {tuple(view_scales)}")
    if volume_scale not in (1, 2):
        raise ValueError(f"volume_scale must be 1 or 2, got {volume_scale}")
    if any(n % (8 * volume_scale) for n in grid.shape):
        raise ValueError(
            f"the grid must have multiples of {8 * volume_scale} voxels along x, y and z for volume_scale {volume_scale} (three "
            f"levels, and pairs of cells of the last one), it has {' x '.join(map(str, grid.shape))}"
        )
    if not frustum_size >= 1:
        raise ValueError(f"frustum_size must be at least 1, got {frustum_size}")


monoscene_config = configuration("MonoScene", SIZES)
