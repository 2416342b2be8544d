"""Pseudo labels of nuScenes' images from models; ``layout_pseudo_labels`` says which files, ``pseudo_models`` which models.

No torch before a model is loaded.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets.layout import NUSCENES_IMAGE_SIZE, field, info_path, label_path, read_infos, resolve
from experiments.datasets.layout_pseudo_labels import DEPTH, PREPARATIONS, SEMANTIC, STORED, path_of, write
from experiments.datasets.unpickle import DataError
from renderers.registry import suggestion

Model = Callable[[NDArray[np.uint8], float], NDArray[Any]]
"""(Image [h, w, 3] red, green, blue; focal length in pixels) -> classes or depth [h, w]."""

_PACKED = {SEMANTIC: 0.05, DEPTH: 0.4}
"""Share of the published files' bytes that compact ones have, of the generated world's noisy labels; of larger images a little
less."""


@dataclass(frozen=True)
class Options:
    """Of ``prepare pseudo-semantics`` and ``pseudo-depth``.

    weights   a folder of them; for Metric3D a file. None: from the hub, or its cache
    metric3d  a copy of github.com/YvanYin/Metric3D whose model estimates depth; None: one of transformers'
    scenes    "A:B", the A-th scene of the split up to the one before the B-th, counted from 0 in the order of names; or names,
              with commas between; "" for all
    shard     "I/N", every N-th frame from the I-th on, counted from 1: for N processes at once
    compact   files in the compact form
    device    of torch; "" for a GPU if there is one
    again     also frames that are there
    """

    weights: Path | None = None
    metric3d: Path | None = None
    scenes: str = ""
    shard: str = "1/1"
    compact: bool = False
    device: str = ""
    again: bool = False


@dataclass(frozen=True)
class Job:
    """A key frame to label.

    images  in the order of cameras of the file that is written
    focal   their focal lengths in pixels
    label   the key frame's own label file, which need not be there
    """

    images: tuple[Path, ...]
    focal: tuple[float, ...]
    label: Path


def semantics(data_root: Path, split: str, options: Options) -> list[tuple[bool, Callable[[], None]]]:
    """A split's frames as ``Preparation.steps`` says, for Grounded SAM."""
    if options.metric3d is not None:
        raise DataError("--metric3d is of prepare pseudo-depth alone")

    def load() -> tuple[Model, str]:
        from experiments.datasets.pseudo_models import GroundedSam

        return GroundedSam(options.weights, options.device), GroundedSam.source(options.weights)

    return _steps(SEMANTIC, data_root, split, options, load)


def depth(data_root: Path, split: str, options: Options) -> list[tuple[bool, Callable[[], None]]]:
    """The same for a model of metric depth."""

    def load() -> tuple[Model, str]:
        from experiments.datasets.pseudo_models import Metric3D, MetricDepth

        if options.metric3d is not None:
            return Metric3D(options.metric3d, options.weights, options.device), "Metric3D"
        return MetricDepth(options.weights, options.device), MetricDepth.source(options.weights)

    return _steps(DEPTH, data_root, split, options, load)


def _steps(
    folder: str, data_root: Path, split: str, options: Options, load: Callable[[], tuple[Model, str]]
) -> list[tuple[bool, Callable[[], None]]]:
    jobs = chosen(_jobs(folder, data_root, split), options)
    done = [path_of(data_root, job.label, folder).is_file() for job in jobs]
    if not all(done) or (options.again and jobs):
        if options.metric3d is None and importlib.util.find_spec("transformers") is None:
            raise DataError(
                "transformers, which has the models, is not installed: in the project's folder, pip install '.[pseudo]'"
            )
        (data_root / folder).mkdir(exist_ok=True)  # tells before models are loaded if nothing can be written there
        model, source = load()
    else:
        model, source = _no_model, ""
    make = partial(_make, folder, data_root, model, source, options.compact)
    return [(there, partial(make, job)) for there, job in zip(done, jobs, strict=True)]


def _no_model(image: NDArray[np.uint8], focal: float) -> NDArray[Any]:
    raise AssertionError("nothing was to be made")


