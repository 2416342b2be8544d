"""What is seen in the driving world's images, pixel by pixel: exactly, and with errors like those of models.

Exact classes and depth are cast through the middles of the pixels, at the moment when each image was taken: the classes of
surfaces, "others" unknown, and their depth; 300 m in the sky, as models say it. The errors:

    missed    a thing of few pixels in an image takes the class around it: with probability 0.5 exp(-pixels / 60), of an image
              400 pixels wide
    confused  a thing of an image has one of the classes that look like its own with probability 0.1; so has each of the grounds
              and of what stands along the road, all of it in an image, with probability 0.05
    borders   classes are found up to 2 pixels beside their place, displaced smoothly; a quarter of the pixels beside another
              class are unknown; depth is blurred over 0.7 pixels, at edges too
    drift     depth is multiplied by exp(n), n of deviation 0.04 for each camera in a scene, and of 0.03 for each image
    noise     and by 1 + n of deviation 0.03, smooth over 12 pixels; at a depth of d, up to 80 m, n of deviation 0.001 d^2 m is
              added, smooth over 2
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from scipy import ndimage

from camera_occupancy_bench.files import replacing
from experiments.datasets.layout_image_semantics import CLASS_OF_SOURCE
from experiments.datasets.layout_image_semantics import SKY as SKY_CLASS

from .catalogue import CLASS_ID, CLASS_NAMES
from .drive import REACH
from .raycast import cast_lidar
from .writer import Recorder

SKY = 300.0
_RUN = 15  # pixels of a column that are cast together: few enough to lie on a line for the caster, which looks at its middle
_WIDTH = 400  # pixels, of the images that the model of errors is stated for

_ALIKE = {
    "barrier": ("manmade",), "bicycle": ("motorcycle",), "bus": ("truck", "trailer"), "car": ("truck",),
    "construction_vehicle": ("truck",), "motorcycle": ("bicycle",), "pedestrian": ("manmade",), "traffic_cone": ("barrier",),
    "trailer": ("truck", "bus"), "truck": ("bus", "trailer", "car"), "other_flat": ("sidewalk", "driveable_surface"),
    "sidewalk": ("driveable_surface", "terrain"), "terrain": ("sidewalk", "vegetation"), "manmade": ("vegetation",),
    "vegetation": ("terrain", "manmade"),
}  # fmt: skip
_ALIKE_IDS = {CLASS_ID[name]: [CLASS_ID[other] for other in others] for name, others in _ALIKE.items()}

SOURCE_OF_CLASS = np.full(len(CLASS_NAMES), -1, np.int8)
"""Source id by Occ3D's class; no prompt finds "others" and other_flat."""
SOURCE_OF_CLASS[CLASS_OF_SOURCE[1:]] = np.arange(1, len(CLASS_OF_SOURCE))


