"""Symphonies' sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

from typing import Any

from baselines.options import configuration
from baselines.tpvformer.config import TOY as TPVFORMER_TOY

# hustvl/Symphonies configs/models/symphonies.yaml, configs/datasets/kitti_360.yaml and
# maskdino/configs/maskdino_r50_8xb2-lsj-50e_coco-panoptic.py. Dropout is mmcv's default there, in the decoder only.
PAPER: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
        style="pytorch",
    ),
    in_channels=(256, 512, 1024, 2048),
    pixel_channels=256,
    pixel_layers=6,
    pixel_feedforward=2048,
    groups=32,
    image_size=(1408, 376),
    dim=128,
    heads=8,
    points=4,
    layers=3,
    queries=100,
    volume_scale=2,
    downsample_z=2,
    position_fold=(2, 2, 1),
    published_fold=True,
    dropout=0.1,
    frustum_size=8,
)

# The same model for images of 94 x 352 and a grid of 64 x 64 x 8, trained from scratch: a scene of 32 x 32 x 2 cells. Two
# heights cannot be folded by four, and a reference point moved by half a height would be 8 of 32 cells off.
TOY: dict[str, Any] = PAPER | dict(
    backbone=TPVFORMER_TOY["backbone"]
    | dict(num_stages=4, strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), out_indices=(0, 1, 2, 3)),
    in_channels=(32, 64, 128, 256),
    pixel_channels=64,
    pixel_layers=2,
    pixel_feedforward=128,
    groups=8,
    image_size=(352, 94),
    dim=32,
    heads=4,
    queries=32,
    position_fold=(1, 1, 1),
    published_fold=False,
    dropout=0.0,
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


symphonies_config = configuration("Symphonies", SIZES)
