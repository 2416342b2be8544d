"""What the runner must know of a baseline: one light object in the baseline's own folder. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Target = str
"""What is imported only when it is needed, as "module:attribute"."""

Augmentation = Literal["distort", "mirror", "bevdet", "bevdet-images", "none"]


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
    files     where a published checkpoint is a folder, its files without ".pth" -> what stands before their names here. Of what
              a model does not have no file is needed; plain numbers beside the weights are left out
    """

    prefixes: Mapping[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A baseline.

    model          its class, an ``OccupancyModel``; of a baseline that only counts labels it has ``fit`` instead of losses
    config         a function (size, grid, camera_seed, loss) -> the class's arguments as a dict; with ``renderer`` besides where
                   it takes one, and ``gaussrender`` where that renders Gaussians. A row's options replace some of them
    options        a function of those arguments that raises ValueError or TypeError for what the class would refuse, before
                   anything is loaded; "" for none
    sizes          that ``config`` knows
    reads          fields of OccupancyBatch beyond images and cameras that it needs; a data set must provide them
    taught_by      and those that its losses alone read, of training frames
    frames         of such a field that shows other moments, which: key frames of the scene counted from the batch's own, -1 the
                   one before it. Of fields that are not here, ``FRAMES``
    history        by size, how many of the frames of ``history`` are looked back to, the nearest ones; of sizes that are not
                   here, all
    rays           by size, how many rays are drawn of a frame for ``rays``; of sizes that are not here, all there are
    views          by size, how many moments besides the own are drawn for ``views``, of those in ``frames`` that the scene
                   has; of sizes that are not here, ``VIEWS``
    view_size      by size, (width, height) of the label maps of ``views``; of sizes that are not here, that of the images
    even_rays      rays are drawn alike, whatever their class; False: rare classes more, and other moments less
    image_size     by size, (width, height) of its published input, in place of the preset's
    stretched      images of its own size are scaled to it whatever their proportions, instead of being cut at the top
    renderer       kind of renderer that its training takes: Gaussians, if a row asks for GaussRender; rays, always; or none
    trained        False: it has no weights, and fits training labels alone
    first_weights  by size, from which a preset that asks for them starts
    own_rate       parts of the model, by parameter name, with a learning rate of their own (``Schedule.backbone_lr``)
    augmentation   of training frames, in presets that have one: photometric distortion; half of the frames mirrored; or BEVDet's
                   of images and bird's eye view (resized, cropped, flipped, rotated; x and y axes turned round), or its
                   of images alone without flips
    checkpoints    how published checkpoints name their content
    follows_scenes  its model (a ``baselines.following.Follower``) predicts scenes frame after frame; frames that are not of a
                   training come with what those before them left
    predicts_voxels  False: its logits are of empty space whatever it sees, and no score of voxels is measured
    renders_depth  its predictions of a batch with ``lidar`` have the depth that it renders
    marks          what fingerprints of its cells say besides, so that cells of before there were recipes stay the same ones
    """

    model: Target
    config: Target
    options: Target = ""
    sizes: tuple[str, ...] = ("toy", "paper")
    reads: tuple[str, ...] = ()
    taught_by: tuple[str, ...] = ()
    frames: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    history: Mapping[str, int] = field(default_factory=dict)
    rays: Mapping[str, int] = field(default_factory=dict)
    views: Mapping[str, int] = field(default_factory=dict)
    view_size: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    even_rays: bool = False
    image_size: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    stretched: bool = False
    renderer: Literal["gaussians", "rays", "none"] = "gaussians"
    trained: bool = True
    first_weights: Mapping[str, FirstWeights] = field(default_factory=dict)
    own_rate: tuple[str, ...] = ()
    augmentation: Augmentation = "distort"
    checkpoints: CheckpointNames = field(default_factory=CheckpointNames)
    follows_scenes: bool = False
    predicts_voxels: bool = True
    renders_depth: bool = False
    marks: Mapping[str, str] = field(default_factory=dict)

    def parts(self, training: bool, size: str = "") -> dict[str, tuple[int, ...]]:
        """What is read of a training frame, or of another one, beyond images and cameras: field -> moments that it shows.

        size  of the model; "": as it is of sizes that nothing is said of
        """
        names = (*self.reads, *(self.taught_by if training else ()))
        shown = {name: self.frames.get(name, FRAMES.get(name, OWN)) for name in names}
        if "history" in shown and size in self.history:
            shown["history"] = tuple(sorted(shown["history"], key=abs)[: self.history[size]])
        return shown


OWN = (0,)
FRAMES: Mapping[str, tuple[int, ...]] = {
    "history": (-1,),
    "neighbours": (-1, 1),
    "views": (*range(-6, 0), *range(1, 7), 0),
}
"""Key frames that fields of a batch show where a recipe does not say which, and camera frames right before and after for
``neighbours``; the others show the batch's own. ``views`` draws some of them besides the own (``Recipe.views``)."""

VIEWS = 6
"""How many, where a recipe does not say it: GaussianFlowOcc's horizon."""

FCOS3D = FirstWeights(
    "r101_dcn_fcos3d_pretrain.pth",
    "FCOS3D's R101-DCN weights (TPVFormer's and SurroundOcc's instructions link them)",
    "baselines.checkpoints:load_fcos3d_pretrain",
)
"""Backbone and neck of FCOS3D's detector, which several models of nuScenes start from."""