def exact(recorder: Recorder, frame: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Camera -> classes [h, w] uint8 (0 unknown), depth [h, w] float32 (``SKY`` in the sky) and things [h, w] (-1: none)."""
    timestamp = recorder._time(frame)
    x, y = recorder._world(timestamp)[:2, 3]
    width, height = recorder.config.image_width, recorder.config.image_height
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5, indexing="ij")  # columns of the image first
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    found = {}
    for name, mount in recorder.rig.items():
        if mount.intrinsics is None:
            continue
        taken = timestamp + round(recorder.exposures[name] * 1000)
        pose = recorder._world(taken) @ mount.matrix
        solids = recorder.assembly.at(recorder._seconds(taken)).near(x, y, REACH)
        # One metre along the axis long, so that what is cast is depth.
        directions = pixels @ np.linalg.inv(mount.intrinsics).T @ pose[:3, :3].T
        classes = np.empty((width, height), np.uint8)
        depth, things = np.empty((width, height)), np.empty((width, height), np.int64)
        for top in range(0, height, _RUN):
            run = slice(top, top + _RUN)
            depth[:, run], classes[:, run], things[:, run] = cast_lidar(
                solids, recorder.scene.streets, recorder.scene.patches, pose[:3, 3].copy(),
                np.ascontiguousarray(directions[:, run]), SKY,
            )  # fmt: skip
        sky = depth < 0
        classes[sky], depth[sky] = 0, SKY
        found[name] = classes.T.copy(), depth.T.astype(np.float32), things.T.copy()
    return found


def noisy(
    classes: np.ndarray, depth: np.ndarray, things: np.ndarray, camera_drift: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and depth of an image with the errors of above; ``camera_drift`` is the logarithm of the camera's in its scene."""
    scale = classes.shape[1] / _WIDTH
    seen = classes.copy()
    for thing in np.unique(things[(things >= 0) & (classes > 0)]):
        own = (things == thing) & (classes > 0)
        kind = int(np.bincount(classes[own]).argmax())
        chance, missed = rng.random(), 0.5 * np.exp(-own.sum() / (60 * scale**2))
        if chance < missed and not own.all():
            places = ndimage.distance_transform_edt(own, return_distances=False, return_indices=True)
            seen[own] = classes[tuple(places)][own]
        elif chance > 0.9 and kind in _ALIKE_IDS and own.sum() < own.size / 4:
            seen[own] = rng.choice(_ALIKE_IDS[kind])
    for kind, alike in _ALIKE_IDS.items():
        if rng.random() < 0.05 and CLASS_NAMES[kind] in ("other_flat", "sidewalk", "terrain", "manmade", "vegetation"):
            seen[(classes == kind) & (things < 0)] = rng.choice(alike)
    rows, columns = np.indices(seen.shape)
    shift = [2 * scale * np.clip(_smooth(rng, seen.shape, 4 * scale) / 2, -1, 1) for _ in range(2)]
    rows = np.clip(np.rint(rows + shift[0]).astype(int), 0, seen.shape[0] - 1)
    columns = np.clip(np.rint(columns + shift[1]).astype(int), 0, seen.shape[1] - 1)
    seen = seen[rows, columns]
    border = ndimage.maximum_filter(seen, 3) != ndimage.minimum_filter(seen, 3)
    seen[border & (rng.random(seen.shape) < 0.25)] = 0

    drift = np.exp(camera_drift + rng.normal(0, 0.03))
    far = ndimage.gaussian_filter(depth, 0.7 * scale) * drift
    apart = 0.001 * np.minimum(far, 80) ** 2 * _smooth(rng, depth.shape, 2 * scale)
    far = far * (1 + 0.03 * _smooth(rng, depth.shape, 12 * scale)) + apart
    return seen, np.clip(far, 0.1, SKY).astype(np.float32)


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Normal noise of deviation 1 that is smooth over ``width`` pixels."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), width, mode="wrap")
    deviation: float = noise.std()
    return noise / deviation


def semantics(recorder: Recorder, frame: int) -> dict[str, np.ndarray]:
    """Camera -> source ids [h, w] int8 of what a model finds in the images of a frame."""
    found = {}
    for name, (classes, depth, things) in exact(recorder, frame).items():
        rng = np.random.default_rng(
            [recorder.config.seed, word(recorder.split), word(recorder.name), frame, word(f"semantics {name}")]
        )
        seen, _ = noisy(classes, depth, things, 0.0, rng)
        ids = SOURCE_OF_CLASS[seen]
        ids[(seen == 0) & (depth == SKY)] = int(np.flatnonzero(CLASS_OF_SOURCE == SKY_CLASS)[0])
        found[name] = ids
    return found


def write_semantics(path: Path, ids: np.ndarray) -> None:
    """Write source ids [h, w]; the file is there complete, or not at all."""
    with replacing(path) as temporary:
        ids.astype(np.int8).tofile(temporary)


def word(text: str) -> int:
    """A number for seeds."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
