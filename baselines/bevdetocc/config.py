"""BEVDet-Occ's sizes: a published one and one that two CPU cores can train."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from baselines.interface import OccupancyGrid
from baselines.lss import sizes
from baselines.options import of_size

Size = Literal["toy", "paper"]

# HuangJunJie2017/BEVDet configs/bevdet_occ/bevdet-occ-r50-4d-stereo-24e.py, for images of 704 x 256. The other published one
# (bevdet-occ-stbase-4d-stereo-512x1408-24e.py) is this with RenderOcc's image network, which was taken from it.
PAPER: dict[str, Any] = dict(
    backbone=dict(
        type="StereoResNet",
        depth=50,
        num_stages=4,
        out_indices=(0, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        with_cp=True,
        style="pytorch",
    ),
    neck=dict(type="FinestFPN", in_channels=(1024, 2048), out_channels=256),
    **sizes.PAPER,
)

# The same model for images of 112 x 200 and a grid of 100 x 100 x 8; RenderOcc's toy but for the neck.
TOY: dict[str, Any] = dict(
    neck=dict(type="FinestFPN", in_channels=(64, 128), out_channels=64),
    **sizes.TOY,
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


def bevdetocc_config(
    size: Size,
    grid: OccupancyGrid,
    gaussrender: dict[str, Any] | None = None,
    renderer: str = "cpu",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A config for ``mmdet3d.registry.MODELS.build``, plain data throughout; the package's own name for it registers the model.

    gaussrender  fields of GaussRenderConfig for the row with rendering, None for the row without
    loss         ``class_weights`` of the grid's classes, which are published to be all alike; the rest is for other models

    Raises ValueError for an unknown size.
    """
    chosen = of_size("BEVDet-Occ", size, SIZES)
    return dict(
        type="BEVDetOcc",
        grid=asdict(grid),
        gaussrender=gaussrender,
        renderer=renderer,
        camera_seed=camera_seed,
        class_weights=(loss or {}).get("class_weights"),
        **chosen,
    )
