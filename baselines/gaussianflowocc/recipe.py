"""GaussianFlowOcc's recipe, and what of it was published in more than one way."""

from collections.abc import Mapping
from typing import Any, Literal

from baselines.recipe import FirstWeights, Recipe

_RESNET50 = FirstWeights(
    "resnet50-0676ba61.pth",
    "torchvision's ResNet-50 (download.pytorch.org/models/resnet50-0676ba61.pth)",
    "baselines.checkpoints:load_resnet_pretrain",
)

RECIPE = Recipe(
    model="baselines.gaussianflowocc.model:GaussianFlowOcc",
    config="baselines.gaussianflowocc.config:gaussianflowocc_config",
    options="baselines.gaussianflowocc.config:check_options",
    reads=("chain",),
    taught_by=("history", "views"),
    # Five frames before (configs/gaussianflowocc.py); what views show besides the own moment is the default.
    frames={"history": (-1, -2, -3, -4, -5)},
    history={"toy": 2},
    views={"toy": 2},
    view_size={"toy": (100, 56)},
    image_size={"paper": (704, 256)},
    first_weights={"paper": _RESNET50},
    augmentation="bevdet-images",
    follows_scenes=True,
    renders_depth=True,
)

Weighting = Literal["head", "3248a17"]

WEIGHTINGS: Mapping[str, tuple[float, float]] = {"head": (2.0, 0.05), "3248a17": (1.0, 0.1)}
"""Commit -> weights of the losses on classes and on depth."""

COMMIT_3248A17: dict[str, Any] = {"teaching": {"weighting": "3248a17"}, "neighbourhood": 3}
"""Options that differ in the commit before the last one (Q1); what is evaluated differs too, which is the metric's."""

FILTERED = (
    0.2631, 1.0766, 1.9606, 1.2018, 0.7487, 1.4863, 1.7075, 1.3542, 1.6137, 1.1995, 0.9446, 0.2827, 1.0568, 0.6058, 0.6055,
    0.4062, 0.4864, 0.0,
)  # fmt: skip
"""``Teaching.class_weights`` from the pixels of each class in the published pseudo labels of Occ3D, by class id."""
