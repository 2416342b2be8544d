"""SurroundOcc's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

from typing import Any

from baselines.options import configuration
from baselines.tpvformer.config import PAPER as TPVFORMER_PAPER
from baselines.tpvformer.config import TOY as TPVFORMER_TOY

# weiyithu/SurroundOcc projects/configs/surroundocc/surroundocc.py:49-150, with the backbone that TPVFormer has too.
# dropout_epochs=1: GaussRender's training, see OccupancyModel.
PAPER: dict[str, Any] = dict(
    backbone=TPVFORMER_PAPER["backbone"],
    neck=dict(type="FPN", in_channels=[512, 1024, 2048], out_channels=512, num_outs=3),
    dims=(128, 256, 512),
    layers=(1, 3, 6),
    points=(2, 4, 8),
    feedforward=(256, 512, 1024),
    widths=(256, 128, 64, 32),
    heads=8,
    groups=16,
    dropout=0.1,
    dropout_epochs=1,
)

# The same model for images of 112 x 200 and a grid of 100 x 100 x 8, which halves twice: two volumes, three scales. Its
# classifiers have a bias, so that they can start from the classes' shares: on Occ3D's generated world 22.0 mIoU with that and 18
# without. (32 channels at every scale, without: 20.5, but an iteration takes 0.45 s of one core for 0.31.)
TOY: dict[str, Any] = dict(
    backbone=TPVFORMER_TOY["backbone"] | dict(out_indices=(0, 2)),
    neck=dict(type="FPN", in_channels=[32, 128], out_channels=48, num_outs=2),
    dims=(32, 64),
    layers=(1, 2),
    points=(2, 4),
    feedforward=(64, 128),
    widths=(32, 16, 16),
    heads=4,
    groups=8,
    dropout=0.0,
    classifier_bias=True,
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


surroundocc_config = configuration("SurroundOcc", SIZES)
