"""GaussianOcc's second stage; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this
package. The first stage is ``baselines.gaussianocc_gsp``.

What GANWANSHUI/GaussianOcc does otherwise than one would expect, and what becomes of it here. On
means: as published unless the option says otherwise.

=====  ==================================================================  ================================================
Q1     the first stage was not released                                     written anew: a row starts from its row's cell
Q2     splats are squashed: the horizontal field of view is given twice     on, ``legacy_fov_y``, of the renderers too
Q3     pixels without a class teach that there is free space                on, ``Teaching.unlabelled``
Q4     depth is cut at 80 m wherever it is measured                         on, ``Teaching.farthest``
Q5     depth is not divided by alpha                                        on, ``Teaching.normalise_depth``
Q6     RayIoU is only measured by a run that does nothing else              gone: every evaluation measures it
Q7     voxels count where a lidar saw besides, over 15 classes              the metric's: the cameras' mask, 15 and 17 classes
Q8     IoU is a mean over processes                                         mended: processes add up their counts
Q9     an evaluation reads what an earlier one left                         none here
Q10    features are looked up stretched by w / (w - 1)                      on, ``published_lift``
Q11    a batch is one sample of six cameras                                 mended: any batch, any cameras
Q12    a default argument keeps what was written into it                    none here
Q13    anomaly detection is on                                              none here
Q14    a constant of DDAD                                                   none here
Q15    the pose network goes on counting what it normalises by              on, ``drifting_poses``
Q16    every image has colours distorted in its own way                     off: colours are not distorted
Q17    classes without a prompt have no weight                              on, ``class_weights``
Q18    the image network is made on a GPU                                   mended
=====  ==================================================================  ================================================

Besides: the background is zeros, of which the published kernel reads 15 of 18 past the end of its memory. Cameras that took their
images at other moments than the lidar are where they were then; there, where they are mounted. Half spaces of cameras follow from
where they look, not from their numbers. As volumes, semantics are those of all samples, not of means of four
(``semantic_sample_ratio``), and what is skipped has no class there. No pixel with a class gives a loss of 0, not NaN. Learned
poses are those that upstream's ``gt_pose = yes`` asks for. Of its other branches, training on Occ3D's labels (``render_type gt``)
and on depth (``self_supervise``), flow and auxiliary frames, none is here.

At the published size the four files hold 38,758,528 (encoder), 2,123,372 (depth), 21,294,080 (pose_encoder, less its classifier)
and 2,008,984 (pose) parameters.
"""

from typing import TYPE_CHECKING, Any

from baselines.gaussianocc.recipe import RECIPE, SENSOR_POSES

if TYPE_CHECKING:
    from baselines.gaussianocc.config import SIZES, gaussianocc_config
    from baselines.gaussianocc.losses import Teaching
    from baselines.gaussianocc.model import GaussianOcc

__all__ = ["RECIPE", "SENSOR_POSES", "SIZES", "GaussianOcc", "Teaching", "gaussianocc_config"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.gaussianocc' has no attribute '{name}'")
    from baselines.gaussianocc import config, losses, model

    return next(getattr(module, name) for module in (config, losses, model) if hasattr(module, name))
