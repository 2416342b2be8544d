"""How many cameras are rendered in a training step: TPVFormer with GaussRender on Occ3D-nuScenes."""

from experiments.spec import TableSpec
from experiments.tables.ablations import BASE, COLUMNS, PRESETS, published, variant
from experiments.tables.table_occ3d import TABLE as OCC3D

TABLE = TableSpec(
    name="table_ablation_views",
    title="Ablation: cameras rendered in a step, besides the view from above",
    dataset=OCC3D.dataset,
    columns=COLUMNS,
    rows=(
        BASE,
        published("1 drawn camera"),
        variant("views-2", "2 drawn cameras", num_cameras=2),
        variant("views-3", "3 drawn cameras", num_cameras=3),
        variant("views-6", "all 6 cameras", camera_indices=(0, 1, 2, 3, 4, 5)),
    ),
    presets=PRESETS,
    notes=("Cameras are drawn with the published weights, with replacement; losses are means over the cameras.",),
    brief=True,
)
