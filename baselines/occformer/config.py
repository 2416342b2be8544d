"""OccFormer's sizes: the published ones, for cameras all around and for one, and one that two CPU cores can train."""

from __future__ import annotations

from typing import Any

from baselines.options import configuration
from baselines.tpvformer.config import PAPER as TPVFORMER_PAPER
from baselines.tpvformer.config import TOY as TPVFORMER_TOY

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


occformer_config = configuration("OccFormer", SIZES)


occformer_front_config = configuration("OccFormer", FRONT_SIZES)
"""The same for one camera, as it is published for SemanticKITTI."""
