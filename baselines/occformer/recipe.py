"""OccFormer's recipes: for cameras all around, and for one that looks forward."""

from dataclasses import replace

from baselines.recipe import FCOS3D, CheckpointNames, FirstWeights, Recipe

_EFFICIENTNET = FirstWeights(
    "efficientnet-b7_3rdparty_8xb32-aa_in1k_20220119-bf03951c.pth",
    "EfficientNet-B7's ImageNet weights of mmpretrain (OccFormer's instructions link them)",
    "baselines.checkpoints:load_fcos3d_pretrain",  # the backbone, which must be there completely, and nothing else fits
)

RECIPE = Recipe(
    model="baselines.occformer.model:OccFormer",
    config="baselines.occformer.config:occformer_config",
    options="baselines.occformer.config:check_options",
    reads=("chain",),
    taught_by=("depth",),
    first_weights={"paper": FCOS3D},
    own_rate=("img_backbone",),
    augmentation="bevdet",
    # The grid and the frustum, which published files hold as parameters.
    checkpoints=CheckpointNames(unused=tuple(f"img_view_transformer.{name}" for name in ("dx", "bx", "nx", "frustum"))),
)

# As published for SemanticKITTI. Its axes are turned round about the middle of its range there, which lies before the vehicle.
FRONT = replace(
    RECIPE,
    config="baselines.occformer.config:occformer_front_config",
    first_weights={"paper": _EFFICIENTNET},
    augmentation="bevdet-images",
)
