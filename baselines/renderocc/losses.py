"""What RenderOcc is taught by: rendered rays, and voxels if asked for.

Reproduces pmj110119/RenderOcc mmdet3d/models/nerf/nerf_head.py:259-325 and detectors/render_occ.py:80-96.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor
from torch.nn import functional as F

from baselines.interface import RaySupervision
from baselines.options import check_choice
from renderers.rays.regularisers import binary_entropy, distortion_flattened

if TYPE_CHECKING:
    from renderers.rays import RayRendering

VARIANCE_FOCUS = 0.85
DEPTH_FLOOR = 4e-6  # metres; 39e-7 and 1e-7 where it is published: a ray that meets nothing has a logarithm
TRANSMITTANCE_CLAMP = 1e-6

VoxelTeaching = Literal["none", "all", "seen"]


@dataclass(frozen=True)
class Teaching:
    """How rays, and voxels if asked for, teach. The defaults are what was published.

    depth_transform      "contracted": what is rendered is the sum of w * r * t / (r + t), t the distances along the ray and r the
                         radius of the scene, and that is compared with metres as they are; "along": the sum of w * t (quirk Q1)
    depth_target         "axis": the distance along the ray is compared with the depth along the camera's axis; "range": with
                         the distance along the ray (Q2)
    contraction          all space beyond the scene's sphere is squeezed into the grid's rim, where densities stand for it; False:
                         rays end at twice the sphere's radius, and outside the grid there is nothing (Q4, Q6)
    corner_aligned       the outermost voxels' centres lie on the faces of the grid, which is a bit too low besides; False: where
                         they are (Q5)
    flat_distortion      the distortion loss takes 1 / (number of samples of all rays) for the share of a ray that a sample has;
                         False: 1 / (number of the ray's samples) (Q7)
    normalise_semantics  rendered logits are divided by the sum of their weights before the cross entropy (Q8)
    farthest             metres; rays whose depth is larger teach nothing
    depth_weight, semantic_weight, entropy_weight, distortion_weight, lss_depth_weight
                         of the terms; at 0 a term is left out
    voxels               "none", or voxels teach too: "all" of them, or those that are "seen" by a camera alone (Q16)
    voxel_weight         of that

    Raises ValueError for what does not go together.
    """

    depth_transform: Literal["contracted", "along"] = "contracted"
    depth_target: Literal["axis", "range"] = "axis"
    contraction: bool = True
    corner_aligned: bool = True
    flat_distortion: bool = True
    normalise_semantics: bool = False
    farthest: float = 52.0
    depth_weight: float = 1.0
    semantic_weight: float = 1.0
    entropy_weight: float = 0.01
    distortion_weight: float = 0.01
    lss_depth_weight: float = 0.05
    voxels: VoxelTeaching = "none"
    voxel_weight: float = 1.0

    def __post_init__(self) -> None:
        check_choice("depth_transform", self.depth_transform, ("contracted", "along"))
        check_choice("depth_target", self.depth_target, ("axis", "range"))
        check_choice("voxels", self.voxels, ("none", "all", "seen"))
        if self.depth_transform == "contracted" and not self.contraction:
            raise ValueError("depth_transform 'contracted' needs contraction=True; take depth_transform='along'")
        if not self.renders and self.voxels == "none":
            raise ValueError("nothing teaches: give a loss on rays a weight, or let voxels teach")

    @property
    def renders(self) -> bool:
        """Whether rays teach."""
        return any((self.depth_weight, self.semantic_weight, self.entropy_weight, self.distortion_weight))


def check_splats(teaching: Teaching) -> None:
    """Raise ValueError for losses of where along a ray its samples lie, beyond their mean distance: splats have no samples."""
    if teaching.depth_transform != "along" or teaching.contraction or teaching.distortion_weight > 0:
        raise ValueError(
            "splats have no samples along a ray: teaching needs depth_transform='along', contraction=False and "
            "distortion_weight=0"
        )


def ray_losses(
    rendered: RayRendering,
    depth: Tensor,
    semantic: Tensor,
    weight: Tensor,
    class_weights: Tensor,
    radius: float,
    teaching: Teaching,
) -> dict[str, Tensor]:
    """The weighted terms of one sample's rays by name: ``loss_render_depth``, ``loss_render_semantic``, ``loss_sdf_entropy``,
    ``loss_sdf_distortion``.

    depth          [R] metres, what ``rendered.depth`` should be
    semantic       [R] int64, which of ``rendered.features`` should be the largest
    weight         [R] how much a ray counts in each mean
    class_weights  [C] of the cross entropy
    radius         of the scene in metres, the unit of the distortion loss's distances

    At least one ray is needed.
    """
    share = weight / weight.sum()
    losses = {}
    if teaching.depth_weight:
        losses["loss_render_depth"] = teaching.depth_weight * silog(rendered.depth + DEPTH_FLOOR, depth, share)
    if teaching.semantic_weight:
        logits = rendered.features
        if teaching.normalise_semantics:
            logits = logits / rendered.alpha.clamp(min=TRANSMITTANCE_CLAMP)[:, None]
        counts = weight * class_weights[semantic]
        entropy = F.cross_entropy(logits, semantic, reduction="none")
        losses["loss_render_semantic"] = teaching.semantic_weight * (counts * entropy).sum() / counts.sum()
    if teaching.entropy_weight:
        uncertainty = binary_entropy(rendered.transmittance, TRANSMITTANCE_CLAMP, share)
        losses["loss_sdf_entropy"] = teaching.entropy_weight * uncertainty
    if teaching.distortion_weight:
        distortion = distortion_flattened(rendered, radius, share, of_all_rays=teaching.flat_distortion)
        losses["loss_sdf_distortion"] = teaching.distortion_weight * distortion
    return losses


def silog(depth: Tensor, target: Tensor, share: Tensor) -> Tensor:
    """Scale-invariant logarithmic error: the root of mean(d^2) - 0.85 mean(d)^2, d the difference of the logarithms.

    depth, target  [R] positive
    share          [R] of each ray in the means, 1 together
    """
    difference = depth.log() - target.log()
    spread = (share * difference**2).sum() - VARIANCE_FOCUS * (share * difference).sum() ** 2
    return spread.clamp(min=1e-12).sqrt()  # the root of 0 has no gradient


def taught_rays(rays: RaySupervision, scene: int, farthest: float) -> Tensor:
    """Indices [r] of the rays of a sample of the batch that teach: not beyond ``farthest`` metres, and with a weight."""
    return ((rays.scene == scene) & (rays.depth <= farthest) & (rays.weight > 0)).nonzero()[:, 0]


def voxel_losses(
    density: Tensor, semantic: Tensor, labels: Tensor, counted: Tensor, empty: int, class_weights: Tensor, weight: float
) -> dict[str, Tensor]:
    """``loss_3d_geo``, the cross entropy of occupied and empty, and ``loss_3d_sem``, that of the classes of occupied voxels.

    density        [B, X, Y, Z, 2] logits of occupied and empty
    semantic       [B, X, Y, Z, C] logits of the classes but the empty one
    labels         [B, X, Y, Z] int64 class ids
    counted        [B, X, Y, Z] bool, voxels that teach
    class_weights  [C]
    """
    geometry = F.cross_entropy(density[counted], (labels[counted] == empty).long()) if counted.any() else density.sum() * 0
    occupied = counted & (labels != empty)
    classes = labels[occupied]
    if classes.numel():
        kind = F.cross_entropy(semantic[occupied], classes - (classes > empty).long(), weight=class_weights)
    else:
        kind = semantic.sum() * 0
    return {"loss_3d_geo": weight * geometry, "loss_3d_sem": weight * kind}
