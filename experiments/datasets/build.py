"""From a table's data set and a preset's sizes to frames."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from baselines.recipe import FRAMES, OWN
from experiments.datasets.frames import OccupancyFrames
from experiments.datasets.registry import DATASETS
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError
from experiments.spec import DataPreset


def reader(name: str) -> type[OccupancyFrames[Any]]:
    """What reads a data set; raises DataError for an unknown one."""
    kind: type[OccupancyFrames[Any]] = DATASETS.part(DATASETS.load(name).reader)
    return kind


def build_dataset(
    name: str,
    data_root: Path,
    split: str,
    data: DataPreset,
    seed: int,
    reads: Collection[str] | Mapping[str, tuple[int, ...]] = (),
    sight: bool = False,
    rays: int = 0,
    even_rays: bool = False,
    views: int = 0,
    view_size: tuple[int, int] | None = None,
    follow: bool = False,
) -> OccupancyFrames[Any]:
    """A split of the data set ``name`` at the preset's sizes; small generated data sets stay in memory.

    ``seed`` is that of the augmentation, which the training split alone has. ``reads``: parts of a batch beyond images and
    cameras, with the moments that they show (``Recipe.parts``) or without; ``sight``: with the voxels in sight, for losses that
    ask; ``rays``: how many are drawn of a frame, 0: all, ``even_rays``: whatever their class; ``views``: how many moments besides
    the own are drawn of a frame, 0: all, ``view_size``: their (width, height), None: that of the images; ``follow``: frames know
    which one comes before them. Raises DataError for an unknown name, for a part that the data set does not provide and for
    whatever is missing on disk.
    """
    shown = dict(reads) if isinstance(reads, Mapping) else {part: FRAMES.get(part, OWN) for part in reads}
    dataset = DATASETS.load(name)
    if lacking := [part for part in reads if part not in dataset.parts]:
        parts = " and ".join(lacking)
        raise DataError(f"{dataset.title} has no {parts}: take another data set, or a model that does not need {parts}")
    width, height = data.image_size
    return reader(name)(
        data_root,
        split,
        image=ImageTransform(width=width, height=height, distort=data.distort, stretch=data.stretch),
        coarsen=data.coarsen,
        mini=data.mini,
        label_camera_width=data.label_camera_width,
        augment=split == "train",
        mirror=data.mirror,
        bevdet=data.bevdet,
        flips=data.flips,
        seed=seed,
        cache=data.source == "toyworld",
        depth="depth" in shown,
        sight=sight,
        chain="chain" in shown,
        history=shown.get("history", ()),
        neighbours=shown.get("neighbours", ()),
        semantics="semantics" in shown,
        rays=shown.get("rays", ()),
        ray_count=rays,
        even_rays=even_rays,
        views=shown.get("views", ()),
        view_count=views,
        view_size=view_size,
        exact_views=data.pseudo_labels == "exact",
        lidar="lidar" in shown,
        follow=follow,
    )
