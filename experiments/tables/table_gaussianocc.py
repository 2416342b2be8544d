"""Occ3D-nuScenes, GaussianOcc's table: splats or volumes, learned poses or sensors', and the size of splats."""

from dataclasses import replace
from typing import Any

from baselines.gaussianocc.recipe import SENSOR_POSES
from experiments.spec import HeldSchedule, Row, Schedule, StepSchedule, TableSpec
from experiments.tables.table_gaussianflowocc import TABLE as GAUSSIANFLOWOCC
from experiments.tables.table_occ3d import TABLE as OCC3D

# configs/nusc-sem-gs.txt and options.py of GANWANSHUI/GaussianOcc, on eight GPUs there: the 3D network learns ten times as fast
# as the image network, whose rate this is.
_PAPER = StepSchedule(
    batch_size=1,
    lr=1e-4,
    weight_decay=0.0,
    warmup_iterations=0,
    lr_min=1e-5,
    epochs=12,
    drop_epoch=10,
    backbone_lr=10.0,
    amp=True,
)
_MINI = Schedule(
    batch_size=1, lr=1e-4, weight_decay=0.0, warmup_iterations=100, lr_min=1e-5, epochs=1, backbone_lr=10.0, amp=True
)
_TOY = replace(OCC3D.presets["toy"].schedule, lr=2e-3, iterations=300)

# The first stage: nothing is told of it but that it learns for twelve epochs, and its poses no more in the last two.
_STAGE_1 = HeldSchedule(
    batch_size=1, lr=1e-4, weight_decay=0.0, warmup_iterations=500, lr_min=1e-5, epochs=12, held_epochs=10, amp=True
)  # fmt: skip
GSP = Row(
    "gaussianocc-gsp",
    "first stage: how the vehicle moved",
    model="gaussianocc_gsp",
    schedules={"toy": replace(_TOY, lr=1e-3), "mini": replace(_MINI, backbone_lr=1.0), "paper": _STAGE_1},
    note="it predicts no voxels: its row is empty but for those that start from it",
)
GAUSSIANOCC = Row(
    "gaussianocc",
    "GaussianOcc: splats, learned poses",
    model="gaussianocc",
    starts_from=GSP.name,
    schedules={"toy": _TOY, "mini": _MINI, "paper": _PAPER},
)


def _row(name: str, title: str, base: Row | None = None, traits: dict[str, Any] | None = None, **options: Any) -> Row:
    base = base or GAUSSIANOCC
    changes = {**base.options, **options}
    starts_from = None if changes.get("poses") == "sensors" else GSP.name
    own = {**base.traits, **(traits or {})}
    return replace(base, name=name, title=title, base=base.name, options=changes, traits=own, starts_from=starts_from, note="")


_VOLUME = _row("gaussianocc-volume", "as a volume, learned poses", traits={"renderer": "rays"}, volume="prob")
TABLE = TableSpec(
    name="table_gaussianocc",
    title="GaussianOcc on Occ3D-nuScenes: taught by the images before and after, and by pseudo labels",
    dataset=OCC3D.dataset,
    columns=GAUSSIANFLOWOCC.columns,
    rows=(
        GAUSSIANOCC,
        _row("gaussianocc-sensors", "splats, poses of sensors", **SENSOR_POSES),
        _VOLUME,
        _row("gaussianocc-volume-sensors", "as a volume, poses of sensors", _VOLUME, **SENSOR_POSES),
        replace(
            _row("gaussianocc-density", "as a volume of density, learned poses", _VOLUME, volume="density"),
            note="the published density is the logit of free space as it is, so that what is free stops rays",
        ),
        _row("gaussianocc-quarter", "splats of a quarter of the size", scale_factor=0.25),
        _row("gaussianocc-half", "splats of half the size", scale_factor=0.5),
        _row("gaussianocc-round", "splats with the right vertical field of view", legacy_fov_y=False),
        _row("gaussianocc-unlabelled", "pixels without a class teach nothing", teaching={"unlabelled": "ignored"}),
        GSP,
    ),
    presets=OCC3D.presets,
    notes=(
        "Over 15 classes: voxels of the cameras' mask whose true class is neither 'others' nor 'other_flat'. GaussianOcc "
        "evaluates where lidar saw besides.",
        "The paper's ablations of splats and volumes are over 15 classes.",
    ),
)
