"""Rows that GaussianOcc's tables share: its two stages, and how each is trained."""

from dataclasses import replace

from experiments.metrics.registry import lidar
from experiments.spec import Row, Schedule, StepSchedule
from experiments.tables.table_occ3d import TABLE as OCC3D

_FIRST_STEPS = OCC3D.presets["toy"].schedule
# configs/nusc-sem-gs.txt and options.py (122-144, 284-291) of GANWANSHUI/GaussianOcc, on eight GPUs there: the 3D network of the
# second stage learns ten times as fast as the image network, whose rate this is. How the first was trained is not known.
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
# One frame a step is too noisy for depth: four frames, and the image network at a third of the rate of the rest, reach in 500
# steps what 1450 steps of one frame do not.
_TOY = replace(_FIRST_STEPS, batch_size=4, lr=1e-3, backbone_lr=3.0, warmup_iterations=25, iterations=700)

GSP = Row(
    "gaussianocc-gsp",
    "GaussianOcc, first stage",
    model="gaussianocc_gsp",
    schedules={
        # The depth network learns more slowly than the pose network: else depth runs off before there is a motion that it could
        # fit.
        "toy": replace(_FIRST_STEPS, lr=2e-3, backbone_lr=0.25, weight_decay=1e-4, warmup_iterations=25, iterations=400),
        "mini": Schedule(batch_size=1, lr=1e-4, weight_decay=0.0, warmup_iterations=200, lr_min=1e-6, epochs=1),
        "paper": replace(_PAPER, backbone_lr=1.0, amp=False),
    },
    note="a re-implementation of what is described: no code of it was published, and its depth network is another one",
)
TIMED = replace(
    GSP,
    name="gaussianocc-gsp-timed",
    title="first stage with cameras where they were, by the clock and the motion it learns",
    options={"teaching": {"rig": "timed"}},
    # Where cameras were is said by metres that are being learned, so that these take longer to settle.
    schedules={**GSP.schedules, "toy": replace(GSP.schedules["toy"], iterations=800)},
    note="a row of this project: nuScenes' cameras do not expose at once, but at times that are known, and second stages start "
    "from it; at toy size it takes twice the steps of the others",
)
GAUSSIANOCC = Row(
    "gaussianocc",
    "GaussianOcc: splats, learned poses",
    model="gaussianocc",
    starts_from=TIMED.name,
    schedules={"toy": _TOY, "mini": _MINI, "paper": _PAPER},
    metrics=(*lidar("cameras"), "lidar_abs_rel_best_constant"),
)
