"""GaussianFormer-2 (arXiv:2412.04384) and its first stage; their models are in ``mmdet3d.registry.MODELS`` as soon as anything
but the recipes is asked of this package.

Images give features (R101-DCN, FPN). A frozen network of its own, the first stage, says where along the rays of its pixels
something is; points drawn from that, thinned out evenly, are the places of as many Gaussians, and the others' places are learned.
Blocks of attention to the images, of convolution among the Gaussians and of refinement follow. The Gaussians of the last block
are superposed in the voxels as probabilities (``aggregation``).

What huang-yh/GaussianFormer (fa063a8) does otherwise than one would expect, and what becomes of it here. On means: as published
unless the option says otherwise.

===  ====================================================================  =====================================================
Q1   configuration and schedule of the first stage were not released        a row of its own, from which the others start
Q2   images are RGB in ImageNet's normalisation, for weights that are of     on, ``imagenet_images``
     BGR without deviations (FCOS3D, caffe)
Q3   the frozen network normalises by each training frame and goes on        on, ``drifting_rays``
     counting what it normalises by
Q4   points are drawn by chance in evaluation too                            on; from a fixed seed, the same for every frame
Q5   a pixel that draws "nothing" where something is likelier than that      on, ``nothing_is_farthest``
     has its point in the last bin
Q6   a frame without a point is a division by zero                           mended: points all over the range
Q7   the points' loss is binary, on probabilities that sum to one            on
Q8   the frozen network's loss is added, without a gradient                  gone
Q9   opacities weigh classes, not whether a voxel is occupied                on
Q10  of several Gaussians in a cell of the sparse convolution a hash table   mended: each has its own features, and others see
     has some one, which decides what is seen                                those of the first
Q11  a class of the labels' noise, which nothing teaches                     on, ``noise_class``; it has no voxel of its own here
Q12  losses on batches of one sample, images of six cameras                  mended: any batch, any cameras
Q13  the inverse covariance is made on the CPU                               none here: offsets in own axes
Q14  quaternions turn the world into the Gaussian                            on
Q15  all Gaussians begin with features of zeros, which are not trained: the  on
     first block's learned key points are the same for all
===  ====================================================================  =====================================================

Besides: in training images are mirrored half of the time, and what is around them is not (``mirrored_images``); models do that
here, as no loader does. Farthest points are looked for one after the other in PyTorch, without a kernel of their own.

Submanifold convolution is gather, multiply and scatter in PyTorch, exact on the occupied cells, in spconv's layout of weights.
Chosen over spconv because its wheels are each of one CUDA version and one network has to run on CPUs too; torchsparse has no
wheels, and MinkowskiEngine's last release is of 2021.

At the published size with 12,800 Gaussians there are 122,984,805 parameters, of which 71,571,366 are trained: image network
45,354,366 (with 327,744 that are frozen), encoder 26,365,544, learned places 179,200. The first stage has 49,287,295, and frozen
besides are 1,798,400 of the other Gaussians' attributes and first features.
"""

from typing import TYPE_CHECKING, Any

from baselines.gaussianformer2.recipe import FIRST_STAGE, RECIPE

if TYPE_CHECKING:
    from baselines.gaussianformer2.config import SIZES, gaussianformer2_config, gaussianformer2_init_config
    from baselines.gaussianformer2.first_stage import GaussianFormer2Init
    from baselines.gaussianformer2.model import GaussianFormer2

__all__ = [
    "FIRST_STAGE",
    "RECIPE",
    "SIZES",
    "GaussianFormer2",
    "GaussianFormer2Init",
    "gaussianformer2_config",
    "gaussianformer2_init_config",
]


def __getattr__(name: str) -> Any:
    """Models and configurations at first use: they load torch and mmdet3d, which the recipes do not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.gaussianformer2' has no attribute '{name}'")
    from baselines.gaussianformer2 import config, first_stage, model

    return next(getattr(module, name) for module in (config, first_stage, model) if hasattr(module, name))
