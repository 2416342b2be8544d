"""Records the scenes of a toy world in the layout that is asked for: which recorder, and what is written when all is recorded."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from . import ddad, kitti360, surroundocc
from .catalogue import CLASS_NAMES
from .config import ToyWorldConfig
from .writer import CAMERAS, Recorder


def _make_folders(config: ToyWorldConfig, root: Path) -> None:
    for sensor in (*CAMERAS, "LIDAR_TOP"):
        (root / "nuscenes/samples" / sensor).mkdir(parents=True)
    (root / "nuscenes/lidarseg/v1.0-trainval").mkdir(parents=True)
    if config.layout == "surroundocc":
        (root / surroundocc.LABELS).mkdir(parents=True)


def _write_infos(root: Path, split: str, infos: list[dict[str, Any]]) -> None:
    with (root / f"bevdetv2-nuscenes_infos_{split}.pkl").open("wb") as file:
        pickle.dump({"infos": infos, "metadata": {"version": "v1.0-trainval"}}, file, protocol=4)


def class_names(layout: str) -> tuple[str, ...]:
    """The classes of a layout's labels in the order of their ids, the one of empty voxels included."""
    return kitti360.CLASSES if layout == "kitti360" else CLASS_NAMES


def write(config: ToyWorldConfig, root: Path, workers: int, advance: Callable[[], None]) -> dict[str, list[int]]:
    """Write all splits below ``root``; ``advance`` is called after each key frame.

    Returns the class counts over the voxels that count in evaluation, by split. The numba kernels and the image and zip
    writers run without the interpreter's lock, so frames are recorded by ``workers`` threads at once.
    """
    recorder_of: Callable[..., Recorder | kitti360.Recorder] = Recorder
    finish: Callable[[Path, str, list[Any]], None] = _write_infos
    if config.layout == "kitti360":
        recorder_of, finish = kitti360.Recorder, kitti360.write_poses
    elif config.layout == "ddad":
        recorder_of, finish = ddad.Recorder, ddad.write_infos
    else:
        _make_folders(config, root)
        if config.layout == "surroundocc":
            finish = surroundocc.write_infos
    counts = {}
    with ThreadPoolExecutor(workers) as pool:
        for split in config.splits:
            infos, total = [], np.zeros(len(class_names(config.layout)), np.int64)
            scenes, frames = config.size(split)
            recorders = pool.map(lambda n, split=split: recorder_of(config, root, split, n), range(scenes))
            jobs = [pool.submit(recorder.record, frame) for recorder in recorders for frame in range(frames)]
            for job in jobs:
                info, count = job.result()
                infos.append(info)
                total += count
                advance()
            finish(root, split, infos)
            counts[split] = [int(n) for n in total]
    return counts
