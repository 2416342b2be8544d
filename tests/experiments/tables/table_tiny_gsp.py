"""GaussianOcc's stages for tests, at sizes that train in seconds."""

from dataclasses import replace

from experiments.tables.table_tiny import BACKBONE, BRIEF

from experiments.spec import TableSpec
from experiments.tables.gaussianocc import GAUSSIANOCC
from experiments.tables.table_gaussianocc_depth import TABLE as DEPTH

SIZES = {
    "backbone": {
        "type": "ResNet",
        "depth": 18,
        "base_channels": 4,
        "stem_channels": 4,
        "out_indices": (0, 1, 2, 3),
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": False,
        "style": "pytorch",
    },
    "backbone_channels": (4, 8, 16, 32),
    "decoder_channels": (4, 4, 4, 4),
    "pose": {"depth": 18, "base_channels": 4, "channels": 8},
}
SECOND_STAGE = {
    "resnet": {**BACKBONE, "base_channels": 4, "stem_channels": 4, "dilations": (1, 1, 1), "out_indices": (2,)},
    "widths": (8, 16, 8, 8),
    "channels": 6,
    "planes": 2,
    "shape": (12, 12, 4),
    "scale": 2.0,
    "pose": SIZES["pose"],
}

TABLE = TableSpec(
    name="table_tiny_gsp",
    title="Tiny, taught by cameras",
    dataset="occ3d",
    columns=DEPTH.columns,
    rows=(
        *(
            replace(row, base=None, schedules={}, presets=("toy",), options={**row.options, **SIZES})
            for row in DEPTH.rows
            if row.model == "gaussianocc_gsp"
        ),
        replace(GAUSSIANOCC, schedules={}, presets=("toy",), options=SECOND_STAGE),
    ),
    presets={
        "toy": replace(BRIEF, data=replace(BRIEF.data, toyworld={**BRIEF.data.toyworld, "val_frames": 3})),
    },
)
