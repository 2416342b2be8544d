"""OccFormer's rows for tests, at sizes that train in seconds."""

from dataclasses import replace

from experiments.tables.table_tiny import BACKBONE, BRIEF
from experiments.tables.table_tiny import TABLE as TINY

from experiments.spec import TableSpec
from experiments.tables.table_occ3d import OCCFORMER

SIZES = {
    "backbone": BACKBONE,
    "neck": {
        "type": "mmdet3d.SECONDFPN",
        "in_channels": [8, 16, 32],
        "upsample_strides": [0.5, 1, 2],
        "out_channels": [4, 4, 8],
    },
    "depth": (2.0, 42.0, 4.0),
    "widths": (32, 32, 32, 32),
    "dim": 24,
    "queries": 20,
    "decoder_layers": 2,
    "decoder_heads": 2,
    "dropout": 0.1,
    "teaching": {"points": 200},
}

TABLE = TableSpec(
    name="table_tiny_occformer",
    title="Tiny, of queries",
    dataset="occ3d",
    columns=TINY.columns,
    rows=tuple(replace(row, schedules={}, options=SIZES) for row in (OCCFORMER, OCCFORMER.rendered())),
    presets={"toy": replace(BRIEF, schedule=TINY.presets["toy"].schedule)},
)
