"""Occ3D-nuScenes, RenderOcc's table: what rays teach, what voxels teach, and both."""

from dataclasses import replace
from typing import Any

from baselines.renderocc.recipe import MENDED
from experiments.spec import Column, Row, TableSpec, same_cell
from experiments.tables.table_occ3d import RENDEROCC
from experiments.tables.table_occ3d import TABLE as OCC3D

# Voxels alone: no ray is read, and none is rendered. Nothing makes densities reach the threshold then; voxels are occupied where
# that is likelier than that they are not.
_NO_RAYS: dict[str, Any] = dict(depth_weight=0.0, semantic_weight=0.0, entropy_weight=0.0, distortion_weight=0.0)


def _row(name: str, title: str, base: str, **teaching: Any) -> Row:
    taught_by = ("depth",) if _NO_RAYS.items() <= teaching.items() else ("rays", "depth")
    traits = {"taught_by": taught_by, "renderer": "none"} if taught_by != ("rays", "depth") else {}
    options = {"teaching": teaching} | ({"threshold": None} if traits else {})
    return replace(RENDEROCC, name=name, title=title, note="", base=base, options=options, traits=traits)


# Two rows of our own, with the same network, labels, pixels and losses. What only samples along a ray can give is left out of
# both: the contraction of depth and space, the distortion loss. So are rays of other frames, which take a splatter an image each.
_OWN = replace(
    RENDEROCC,
    name="renderocc-rays",
    title="2D: rays of the key frame, in metres",
    base="renderocc-2d",
    options={"teaching": {**MENDED, "distortion_weight": 0.0}},
    traits={"frames": {"rays": (0,)}},
    note="a row of this project: no other frames, no distortion loss, and every oddity of the published rendering mended",
)
# Of another system, with the same parts: what GaussRender brings to a lift-splat network. The published training is on 32 frames
# a step (configs/bevdet_occ/bevdet-occ-r50-4d-stereo-24e.py).
_BEVDET = Row(
    "bevdetocc",
    "BEVDet-Occ, 3D: the voxels in sight",
    model="bevdetocc",
    note="BEVDet's own occupancy model, in its ResNet-50 version",
    schedules={
        preset: replace(schedule, batch_size=4, epochs=24 if preset == "paper" else 1) if preset != "toy" else schedule
        for preset, schedule in RENDEROCC.schedules.items()
    },
)

TABLE = TableSpec(
    name="table_renderocc",
    title="RenderOcc on Occ3D-nuScenes: taught by rays, by voxels, by both",
    dataset=OCC3D.dataset,
    columns=(
        *OCC3D.columns,
        Column("depth_l1", "depth L1", digits=3, higher_is_better=False, unit="m"),
    ),
    rows=(
        same_cell(OCC3D, "renderocc-2d", title="2D: rays alone"),
        same_cell(OCC3D, "renderocc", title="2D + 3D: rays and all voxels", base="renderocc-2d"),
        _row("renderocc-seen", "2D + 3D: rays and the voxels in sight", "renderocc", voxels="seen"),
        _row("renderocc-3d", "3D: all voxels", "renderocc", voxels="all", **_NO_RAYS),
        _row("renderocc-3d-seen", "3D: the voxels in sight", "renderocc-3d", voxels="seen", **_NO_RAYS),
        _OWN,
        replace(
            _OWN,
            name="renderocc-splats",
            title="2D: the same rays, through Gaussian splats",
            base="renderocc-rays",
            options={**_OWN.options, "splats": True},
            traits={**_OWN.traits, "renderer": "gaussians"},
            note="a row of this project, as the one before it",
        ),
        _BEVDET,
        replace(_BEVDET.rendered("a row of this project"), title="BEVDet-Occ + GaussRender"),
    ),
    presets=OCC3D.presets,
    notes=(
        "In sight: within Occ3D's mask of the cameras, on which is evaluated. The published training on voxels reads that mask "
        "and does not apply it.",
        "GSRender (arXiv:2412.14579) reports 6.0 RayIoU more than RenderOcc from Gaussians in place of rays; another head, other "
        "losses and rays compensated from other frames come with them, so that it does not say what the renderer alone brings.",
    ),
)
