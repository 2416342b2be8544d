"""Two tables: the baseline on its own data set, and on Occ3D's generated world."""

from dataclasses import replace

from experiments.spec import Column, DataPreset, Preset, Row, Schedule, TableSpec

_TOY = Preset(
    data=DataPreset(source="toyworld", image_size=(48, 32), toyworld={"count": 1}),
    model_size="toy",
    schedule=Schedule(batch_size=1, lr=1e-2, weight_decay=0.0, warmup_iterations=1, lr_min=1e-4, iterations=3),
    gaussrender={"bev_reduction": 16},
    class_weights="counted",
)

YARD = TableSpec(
    name="table_yard",
    title="Columns in the yard",
    dataset="yard",
    columns=(Column("mIoU"), Column("precision")),
    rows=(
        Row("prior", "Prior", model="prior"),
        Row("columns", "Columns", model="columns"),
        Row("columns+gaussrender", "Columns + GaussRender", model="columns", gaussrender=True, base="columns"),
        Row("second", "Columns, second stage", model="columns", base="columns", starts_from="columns"),
    ),
    presets={"toy": _TOY},
)
_WORLD = {"train_scenes": 1, "train_frames": 3, "val_scenes": 2, "val_frames": 1, "image_width": 192}
_OCC3D = DataPreset(source="toyworld", image_size=(96, 48), coarsen=4, label_camera_width=64, toyworld=_WORLD)
OCC3D = TableSpec(
    name="table_columns",
    title="Columns on Occ3D",
    dataset="occ3d",
    columns=(Column("mIoU"), Column("precision")),
    rows=(Row("columns", "Columns", model="columns"),),
    presets={"toy": replace(_TOY, data=_OCC3D)},
)
