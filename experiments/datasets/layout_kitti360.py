"""The official SSCBench-KITTI-360 layout below a data root, as GaussRender reads it: names, paths, constants. No torch.

data_2d_raw/<drive>/image_00/data_rect/<frame>.png     images of the left perspective camera
data_2d_raw/<drive>/voxels/<frame>.bin                 one a frame that is labelled; their names list the frames
data_2d_raw/<drive>/voxels/<frame>.{label,invalid}     raw labels: uint16 and uint8, one value a voxel, in the order x, y, z
preprocess/labels/<drive>/<frame>_1_1.npy              class ids [256, 256, 32], SSCBench's or made of the raw labels
depth/<drive>/<frame>.npy                              depth [376, 1408] in metres, which only some models take

A drive is called 2013_05_28_drive_0009_sync, a frame 000125 (every fifth frame of the recording is labelled).
Source: ai4ce/SSCBench dataset/KITTI-360/README.md and dataset/configs/kitti360.yaml;
valeoai/GaussRender dataset/kitti_360.py:94-183; hustvl/Symphonies ssc_pl/data/datasets/kitti_360.py for the depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.layout import checked_root
from experiments.datasets.unpickle import DataError

# The numbers of the drives, in the order in which GaussRender and Symphonies read them.
DRIVES = {"train": (4, 0, 10, 2, 3, 5, 7), "val": (6,), "test": (9,)}
SPLITS = tuple(DRIVES)
EVALUATED = "test"
SCENE_GAP = 50
"""Frame numbers (5 s at 10 Hz): where more of them are left out, a drive is elsewhere and another scene begins."""
# The download has fewer frames than SSCBench's README counts, on purpose: github.com/ai4ce/SSCBench/issues/23.
RELEASES = {
    "SSCBench's present release": {"train": 8483, "val": 1812, "test": 2165},
    "the data set as SSCBench's README counts it": {"train": 8487, "val": 1812, "test": 2566},
}
CAMERA = "image_00"
IMAGE_SIZE = (1408, 376)

PUBLISHED = (
    "SSCBench publishes KITTI-360's voxels, labels and images as one download (huggingface.co/datasets/ai4ce/SSCBench, folder "
    "sscbench-kitti: cat its ten sscbench-kitti-part_* files into one, then unsquashfs; described in github.com/ai4ce/SSCBench, "
    "dataset/KITTI-360/README.md)"
)
PREPARE = (
    "the labels are part of SSCBench's download; python -m experiments.data prepare kitti360 makes any that are missing from the "
    "raw voxels"
)
GET_IMAGES = (
    "the images are those of SSCBench's download, which numbers frames otherwise than KITTI-360 itself; unpack it so that "
    "data_2d_raw/<drive>/image_00/data_rect holds the .png files"
)
DEPTH_FOLDER = "depth"
GET_DEPTH = (
    "estimate it with MobileStereoNet from image_00 and image_01, both in SSCBench's download, as Symphonies' README says "
    "(github.com/hustvl/Symphonies, Generate Depth Predications: VoxFormer's steps, with the disparity adapted as in "
    "github.com/ai4ce/SSCBench/issues/8), and put it into depth/<drive>/<frame>.npy, in metres"
)

CLASSES = (
    "empty",
    "car",
    "bicycle",
    "motorcycle",
    "truck",
    "other-vehicle",
    "person",
    "road",
    "parking",
    "sidewalk",
    "other-ground",
    "building",
    "fence",
    "vegetation",
    "terrain",
    "pole",
    "traffic-sign",
    "other-structure",
    "other-object",
)
UNKNOWN = 255
SHAPE = (256, 256, 32)
"""Voxels along x, y, z."""

# Raw ids by class id. Raw 0 is empty; any other id that is not listed here is unknown.
RAW_IDS = {
    1: (10, 252),
    2: (11,),
    3: (15,),
    4: (18, 258),
    5: (13, 16, 20, 256, 257, 259),
    6: (30, 254),
    7: (40, 60),
    8: (44,),
    9: (48,),
    10: (49,),
    11: (50,),
    12: (51,),
    13: (70,),
    14: (72,),
    15: (80,),
    16: (81,),
    17: (52,),
    18: (99,),
}

# The same for all drives, for images of IMAGE_SIZE.
INTRINSICS = ((552.554261, 0.0, 682.049453), (0.0, 552.554261, 238.769549), (0.0, 0.0, 1.0))
CAMERA_TO_VELODYNE = (
    (0.04307104361, -0.08829286498, 0.995162929, 0.8043914418),
    (-0.999004371, 0.007784614041, 0.04392796942, 0.2993489574),
    (-0.01162548558, -0.9960641394, -0.08786966659, -0.1770225824),
    (0.0, 0.0, 0.0, 1.0),
)


@dataclass(frozen=True)
class Frame:
    """A labelled frame, for example 000125 of 2013_05_28_drive_0009_sync; its scene is called <drive>/<its first frame>."""

    drive: str
    name: str
    scene: str = ""


def drive_name(number: int) -> str:
    """The folder of a drive: 2013_05_28_drive_0009_sync for 9."""
    return f"2013_05_28_drive_{number:04d}_sync"


def voxel_folder(data_root: str | Path, drive: str) -> Path:
    """Where the drive's raw voxels lie."""
    return Path(data_root, "data_2d_raw", drive, "voxels")


