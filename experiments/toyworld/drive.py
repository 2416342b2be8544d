"""The recording car on its way through a scene."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from .world import Scene

KEY_FRAME = 0.5  # s between key frames: 2 Hz
REACH = 90.0  # m from the car beyond which nothing is drawn


def ego_pose(scene: Scene, seconds: float) -> tuple[Rotation, float, float]:
    """Rotation and place x, y (m) of the ego frame in the scene's world, where it lies at z = 0; it pitches a little."""
    x, y, yaw = scene.way.pose(seconds)
    pitch, roll, rate, phase = scene.sway
    swing = 2 * math.pi * rate * seconds + phase
    return Rotation.from_euler("ZYX", [yaw, pitch * math.sin(swing), roll * math.cos(1.3 * swing)]), x, y


def write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    """Write an image [H, W, 3] uint8 BGR in the format of the file's name; ``options`` are OpenCV's. Raises OSError."""
    path.write_bytes(encoded(image, path.suffix, options))


def encoded(image: np.ndarray, ending: str, options: list[int]) -> bytes:
    """The same as the content of a file with that ending."""
    done, data = cv2.imencode(ending, image, options)
    if not done:
        raise OSError(f"OpenCV could not encode an image as {ending}")
    return data.tobytes()
