"""RenderOcc; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this package.

What pmj110119/RenderOcc does otherwise than one would expect, and what becomes of it here. On
means: as published unless the option says otherwise.

=====  ==================================================================  ================================================
Q1     the depth that is compared with metres is contracted                 on, ``Teaching.depth_transform``
Q2     depth along the ray is compared with depth along the axis            on, ``Teaching.depth_target``
Q3     a voxel is occupied from an opacity of 0.002 on                      on, ``threshold``
Q4     opacity counts samples, whatever their distance                      on, constant without ``Teaching.contraction``
Q5     outermost voxels lie on the grid's faces, the grid is too low        on, ``Teaching.corner_aligned``
Q6     the grid's corners are only reached through its rim                  on, ``Teaching.contraction``
Q7     the distortion loss has next to no term within samples               on, ``Teaching.flat_distortion``
Q8     rendered logits are not divided by their weights' sum                on, ``Teaching.normalise_semantics``
Q9     which classes move                                                   the reader's, which draws the rays
Q10    frames beyond a scene's ends repeat the key frame                    the reader's
Q11    rays start from each camera's own vehicle pose                       the reader's: rays are in the labels' frame
Q12    where depth files lie                                                the reader's
Q13    voxels up to one short of the grid count in the first                on, ``published_rounding``
Q14    points behind other things are rays too                              the reader's
Q15    a misspelt attribute of its test command                             none here
Q16    the loss on voxels takes those that no camera sees                   off, and so is that loss: ``Teaching.voxels``
Q17    images enter as blue, green, red                                     on, ``swapped_channels``
Q18    an import of turtle                                                  none here
=====  ==================================================================  ================================================
"""

from typing import TYPE_CHECKING, Any

from baselines.renderocc.recipe import MENDED, RECIPE

if TYPE_CHECKING:
    from baselines.renderocc.config import SIZES, renderocc_config
    from baselines.renderocc.losses import Teaching
    from baselines.renderocc.model import RenderOcc

__all__ = ["MENDED", "RECIPE", "SIZES", "RenderOcc", "Teaching", "renderocc_config"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.renderocc' has no attribute '{name}'")
    from baselines.renderocc import config, losses, model

    return next(getattr(module, name) for module in (config, losses, model) if hasattr(module, name))
