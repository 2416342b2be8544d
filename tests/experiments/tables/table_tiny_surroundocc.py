"""The rows of table_surroundocc at sizes that train in seconds."""

from dataclasses import replace

from experiments.tables.table_tiny import BRIEF
from experiments.tables.table_tiny import SIZES as TPVFORMER

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

_RAYS = {
    "ray_backbone": TPVFORMER["backbone"],
    "ray_neck": {"in_channels": [32, 64], "out_channels": [8, 8], "upsample_strides": [1, 2]},
    "bins": 8,
}
_GAUSSIANFORMER2 = {
    **_RAYS,
    "backbone": TPVFORMER["backbone"],
    "neck": TPVFORMER["neck"],
    "pixel_anchors": 20,
    "learned_anchors": 10,
    "layers": 1,
}


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
        Row("gaussianformer2-init", "GaussianFormer-2, first stage", model="gaussianformer2_init", options=_RAYS),
        Row(
            "gaussianformer2",
            "GaussianFormer-2",
            model="gaussianformer2",
            starts_from="gaussianformer2-init",
            options=_GAUSSIANFORMER2,
        ),
        Row(
            "gaussianformer2+gaussrender",
            "GaussianFormer-2 + GaussRender",
            model="gaussianformer2",
            gaussrender=True,
            base="gaussianformer2",
            starts_from="gaussianformer2-init",
            options=_GAUSSIANFORMER2,
        ),
    ),
    presets={"toy": replace(BRIEF, data=replace(BRIEF.data, coarsen=2))},
)
