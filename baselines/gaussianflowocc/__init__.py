"""GaussianFlowOcc; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this package.

What boschresearch/GaussianFlowOcc does otherwise than one would expect, and what becomes of it here. On
means: as published unless the option says otherwise.

=====  ==================================================================  ================================================
Q1     the last commit weighs losses and Gaussians' reach otherwise         last commit; ``COMMIT_3248A17`` are the options of
                                                                            the one before. Which voxels count is the metric's
Q2     file orders of classes and depth differ, one is put right            the reader's: cameras are found by name, and come in
                                                                            the data set's order, to which learned codes belong
Q3     pseudo depth comes from images in blue, green, red                   the files'
Q4     depth that is not divided by alpha is compared in square metres      on, ``Teaching.normalise_depth``
Q5     nothing teaches that space is free where there is no label           on: such pixels are left out
Q6     everything from 3.4 m on is empty                                    on, in metres: ``ReadOut.ceiling``
Q7     opacity has no part in a voxel's class                               on
Q8     occupancy adds up to 1 at most, from 0.05 on, Gaussians are small    on, ``ReadOut.threshold``, ``largest_scale``
Q9     offsets of what stands still are zeroed in place                     mended: they are not computed
Q10    which moments are valid is written into what frames share            the reader's, ``ImageSupervision.valid``
Q11    a single image loses its axis                                        none here
Q12    images without a detection break the labels' generator               the files'
Q13    intermediate Gaussians cannot be returned                            none here
Q14    two names of the labels' folder                                      the reader's
Q15    the model remembers frames, whatever comes next                      mended: ``follow`` takes and returns what is
                                                                            remembered, and a frame that lacks it is an error
Q16    the upper third of images teaches nothing                            the reader's
Q17    what moves is decided by the largest logit, early noise too          on
Q18    first means are random and part of a checkpoint                      on, drawn from ``camera_seed``
=====  ==================================================================  ================================================

Besides: no pixel with a label gives a loss of 0, not NaN; of the options that are off as published the loss on voxels is here
(``Teaching.voxels``; voxels of a class without a channel do not count, where upstream takes them for empty), those on colours and
on movement, whose code was not published, are not.
"""

from typing import TYPE_CHECKING, Any

from baselines.gaussianflowocc.recipe import COMMIT_3248A17, FILTERED, RECIPE

if TYPE_CHECKING:
    from baselines.gaussianflowocc.config import SIZES, gaussianflowocc_config
    from baselines.gaussianflowocc.losses import Teaching
    from baselines.gaussianflowocc.model import GaussianFlowOcc
    from baselines.gaussianflowocc.voxels import ReadOut

__all__ = [
    "COMMIT_3248A17",
    "FILTERED",
    "RECIPE",
    "SIZES",
    "GaussianFlowOcc",
    "ReadOut",
    "Teaching",
    "gaussianflowocc_config",
]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.gaussianflowocc' has no attribute '{name}'")
    from baselines.gaussianflowocc import config, losses, model, voxels

    return next(getattr(module, name) for module in (config, losses, model, voxels) if hasattr(module, name))