def _jobs(folder: str, data_root: Path, split: str) -> list[Job]:
    pickle, jobs = info_path(data_root, split), []
    for info in read_infos(data_root, split):
        cameras = field(info, "cams", pickle)
        entries = [field(cameras, name, pickle) for name in STORED[folder]]
        try:
            focal = tuple(float(np.asarray(entry["cam_intrinsic"], np.float64).reshape(3, 3)[0, 0]) for entry in entries)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"{pickle}: the cameras of {info.get('token', 'a frame')} have no intrinsics: {error}") from error
        images = tuple(resolve(data_root, field(entry, "data_path", pickle)) for entry in entries)
        jobs.append(Job(images, focal, label_path(data_root, info, pickle)))
    return jobs


def chosen(jobs: list[Job], options: Options) -> list[Job]:
    """Those of the scenes and the shard that are asked for; raises DataError for what is neither."""
    scenes = sorted({job.label.parent.parent.name for job in jobs})
    if (span := re.fullmatch(r"(\d*):(\d*)", options.scenes)) is not None:
        wanted = set(scenes[int(span[1] or 0) : int(span[2] or len(scenes))])
        if not wanted:
            raise DataError(f"--scenes {options.scenes} is of no scene, the split has {len(scenes)}, 0:{len(scenes)}")
    else:
        wanted = set(options.scenes.split(",")) if options.scenes else set(scenes)
        if unknown := sorted(wanted - set(scenes)):
            raise DataError(f"--scenes: {suggestion('scene', unknown[0], scenes) if len(scenes) < 20 else _unknown(unknown[0])}")
    shard = re.fullmatch(r"(\d+)/(\d+)", options.shard)
    if shard is None or not 1 <= int(shard[1]) <= int(shard[2]):
        raise DataError(f"--shard takes I/N with I of 1 to N, 2/4 say for the second of four processes, got '{options.shard}'")
    found = [job for job in jobs if job.label.parent.parent.name in wanted]
    return found[int(shard[1]) - 1 :: int(shard[2])]


def _unknown(scene: str) -> str:
    return f"no scene '{scene}' in the split; names are like scene-0001, and A:B takes the A-th to the one before the B-th"


def announcement(name: str, data_root: Path, count: int, options: Options) -> str:
    """How much ``count`` frames will take on the disk; raises DataError if that is not free."""
    folder = PREPARATIONS[name]
    width, height = NUSCENES_IMAGE_SIZE
    size = count * len(STORED[folder]) * width * height * (1 if folder == SEMANTIC else 2)
    about = f"about {size * _PACKED[folder] / 1e9:.1f} GB"
    free = shutil.disk_usage(data_root).free
    need = size * _PACKED[folder] if options.compact else size
    said = f"{count} frames of {width}x{height} take {about if options.compact else f'{size / 1e9:.1f} GB'}"
    if need > free:
        smaller = "" if options.compact else f" (--compact: {about})"
        raise DataError(
            f"{name}: {said}{smaller}, {free / 1e9:.1f} GB are free in {data_root}: take fewer scenes with --scenes, or link "
            f"{folder} there to a larger disk"
        )
    return said + ("" if options.compact else f", with --compact {about}") + f"; {free / 1e9:.1f} GB are free"


def _make(folder: str, data_root: Path, model: Model, source: str, compact: bool, job: Job) -> None:
    from experiments.datasets.transforms import read_image

    maps: list[NDArray[Any]] = []
    for image, focal in zip(job.images, job.focal, strict=True):
        found = model(np.ascontiguousarray(read_image(image)[..., ::-1]), focal)
        if not np.isfinite(found).all():
            raise DataError(f"image {image}: the model says NaN or infinity of it")
        if maps and found.shape != maps[0].shape:
            size, first = ("x".join(map(str, one.shape[::-1])) for one in (found, maps[0]))
            raise DataError(f"image {image} is {size}, the cameras before it {first}")
        maps.append(found)
    write(path_of(data_root, job.label, folder), np.stack(maps), compact, source)
