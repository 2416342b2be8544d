"""GaussianOcc's first stage, "Gaussian splatting for projection" (GSP): depth of images and the rig's motion, in metres, without
labels and without poses; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this package.

The authors released no code of it (GANWANSHUI/GaussianOcc, issues 10, 13, 20 and 29 describe it), so that this is a
re-implementation of what is described. What is known, and what was chosen here:

===================  =================================================  ===================================================
part                 described                                          here
===================  =================================================  ===================================================
pose network         ResNet-34 of two images, published weights         the same (``baselines.photometric.pose``); toy: from
                                                                        scratch, told which motion aligns the images
temporal loss        as in stage 2, jointly                             the same (``baselines.photometric.losses``)
depth network        U-Net: Swin encoder, New-CRFs decoder              paper: Swin-S, toy: ResNet-18; a plain U-Net decoder, as
                                                                        no library that is kept up has New-CRFs
attributes           depth, scale, rotation, opacity of each pixel      the same; activations chosen: see ``Cloud``
cross-view loss      cloud of all cameras, less a camera's own pixels   cloud of all other cameras: ``Teaching.cross_view``; its
                     of the overlap, splatted into it                   weight is not published
overlap              voxels that two cameras see, summed along rays,    distances along rays that another camera sees: the same
                     binarised, eroded                                  without a grid; ``Teaching.overlap_share``
rig                  known, as if all cameras exposed at once           the same, or with cameras where the clock and the motion
                                                                        learned, or sensors, say they were: ``Teaching.rig``
last two epochs      the pose network is fixed                          not here: everything learns to the end
===================  =================================================  ===================================================

Metres are what the rig says. In a generated scene driven at 5.6 m/s, with depth known but for its scale and cameras that expose
up to 43 ms before the key frame, the loss between cameras is least at 1.5 to 2 times the true depth with cameras as they are
mounted, and at the true depth with cameras where they were (0.137; 0.157 and 0.144 at 0.85 and 1.2 times of it). nuScenes'
cameras expose at times that are known, so that it takes no sensor to say where they were: of two cameras that stand B apart and
drive D between their exposures, learned metres s times as long as the true ones make B + s D of B + D, which is right at s = 1
alone. In generated scenes that is within 1 cm where the motion is right, and as they are mounted cameras are 12 to 26 cm off.

Turns say metres too: in them a camera moves by its distance from the axis times the angle. Where depth and shifts are both halved
the temporal loss of a trained network is 4 % higher, mean of validation frames; with all cameras on the axis it is the same at
every scale. It takes a pose network that finds turns.
"""

from typing import TYPE_CHECKING, Any

from baselines.gaussianocc_gsp.recipe import RECIPE

if TYPE_CHECKING:
    from baselines.gaussianocc_gsp.config import SIZES, gaussianocc_gsp_config
    from baselines.gaussianocc_gsp.losses import Teaching
    from baselines.gaussianocc_gsp.model import GaussianOccGSP

__all__ = ["RECIPE", "SIZES", "GaussianOccGSP", "Teaching", "gaussianocc_gsp_config"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.gaussianocc_gsp' has no attribute '{name}'")
    from baselines.gaussianocc_gsp import config, losses, model

    return next(getattr(module, name) for module in (config, losses, model) if hasattr(module, name))
