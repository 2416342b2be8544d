"""Where a Gaussian's opacity comes from: TPVFormer with GaussRender on Occ3D-nuScenes."""

from experiments.spec import TableSpec
from experiments.tables.ablations import BASE, COLUMNS, PRESETS, published, variant
from experiments.tables.table_occ3d import TABLE as OCC3D

TABLE = TableSpec(
    name="table_ablation_opacity",
    title="Ablation: opacity of the Gaussians",
    dataset=OCC3D.dataset,
    columns=COLUMNS,
    rows=(
        BASE,
        published("learned: decoded from the voxel's features"),
        variant("opacity-fixed", "fixed: 0 where the predicted class is empty, else 1", overwrite_opacity=True),
        variant("opacity-transferred", "from the probability of empty space", transfer_opacity=True),
    ),
    presets=PRESETS,
    brief=True,
)
