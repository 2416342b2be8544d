"""OccFormer's sizes: the published ones, for cameras all around and for one, and one that two CPU cores can train."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from baselines.interface import OccupancyGrid
from baselines.options import of_size
from baselines.tpvformer.config import PAPER as TPVFORMER_PAPER
from baselines.tpvformer.config import TOY as TPVFORMER_TOY

Size = Literal["toy", "paper"]

# zhangyp15/OccFormer projects/configs/occformer_nusc/occformer_nusc_r101_896x1600.py, of which the range alone is another here.
PAPER: dict[str, Any] = dict(
    backbone=TPVFORMER_PAPER["backbone"] | dict(out_indices=(0, 1, 2, 3), with_cp=True),
    neck=dict(
        type="mmdet3d.SECONDFPN",
        in_channels=[256, 512, 1024, 2048],
        upsample_strides=[0.25, 0.5, 1, 2],
        out_channels=[128, 128, 128, 128],
    ),
    rgb=False,
    coarsest=32,
    depth=(2.0, 58.0, 0.5),
    reduction=16,
    widths=(128, 256, 512, 1024),
    blocks=(2, 2, 2, 2),
    window=7,
    groups=32,
    dim=192,
    heads=8,
    points=4,
    layers=6,
    queries=100,
    decoder_layers=9,
    decoder_heads=6,
    drop_path=0.2,
    dropout=0.1,
    depth_dropout=0.5,
    checkpointing=True,
    corners=True,
    late_depths=True,
    published_rounding=True,
    teaching=dict(points=50_176, class_weighted=False),
)

# projects/configs/occformer_kitti/occformer_kitti.py
FRONT_PAPER: dict[str, Any] = PAPER | dict(
    backbone=dict(
        type="EfficientNet",
        arch="b7",
        drop_path_rate=0.2,
        frozen_stages=0,
        norm_eval=False,
        out_indices=(2, 3, 4, 5, 6),
        with_cp=True,
    ),
    neck=dict(
        type="mmdet3d.SECONDFPN",
        in_channels=[48, 80, 224, 640, 2560],
        upsample_strides=[0.25, 0.5, 1, 2, 2],
        out_channels=[128, 128, 128, 128, 128],
    ),
    rgb=True,
    teaching=PAPER["teaching"] | dict(class_weighted=True),
)

# The same model for images of 112 x 200 and a grid of 100 x 100 x 8, trained from scratch on TPVFormer's toy backbone.
TOY: dict[str, Any] = dict(
    backbone=TPVFORMER_TOY["backbone"],
    neck=dict(type="mmdet3d.SECONDFPN", in_channels=[32, 64, 128], upsample_strides=[0.5, 1, 2], out_channels=[16, 16, 16]),
    rgb=False,
    coarsest=16,
    depth=(2.0, 58.0, 2.0),
    reduction=8,
    widths=(32, 64, 64, 96),
    blocks=(1, 1, 1, 1),
    window=7,
    groups=8,
    dim=48,
    heads=4,
    points=4,
    layers=1,
    queries=40,
    decoder_layers=3,
    decoder_heads=3,
    drop_path=0.0,
    dropout=0.0,
    depth_dropout=0.0,
    checkpointing=False,
    corners=False,
    late_depths=False,
    published_rounding=False,
    teaching=dict(points=2048),
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}
FRONT_SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": FRONT_PAPER}


def check_options(config: dict[str, Any]) -> None:
    """Raise ValueError or TypeError for arguments of the model whose ``teaching`` has no such fields, or some that cannot be."""
    from baselines.occformer.losses import Teaching

    Teaching(**(config.get("teaching") or {}))


def occformer_config(
    size: Size,
    grid: OccupancyGrid,
    gaussrender: dict[str, Any] | None = None,
    renderer: str = "cpu",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A config for ``mmdet3d.registry.MODELS.build``, plain data throughout; the package's own name for it registers the model.

    gaussrender  fields of GaussRenderConfig for the row with rendering, None for the row without
    loss         arguments of OccupancyLoss; read are ``class_weights``, if queries are weighted by class, and ``in_sight``

    Raises ValueError for an unknown size.
    """
    return _config(of_size("OccFormer", size, SIZES), grid, gaussrender, renderer, camera_seed, loss)


def occformer_front_config(
    size: Size,
    grid: OccupancyGrid,
    gaussrender: dict[str, Any] | None = None,
    renderer: str = "cpu",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The same for one camera, as it is published for SemanticKITTI."""
    return _config(of_size("OccFormer", size, FRONT_SIZES), grid, gaussrender, renderer, camera_seed, loss)


def _config(
    chosen: dict[str, Any],
    grid: OccupancyGrid,
    gaussrender: dict[str, Any] | None,
    renderer: str,
    camera_seed: int,
    loss: dict[str, Any] | None,
) -> dict[str, Any]:
    return dict(
        type="OccFormer",
        grid=asdict(grid),
        gaussrender=gaussrender,
        renderer=renderer,
        camera_seed=camera_seed,
        loss=loss,
        **chosen,
    )
