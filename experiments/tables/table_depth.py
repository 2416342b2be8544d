"""Depth that models render in the sensor cameras, against lidar: GaussianOcc's way of measuring it."""

from experiments.metrics.registry import lidar
from experiments.spec import Column, ViewSpec

TABLE = ViewSpec(
    name="table_depth",
    title="Rendered depth against lidar",
    columns=tuple(Column(name) for name in lidar("cameras")),
    parts=("table_gaussianflowocc", "table_gaussianocc"),
)
