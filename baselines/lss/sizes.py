"""Sizes that lift-splat models have in common; their image networks, with the channels behind them, are their own."""

from __future__ import annotations

from typing import Any

from baselines.tpvformer.config import TOY as TPVFORMER_TOY

# Of BEVDet-Occ (configs/bevdet_occ of HuangJunJie2017/BEVDet) and RenderOcc (configs/renderocc/bevstereo-occ.py) alike.
PAPER: dict[str, Any] = dict(
    depth=(1.0, 45.0, 0.5),
    reduction=16,
    stereo_reduction=4,
    aspp=96,
    adjacent=1,
    channels=32,
    volume_blocks=(1, 2, 4),
    dropout=0.5,
)

# The same for images of 112 x 200 and a grid of 100 x 100 x 8, on TPVFormer's toy backbone: 64 and 128 channels.
TOY: dict[str, Any] = dict(
    backbone=TPVFORMER_TOY["backbone"] | dict(type="StereoResNet"),
    depth=(1.0, 45.0, 2.0),
    reduction=8,
    stereo_reduction=4,
    aspp=16,
    adjacent=1,
    channels=16,
    volume_blocks=(1, 1, 1),
    dropout=0.0,
)
