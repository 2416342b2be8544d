"""Depth that models render in the sensor cameras, against lidar up to 40 m: both of GaussianFlowOcc's ways of measuring it."""

from experiments.metrics.registry import lidar
from experiments.spec import Column, ViewSpec

TABLE = ViewSpec(
    name="table_depth_40m",
    title="Rendered depth against lidar up to 40 m",
    columns=tuple(Column(name) for way in ("frames", "points") for name in lidar(way)),
    parts=("table_gaussianflowocc",),
)
