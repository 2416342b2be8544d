"""DDAD as a data set; its names and paths are in ``layout_ddad.py``. No torch."""

from __future__ import annotations

from baselines.published import Published
from experiments.datasets import layout, layout_camera_frames, layout_ddad
from experiments.datasets.dataset import DataSet, Preparation

DATASET = DataSet(
    name="ddad",
    title="DDAD",
    reader="experiments.datasets.ddad:DDAD",
    class_names=layout.OCC3D_CLASSES,
    empty="free",
    lower=(-40.0, -40.0, -1.0),
    upper=(40.0, 40.0, 5.4),
    voxel_size=0.4,
    frame="ego",
    published=Published(
        gaussian_scale=(0.4, 0.27),
        camera_strategy="sensor",
        unseen_classes=("others", "other_flat"),
        catch_all=("others",),
        moving=layout.NUSCENES_MOVING,
        lidar_limit=200.0,
    ),
    labelled=False,
    splits=layout_ddad.SPLITS,
    evaluated="val",
    index=layout_ddad.info_path,
    listing=layout_ddad.listing,
    frame_files=layout_ddad.frame_files,
    releases=layout_ddad.RELEASES,
    image_size=layout_ddad.IMAGE_SIZE,
    folders=("ddad", "ddad/raw_data"),
    sources=(layout_ddad.PUBLISHED, "DDAD has no voxel labels", layout_ddad.GET_IMAGES),
    parts=("chain", "history", "neighbours", "depth", "semantics", "lidar"),
    part_files=layout_ddad.part_files(),
    preparations={
        layout_camera_frames.PREPARATION: Preparation(
            "experiments.datasets.prepare_ddad:steps", "frames", splits=("val",), by_name=True
        )
    },
    moments=layout_ddad.moments,
    toy="experiments.toyworld:DDAD",
)
"""GaussianOcc predicts here in Occ3D's grid and classes, and is measured by depth alone."""
