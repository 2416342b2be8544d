"""RenderOcc's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

from baselines.interface import OccupancyGrid
from baselines.lss import sizes
from baselines.options import of_size

Size = Literal["toy", "paper"]

# Voxels of the classes 0 (others) to 16 (vegetation) in Occ3D's training set, mmdet3d/models/nerf/nerf_head.py:22-24.
OCC3D_VOXELS = (
    1163161, 2309034, 188743, 2997643, 20317180, 852476, 243808, 2457947, 497017, 2731022, 7224789, 214411435, 5565043,
    63191967, 76098082, 128860031, 141625221,
)  # fmt: skip

# configs/renderocc/bevstereo-occ.py and renderocc-7frame.py. The sevenfold frames of its name are those of its rays; its images
# are the key frame's, those of one adjacent frame, and of one more that stereo alone looks at.
PAPER: dict[str, Any] = dict(
    backbone=dict(
        type="StereoSwin",
        pretrain_img_size=224,
        embed_dims=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        window_size=12,
        out_indices=(2, 3),
        drop_path_rate=0.1,
        with_cp=True,
    ),
    image_channels=(512 + 1024, 512),
    **sizes.PAPER,
)

# The same model for images of 112 x 200 and a grid of 100 x 100 x 8.
TOY: dict[str, Any] = dict(
    image_channels=(64 + 128, 64),
    splat_size=(200, 112),
    **sizes.TOY,
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


def check_options(config: dict[str, Any]) -> None:
    """Raise ValueError or TypeError for arguments of the model whose ``teaching`` has no such fields, or some that do not fit."""
    from baselines.renderocc.losses import Teaching, check_splats

    teaching = Teaching(**(config.get("teaching") or {}))
    if config.get("splats"):
        check_splats(teaching)


def renderocc_config(
    size: Size,
    grid: OccupancyGrid,
    renderer: str = "reference",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
    gaussrender: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A config for ``mmdet3d.registry.MODELS.build`` (after ``import baselines.renderocc``), plain data throughout.

    renderer  name of the backend that renders rays, or Gaussians with the option ``splats``
    loss      ``class_weights`` of the grid's classes, in place of the published ones of Occ3D; the rest is for other models

    Raises ValueError for an unknown size, and for ``gaussrender``: that is for models that are taught by voxels.
    """
    chosen = of_size("RenderOcc", size, SIZES)
    if gaussrender is not None:
        raise ValueError("RenderOcc is taught by rays, or by splats in their place: it takes no gaussrender")
    weights = (loss or {}).get("class_weights")
    if weights is None and grid.num_classes - 1 == len(OCC3D_VOXELS) and grid.empty == len(OCC3D_VOXELS):
        weights = (*(1 / math.log(count + 0.001) for count in OCC3D_VOXELS), 0.0)
    return dict(
        type="RenderOcc",
        grid=asdict(grid),
        renderer=renderer,
        camera_seed=camera_seed,
        class_weights=weights,
        **chosen,
    )
