"""Occ3D-nuScenes as a data set; its names and paths are in ``layout.py``. No torch."""

from __future__ import annotations

from baselines.published import Published
from experiments.datasets import (
    layout,
    layout_camera_frames,
    layout_image_semantics,
    layout_lidar_pixels,
    layout_pseudo_labels,
)
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
        unseen_classes=("others", "other_flat"),
        catch_all=("others",),
        moving=layout.NUSCENES_MOVING,
        lidar_limit=80.0,
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
    parts=("chain", "history", "neighbours", "depth", "rays", "views", "semantics", "lidar"),
    part_files=layout_lidar_pixels.part_files(made=layout_lidar_pixels.PREPARATION)
    | layout_pseudo_labels.part_files()
    | layout_camera_frames.part_files()
    | layout_image_semantics.part_files(),
    preparations={
        layout_lidar_pixels.PREPARATION: Preparation("experiments.datasets.prepare_renderocc:steps", "frames"),
        "pseudo-semantics": Preparation(
            "experiments.datasets.prepare_pseudo:semantics", "frames", splits=("train",), by_name=True, options=True
        ),
        "pseudo-depth": Preparation(
            "experiments.datasets.prepare_pseudo:depth", "frames", splits=("train",), by_name=True, options=True
        ),
        layout_pseudo_labels.TOY: Preparation(
            "experiments.toyworld.pseudo:steps", "frames", layout_pseudo_labels.TOY_VERSION, splits=("train",), by_name=True
        ),
        layout_camera_frames.PREPARATION: Preparation("experiments.datasets.prepare_gaussianocc:steps", "files", by_name=True),
        layout_camera_frames.TOY: Preparation(
            "experiments.toyworld.gaussianocc:steps", "files", layout_camera_frames.TOY_VERSION, by_name=True
        ),
    },
    moments=layout.moments,
    toy="experiments.toyworld:OCC3D",
)
