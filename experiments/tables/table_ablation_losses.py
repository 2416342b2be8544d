"""Which rendered losses help: one after the other on top of TPVFormer's own, on Occ3D-nuScenes."""

from experiments.spec import TableSpec
from experiments.tables.ablations import BASE, COLUMNS, PRESETS, published, variant
from experiments.tables.table_occ3d import TABLE as OCC3D

TABLE = TableSpec(
    name="table_ablation_losses",
    title="Ablation: rendered losses, one after the other",
    dataset=OCC3D.dataset,
    columns=COLUMNS,
    rows=(
        BASE,
        variant("camera", "camera semantics", with_depth=False, with_bev=False, with_bev_depth=False),
        variant("camera+depth", "+ camera depth", with_bev=False, with_bev_depth=False),
        variant("camera+depth+bev", "+ BEV semantics", with_bev_depth=False),
        published("+ BEV depth"),
    ),
    presets=PRESETS,
    brief=True,
)
