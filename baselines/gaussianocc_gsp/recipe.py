"""The recipe of GaussianOcc's first stage."""

from baselines.recipe import Recipe

RECIPE = Recipe(
    model="baselines.gaussianocc_gsp.model:GaussianOccGSP",
    config="baselines.gaussianocc_gsp.config:gaussianocc_gsp_config",
    options="baselines.gaussianocc_gsp.config:check_options",
    reads=("neighbours",),  # evaluation asks how the rig moved, too
    taught_by=("neighbours",),
    image_size={"paper": (640, 384)},
    stretched=True,
    predicts_voxels=False,
    renders_depth=True,
    own_rate=("pixel_network",),
)
