"""DDAD as GaussianOcc lays it out below ``ddad/`` of a data root: names, paths, formats. No torch.

    info_{train,val}.pkl                              time -> scene_name, context (times before and after, -1: none), by camera
                                                      intrinsics [3, 3], extrinsics (camera -> vehicle) and pose (camera -> global
                                                      frame), both as quat, a pyquaternion object, and tvec
    index.pkl                                         time -> scene_name, context: read where an entry of the above lacks them
    {train,val}.txt                                   times of the split's frames; without it all of the pickle, for training
                                                      those with a frame before and after
    raw_data/<scene>/rgb/<CAMERA>/<time>.png          images, 1936 x 1216
    raw_data/<scene>/{scene_*.json, point_cloud/...}  as DDAD's own release has them; of which depth is made
    depth/<scene>/depth/<CAMERA>/<time>.npy           [1216, 1936] metres along the camera's axis, 0 where no point is
    ddad_semantic/<scene>/<CAMERA>/<time>_mask.bin    ``layout_image_semantics``
    mask/<CAMERA>/<scene>/mask.png                    the vehicle itself: what is 0 is the world (``read_mask``)

(GANWANSHUI/GaussianOcc datasets/ddad_dataset.py, README.md; masks are SurroundDepth's)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets import layout_depth_maps, layout_image_semantics
from experiments.datasets.dataset import PartFiles
from experiments.datasets.geometry import rigid
from experiments.datasets.layout import checked_root, either
from experiments.datasets.layout_camera_frames import PREPARATION
from experiments.datasets.moments import Moment
from experiments.datasets.unpickle import DataError, load_infos

SPLITS = ("train", "val")
CAMERAS = ("CAMERA_01", "CAMERA_05", "CAMERA_07", "CAMERA_09", "CAMERA_08", "CAMERA_06")
"""Front, front left, back left, back, back right, front right: those beside each other overlap."""
IMAGE_SIZE = (1936, 1216)
RELEASES = {"the frames that GaussianOcc lists": {"train": 12319, "val": 3950}}
FOLDER = "ddad"
PUBLISHED = "GaussianOcc's README links the info pickles (github.com/GANWANSHUI/GaussianOcc); put them into ddad/"
GET_IMAGES = (
    "unpack DDAD (github.com/TRI-ML/DDAD, DDAD_train_val.tar, under its terms) so that ddad/raw_data/<scene>/rgb/CAMERA_* hold "
    "the .png files"
)
GET_DEPTH = f"python -m experiments.data prepare {PREPARATION} makes it from DDAD's lidar in ddad/raw_data"
GET_MASK = (
    "SurroundDepth's masks (github.com/weiyithu/SurroundDepth, DDAD) belong into ddad/mask; DDAD's own self_occlusion_masks into "
    "ddad/self_occlusion_masks do too"
)
TAKERS = "Only models that learn from them read them, as GaussianOcc does, and rendered depth is measured by lidar."


@dataclass(frozen=True)
class Frame:
    """What the six cameras took at once.

    time    by which files are named, ten-millionths of a second
    before, after  those of the frames beside it in its scene, None at the scene's ends
    cameras  by name: intrinsics, extrinsics, pose, as in the pickle
    """

    time: str
    scene: str
    before: str | None
    after: str | None
    cameras: dict[str, Any]


def folder(data_root: str | Path) -> Path:
    return Path(data_root, FOLDER)


def info_path(data_root: str | Path, split: str) -> Path:
    """The info pickle of a split; raises DataError if the data root or the split does not exist."""
    return checked_root(data_root, split, SPLITS) / FOLDER / f"info_{split}.pkl"


def read_infos(data_root: str | Path, split: str) -> dict[str, Frame]:
    """All frames of the info pickle by time, in order; raises DataError if there are none, or an entry is no frame's."""
    path = info_path(data_root, split)
    content = load_infos(path, PUBLISHED)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path} lists no frames by their times: it is not GaussianOcc's info pickle of DDAD")
    index_path = folder(data_root) / "index.pkl"
    lacking = any(
        not isinstance(entry, dict) or "context" not in entry or "scene_name" not in entry for entry in content.values()
    )
    index = load_infos(index_path) if lacking and index_path.is_file() else {}
    return {
        str(time): _frame(str(time), entry, index, path) for time, entry in sorted(content.items(), key=lambda item: str(item[0]))
    }


def _frame(time: str, entry: Any, index: Any, path: Path) -> Frame:
    if not time.isdecimal() or not isinstance(entry, dict):
        raise DataError(f"{path}: the entry {time[:40]!r} is no frame: a time is expected, and what was taken then")
    other = index.get(time, {}) if isinstance(index, dict) else {}
    known = (other if isinstance(other, dict) else {}) | entry
    scene, context = known.get("scene_name"), known.get("context")
    if not isinstance(scene, str) or not scene or len(PurePosixPath(scene).parts) != 1 or scene in ("..", "."):
        raise DataError(f"{path}: 'scene_name' of frame {time} is {scene!r}, expected one as 000150; index.pkl may have it")
    if not isinstance(context, (list, tuple)) or len(context) != 2:
        raise DataError(f"{path}: 'context' of frame {time} is {context!r}, expected the times before and after; -1 is none")
    beside = [None if str(one) == "-1" else str(one) for one in context]
    if wrong := [one for one in beside if one is not None and not one.isdecimal()]:
        raise DataError(f"{path}: 'context' of frame {time} names {wrong[0][:40]!r}, which is no time")
    cameras = {name: known.get(name) for name in CAMERAS}
    if lacking := [name for name, camera in cameras.items() if not isinstance(camera, dict)]:
        raise DataError(f"{path} has no {lacking[0]} in frame {time}")
    return Frame(time, scene, beside[0], beside[1], cameras)


