"""The recipes of GaussianFormer-2 and of its first stage, and its published sizes as options."""

from collections.abc import Mapping
from typing import Any

from baselines.recipe import FCOS3D, CheckpointNames, FirstWeights, Recipe

_IMAGE_SIZE = {"paper": (1600, 864)}

RECIPE = Recipe(
    model="baselines.gaussianformer2.model:GaussianFormer2",
    config="baselines.gaussianformer2.config:gaussianformer2_config",
    options="baselines.gaussianformer2.config:check_options",
    image_size=_IMAGE_SIZE,
    first_weights={"paper": FCOS3D},
    own_rate=("img_backbone",),
)

FIRST_STAGE = Recipe(
    model="baselines.gaussianformer2.first_stage:GaussianFormer2Init",
    config="baselines.gaussianformer2.config:gaussianformer2_init_config",
    options="baselines.gaussianformer2.config:check_init_options",
    image_size=_IMAGE_SIZE,
    renderer="none",
    first_weights={
        "paper": FirstWeights(FCOS3D.file, FCOS3D.source, "baselines.gaussianformer2.first_stage:load_fcos3d_backbone")
    },
    own_rate=("img_backbone",),
    # init.pth holds the lifter alone, with the second stage's Gaussians.
    checkpoints=CheckpointNames(
        {"initialize_backbone.": "lifter.initialize_backbone.", "projection.": "lifter.projection."},
        unused=("anchor", "instance_feature", "random_anchors"),
    ),
)

SIZES: Mapping[str, dict[str, Any]] = {
    "prob-64": dict(pixel_anchors=4000, learned_anchors=2400, scale_range=(0.01, 3.2), multiplier=4.0),
    "prob-128": dict(pixel_anchors=6400, learned_anchors=6400, scale_range=(0.01, 2.5), multiplier=5.0),
    "prob-256": dict(pixel_anchors=19200, learned_anchors=6400, scale_range=(0.01, 1.8), multiplier=4.0),
}
"""Options by published name (config/prob/nuscenes_gs{6400,12800,25600}.py)."""
