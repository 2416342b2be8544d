"""Which rays teach RenderOcc, and how: their moments, their number, how they are drawn, what their depth is compared with."""

from dataclasses import replace
from typing import Any

from experiments.spec import Row, TableSpec, same_cell
from experiments.tables.table_occ3d import TABLE as OCC3D
from experiments.tables.table_renderocc import TABLE as RENDEROCC

_BASE = OCC3D.row("renderocc-2d")
_RAYS = _BASE.recipe.rays


def _variant(name: str, title: str, teaching: dict[str, Any] | None = None, **traits: Any) -> Row:
    options = {"teaching": teaching} if teaching else {}
    return replace(_BASE, name=name, title=title, base=_BASE.name, options=options, traits=traits)


TABLE = TableSpec(
    name="table_ablation_rays",
    title="Ablation: the rays that teach RenderOcc",
    dataset=OCC3D.dataset,
    columns=RENDEROCC.columns,
    rows=(
        same_cell(OCC3D, _BASE.name, title="as published: rays of six other frames too, rare classes more"),
        _variant("frames-0", "no other frames", frames={"rays": (0,)}),
        _variant("frames-2", "two other frames", frames={"rays": (0, -1, 1)}),
        _variant("even-rays", "all rays alike", even_rays=True),
        _variant("rays-quarter", "a quarter of the rays", rays={size: count // 4 for size, count in _RAYS.items()}),
        _variant("metric-depth", "depth in metres along the ray", {"depth_transform": "along", "depth_target": "range"}),
    ),
    presets=OCC3D.presets,
    notes=(
        "Rays of a frame in a step: 38,400 as published, 4,096 in the toy preset.",
        "Other frames: earlier and later key frames of the scene, whose rays are drawn less, and not at all where they end on "
        "things that may have moved.",
        "As published, the depth that is rendered is contracted (at most 39 m), and what it is compared with is metres along the "
        "camera's axis.",
    ),
    brief=True,
)
