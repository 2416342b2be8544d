"""Where the rendering cameras stand, with and without losses on voxels: TPVFormer on Occ3D-nuScenes."""

from dataclasses import replace

from experiments.spec import TableSpec
from experiments.tables.ablations import BASE, COLUMNS, PRESETS, published, variant
from experiments.tables.table_occ3d import TABLE as OCC3D

_SENSOR = "sensor: where the car's cameras are"
_OTHERS = {
    "elevated": "elevated: 8 m higher, 20 degrees down",
    "random": "random: up to 8 m higher and 20 degrees down, turned and moved",
    "stereo": "stereo: the sensor cameras, and copies up to 1 m off",
    "trajectory": "trajectory: 2 m higher (the published move ahead cancels on this grid)",
}

TABLE = TableSpec(
    name="table_ablation_cameras",
    title="Ablation: where the rendering cameras stand",
    dataset=OCC3D.dataset,
    columns=COLUMNS,
    rows=(
        replace(BASE, title="3D: TPVFormer"),
        published(f"3D + 2D, {_SENSOR}"),
        *(variant(name, f"3D + 2D, {title}", camera_strategy=name) for name, title in _OTHERS.items()),
        variant("2d-sensor", f"2D alone, {_SENSOR}", base=None, with_occupancy=False),
        *(
            variant(f"2d-{name}", f"2D alone, {title}", base="2d-sensor", camera_strategy=name, with_occupancy=False)
            for name, title in _OTHERS.items()
        ),
    ),
    presets=PRESETS,
    notes=("3D: losses on voxels; 2D: on rendered views. Rows of 2D alone are compared with 2D alone from the sensor cameras.",),
    brief=True,
)
