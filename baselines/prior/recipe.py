"""The per-voxel prior's recipe."""

from baselines.recipe import Recipe

RECIPE = Recipe(
    model="baselines.prior.model:PriorModel",
    config="baselines.prior.model:prior_config",
    renderer="none",
    trained=False,
)
