"""Occ3D-nuScenes, GaussianOcc's table: splats or volumes, learned poses or sensors', and the size of splats."""

from dataclasses import replace
from typing import Any

from baselines.gaussianocc.recipe import SENSOR_POSES
from experiments.spec import Column, Row, TableSpec, same_cell
from experiments.tables.gaussianocc import GAUSSIANOCC, TIMED
from experiments.tables.table_gaussianflowocc import TABLE as GAUSSIANFLOWOCC
from experiments.tables.table_gaussianocc_depth import TABLE as DEPTH
from experiments.tables.table_occ3d import TABLE as OCC3D

FIRST = same_cell(
    DEPTH,
    TIMED.name,
    title="first stage: how the vehicle moved",
    note="it predicts no voxels: rows with learned poses start from it",
)


def _row(name: str, title: str, base: Row | None = None, traits: dict[str, Any] | None = None, **options: Any) -> Row:
    base = base or GAUSSIANOCC
    changes = {**base.options, **options}
    starts_from = None if changes.get("poses") == "sensors" else FIRST.name
    own = {**base.traits, **(traits or {})}
    return replace(base, name=name, title=title, base=base.name, options=changes, traits=own, starts_from=starts_from, note="")


_PUBLISHED = ("mIoU_15_classes_all_voxels_camera_and_lidar_mask", "mIoU_occ3d_camera_and_lidar_mask")
_LIDAR = ("lidar_abs_rel_cameras", "lidar_rmse_cameras", "lidar_within_1_cameras")
_VOLUME = _row("gaussianocc-volume", "as a volume, learned poses", traits={"renderer": "rays"}, volume="prob")
TABLE = TableSpec(
    name="table_gaussianocc",
    title="GaussianOcc on Occ3D-nuScenes: taught by the images before and after, and by pseudo labels",
    dataset=OCC3D.dataset,
    columns=(*(Column(name) for name in _PUBLISHED), *GAUSSIANFLOWOCC.columns, *(Column(name) for name in _LIDAR)),
    rows=(
        GAUSSIANOCC,
        _row("gaussianocc-sensors", "splats, poses of sensors", **SENSOR_POSES),
        _VOLUME,
        _row("gaussianocc-volume-sensors", "as a volume, poses of sensors", _VOLUME, **SENSOR_POSES),
        replace(
            _row("gaussianocc-density", "as a volume of density, learned poses", _VOLUME, volume="density"),
            note="the published density is the logit of free space as it is, so that what is free stops rays",
        ),
        _row("gaussianocc-quarter", "splats of a quarter of the size", scale_factor=0.25),
        _row("gaussianocc-half", "splats of half the size", scale_factor=0.5),
        _row("gaussianocc-round", "splats with the right vertical field of view", legacy_fov_y=False),
        _row("gaussianocc-unlabelled", "pixels without a class teach nothing", teaching={"unlabelled": "ignored"}),
        FIRST,
    ),
    presets=OCC3D.presets,
    notes=(
        "Camera and lidar mask: as GaussianOcc prints it, over voxels that cameras and lidar both saw, those of 'others' and "
        "'other_flat' among them. In the other columns voxels of the cameras' mask count, over 15 classes without those two.",
        "The paper's ablations of splats and volumes are over 15 classes.",
    ),
)
