"""What the four papers, and people about them, claim: one row is better than another by so much, and where that is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Paper = Literal["GaussRender", "RenderOcc", "GaussianOcc", "GaussianFlowOcc"]


@dataclass(frozen=True)
class Claim:
    """One difference that was printed.

    paper           whose system it is about
    says            in words, without the number
    table, row, base, metric  cells of ours that would show it; row and base are "" where no table has them
    size            row minus base in the metric's unit, as printed
    source          where it is printed; who printed it, if not the authors
    """

    paper: Paper
    says: str
    table: str
    row: str
    base: str
    metric: str
    size: float
    source: str


_README = "valeoai/GaussRender README @0714a19"
_LOGS = "valeoai/GaussRender@0714a19:out/eval, the authors' own reruns"
_NAMES = {"tpvformer": "TPVFormer", "surroundocc": "SurroundOcc", "symphonies": "Symphonies"}
_PLACES = {"table_occ3d": "Occ3D-nuScenes", "table_surroundocc": "SurroundOcc-nuScenes", "table_kitti360": "SSCBench-KITTI-360"}
_WORDS = {
    "mIoU": "mIoU of {} rises",
    "IoU": "IoU of {} rises",
    "RayIoU": "RayIoU of {} rises",
    "depth_l1": "the error of {}'s rendered depth [m] falls",
    "image_mIoU": "mIoU of {} in the cameras' images rises",
    "bev_mIoU": "mIoU of {} seen from above rises",
}


def _plugged(table: str, model: str, metric: str, size: float, source: str = _README) -> Claim:
    says = f"with GaussRender, {_WORDS[metric].format(_NAMES[model])} on {_PLACES[table]}"
    return Claim("GaussRender", says, table, f"{model}+gaussrender", model, metric, size, source)


_FLOW = "GaussianFlowOcc paper, as other papers and pages quote it"
_GOCC = "GaussianOcc paper, as other papers and pages quote it"
_GOCC_DEPTH = "third-party text of the GaussianOcc paper (arXiv:2408.11447), depth on nuScenes"


def _of_gaussianocc(says: str, row: str, base: str, size: float) -> Claim:
    row, base = f"gaussianocc{row}", f"gaussianocc{base}"
    metric = "mIoU_15_classes_all_voxels_camera_and_lidar_mask"
    return Claim("GaussianOcc", says, "table_gaussianocc", row, base, metric, size, _GOCC)


def _of_gaussianflowocc(says: str, base: str, size: float) -> Claim:
    return Claim("GaussianFlowOcc", says, "table_ablation_flow", "gaussianflowocc", base, "mIoU_15_classes", size, _FLOW)


CLAIMS = (
    _plugged("table_occ3d", "tpvformer", "mIoU", 2.65),
    _plugged("table_occ3d", "tpvformer", "mIoU", 0.41, _LOGS),
    _plugged("table_occ3d", "tpvformer", "RayIoU", 1.1),
    _plugged("table_occ3d", "surroundocc", "mIoU", 1.17),
    _plugged("table_occ3d", "surroundocc", "RayIoU", 2.0),
    _plugged("table_surroundocc", "tpvformer", "mIoU", 3.48),
    _plugged("table_surroundocc", "tpvformer", "IoU", 1.19),
    _plugged("table_surroundocc", "surroundocc", "mIoU", 0.52),
    _plugged("table_surroundocc", "surroundocc", "IoU", 1.12),
    _plugged("table_kitti360", "surroundocc", "mIoU", 0.26),
    _plugged("table_kitti360", "surroundocc", "IoU", 0.11),
    _plugged("table_kitti360", "symphonies", "mIoU", 0.29),
    _plugged("table_kitti360", "symphonies", "IoU", 0.68),
    _plugged("table_occ3d", "tpvformer", "depth_l1", -0.455, _LOGS),
    _plugged("table_occ3d", "surroundocc", "depth_l1", -0.513, _LOGS),
    _plugged("table_surroundocc", "surroundocc", "depth_l1", -0.199, _LOGS),
    _plugged("table_kitti360", "surroundocc", "depth_l1", -0.221, _LOGS),
    _plugged("table_occ3d", "tpvformer", "image_mIoU", 3.73, _LOGS),
    _plugged("table_occ3d", "surroundocc", "image_mIoU", 7.66, _LOGS),
    _plugged("table_occ3d", "tpvformer", "bev_mIoU", 0.54, _LOGS),
    _plugged("table_occ3d", "surroundocc", "bev_mIoU", 1.52, _LOGS),
    Claim(
        "RenderOcc",
        "3D labels besides rays raise its mIoU",
        "table_renderocc",
        "renderocc",
        "renderocc-2d",
        "mIoU",
        2.18,
        "RenderOcc paper text, Table I",
    ),
    Claim(
        "RenderOcc",
        "a 3D loss of the voxels in sight alone raises its mIoU",
        "table_renderocc",
        "renderocc-seen",
        "renderocc",
        "mIoU",
        4.42,
        "pmj110119/RenderOcc issue 37, a user's training",
    ),
    Claim(
        "RenderOcc",
        "Gaussian splats in place of rays raise RayIoU (GSRender's claim, with another head, other losses and more rays besides)",
        "table_renderocc",
        "renderocc-splats",
        "renderocc-rays",
        "RayIoU",
        6.0,
        "GSRender, arXiv 2412.14579",
    ),
    Claim(
        "RenderOcc",
        "weights of a detector to start from raise the mIoU of 2D labels alone",
        "table_renderocc",
        "",
        "",
        "mIoU",
        4.92,
        "pmj110119/RenderOcc issue 36",
    ),
    _of_gaussianocc(
        "splats in place of volumes raise mIoU over 15 classes, poses of sensors", "-sensors", "-volume-sensors", 0.49
    ),
    _of_gaussianocc("splats in place of volumes raise mIoU over 15 classes, learned poses", "", "-volume", 0.07),
    Claim(
        "GaussianOcc",
        "the second stage lowers Abs Rel of the first on nuScenes",
        "table_gaussianocc",
        "gaussianocc",
        "gaussianocc-gsp-timed",
        "lidar_abs_rel_cameras",
        -0.061,
        _GOCC_DEPTH,
    ),
    _of_gaussianflowocc("the temporal module raises mIoU over 15 classes", "gaussianflowocc-still", 2.90),
    _of_gaussianflowocc("both attentions among Gaussians raise it over none", "no-attention", 3.27),
    _of_gaussianflowocc("... over that to each other alone", "self-attention", 2.48),
    _of_gaussianflowocc("... over that to those of the frame before alone", "temporal-attention", 2.61),
    _of_gaussianflowocc("opacity, scale and rotation raise it over position and classes alone", "position", 7.60),
    _of_gaussianflowocc("rotation raises it over opacity and scale", "opacity+scale", 2.10),
)
"""Sizes are differences of two printed numbers, except GSRender's."""
