"""table_tiny's sizes on a data set that is named: its cells keep their names whatever the data is."""

from dataclasses import replace

from experiments.tables.table_tiny import TABLE as TINY

_TOY = TINY.presets["toy"]

TABLE = replace(
    TINY,
    name="table_tiny_real",
    rows=(TINY.row("small"),),
    presets={"mini": replace(_TOY, data=replace(_TOY.data, source="real", toyworld={}), check_shuffled_images=False)},
)
