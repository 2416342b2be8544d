"""From a table's data set and a preset's sizes to frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.datasets.frames import OccupancyFrames
from experiments.datasets.kitti360 import SSCBenchKITTI360
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.surroundocc import SurroundOccNuScenes
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError
from experiments.spec import DataPreset

DATASETS: dict[str, type[OccupancyFrames[Any]]] = {
    "occ3d": Occ3DNuScenes,
    "surroundocc": SurroundOccNuScenes,
    "kitti360": SSCBenchKITTI360,
}


def build_dataset(
    name: str, data_root: Path, split: str, data: DataPreset, seed: int, depth: bool = False, sight: bool = False
) -> OccupancyFrames[Any]:
    """A split of the data set ``name`` at the preset's sizes; small generated data sets stay in memory.

    ``seed`` is that of the augmentation, which the training split alone has. ``depth``: with depth images, for models that
    take them; ``sight``: with the voxels in sight, for losses that ask. Raises DataError for a name that is not in
    ``DATASETS`` and for whatever is missing on disk.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set '{name}' (known: {', '.join(DATASETS)})")
    width, height = data.image_size
    return DATASETS[name](
        data_root,
        split,
        image=ImageTransform(width=width, height=height, distort=data.distort),
        coarsen=data.coarsen,
        mini=data.mini,
        label_camera_width=data.label_camera_width,
        augment=split == "train",
        mirror=data.mirror,
        seed=seed,
        cache=data.source == "toyworld",
        depth=depth,
        sight=sight,
    )