def read_frames(data_root: str | Path, split: str) -> list[Frame]:
    """The frames of a split, see above; raises DataError like ``read_infos``, and for a list that names others."""
    return chosen_frames(data_root, split, read_infos(data_root, split))


def chosen_frames(data_root: str | Path, split: str, infos: dict[str, Frame]) -> list[Frame]:
    """Those of the split's list among the infos."""
    path, listed = info_path(data_root, split), folder(data_root) / f"{split}.txt"
    if listed.is_file():
        times = [line.split()[-1] for line in listed.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if unknown := [time for time in times if time not in infos]:
            raise DataError(f"{listed} lists {unknown[0][:40]!r}, {path} does not have it: {PUBLISHED}")
        frames = [infos[time] for time in times]
    else:
        frames = [frame for frame in infos.values() if split != "train" or (frame.before and frame.after)]
    if not frames:
        raise DataError(f"{listed if listed.is_file() else path} lists no frames")
    return frames


def image_path(data_root: str | Path, scene: str, camera: str, time: str) -> Path:
    """As published, or the .jpg if it is there alone."""
    path = folder(data_root) / "raw_data" / scene / "rgb" / camera / f"{time}.png"
    return either(path, path.with_suffix(".jpg"))


def depth_path(data_root: str | Path, frame: Frame, camera: str) -> Path:
    return folder(data_root) / "depth" / frame.scene / "depth" / camera / f"{frame.time}.npy"


def semantics_path(data_root: str | Path, frame: Frame, camera: str) -> Path:
    return folder(data_root) / layout_image_semantics.DDAD_FOLDER / frame.scene / camera / f"{frame.time}_mask.bin"


def mask_path(data_root: str | Path, scene: str, camera: str) -> Path:
    """Where the loader of upstream has it, where its README has it, or DDAD's own mask of the camera, whichever is there."""
    root = folder(data_root)
    first = root / "mask" / camera / scene / "mask.png"
    others = (root / "mask" / scene / camera / "mask.png", root / "self_occlusion_masks" / f"{camera[-2:]}.png")
    return next((path for path in (first, *others) if path.is_file()), first)


def read_mask(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """[h, w] pixels that do not show the vehicle, of images of ``size`` (width, height); raises DataError if it is missing,
    damaged, or of another size.

    In SurroundDepth's masks those are 0 and the vehicle is not; DDAD's own are the other way round, 255 for the world.
    """
    from experiments.datasets.transforms import read_image

    if not path.is_file():
        raise DataError(f"mask {path} is missing: {GET_MASK}")
    values = read_image(path)[..., 0]
    if values.shape != (size[1], size[0]):
        raise DataError(
            f"mask {path} is {values.shape[1]}x{values.shape[0]}, its images are {size[0]}x{size[1]}: masks of the images' own "
            f"size are needed; {GET_MASK}"
        )
    return values > 127 if path.parent.name == "self_occlusion_masks" else values == 0


def transform(entry: Any) -> NDArray[np.float64]:
    """[4, 4] of a quaternion and a translation, as the pickles have them; raises ValueError or KeyError for what is none."""
    return rigid(np.asarray(entry["quat"], np.float64), np.asarray(entry["tvec"], np.float64).reshape(-1))


def moments(data_root: str | Path, split: str) -> list[Moment]:
    """When each frame of a split was taken."""
    return [moment_of(frame) for frame in read_frames(data_root, split)]


def moment_of(frame: Frame) -> Moment:
    return Moment(frame.scene, int(frame.time) // 10)


def frame_files(data_root: str | Path, split: str) -> Iterator[list[Path]]:
    """What each frame of a split consists of: in place of a label the info pickle, and its six images."""
    path = info_path(data_root, split)
    for frame in read_frames(data_root, split):
        yield [path, *(image_path(data_root, frame.scene, camera, frame.time) for camera in CAMERAS)]


def listing(data_root: str | Path, split: str) -> bytes:
    """The info pickle, and which of its frames the split has."""
    times = "".join(f"{frame.time}\n" for frame in read_frames(data_root, split))
    return info_path(data_root, split).read_bytes() + times.encode()


def read_depth_map(path: Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] metres of an image of ``size`` (width, height)."""
    return layout_depth_maps.read_map(path, size, GET_DEPTH)


def part_files() -> dict[str, PartFiles]:
    """The files of DDAD's ``depth``, ``lidar``, ``neighbours`` and ``semantics``."""

    def depth(root: Path, split: str, _: list[list[Path]]) -> list[list[Path]]:
        own = CAMERAS if split == "val" else ()
        return [[depth_path(root, frame, camera) for camera in own] for frame in read_frames(root, split)]

    def beside(root: Path, split: str, _: list[list[Path]]) -> list[list[Path]]:
        return [
            [image_path(root, frame.scene, camera, time) for time in (frame.before, frame.after) if time for camera in CAMERAS]
            + [mask_path(root, frame.scene, camera) for camera in CAMERAS]
            for frame in read_frames(root, split)
        ]

    def semantics(root: Path, split: str, _: list[list[Path]]) -> list[list[Path]]:
        own = CAMERAS if split == "train" else ()
        return [[semantics_path(root, frame, camera) for camera in own] for frame in read_frames(root, split)]

    return {
        "depth": PartFiles(depth, GET_DEPTH, TAKERS, made=PREPARATION),
        "lidar": PartFiles(depth, GET_DEPTH, TAKERS, made=PREPARATION),
        "neighbours": PartFiles(beside, f"{GET_IMAGES}; {GET_MASK}", TAKERS),
        "semantics": PartFiles(semantics, layout_image_semantics.GET, TAKERS),
    }
