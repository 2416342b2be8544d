"""SurroundOcc-nuScenes as a data set; its names and paths are in ``layout_surroundocc.py``. No torch."""

from __future__ import annotations

from baselines.published import Published
from experiments.datasets import layout, layout_lidar_pixels, layout_surroundocc
from experiments.datasets.dataset import DataSet, Preparation

DATASET = DataSet(
    name="surroundocc",
    title="SurroundOcc-nuScenes",
    reader="experiments.datasets.surroundocc:SurroundOccNuScenes",
    class_names=layout_surroundocc.SURROUNDOCC_CLASSES,
    empty="empty",
    lower=(-50.0, -50.0, -5.0),
    upper=(50.0, 50.0, 3.0),
    voxel_size=0.5,
    frame="lidar",
    published=Published(
        class_weights=(layout.EMPTY_WEIGHT, *layout.NUSCENES_WEIGHTS[1:]),
        gaussian_scale=(0.5, 0.25),
        camera_strategy="trajectory",
        camera_draw=layout.NUSCENES_DRAW,
        moving=layout.NUSCENES_MOVING,
    ),
    splits=layout.SPLITS,
    evaluated="val",
    index=layout_surroundocc.info_path,
    listing=lambda root, split: layout_surroundocc.info_path(root, split).read_bytes(),
    frame_files=layout_surroundocc.frame_files,
    releases=layout.NUSCENES_RELEASES,
    image_size=layout.NUSCENES_IMAGE_SIZE,
    folders=("surroundocc/samples", "nuscenes/samples"),
    sources=(layout_surroundocc.PUBLISHED, layout_surroundocc.GET_LABELS, layout.GET_IMAGES),
    parts=("chain", "history", "depth", "rays"),
    part_files=layout_lidar_pixels.part_files(made=layout_lidar_pixels.PREPARATION),
    preparations={layout_lidar_pixels.PREPARATION: Preparation("experiments.datasets.prepare_surroundocc:steps", "frames")},
    moments=layout_surroundocc.moments,
    toy="experiments.toyworld:SURROUNDOCC",
)
"""Frame of LIDAR_TOP: x right, y forward."""
