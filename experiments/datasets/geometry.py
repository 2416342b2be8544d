"""Rigid transforms of the nuScenes tables and the RayIoU origins that follow from them (numpy, float64)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]

ORIGIN_LIMIT = 39.0  # metres from the ego origin along x and y
MAX_ORIGINS = 8
_FARTHEST = 1e8  # metres
_FAR = 1e6  # pixels that no focal length or centre has


def rotation_from_quaternion(quaternion: Sequence[float]) -> Matrix:
    """[3, 3] rotation of a quaternion (w, x, y, z) of any non-zero length; raises ValueError otherwise."""
    q = np.asarray(quaternion, dtype=np.float64)
    norm = float(np.linalg.norm(q)) if q.shape == (4,) else 0.0
    if not np.isfinite(norm) or norm < 1e-12:
        raise ValueError(f"{quaternion!r} is not a quaternion (w, x, y, z)")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rigid(rotation: ArrayLike, translation: ArrayLike) -> Matrix:
    """[4, 4] transform x -> R x + t from a 3x3 rotation or a quaternion (w, x, y, z) and t in metres.

    Raises ValueError for other shapes, NaN or infinity, a matrix that does not only rotate, and places that are not on Earth.
    """
    matrix = np.eye(4)
    r = np.asarray(rotation, dtype=np.float64)
    t = np.asarray(translation, dtype=np.float64)
    if t.shape != (3,) or r.shape not in ((4,), (3, 3)):
        raise ValueError(f"rotation of shape {r.shape} and translation of shape {t.shape} are not a rigid transform")
    if not (np.isfinite(r).all() and np.isfinite(t).all()):
        raise ValueError("rotation or translation has NaN or infinite values")
    if np.abs(t).max() > _FARTHEST:
        raise ValueError(f"a translation of {np.abs(t).max():.3g} m")
    if r.shape == (3, 3) and (np.abs(r @ r.T - np.eye(3)).max() > 1e-3 or np.linalg.det(r) < 0):
        raise ValueError("its 3x3 matrix is no rotation")
    matrix[:3, :3] = rotation_from_quaternion(r.tolist()) if r.shape == (4,) else r
    matrix[:3, 3] = t
    return matrix


def pinhole(matrix: Any) -> Matrix:
    """[3, 3] intrinsics of square axes, without skew; raises ValueError for everything else, NaN and infinity included."""
    intrinsics = np.asarray(matrix, dtype=np.float64)
    if intrinsics.shape != (3, 3) or not np.isfinite(intrinsics).all():
        raise ValueError("the intrinsics are no 3x3 matrix, or have NaN or infinite values")
    focal, rest = intrinsics[[0, 1], [0, 1]], intrinsics[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]]
    if not ((focal > 0) & (focal < _FAR)).all() or np.abs(intrinsics[:2, 2]).max() > _FAR:
        raise ValueError(f"the intrinsics have focal lengths {focal.tolist()} and the centre {intrinsics[:2, 2].tolist()}")
    if np.abs(rest - (0, 0, 0, 0, 1)).max() > 1e-6:
        raise ValueError("the intrinsics are no pinhole camera's: (fx, 0, cx), (0, fy, cy), (0, 0, 1) are expected")
    return intrinsics


def lidar_to_ego(info: dict[str, Any]) -> Matrix:
    """[4, 4] LIDAR_TOP -> ego at the lidar's time."""
    return rigid(info["lidar2ego_rotation"], info["lidar2ego_translation"])


def lidar_to_global(info: dict[str, Any]) -> Matrix:
    """[4, 4] LIDAR_TOP -> global at the lidar's time."""
    return rigid(info["ego2global_rotation"], info["ego2global_translation"]) @ lidar_to_ego(info)


def ray_origins(poses: Matrix, reference: int, reference_lidar_to_ego: Matrix) -> Matrix:
    """The points [n, 3] (ego frame of the reference, metres, n <= 8) from which RayIoU casts its rays.

    The lidar positions of all key frames of the scene, as seen from the reference frame, that lie within 39 m along
    x and y; evenly thinned to eight (SparseOcc loaders/ego_pose_dataset.py). As there, positions are rounded to
    float32 in the reference lidar frame, and the frame's own is exactly its lidar origin.

    poses      [frames, 4, 4] lidar -> global of the scene's key frames in the order of the info pickle
    reference  index of the evaluated frame among them
    """
    in_lidar = (np.linalg.inv(poses[reference]) @ poses)[:, :3, 3].astype(np.float32).astype(np.float64)
    in_lidar[reference] = 0.0
    origins = in_lidar @ reference_lidar_to_ego[:3, :3].T + reference_lidar_to_ego[:3, 3]
    origins = origins[(np.abs(origins[:, :2]) < ORIGIN_LIMIT).all(axis=1)]
    if len(origins) > MAX_ORIGINS:
        origins = origins[np.round(np.linspace(0, len(origins) - 1, MAX_ORIGINS)).astype(np.int64)]
    return origins
