"""What makes GaussianFlowOcc: its way through time, attention, what its Gaussians are and how far they reach, the moments."""

from dataclasses import replace
from typing import Any

from baselines.gaussianflowocc.config import ATTRIBUTES, OPERATIONS
from baselines.recipe import VIEWS
from experiments.spec import Column, PresetName, Row, TableSpec, same_cell
from experiments.tables.table_gaussianflowocc import TABLE as GAUSSIANFLOWOCC

_BASE = GAUSSIANFLOWOCC.row("gaussianflowocc")
_REAL: tuple[PresetName, ...] = ("mini", "paper")


def _variant(name: str, title: str, presets: tuple[PresetName, ...] = _BASE.presets, traits: Any = None, **options: Any) -> Row:
    return replace(_BASE, name=name, title=title, base=_BASE.name, presets=presets, options=options, traits=traits or {})


def _without(name: str, title: str, *operations: str) -> Row:
    """Blocks of the decoder without some operations; without attention to the frame before, no frame before is read."""
    traits = {"taught_by": ("views",)} if "temporal_att" in operations else {}
    return _variant(name, title, traits=traits, operations=tuple(one for one in OPERATIONS if one not in operations))


def _with(name: str, title: str, *attributes: str) -> Row:
    return _variant(name, title, attributes=tuple(one for one in ATTRIBUTES if one in attributes))


def _horizon(frames: int) -> Row:
    """Moments up to so many key frames away teach; as many of them are drawn as ever, if there are as many."""
    moments = (*range(-frames, 0), *range(1, frames + 1), 0)
    traits = {"frames": {"views": moments}, "views": {"paper": min(VIEWS, 2 * frames)}}
    title = f"moments up to {frames} key frame{'s' * (frames > 1)} away"
    return _variant(f"horizon-{frames}", title, traits=traits, horizon=frames)


TABLE = TableSpec(
    name="table_ablation_flow",
    title="Ablation: what makes GaussianFlowOcc",
    dataset=GAUSSIANFLOWOCC.dataset,
    columns=(
        Column("mIoU_15_classes"),
        Column("mIoU_moving_classes"),
        Column("IoU_15_classes"),
        Column("RayIoU_15_classes"),
        Column("lidar_abs_rel_cameras"),
    ),
    rows=(
        same_cell(GAUSSIANFLOWOCC, _BASE.name, title="as published"),
        same_cell(GAUSSIANFLOWOCC, "gaussianflowocc-still", title="nothing moves between moments", base=_BASE.name),
        _variant("own-moment", "no other moments teach", traits={"frames": {"views": (0,)}}),
        _without("no-attention", "no attention of Gaussians to each other or to those before", "temporal_att", "self_att"),
        _without("self-attention", "attention to each other alone", "temporal_att"),
        _without("temporal-attention", "attention to those of the frame before alone", "self_att"),
        _without("no-rectifier", "means stay where they start", "rect"),
        _with("position", "position and classes alone: opaque, 0.3 m, not rotated"),
        _with("opacity", "+ opacity", "opacity"),
        _with("opacity+scale", "+ scale", "opacity", "scale"),
        _variant("neighbourhood-1", "Gaussians reach 1 voxel", ("toy",), neighbourhood=1),
        _variant("neighbourhood-3", "Gaussians reach 3 voxels", neighbourhood=3),
        _variant("neighbourhood-5", "Gaussians reach 5 voxels", _REAL, neighbourhood=5),
        _horizon(1),
        _horizon(3),
        _horizon(8),
    ),
    presets=GAUSSIANFLOWOCC.presets,
    notes=(
        "All rows of attention look at the images. Attributes come with those above them: what is published has rotation too.",
        "Gaussians reach 4 voxels of 0.4 m as published, 2 of 0.8 m in the toy preset: besides the one that their mean is in, "
        "along each axis. That is of voxels alone, and changes nothing in a training on images.",
        "Moments are key frames to either side of the own one, up to 6 as published, of which 6 are drawn (2 in the toy preset).",
        "Classes that move: bicycle, bus, car, construction vehicle, motorcycle, pedestrian, trailer, truck.",
    ),
    brief=True,
)
