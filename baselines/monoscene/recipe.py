"""MonoScene's recipe."""

from baselines.recipe import FirstWeights, Recipe

_NOISY_STUDENT = FirstWeights(
    "tf_efficientnet_b7_ns-1dbc32de.pth",
    "EfficientNet-B7's Noisy Student weights (release v0.1-weights of github.com/rwightman/pytorch-image-models; timm calls them "
    "tf_efficientnet_b7.ns_jft_in1k)",
    "baselines.checkpoints:load_efficientnet_pretrain",
)

RECIPE = Recipe(
    model="baselines.monoscene.model:MonoScene",
    config="baselines.monoscene.config:monoscene_config",
    options="baselines.monoscene.config:check_options",
    first_weights={"paper": _NOISY_STUDENT},
    augmentation="mirror",  # hustvl/Symphonies ssc_pl/data/datasets/kitti_360.py
)
