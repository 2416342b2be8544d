"""SurroundOcc-nuScenes: dense labels in the lidar frame, no visibility mask; the second table of GaussRender."""

from experiments.spec import Column, Row, TableSpec
from experiments.tables.table_occ3d import SURROUNDOCC_NOTE
from experiments.tables.table_occ3d import TABLE as OCC3D

TABLE = TableSpec(
    name="table_surroundocc",
    title="SurroundOcc-nuScenes: semantic occupancy with rendering supervision",
    dataset="surroundocc",
    columns=(
        Column("IoU", "IoU"),
        Column("mIoU", "mIoU"),
    ),
    rows=(
        Row("prior", "Per-voxel prior", model="prior", presets=("toy",), note="each voxel's most frequent training label"),
        Row("tpvformer", "TPVFormer", model="tpvformer"),
        Row("tpvformer+gaussrender", "TPVFormer + GaussRender", model="tpvformer", gaussrender=True, base="tpvformer"),
        Row("surroundocc", "SurroundOcc", model="surroundocc", note=SURROUNDOCC_NOTE),
        Row("surroundocc+gaussrender", "SurroundOcc + GaussRender", model="surroundocc", gaussrender=True, base="surroundocc"),
        Row("occformer", "OccFormer", note="quoted only"),
        Row("gaussianformer2", "GaussianFormer-2", note="quoted only"),
    ),
    presets=OCC3D.presets,  # sizes and schedules are the same on both data sets
)
