"""Occ3D-nuScenes' images, GaussianOcc's table of depth: its first stage, which learns depth and motion in metres from images."""

from dataclasses import replace

from experiments.metrics.registry import lidar
from experiments.spec import Column, Row, Schedule, StepSchedule, TableSpec
from experiments.tables.table_occ3d import TABLE as OCC3D

# That of the second stage (GANWANSHUI/GaussianOcc options.py:122-144, 284-291, on eight GPUs): that of the first is not known.
_PAPER = StepSchedule(batch_size=1, lr=1e-4, weight_decay=0.0, warmup_iterations=0, lr_min=1e-5, epochs=12, drop_epoch=10)
_MINI = Schedule(batch_size=1, lr=1e-4, weight_decay=0.0, warmup_iterations=200, lr_min=1e-6, epochs=1)
# The depth network learns more slowly than the pose network: else depth runs off before there is a motion that it could fit.
_TOY = replace(OCC3D.presets["toy"].schedule, lr=2e-3, backbone_lr=0.25, weight_decay=1e-4, warmup_iterations=25, iterations=400)

GSP = Row(
    "gaussianocc-gsp",
    "GaussianOcc, first stage",
    model="gaussianocc_gsp",
    schedules={"toy": _TOY, "mini": _MINI, "paper": _PAPER},
    note="a re-implementation of what is described: no code of it was published, and its depth network is another one",
)

TABLE = TableSpec(
    name="table_gaussianocc_depth",
    title="GaussianOcc's depth on nuScenes: metres from what several cameras see at once",
    dataset=OCC3D.dataset,
    columns=(
        *(Column(name) for name in lidar("cameras")),
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
            note="nothing says how large a metre is: its depth and motion are right up to a factor at best",
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
        Row("gaussianocc-stage2", "GaussianOcc, second stage", note="quoted only here; its own table has it"),
    ),
    presets=OCC3D.presets,
    notes=(
        "Depth is measured as it is, in metres: no prediction is scaled by its median. Learned metres to true ones: the length "
        "of the vehicle's shift, between a frame and the camera frames beside it, as the pose network says it, to the true one; "
        "1 is right.",
    ),
    brief=True,
)
