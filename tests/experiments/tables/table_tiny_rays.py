"""RenderOcc's rows for tests, at sizes that train in seconds."""

from dataclasses import replace

from experiments.tables.table_tiny import BACKBONE, BRIEF
from experiments.tables.table_tiny import TABLE as TINY

from experiments.spec import TableSpec
from experiments.tables.table_renderocc import TABLE as RENDEROCC

SIZES = {
    "backbone": BACKBONE | {"type": "StereoResNet"},
    "depth": (1.0, 41.0, 4.0),
    "aspp": 4,
    "channels": 8,
}
OWN = {
    "renderocc": {"image_channels": (16 + 32, 16), "splat_size": (48, 27)},
    "bevdetocc": {"neck": {"type": "FinestFPN", "in_channels": (16, 32), "out_channels": 16}},
}

TABLE = TableSpec(
    name="table_tiny_rays",
    title="Tiny, taught by rays",
    dataset="occ3d",
    columns=TINY.columns,
    rows=tuple(
        replace(row, cell_of={}, base=None, schedules={}, presets=("toy",), options={**row.options, **SIZES, **OWN[row.model]})
        for row in RENDEROCC.rows
        if row.trained
    ),
    presets={"toy": BRIEF},
)
