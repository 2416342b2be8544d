"""An ablation of table_tiny: its base is a cell of that table."""

from dataclasses import replace

from experiments.tables.table_tiny import SIZES
from experiments.tables.table_tiny import TABLE as TINY

from experiments.spec import Column, Row, same_cell

TABLE = replace(
    TINY,
    name="table_tiny_ablation",
    columns=(*TINY.columns, Column("seconds_per_iteration", "time", digits=3, higher_is_better=False, unit="s", relative=True)),
    rows=(
        same_cell(TINY, "small", title="none"),
        Row(
            "wide",
            "Wide Gaussians, all cameras",
            model="tpvformer",
            gaussrender=True,
            base="small",
            options=SIZES,
            gaussrender_options={"scale_factor": 2.0, "camera_indices": (0, 1, 2, 3, 4, 5), "with_occupancy": False},
        ),
    ),
    brief=True,
)
