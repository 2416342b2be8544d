"""A view of the tests' tables."""

from experiments.spec import Column, ViewSpec

TABLE = ViewSpec(
    name="table_tiny_2d",
    title="Tiny, rendered views",
    columns=(Column("image_mIoU", "image mIoU"), Column("depth_l1", "depth L1", digits=3, higher_is_better=False, unit="m")),
    parts=("table_tiny", "table_tiny_surroundocc"),
)
