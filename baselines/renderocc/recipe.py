"""RenderOcc's recipe, and what of it can be mended."""

from typing import Any

from baselines.recipe import FirstWeights, Recipe

_BEVDET = FirstWeights(
    "bevdet-stbase-4d-stereo-512x1408-cbgs.pth",
    "BEVStereo4D's Swin-B detector of HuangJunJie2017/BEVDet (RenderOcc's instructions link it)",
    "baselines.checkpoints:load_bevdet_pretrain",
)

RECIPE = Recipe(
    model="baselines.renderocc.model:RenderOcc",
    config="baselines.renderocc.config:renderocc_config",
    options="baselines.renderocc.config:check_options",
    reads=("chain", "history"),
    taught_by=("rays", "depth"),
    # One adjacent frame, and one more that stereo alone looks at; rays of seven frames (configs/renderocc/renderocc-7frame.py).
    frames={"history": (-1, -2), "rays": (0, -3, -2, -1, 1, 2, 3)},
    rays={"paper": 38400, "toy": 4096},
    image_size={"paper": (1408, 512)},
    renderer="rays",
    first_weights={"paper": _BEVDET},
    augmentation="bevdet",
)

MENDED: dict[str, Any] = dict(
    depth_transform="along",
    depth_target="range",
    contraction=False,
    corner_aligned=False,
    flat_distortion=False,
    normalise_semantics=True,
)
"""Fields of ``losses.Teaching`` that mend every quirk of the rendering."""
