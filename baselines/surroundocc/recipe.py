"""SurroundOcc's recipe."""

from baselines.recipe import FCOS3D, CheckpointNames, Recipe

RECIPE = Recipe(
    model="baselines.surroundocc.model:SurroundOcc",
    config="baselines.surroundocc.config:surroundocc_config",
    first_weights={"paper": FCOS3D},
    own_rate=("img_backbone",),
    checkpoints=CheckpointNames({"pts_bbox_head.": "head."}),
)
