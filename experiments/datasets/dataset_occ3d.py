"""Occ3D-nuScenes as a data set; its names and paths are in ``layout.py``. No torch."""

from __future__ import annotations

from baselines.published import Published
from experiments.datasets import layout, layout_lidar_pixels
from experiments.datasets.dataset import DataSet, Preparation

DATASET = DataSet(
    name="occ3d",
    title="Occ3D-nuScenes",
    reader="experiments.datasets.occ3d:Occ3DNuScenes",
    class_names=layout.OCC3D_CLASSES,
    empty="free",
    lower=(-40.0, -40.0, -1.0),
    upper=(40.0, 40.0, 5.4),
    voxel_size=0.4,
    frame="ego",
    published=Published(
        class_weights=(*layout.NUSCENES_WEIGHTS, layout.EMPTY_WEIGHT),
        gaussian_scale=(0.4, 0.27),
        camera_strategy="sensor",
        camera_draw=layout.NUSCENES_DRAW,
        catch_all=("others",),
        moving=layout.NUSCENES_MOVING,
    ),
    splits=layout.SPLITS,
    evaluated="val",
    index=layout.info_path,
    listing=lambda root, split: layout.info_path(root, split).read_bytes(),
    frame_files=layout.frame_files,
    releases=layout.NUSCENES_RELEASES,
    image_size=layout.NUSCENES_IMAGE_SIZE,
    folders=("gts", "nuscenes/samples"),
    sources=(layout.PUBLISHED, layout.GET_LABELS, layout.GET_IMAGES),
    parts=("chain", "history", "neighbours", "depth", "rays"),
    part_files=layout_lidar_pixels.part_files(made=layout_lidar_pixels.PREPARATION),
    preparations={
        layout_lidar_pixels.PREPARATION: Preparation("experiments.datasets.prepare_renderocc:steps", "frames"),
    },
    moments=layout.moments,
    toy="experiments.toyworld:OCC3D",
)
