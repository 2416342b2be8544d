"""A data set, and what writes a toy one: ``<split>/<frame>.npy`` with class ids beside ``<split>/<frame>.png``."""

from pathlib import Path

import numpy as np

from baselines.published import Published
from experiments.datasets.dataset import DataSet
from experiments.datasets.unpickle import DataError
from experiments.toyworld import Written


def frames(root: Path, split: str) -> list[Path]:
    """The labels of a split."""
    if not (root / split).is_dir():
        raise DataError(f"no folder {root / split}: name the folder of the yard with --data-root")
    return sorted((root / split).glob("*.npy"))


def write(root: Path, count: int = 3) -> None:
    import cv2

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        for number in range(count):
            labels = np.zeros((16, 16, 4), np.uint8)
            labels[:, :, 0], labels[rng.integers(8, 16), :, 1:3] = 1, 2
            np.save(root / split / f"{number}.npy", labels)
            cv2.imwrite(str(root / split / f"{number}.png"), rng.integers(0, 255, (32, 48, 3), np.uint8))


TOY = Written("yard", 1, write)
DATASET = DataSet(
    name="yard",
    title="Yard",
    reader="camera_occupancy_extra.reader:YardFrames",
    class_names=("empty", "ground", "wall"),
    empty="empty",
    lower=(0.0, -8.0, -1.0),
    upper=(16.0, 8.0, 3.0),
    voxel_size=1.0,
    frame="ego",
    published=Published(gaussian_scale=(1.0, 0.5), camera_strategy="sensor"),
    splits=("train", "val"),
    evaluated="val",
    frame_files=lambda root, split: ([label, label.with_suffix(".png")] for label in frames(root, split)),
    listing=lambda root, split: "\n".join(path.name for path in frames(root, split)).encode(),
    index=lambda root, split: root / split,
    image_size=(48, 32),
    folders=("train", "train"),
    toy="camera_occupancy_extra.yard:TOY",
)
