"""DDAD, GaussianOcc's table of depth: its first stage, on cameras that expose at once."""

from dataclasses import replace

from experiments.spec import TableSpec
from experiments.tables.gaussianocc import GAUSSIANOCC, GSP
from experiments.tables.table_gaussianocc_depth import TABLE as NUSCENES

# DDAD has no voxel labels: nothing is counted of them.
_UNLABELLED = dict(class_weights="published", class_bias="drawn", loss_in_sight=0.0, check_shuffled_images=False)

TABLE = TableSpec(
    name="table_gaussianocc_depth_ddad",
    title="GaussianOcc's depth on DDAD: metres from what several cameras see at once",
    dataset="ddad",
    columns=NUSCENES.columns,
    rows=(
        NUSCENES.row("gaussianocc-gsp"),
        NUSCENES.row("gaussianocc-gsp-temporal"),
        replace(GAUSSIANOCC, name="gaussianocc-stage2", title="GaussianOcc, second stage", starts_from=GSP.name),
    ),
    presets={name: replace(preset, **_UNLABELLED) for name, preset in NUSCENES.presets.items()},  # type: ignore[arg-type]
    notes=(
        *NUSCENES.notes,
        "GaussianOcc says no depth beyond 80 m, and is measured up to 200 m here.",
    ),
    brief=True,
)
