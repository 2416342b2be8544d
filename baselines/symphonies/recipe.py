"""Symphonies' recipe."""

from baselines.recipe import CheckpointNames, FirstWeights, Recipe

_MASKDINO = FirstWeights(
    "maskdino_r50_50e_300q_panoptic_pq53.0.pth",
    "MaskDINO's R50 weights (a release of github.com/hustvl/Symphonies has them)",
    "baselines.checkpoints:load_maskdino_pretrain",
)

RECIPE = Recipe(
    model="baselines.symphonies.model:Symphonies",
    config="baselines.symphonies.config:symphonies_config",
    reads=("depth",),
    first_weights={"paper": _MASKDINO},
    own_rate=("encoder.model",),
    augmentation="mirror",  # ssc_pl/data/datasets/kitti_360.py
    # Saved by Lightning; the criterion is of MaskDINO's training.
    checkpoints=CheckpointNames(
        {"model.encoder.": "encoder.", "model.decoder.": "decoder."}, unused=("encoder.model.panoptic_head.criterion.",)
    ),
    marks={"pretrained_model": _MASKDINO.file},
)
