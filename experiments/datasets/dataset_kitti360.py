"""SSCBench-KITTI-360 as a data set; its names and paths are in ``layout_kitti360.py``. No torch."""

from __future__ import annotations

import math

from baselines.published import Published
from experiments.datasets import layout_kitti360
from experiments.datasets.dataset import DataSet, PartFiles, Preparation

# Voxels of each class in the training set (valeoai/GaussRender src/loss/occupancy_loss.py).
_VOXELS = (
    2264087502, 20098728, 104972, 96297, 1149426, 4051087, 125103, 105540713, 16292249, 45297267, 14454132,
    110397082, 6766219, 295883213, 50037503, 1561069, 406330, 30516166, 1950115,
)  # fmt: skip

DATASET = DataSet(
    name="kitti360",
    title="SSCBench-KITTI-360",
    reader="experiments.datasets.kitti360:SSCBenchKITTI360",
    class_names=layout_kitti360.CLASSES,
    empty="empty",
    lower=(0.0, -25.6, -2.0),
    upper=(51.2, 25.6, 4.4),
    voxel_size=0.2,
    frame="velodyne",
    published=Published(
        class_weights=tuple(1 / math.log(count + 0.001) for count in _VOXELS),
        gaussian_scale=(0.2, 0.1),
        camera_strategy="sensor",
        camera_draw=(1.0,),
    ),
    splits=layout_kitti360.SPLITS,
    evaluated=layout_kitti360.EVALUATED,
    index=layout_kitti360.index_path,
    listing=layout_kitti360.listing,
    frame_files=layout_kitti360.frame_files,
    releases=layout_kitti360.RELEASES,
    image_size=layout_kitti360.IMAGE_SIZE,
    folders=("preprocess/labels", "data_2d_raw"),
    sources=(layout_kitti360.PUBLISHED, layout_kitti360.PREPARE, layout_kitti360.GET_IMAGES),
    index_name="voxel files",
    parts=("depth", "chain"),
    part_files={
        "depth": PartFiles(
            layout_kitti360.depth_files,
            layout_kitti360.GET_DEPTH,
            "Depth is only read by Symphonies; the other rows of table_kitti360 run without it.",
            counted=False,
        )
    },
    preparations={"kitti360": Preparation("experiments.datasets.prepare_kitti360:steps", "labels")},
    raw_files=layout_kitti360.raw_files,
    toy="experiments.toyworld:KITTI360",
)
"""velodyne frame: x forward, y left."""