def voxel_path(data_root: str | Path, frame: Frame, kind: str) -> Path:
    """The frame's raw voxels; ``kind`` is "bin", "label" or "invalid"."""
    return voxel_folder(data_root, frame.drive) / f"{frame.name}.{kind}"


def image_path(data_root: str | Path, frame: Frame) -> Path:
    return Path(data_root, "data_2d_raw", frame.drive, CAMERA, "data_rect", f"{frame.name}.png")


def label_path(data_root: str | Path, frame: Frame) -> Path:
    return Path(data_root, "preprocess", "labels", frame.drive, f"{frame.name}_1_1.npy")


def depth_path(data_root: str | Path, frame: Frame) -> Path:
    return Path(data_root, DEPTH_FOLDER, frame.drive, f"{frame.name}.npy")


def index_path(data_root: str | Path, split: str) -> Path:
    """The voxel folder of the split's first drive that has one, else of its first drive.

    Raises DataError if the data root or the split does not exist.
    """
    root = checked_root(data_root, split, SPLITS)
    folders = [voxel_folder(root, drive_name(number)) for number in DRIVES[split]]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def read_frames(data_root: str | Path, split: str) -> list[Frame]:
    """The labelled frames of a split: its drives in upstream's order, in each the names of voxels/*.bin, sorted.

    A drive that is not there is left out, as upstream does. A scene is a run of a drive without a gap of more than
    ``SCENE_GAP``. Raises DataError if no drive has a frame, and for a file that is not named after one.
    """
    index = index_path(data_root, split)
    drives = [drive_name(number) for number in DRIVES[split]]
    frames: list[Frame] = []
    for drive in drives:
        last, scene = -SCENE_GAP - 1, ""
        for path in sorted(voxel_folder(data_root, drive).glob("*.bin")):
            if not path.stem.isdecimal():
                raise DataError(f"{path} is not named after a frame: frames are numbers, as in 000125.bin")
            if int(path.stem) - last > SCENE_GAP:
                scene = f"{drive}/{path.stem}"
            last = int(path.stem)
            frames.append(Frame(drive, path.stem, scene))
    if not frames:
        names = ", ".join(drives)
        raise DataError(f"{index} holds no .bin files, nor does any drive of split {split} ({names}): {PUBLISHED}")
    return frames


def listing(data_root: str | Path, split: str) -> bytes:
    """The frames of a split, one a line: what an info pickle is to other data sets."""
    return "".join(f"{frame.drive}/{frame.name}\n" for frame in read_frames(data_root, split)).encode()


def frame_files(data_root: str | Path, split: str) -> Iterator[list[Path]]:
    """What each frame of a split consists of: its label and its image."""
    for frame in read_frames(data_root, split):
        yield [label_path(data_root, frame), image_path(data_root, frame)]


def depth_files(data_root: str | Path, split: str, _: list[list[Path]]) -> list[list[Path]]:
    """The depth of each frame of a split."""
    return [[depth_path(data_root, frame)] for frame in read_frames(data_root, split)]


def raw_files(data_root: str | Path, split: str) -> list[list[Path]]:
    """The raw voxels of each frame of a split, of which its label is made."""
    return [[voxel_path(data_root, frame, kind) for kind in ("label", "invalid")] for frame in read_frames(data_root, split)]


def class_of_raw() -> NDArray[np.uint8]:
    """[65536] class id of every raw id (dataset/configs/kitti360.yaml)."""
    table = np.full(1 << 16, UNKNOWN, np.uint8)
    table[0] = 0
    for class_id, raw_ids in RAW_IDS.items():
        table[list(raw_ids)] = class_id
    return table


def classes_of_voxels(raw: NDArray[np.uint16], invalid: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class ids of raw labels; a voxel that is flagged invalid and has no raw label is unknown (SSCBench preprocess.py:73-89)."""
    classes = class_of_raw()[raw]
    classes[(raw == 0) & (invalid != 0)] = UNKNOWN
    return classes
