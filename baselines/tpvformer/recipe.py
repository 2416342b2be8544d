"""TPVFormer's recipe."""

from baselines.recipe import FCOS3D, CheckpointNames, Recipe

RECIPE = Recipe(
    model="baselines.tpvformer.model:TPVFormer",
    config="baselines.tpvformer.config:tpvformer_config",
    first_weights={"paper": FCOS3D},
    own_rate=("img_backbone",),
    checkpoints=CheckpointNames({"tpv_head.": "head.", "tpv_aggregator.": "aggregator."}),
)
