"""A tiny data set in the official SSCBench-KITTI-360 layout, written for the loader's tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from experiments.datasets import layout_kitti360 as layout
from experiments.datasets.layout_kitti360 import Frame
from experiments.datasets.prepare_kitti360 import prepare

WIDTH, HEIGHT = 704, 188  # half of the official size
NAMES = {"train": ("000000", "000005", "000100"), "val": ("000010",), "test": ("000250", "000300", "000400")}
FAR = 80.0


def voxels(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw labels and invalid flags, [256, 256, 32]: a road, a car whose place depends on ``number``, unseen space behind it."""
    raw = np.zeros(layout.SHAPE, np.uint16)
    invalid = np.zeros(layout.SHAPE, np.uint8)
    raw[:, 100:156, 0:4] = 40
    raw[40 + number : 60 + number, 120:130, 4:12] = 252 if number % 2 else 10
    raw[10, 10, 10] = 31  # bicyclist in motion: an id without a class
    raw[200:202, 200:202, 4:6] = 81
    invalid[60 + number :, 120:130, 4:12] = 1
    invalid[:, :, 0:4] = 1  # flags under labels do not count
    return raw, invalid


def write_raw(root: Path, width: int = WIDTH, height: int = HEIGHT, depth: bool = True) -> Path:
    """Images, raw voxels and depth of all splits; train lies in two drives. No labels. Returns ``root``."""
    number = 0
    for split, names in NAMES.items():
        for place, name in enumerate(names):
            drive = layout.drive_name(layout.DRIVES[split][0 if place < 2 else -1])
            frame = Frame(drive, name)
            image, depths = layout.image_path(root, frame), layout.depth_path(root, frame)
            for path in (image, depths, layout.voxel_path(root, frame, "bin")):
                path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((height, width, 3), (10 * number, 100, 200), np.uint8)
            pixels[:, width // 2 :, 1] = 50  # left and right differ
            cv2.imwrite(str(image), pixels)
            raw, invalid = voxels(number)
            raw.tofile(layout.voxel_path(root, frame, "label"))
            invalid.tofile(layout.voxel_path(root, frame, "invalid"))
            np.packbits(raw > 0).tofile(layout.voxel_path(root, frame, "bin"))
            if depth:
                ramp = np.linspace(2.0 + number, FAR, width, dtype=np.float32)
                np.save(depths, np.broadcast_to(ramp, (height, width)))
            number += 1
    return root


def write_layout(root: Path, width: int = WIDTH, height: int = HEIGHT, depth: bool = True) -> Path:
    """The same with the labels made."""
    write_raw(root, width, height, depth)
    for split in layout.SPLITS:
        for frame in layout.read_frames(root, split):
            prepare(root, frame)
    return root
