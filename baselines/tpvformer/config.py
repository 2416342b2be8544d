"""TPVFormer's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from baselines.interface import OccupancyGrid
from baselines.options import of_size

Size = Literal["toy", "paper"]

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


def tpvformer_config(
    size: Size,
    grid: OccupancyGrid,
    gaussrender: dict[str, Any] | None = None,
    renderer: str = "cpu",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
    num_cameras: int = 6,
) -> dict[str, Any]:
    """A config for ``mmdet3d.registry.MODELS.build``, plain data throughout; the package's own name for it registers the model.

    gaussrender  fields of GaussRenderConfig for the row with rendering, None for the row without
    loss         arguments of OccupancyLoss that differ from the published ones

    Raises ValueError for an unknown size.
    """
    chosen = of_size("TPVFormer", size, SIZES)
    return dict(
        type="TPVFormer",
        grid=asdict(grid),
        gaussrender=gaussrender,
        renderer=renderer,
        camera_seed=camera_seed,
        loss=loss,
        num_cameras=num_cameras,
        **chosen,
    )
