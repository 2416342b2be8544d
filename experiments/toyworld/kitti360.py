"""The toy world in the SSCBench-KITTI-360 layout: one front camera, voxels in the velodyne's frame, noisy depth.

``experiments/datasets/layout_kitti360.py`` names the files; of them are written here, a frame:

    image     of KITTI-360's left camera with its published calibration, both scaled to the width asked for
    .label    raw ids, uint16: the voxels that the lidar hits from any place of its way, 0 elsewhere
    .invalid  uint8, 1 where it looks from none of them: inside of things, behind and between what it hits
    .bin      bits (the first voxel's is the highest of the first byte): the voxels that the frame's own sweep hits
    _1_1.npy  uint8, what ``python -m experiments.data prepare kitti360`` makes of .label and .invalid
    depth     float32 metres at the image's size, as from a stereo network: see ``stereo_depth``

and a drive ``pose.txt`` (frame, then 3 x 4 car to world) and ``cam0_to_world.txt`` (frame, then 4 x 4 camera to world),
row by row as in KITTI-360. Car axes are its GPS/IMU's, x forward, y right, z down; the origin is the rear axle's ground.

Labels show the instant of the frame: moving things do not blur. The lidar's way goes on past the last frame, as a recording
does of which only a part is labelled. Scenes lie one behind the other in the drives, with a gap in the numbers between them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from experiments.datasets.layout_kitti360 import (
    CAMERA_TO_VELODYNE,
    CLASSES,
    DRIVES,
    IMAGE_SIZE,
    INTRINSICS,
    RAW_IDS,
    SCENE_GAP,
    SHAPE,
    SPLITS,
    UNKNOWN,
    Frame,
    classes_of_voxels,
    depth_path,
    drive_name,
    image_path,
    label_path,
    voxel_path,
)

from .catalogue import BOX, Model, Part
from .config import ToyWorldConfig
from .drive import KEY_FRAME, REACH, ego_pose, write_image
from .raycast import cast_shadows, render_camera
from .solids import Assembly, Solids
from .voxelise import Labelling, Lattice, mark_visible, voxelise
from .world import Scene, generate

LATTICE = Lattice(SHAPE, (0.0, -25.6, -2.0), 0.2)  # in the velodyne's frame
NUMBER_STEP = 5  # frames are recorded at 10 Hz and labelled at 2 Hz
BASELINE = 0.6  # m between the cameras whose images give the depth
FARTHEST = 150.0  # m, the depth of what has no disparity, the sky above all
_DISPARITY_ERROR = 0.0005  # of the image width; 0.7 pixels at the official 1408
_ERROR_CELL = 8  # pixels: errors of neighbours are alike, as those of networks are

# Where the velodyne stands on the car, level, before and above the rear axle's ground (m); it is as high on KITTI-360's.
_VELODYNE = (0.77, 0.0, 1.73)
# A 64-beam velodyne's density; upwards stand for it the scanners of KITTI-360 that sweep upright planes.
_ELEVATIONS = np.radians(np.concatenate([np.linspace(-30, -9, 24), np.linspace(-8.5, 2, 32), np.linspace(4, 20, 9)]))
_AZIMUTHS = np.radians(np.arange(0, 360, 0.5))
_GOLDEN = 0.6180339887498949
_AHEAD = 52.0  # m that the lidar goes on for past the last frame: to the far end of its voxels
_STATIONS = 4.0  # m between the places on that way

_CLASS_ID = {name: index for index, name in enumerate(CLASSES)}
_BY_NAME = {
    "car": "car",
    "truck": "truck",
    "bus": "other-vehicle",
    "trailer": "other-vehicle",
    "construction_vehicle": "other-vehicle",
    "bicycle": "bicycle",
    "motorcycle": "motorcycle",
    "pedestrian": "person",
    "barrier": "other-structure",
    "traffic_cone": "other-object",
    "others": "other-object",
    "terrain": "terrain",
    "vegetation": "vegetation",
    "building": "building",
    "wall": "fence",
    "lamp": "pole",
    "sign": "pole",
}
_GROUND = ("road", "road", "sidewalk", "other-ground", "terrain", "parking")  # in the order of ground.py's kinds
_THIN = ("bicycle", "motorcycle", "person", "fence", "pole", "traffic-sign", "other-structure", "other-object")
LABELLING = Labelling(
    np.array([_CLASS_ID[name] for name in _GROUND], np.uint8),
    np.array([3 if name in _THIN else 1 for name in CLASSES], np.int64),
    _CLASS_ID["empty"],
)
_RAW = np.array([0, *(RAW_IDS[class_id][0] for class_id in range(1, len(CLASSES)))], np.uint16)


@dataclass(frozen=True)
class FramePose:
    """Where a frame of a drive was taken: car to world [4, 4] and camera to world [4, 4]."""

    frame: Frame
    car: np.ndarray
    camera: np.ndarray


def class_of(model: Model, part: Part) -> int:
    """SSCBench's class id of a part of a model."""
    if model.kind == "sign" and part.shape == BOX:
        return _CLASS_ID["traffic-sign"]
    return _CLASS_ID[_BY_NAME[model.kind or model.class_name]]


