"""What the runner must know of a baseline: one light object in the baseline's own folder. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Target = str
"""What is imported only when it is needed, as "module:attribute"."""

Augmentation = Literal["distort", "mirror", "none"]


@dataclass(frozen=True)
class FirstWeights:
    """Weights of others from which a training starts.

    file    its name, looked for in ``ckpts/`` of the project or in OCC_CKPTS
    source  what it is and where it comes from, for people who lack it
    load    of a function (model, path) that raises CheckpointError for a file that does not fit
    """

    file: str
    source: str
    load: Target


@dataclass(frozen=True)
class CheckpointNames:
    """How published checkpoints of a baseline name what is called otherwise here.

    prefixes  what a name begins with there -> here
    unused    beginnings (of the names here) of what a file has and the model has no use for
    """

    prefixes: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A baseline.

    model          its class, an ``OccupancyModel``; of a baseline that only counts labels it has ``fit`` instead of losses
    config         a function (size, grid, camera_seed, loss) -> the class's arguments as a dict; with ``gaussrender`` and
                   ``renderer`` besides where it takes a renderer. A row's options replace some of them
    sizes          that ``config`` knows
    reads          fields of OccupancyBatch beyond images and cameras that it needs; a data set must provide them
    renderer       kind of renderer that its training can take: of Gaussians, or none
    trained        False: it has no weights, and fits training labels alone
    first_weights  by size, from which a preset that asks for them starts
    own_rate       parts of the model, by parameter name, with a learning rate of their own (``Schedule.backbone_lr``)
    augmentation   of training frames, in presets that have one: photometric distortion, or half of the frames mirrored
    checkpoints    how published checkpoints name their content
    marks          what fingerprints of its cells say besides, so that cells of before there were recipes stay the same ones
    """

    model: Target
    config: Target
    sizes: tuple[str, ...] = ("toy", "paper")
    reads: tuple[str, ...] = ()
    renderer: Literal["gaussians", "none"] = "gaussians"
    trained: bool = True
    first_weights: Mapping[str, FirstWeights] = field(default_factory=dict)
    own_rate: tuple[str, ...] = ()
    augmentation: Augmentation = "distort"
    checkpoints: CheckpointNames = field(default_factory=CheckpointNames)
    marks: Mapping[str, str] = field(default_factory=dict)


FCOS3D = FirstWeights(
    "r101_dcn_fcos3d_pretrain.pth",
    "FCOS3D's R101-DCN weights (TPVFormer's and SurroundOcc's instructions link them)",
    "baselines.checkpoints:load_fcos3d_pretrain",
)
"""Backbone and neck of FCOS3D's detector, which several models of nuScenes start from."""
