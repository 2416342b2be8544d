"""Occ3D-nuScenes' images, GaussianOcc's table of depth: its first stage, which learns depth and motion in metres from images."""

from dataclasses import replace

from experiments.metrics.registry import lidar
from experiments.spec import Column, TableSpec
from experiments.tables.gaussianocc import GAUSSIANOCC, GSP, TIMED
from experiments.tables.table_occ3d import TABLE as OCC3D

# As the toy's pose network is, but for ``aligned``.
_UNTOLD = {"depth": 18, "base_channels": 16, "channels": 64, "shift": 30.0}
TABLE = TableSpec(
    name="table_gaussianocc_depth",
    title="GaussianOcc's depth on nuScenes: metres from what several cameras see at once",
    dataset=OCC3D.dataset,
    columns=(
        *(Column(name) for name in lidar("cameras")),
        Column("lidar_abs_rel_best_constant"),
        Column("motion_scale"),
        Column("motion_scale_by_frame"),
        Column("motion_direction"),
        Column("motion_rotation"),
    ),
    rows=(
        GSP,
        replace(
            GSP,
            name="gaussianocc-gsp-temporal",
            title="without the loss between cameras",
            base="gaussianocc-gsp",
            options={"teaching": {"cross_view_weight": 0.0}},
            note="how large a metre is, is said by turns alone: in them a camera moves by as many metres as it is mounted off "
            "the axis, times the angle",
        ),
        replace(
            GSP,
            name="gaussianocc-gsp-unaligned",
            title="nor told which motion aligns the images",
            base="gaussianocc-gsp-temporal",
            presets=("toy",),
            options={"teaching": {"cross_view_weight": 0.0}, "pose": _UNTOLD},
            note="without the loss between cameras either. Its pose network finds no turns, so that nothing says how large a "
            "metre is: depth and motion are right up to a factor at best",
        ),
        replace(
            GSP,
            name="gaussianocc-gsp-unaligned-cross-view",
            title="the loss between cameras, not told which motion aligns the images",
            base="gaussianocc-gsp-unaligned",
            presets=("toy",),
            options={"pose": _UNTOLD},
        ),
        replace(
            GSP,
            name="gaussianocc-gsp-compensated",
            title="with cameras where they were, by sensors",
            base="gaussianocc-gsp",
            options={"teaching": {"rig": "compensated"}},
            note="a row of this project: nuScenes' cameras do not expose at once, and it takes the poses of sensors to say where "
            "each of them was",
        ),
        TIMED,
        replace(
            GAUSSIANOCC,
            name="gaussianocc-stage2",
            title="GaussianOcc, second stage",
            cell_of=dict.fromkeys(OCC3D.presets, ("table_gaussianocc", GAUSSIANOCC.name)),
        ),
    ),
    presets=OCC3D.presets,
    notes=(
        "Depth is measured as it is, in metres: no prediction is scaled by its median. Learned metres to true ones: the length "
        "of the vehicle's shift, between a frame and the camera frames beside it, as the pose network says it, to the true one; "
        "1 is right.",
    ),
    brief=True,
)