def intrinsics(width: int) -> np.ndarray:
    """The published camera matrix [3, 3] for images ``width`` pixels wide."""
    scale = width / IMAGE_SIZE[0]
    return np.diag([scale, scale, 1.0]) @ np.array(INTRINSICS)


def stereo_depth(depth: np.ndarray, focal: float, rng: np.random.Generator) -> np.ndarray:
    """Depth [H, W] float32 (m) the way stereo matching would get true depth [H, W] (m, infinite in the sky) wrong.

    The error is one of disparity, normally distributed and smooth over some pixels: about z^2 / (``focal`` * BASELINE) times
    as large in metres. No depth is larger than FARTHEST.
    """
    height, width = depth.shape
    coarse = rng.normal(0, _DISPARITY_ERROR * width, (height // _ERROR_CELL + 2, width // _ERROR_CELL + 2))
    error = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    disparity = focal * BASELINE / depth + error
    return (focal * BASELINE / np.maximum(disparity, focal * BASELINE / FARTHEST)).astype(np.float32)


def sweep() -> np.ndarray:
    """Directions [N, 3] of the lidar's rays in its own frame.

    They do not lie on rings but are spread evenly between them: one place stands for all sweeps on the metres around it.
    """
    azimuth = _AZIMUTHS[:, None]
    elevation = _ELEVATIONS[:-1] + np.diff(_ELEVATIONS) * (np.arange(len(azimuth))[:, None] * _GOLDEN % 1)
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1).reshape(-1, 3)


def frame_of(config: ToyWorldConfig, split: str, number: int, index: int) -> Frame:
    """Drive, frame number and scene of key frame ``index`` of scene ``number`` of a split."""
    drives = sorted(DRIVES[split])
    length = NUMBER_STEP * config.size(split)[1]
    first = number // len(drives) * (length + 2 * SCENE_GAP)
    drive = drive_name(drives[number % len(drives)])
    return Frame(drive, f"{first + NUMBER_STEP * index:06d}", f"{drive}/{first:06d}")


class Recorder:
    """Records one scene, key frame by key frame; frames are independent of each other and of the order of calls."""

    def __init__(self, config: ToyWorldConfig, root: Path, split: str, number: int) -> None:
        self.config, self.root, self.split, self.number = config, root, split, number
        self._seed = [config.seed, SPLITS.index(split), number]
        rng = np.random.default_rng(self._seed)
        frames = config.size(split)[1]
        self.scene: Scene = generate(rng, (frames - 1) * KEY_FRAME)
        self.site = rng.uniform(300, 2000, 2)  # where the scene lies on the map, m
        self.assembly = Assembly(self.scene, class_of)
        self.intrinsics = intrinsics(config.image_width)
        last, speed = (frames - 1) * KEY_FRAME, self.scene.way.speed
        ahead = last + np.arange(_STATIONS, _AHEAD, _STATIONS) / speed
        self.stations = [self.velodyne(float(t)) for t in (*(KEY_FRAME * np.arange(frames)), *ahead)]
        self._rays = sweep()
        frame = self.frame(0)
        for path in (image_path(root, frame), voxel_path(root, frame, "bin"), label_path(root, frame), depth_path(root, frame)):
            path.parent.mkdir(parents=True, exist_ok=True)

    def frame(self, index: int) -> Frame:
        return frame_of(self.config, self.split, self.number, index)

    def ego(self, seconds: float) -> np.ndarray:
        """Ego frame to the scene's own world frame, [4, 4]."""
        turn, x, y = ego_pose(self.scene, seconds)
        pose = np.eye(4)
        pose[:3, :3], pose[:2, 3] = turn.as_matrix(), (x, y)
        return pose

    def velodyne(self, seconds: float) -> np.ndarray:
        """Velodyne frame to the scene's own world frame, [4, 4]."""
        mount = np.eye(4)
        mount[:3, 3] = _VELODYNE
        return self.ego(seconds) @ mount

    def record(self, index: int) -> tuple[FramePose, np.ndarray]:
        """Write the files of a key frame; returns its poses and the class counts [19] of its voxels that count."""
        frame, seconds = self.frame(index), index * KEY_FRAME
        pose = self.velodyne(seconds)
        camera = pose @ np.array(CAMERA_TO_VELODYNE)
        x, y = float(pose[0, 3]), float(pose[1, 3])
        solids = self.assembly.at(seconds).near(x, y, REACH)
        light = self.scene.light.row()
        shadow, corner = cast_shadows(solids, light[:3], (x, y))
        image, depth = render_camera(
            solids, self.scene.streets, self.scene.patches, light, shadow, corner, camera[:3, 3].copy(),
            camera[:3, :3].copy(), self.intrinsics, self.config.image_width, self.config.image_height,
        )  # fmt: skip
        write_image(image_path(self.root, frame), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        rng = np.random.default_rng([*self._seed, index])
        np.save(depth_path(self.root, frame), stereo_depth(depth, float(self.intrinsics[0, 0]), rng))
        counts = self._write_voxels(frame, solids, pose)
        return self._poses(frame, seconds, camera), counts

    def _write_voxels(self, frame: Frame, solids: Solids, pose: np.ndarray) -> np.ndarray:
        labels = voxelise(
            solids, self.scene.streets, self.scene.patches, pose[:3, :3].copy(), pose[:3, 3].copy(), LATTICE, LABELLING
        )
        here = np.eye(4)
        own = np.zeros(SHAPE, np.uint8)
        self._look(own, labels, here)
        seen = own.copy()
        from_world = np.linalg.inv(pose)
        for station in self.stations:
            self._look(seen, labels, from_world @ station)
        labels[seen == 0] = LABELLING.free
        raw, invalid = _RAW[labels], (seen == 0).astype(np.uint8)
        raw.tofile(voxel_path(self.root, frame, "label"))
        invalid.tofile(voxel_path(self.root, frame, "invalid"))
        np.packbits((own > 0) & (labels != LABELLING.free)).tofile(voxel_path(self.root, frame, "bin"))
        classes = classes_of_voxels(raw, invalid)
        np.save(label_path(self.root, frame), classes)
        return np.bincount(classes[classes != UNKNOWN], minlength=len(CLASSES))

    def _look(self, seen: np.ndarray, labels: np.ndarray, place: np.ndarray) -> None:
        """Mark what a sweep crosses or hits from a place [4, 4] in the grid's frame; past the last frame it may be in a wall."""
        start = place[:3, 3].copy()
        voxel = np.floor((start - LATTICE.lower) / LATTICE.edge).astype(int)
        if not ((voxel >= 0) & (voxel < SHAPE)).all() or labels[tuple(voxel)] == LABELLING.free:
            mark_visible(seen, labels, start, place[:3, :3].copy(), self._rays, LATTICE, LABELLING.free)

    def _poses(self, frame: Frame, seconds: float, camera: np.ndarray) -> FramePose:
        on_map = np.eye(4)
        on_map[:2, 3] = self.site
        return FramePose(frame, on_map @ self.ego(seconds) @ np.diag([1.0, -1.0, -1.0, 1.0]), on_map @ camera)


def write_poses(root: Path, split: str, poses: list[FramePose]) -> None:
    """The pose files of a split's drives."""
    drives: dict[str, list[FramePose]] = defaultdict(list)
    for pose in poses:
        drives[pose.frame.drive].append(pose)
    for taken in drives.values():
        taken.sort(key=lambda pose: pose.frame.name)
        folder = image_path(root, taken[0].frame).parents[2]
        (folder / "pose.txt").write_text("".join(_line(pose.frame, pose.car[:3]) for pose in taken))
        (folder / "cam0_to_world.txt").write_text("".join(_line(pose.frame, pose.camera) for pose in taken))


def _line(frame: Frame, matrix: np.ndarray) -> str:
    return " ".join([str(int(frame.name)), *(f"{value:.10g}" for value in matrix.ravel())]) + "\n"
