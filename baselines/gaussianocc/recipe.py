"""GaussianOcc's recipe (its second stage), and what of it was published in more than one way."""

from collections.abc import Mapping
from typing import Any, Literal

from baselines.recipe import CheckpointNames, FirstWeights, Recipe

_RESNET101 = FirstWeights(
    "resnet101-63fe2227.pth",
    "torchvision's ResNet-101 (download.pytorch.org/models/resnet101-63fe2227.pth)",
    "baselines.checkpoints:load_gaussianocc_pretrain",
)

RECIPE = Recipe(
    model="baselines.gaussianocc.model:GaussianOcc",
    config="baselines.gaussianocc.config:gaussianocc_config",
    options="baselines.gaussianocc.config:check_options",
    taught_by=("neighbours", "semantics"),
    view_size={"toy": (100, 56), "paper": (320, 180)},
    image_size={"paper": (640, 384)},
    stretched=True,
    renders_depth=True,
    first_weights={"paper": _RESNET101},
    own_rate=("depth",),
    augmentation="none",
    checkpoints=CheckpointNames(
        files={
            "encoder": "encoder.",
            "depth": "depth.",
            "pose_encoder": "pose_network.pose_encoder.",
            "pose": "pose_network.pose.",
        },
        unused=("pose_network.pose_encoder.encoder.fc.", "pose_network.pose_encoder.dummy"),
    ),
)

Volume = Literal["prob", "density"]

WEIGHTS: Mapping[str, tuple[float, float, float]] = {
    "splats": (0.02, 0.1, 0.1),
    "prob": (0.05, 0.01, 0.01),
    "density": (0.05, 0.01, 0.01),
}
"""What is rendered -> weights of the losses on classes, of entropy, and of variation or distortion (configs/nusc-sem-gs.txt and
nusc-sem.txt)."""

SENSOR_POSES: dict[str, Any] = {"poses": "sensors"}
"""Options of a model that is told by sensors how the vehicle moved. Upstream's ``gt_pose`` says the opposite of its name."""
