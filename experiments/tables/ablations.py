"""What the ablation tables share: TPVFormer on Occ3D-nuScenes, one option of GaussRender varied."""

from typing import Any

from experiments.spec import Row, same_cell
from experiments.tables.table_2d import TABLE as RENDERED
from experiments.tables.table_occ3d import TABLE as OCC3D

COLUMNS = (*OCC3D.columns, *(c for c in RENDERED.columns if c.metric in ("image_mIoU", "depth_l1", "bev_mIoU")))

BASE = same_cell(OCC3D, "tpvformer")
"""The row that an ablation starts from: nothing is rendered."""


def published(title: str) -> Row:
    """GaussRender as published, the cell of the main table, titled with what it stands for in an ablation."""
    return same_cell(OCC3D, "tpvformer+gaussrender", title=title, base="tpvformer", note="as published")


def variant(name: str, title: str, base: str | None = "tpvformer", **options: Any) -> Row:
    """GaussRender with options (fields of GaussRenderConfig) that differ from the published ones."""
    return Row(name, title, model="tpvformer", gaussrender=True, base=base, gaussrender_options=options)
