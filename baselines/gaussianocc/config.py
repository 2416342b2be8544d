"""GaussianOcc's sizes: the published one and one that two CPU cores can train."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal

from baselines.gaussianocc_gsp.config import SIZES as FIRST_STAGE
from baselines.interface import OccupancyGrid
from baselines.options import check_choice, check_class_weights, of_size

Size = Literal["toy", "paper"]

# Pixels of the classes 0 (others) to 17 (free) in the published pseudo labels of nuScenes, options.py:81-85. Those without a
# class count as free.
OCC3D_PIXELS = (
    0, 18164955800, 734218842, 2336187448, 10996756106, 395414611, 638889260, 651023279, 117046208, 985341947, 7303776233,
    43131984997, 0, 9342674867, 9525824742, 51204832885, 22848065525, 31841090018,
)  # fmt: skip

# configs/nusc-sem-gs.txt.
PAPER: dict[str, Any] = dict(
    resnet=dict(
        type="ResNet",
        depth=101,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    widths=(512, 1024, 512, 256),
    channels=64,
    planes=16,
    shape=(300, 300, 24),
    scale=0.2,
    pose=FIRST_STAGE["paper"]["pose"],
)

# The same model for images of 112 x 200, on about a fifth of the grid's vertices along x and y and a third along z, trained from
# scratch. A Gaussian's deviation is half the way between vertices, as published. With the published weights of the losses logits
# become all alike within a few iterations, and stay so for longer than a toy's training; with those of classes small things are
# everywhere. Without a gain opacities stay undecided: 300 iterations move the last normalisation by less than 1.
# Images are compared by their absolute difference, at four sizes. Of a network of 400 iterations, gradients of that loss point
# where those of lidar's depth do (cosine of means over eight frames 0.8 in the image network, 0.98 in the other one); those of
# the published one, 0.85 of it structural similarity at the full size, do not (-0.4 and -0.9).
TOY: dict[str, Any] = dict(
    resnet=dict(
        type="ResNet",
        depth=18,
        base_channels=32,
        stem_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    widths=(64, 128, 64, 32),
    channels=16,
    planes=8,
    shape=(64, 64, 8),
    scale=0.96,
    residual=True,
    gain=20.0,
    class_weights=None,
    weights=(0.005, 0.0, 0.0003),
    photometric=dict(ssim=0.0),
    scales=(1, 2, 4, 8),
    normalise_depth=True,
    pose=FIRST_STAGE["toy"]["pose"],
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


def published_weights(grid: OccupancyGrid) -> tuple[float, ...] | None:
    """Class weights of Occ3D-nuScenes, which leave out what no prompt was for (Q17); None for other classes."""
    if grid.num_classes != len(OCC3D_PIXELS) or grid.empty != len(OCC3D_PIXELS) - 1:
        return None
    roots = [1 / math.sqrt(count) if count else 0.0 for count in OCC3D_PIXELS]
    mean = sum(roots) / len(roots)
    return tuple(root / mean for root in roots)


def check_options(config: dict[str, Any]) -> None:
    """Raise ValueError or TypeError for arguments of the model whose ``teaching`` has no such fields, or some that do not fit."""
    from baselines.gaussianocc.losses import Teaching

    Teaching(**(config.get("teaching") or {}))
    check_choices(config.get("poses", "learned"), config.get("volume"))
    check_class_weights(config.get("class_weights"), len(config["grid"]["class_names"]))


def check_choices(poses: str, volume: str | None) -> None:
    """Raise ValueError for what is none of the ways to know motion, or to render."""
    check_choice("poses", poses, ("learned", "sensors"))
    check_choice("volume", volume, (None, "prob", "density"))


def gaussianocc_config(
    size: Size,
    grid: OccupancyGrid,
    renderer: str = "cpu",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
    gaussrender: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A config for ``mmdet3d.registry.MODELS.build`` (after ``import baselines.gaussianocc``), plain data throughout.

    renderer  name of the backend that renders Gaussians, or rays with the option ``volume``
    loss      for other models: nothing that voxels say, shares of classes neither, weighs the losses on images

    Raises ValueError for an unknown size, and for ``gaussrender``: that is for models that are taught by voxels.
    """
    chosen = of_size("GaussianOcc", size, SIZES)
    if gaussrender is not None:
        raise ValueError("GaussianOcc renders Gaussians of its own: it takes no gaussrender")
    return dict(
        type="GaussianOcc",
        grid=asdict(grid),
        renderer=renderer,
        camera_seed=camera_seed,
        **{"class_weights": published_weights(grid), **chosen},
    )
