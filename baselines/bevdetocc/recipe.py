"""BEVDet-Occ's recipe."""

from baselines.recipe import FirstWeights, Recipe

_BEVDET = FirstWeights(
    "bevdet-r50-4d-stereo-cbgs.pth",
    "BEVStereo4D's R50 detector of HuangJunJie2017/BEVDet (its README links it)",
    "baselines.checkpoints:load_bevdet_pretrain",
)

RECIPE = Recipe(
    model="baselines.bevdetocc.model:BEVDetOcc",
    config="baselines.bevdetocc.config:bevdetocc_config",
    reads=("chain", "history"),
    taught_by=("depth",),
    # One adjacent frame, and one more that stereo alone looks at (configs/bevdet_occ/bevdet-occ-r50-4d-stereo-24e.py).
    frames={"history": (-1, -2)},
    image_size={"paper": (704, 256)},
    first_weights={"paper": _BEVDET},
    augmentation="bevdet",
)
