"""How large a voxel's Gaussian is: TPVFormer with GaussRender on Occ3D-nuScenes."""

from experiments.spec import TableSpec
from experiments.tables.ablations import BASE, COLUMNS, PRESETS, published, variant
from experiments.tables.table_occ3d import TABLE as OCC3D

_PUBLISHED = 0.27  # metres, for voxels of 0.4 m (``experiments.datasets.dataset_occ3d``)


def _title(factor: float) -> str:
    return f"{factor:g} x ({factor * _PUBLISHED:.3g} m for voxels of 0.4 m)"


TABLE = TableSpec(
    name="table_ablation_scale",
    title="Ablation: size of the Gaussians, as a multiple of the published one",
    dataset=OCC3D.dataset,
    columns=COLUMNS,
    rows=(
        BASE,
        *(variant(f"scale-{factor:g}", _title(factor), scale_factor=factor) for factor in (0.25, 0.5)),
        published(_title(1)),
        *(variant(f"scale-{factor:g}", _title(factor), scale_factor=factor) for factor in (1.5, 2.0)),
    ),
    presets=PRESETS,
    notes=("The size is that of prediction and labels in training; on a coarser grid it keeps its ratio to the voxel edge.",),
    brief=True,
)
