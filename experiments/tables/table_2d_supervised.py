"""Occ3D-nuScenes: all systems that no 3D label teaches, on one scale."""

from experiments.spec import Row, TableSpec, same_cell
from experiments.tables.table_gaussianflowocc import TABLE as GAUSSIANFLOWOCC
from experiments.tables.table_gaussianocc import TABLE as GAUSSIANOCC
from experiments.tables.table_occ3d import TABLE as OCC3D

TABLE = TableSpec(
    name="table_2d_supervised",
    title="Occ3D-nuScenes without 3D labels: taught by images, pseudo labels or lidar points in images",
    dataset=OCC3D.dataset,
    columns=GAUSSIANFLOWOCC.columns,
    rows=(
        Row("selfocc", "SelfOcc", note="quoted only"),
        Row("occnerf", "OccNeRF", note="quoted only"),
        same_cell(GAUSSIANOCC, "gaussianocc", title="GaussianOcc"),
        same_cell(GAUSSIANFLOWOCC, "gaussianflowocc", title="GaussianFlowOcc"),
        Row("gausstr", "GaussTR", note="quoted only"),
        Row("queryocc", "QueryOcc, cameras alone", note="quoted only; queries of points in space and time, no rendering"),
        Row("queryocc-lidar", "QueryOcc, lidar sweeps", note="quoted only"),
        same_cell(OCC3D, "renderocc-2d", title="RenderOcc, 2D: lidar points with classes in images"),
    ),
    presets=OCC3D.presets,
    notes=(
        "Voxels of the cameras' mask count, over 15 classes those whose true class is neither 'others' nor 'other_flat', for "
        "which models of images have no prompt. GaussianOcc evaluates where lidar saw besides. RayIoU knows no mask.",
        "GaussianFlowOcc's 16.47 and 18.67 RayIoU are of one model, over 17 and over 15 classes.",
    ),
)
