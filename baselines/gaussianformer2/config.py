"""GaussianFormer-2's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from baselines.gaussianformer2.recipe import SIZES as PUBLISHED
from baselines.interface import OccupancyGrid
from baselines.options import configuration, of_size
from baselines.tpvformer.config import PAPER as TPVFORMER_PAPER
from baselines.tpvformer.config import TOY as TPVFORMER_TOY

Size = Literal["toy", "paper"]

_BACKBONE = TPVFORMER_PAPER["backbone"] | dict(out_indices=(0, 1, 2, 3), with_cp=True)

# config/prob/nuscenes_gs12800.py and config/_base_/model.py of huang-yh/GaussianFormer.
PAPER_RAYS: dict[str, Any] = dict(
    ray_backbone=_BACKBONE,
    ray_neck=dict(in_channels=[256, 512, 1024, 2048], out_channels=[128] * 4, upsample_strides=[0.5, 1, 2, 4]),
    bins=128,
    depth_range=(1.0, 72.0),
    imagenet_images=True,
    mirrored_images=True,
    nothing_is_farthest=True,
)
PAPER: dict[str, Any] = dict(
    **PAPER_RAYS,
    **PUBLISHED["prob-128"],
    backbone=_BACKBONE,
    neck=dict(
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=128,
        start_level=1,
        num_outs=4,
        add_extra_convs="on_output",
        relu_before_extra_convs=True,
    ),
    groups=4,
    layers=4,
    learned_points=6,
    cell=1.0,
    kernel=5,
    dropout=0.1,
    attention_dropout=0.15,
    noise_class=True,
    drifting_rays=True,
)

# The same model for images of 112 x 200 and a grid of 100 x 100 x 8, trained from scratch.
TOY_RAYS: dict[str, Any] = dict(
    ray_backbone=TPVFORMER_TOY["backbone"],
    ray_neck=dict(in_channels=[32, 64, 128], out_channels=[32] * 3, upsample_strides=[0.5, 1, 2]),
    bins=64,
    depth_range=(1.0, 72.0),
    imagenet_images=False,
    mirrored_images=False,
    nothing_is_farthest=False,
)
TOY: dict[str, Any] = dict(
    **TOY_RAYS,
    pixel_anchors=1000,
    learned_anchors=600,
    scale_range=(0.01, 2.5),
    multiplier=4.0,
    backbone=TPVFORMER_TOY["backbone"],
    neck=dict(type="FPN", in_channels=[32, 64, 128], out_channels=48, num_outs=3),
    groups=4,
    layers=2,
    learned_points=2,
    cell=2.0,
    kernel=3,
    dropout=0.0,
    attention_dropout=0.0,
    noise_class=True,
    drifting_rays=False,
)

RAYS: dict[str, dict[str, Any]] = {"toy": TOY_RAYS, "paper": PAPER_RAYS}
SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


def check_options(config: dict[str, Any]) -> None:
    """Raise ValueError for arguments that the model would refuse."""
    check_init_options(config)
    names = ("neck", "groups", "pixel_anchors", "learned_anchors", "scale_range", "multiplier", "cell", "kernel", "layers")
    check_sizes(OccupancyGrid(**config["grid"]), *(config[name] for name in names))


def check_init_options(config: dict[str, Any]) -> None:
    """The same for the first stage's."""
    check_rays(config["bins"], config["depth_range"])


def check_rays(bins: int, depth_range: Sequence[float]) -> None:
    """Raise ValueError for bins along rays that cannot be."""
    if bins < 2 or len(depth_range) != 2 or not 0 < depth_range[0] < depth_range[1]:
        raise ValueError(
            f"bins must be at least 2 and depth_range two positive metres, the nearer first, got {bins} and {depth_range}"
        )


def check_sizes(
    grid: OccupancyGrid,
    neck: dict[str, Any],
    groups: int,
    pixel_anchors: int,
    learned_anchors: int,
    scale_range: Sequence[float],
    multiplier: float,
    cell: float,
    kernel: int,
    layers: int,
) -> None:
    """Raise ValueError for sizes that do not fit together."""
    if neck["out_channels"] % groups:
        raise ValueError(f"the neck's out_channels {neck['out_channels']} must be a multiple of the number of groups {groups}")
    if pixel_anchors < 1 or learned_anchors < 1 or layers < 1:
        raise ValueError(
            f"pixel_anchors, learned_anchors and layers must be at least 1, got {pixel_anchors}, {learned_anchors} and {layers}"
        )
    if len(scale_range) != 2 or not 0 < scale_range[0] < scale_range[1] or not multiplier > 0:
        raise ValueError(
            f"scale_range must be two positive metres, the smaller first, and multiplier positive, got {scale_range} and "
            f"{multiplier}"
        )
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be an odd number of cells, got {kernel}")
    counts = [(high - low) / cell for low, high in zip(grid.lower, grid.upper, strict=True)] if cell > 0 else [0.0]
    if any(count < 0.5 or abs(count - round(count)) > 1e-3 for count in counts):
        raise ValueError(f"cell must be metres that divide the grid's range, {grid.lower} to {grid.upper}, got {cell}")


gaussianformer2_config = configuration("GaussianFormer2", SIZES, title="GaussianFormer-2")


def gaussianformer2_init_config(
    size: Size, grid: OccupancyGrid, camera_seed: int = 0, loss: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The same for the first stage; ``loss`` is for other models: it says nothing of classes."""
    return dict(
        type="GaussianFormer2Init",
        grid=asdict(grid),
        camera_seed=camera_seed,
        **of_size("GaussianFormer-2 first stage", size, RAYS),
    )
