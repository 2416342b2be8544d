"""The rows of table_surroundocc at sizes that train in seconds."""

from dataclasses import replace

from experiments.tables.table_tiny import SIZES as TPVFORMER
from experiments.tables.table_tiny import TABLE as TINY

from experiments.spec import Column, Row, TableSpec

_SURROUNDOCC = {
    **{key: TPVFORMER[key] for key in ("backbone", "neck", "dropout", "heads")},
    "dims": (8, 16),
    "layers": (1, 1),
    "points": (2, 2),
    "feedforward": (8, 16),
    "widths": (16, 8, 8),
    "groups": 4,
}

_TOY = TINY.presets["toy"]

TABLE = TableSpec(
    name="table_tiny_surroundocc",
    title="Tiny, in the SurroundOcc layout",
    dataset="surroundocc",
    columns=(Column("IoU", "IoU"), Column("mIoU", "mIoU")),
    rows=(
        Row("prior", "Prior", model="prior"),
        Row("tpvformer", "TPVFormer", model="tpvformer", options=TPVFORMER),
        Row("surroundocc", "SurroundOcc", model="surroundocc", options=_SURROUNDOCC),
        Row(
            "surroundocc+gaussrender",
            "SurroundOcc + GaussRender",
            model="surroundocc",
            gaussrender=True,
            base="surroundocc",
            options=_SURROUNDOCC,
        ),
    ),
    presets={"toy": replace(_TOY, data=replace(_TOY.data, coarsen=2), schedule=replace(_TOY.schedule, iterations=2))},
)
