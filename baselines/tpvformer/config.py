"""TPVFormer's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

from typing import Any

from baselines.options import configuration

# valeoai/GaussRender config/_base_/model_tpvformer.py. dropout_epochs=1: see OccupancyModel.
PAPER: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet",
        depth=101,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
        style="caffe",
        dcn=dict(type="DCNv2Portable", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
    neck=dict(
        type="FPN",
        in_channels=[512, 1024, 2048],
        out_channels=256,
        start_level=0,
        add_extra_convs="on_output",
        num_outs=4,
        relu_before_extra_convs=True,
    ),
    dim=256,
    heads=8,
    num_layers=3,
    anchors=(4, 32, 32),
    points=(8, 64, 64),
    self_points=4,
    upsampling=2,
    hidden=512,
    out=256,
    dropout=0.1,
    dropout_epochs=1,
    checkpointing=True,
)

# The same model for images of 112 x 200 and a grid of 100 x 100 x 8, trained from scratch. Features start at stride 4, as
# images are an eighth of the published ones: strides 8 to 32 left the small things on 14 x 25 cells and learned less
# (validation mIoU 9.7 against 11.8 after 600 iterations, seed 0). A decoder half as wide (hidden=32), even with twice the
# sampling points, learned less too (10.4 against 11.9).
TOY: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=32,
        stem_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[32, 64, 128], out_channels=64, num_outs=3),
    dim=64,
    heads=4,
    num_layers=2,
    anchors=(4, 8, 8),
    points=(4, 8, 8),
    self_points=4,
    upsampling=2,
    hidden=64,
    out=32,
    dropout=0.0,
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


tpvformer_config = configuration("TPVFormer", SIZES)
