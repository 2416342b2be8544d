"""GaussianFlowOcc's row for tests, at sizes that train in seconds."""

from dataclasses import replace

from experiments.tables.table_tiny import BACKBONE, BRIEF
from experiments.tables.table_tiny import TABLE as TINY

from experiments.spec import TableSpec
from experiments.tables.table_gaussianflowocc import TABLE as GAUSSIANFLOWOCC

SIZES = {
    "backbone": BACKBONE,
    "neck": {"type": "FPN", "in_channels": [8, 16, 32], "out_channels": 16, "num_outs": 3},
    "gaussians": 100,
    "dim": 16,
    "heads": 2,
    "blocks": 1,
    "points": 2,
    "inducing": 4,
    "neighbourhood": 1,
}

TABLE = TableSpec(
    name="table_tiny_flow",
    title="Tiny, taught by pseudo labels",
    dataset="occ3d",
    columns=TINY.columns,
    rows=(replace(GAUSSIANFLOWOCC.row("gaussianflowocc"), name="flow", schedules={}, presets=("toy",), options=SIZES),),
    presets={"toy": BRIEF},
)
