"""What the ablation tables share: TPVFormer on Occ3D-nuScenes, one option of GaussRender varied."""

from dataclasses import replace
from typing import Any

from experiments.spec import Row, same_cell
from experiments.tables.table_2d import TABLE as RENDERED
from experiments.tables.table_occ3d import TABLE as OCC3D

COLUMNS = (*OCC3D.columns, *(c for c in RENDERED.columns if c.metric in ("image_mIoU", "depth_l1", "bev_mIoU")))

_TOY = OCC3D.presets["toy"]
# Half of the main table's iterations: with six cameras rendered in each, a cell stays below six minutes on two cores.
PRESETS = {**OCC3D.presets, "toy": replace(_TOY, schedule=replace(_TOY.schedule, iterations=300))}

_TOY_OWNER = "table_ablation_losses"


def _shared(row: str, **shown: Any) -> Row:
    """The main table's cell; in the toy preset, whose schedule is shorter here, a cell that all ablations have in common."""
    main = same_cell(OCC3D, row, **shown)
    return replace(main, cell_of={**main.cell_of, "toy": (_TOY_OWNER, row)})


BASE = _shared("tpvformer")
"""The row that an ablation starts from: nothing is rendered."""


def published(title: str) -> Row:
    """GaussRender as published, titled with what it stands for in an ablation."""
    return _shared("tpvformer+gaussrender", title=title, base="tpvformer", note="as published")


def variant(name: str, title: str, base: str | None = "tpvformer", **options: Any) -> Row:
    """GaussRender with options (fields of GaussRenderConfig) that differ from the published ones."""
    return Row(name, title, model="tpvformer", gaussrender=True, base=base, gaussrender_options=options)
