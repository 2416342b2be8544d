"""A baseline: what the runner must know of it."""

from baselines.recipe import Recipe

RECIPE = Recipe(
    model="camera_occupancy_extra.model:ColumnModel",
    config="camera_occupancy_extra.model:config",
    sizes=("toy",),
    own_rate=("eye",),
)
