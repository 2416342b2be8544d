"""Sizes of GaussianOcc's first stage: what is described, as far as it is, and one that a CPU core can train."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from baselines.interface import OccupancyGrid
from baselines.options import of_size

Size = Literal["toy", "paper"]

# Swin-S in the sizes of New-CRFs' "small07" (window 7), which GaussianOcc runner.py:129-139 names.
PAPER: dict[str, Any] = dict(
    backbone=dict(
        type="SwinTransformer",
        pretrain_img_size=224,
        embed_dims=96,
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
        with_cp=True,
    ),
    backbone_channels=(96, 192, 384, 768),
    decoder_channels=(64, 64, 128, 256),
    pose=dict(depth=34, base_channels=64, channels=256),
)

# For images of 112 x 200, trained from scratch. A pose network without first weights says how the rig moves on the mean, and no
# rotation: 1.07 degrees of error, as much as there is, after 400 steps, and 0.08 m in 0.46; and so does one that the true motion
# teaches. Aligned images say 0.11 degrees and, but for a factor of all, 0.03 m.
TOY: dict[str, Any] = dict(
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=16,
        stem_channels=16,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    backbone_channels=(16, 32, 64, 128),
    decoder_channels=(16, 32, 32, 64),
    pose=dict(depth=18, base_channels=16, channels=64, shift=30.0, aligned=True),
)

SIZES: dict[str, dict[str, Any]] = {"toy": TOY, "paper": PAPER}


def check_options(config: dict[str, Any]) -> None:
    """Raise ValueError or TypeError for arguments of the model whose ``teaching`` has no such fields, or some that do not fit."""
    from baselines.gaussianocc_gsp.losses import Teaching

    Teaching(**(config.get("teaching") or {}))


def gaussianocc_gsp_config(
    size: Size,
    grid: OccupancyGrid,
    renderer: str = "cpu",
    camera_seed: int = 0,
    loss: dict[str, Any] | None = None,
    gaussrender: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """A config for ``mmdet3d.registry.MODELS.build`` (after ``import baselines.gaussianocc_gsp``), plain data throughout.

    renderer  name of the backend that renders Gaussians
    loss      for other models: nothing here is taught by voxels

    Raises ValueError for an unknown size, and for ``gaussrender``: that is for models that are taught by voxels.
    """
    chosen = of_size("GaussianOcc first stage", size, SIZES)
    if gaussrender is not None:
        raise ValueError("GaussianOcc's first stage is taught by images: it takes no gaussrender")
    return dict(type="GaussianOccGSP", grid=asdict(grid), renderer=renderer, camera_seed=camera_seed, **chosen)
