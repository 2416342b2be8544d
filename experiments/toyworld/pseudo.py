"""Pseudo labels of the driving world's images, in GaussianFlowOcc's layout (``layout_pseudo_labels``, compact files).

Those that rows learn from have errors like the models' (``imagelabels``), drawn from (seed of the world, split, scene, frame).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np

from experiments.datasets.layout import info_path, label_path, read_infos
from experiments.datasets.layout_pseudo_labels import (
    DEPTH,
    EXACT,
    FOLDERS,
    SEMANTIC,
    STORED,
    TOY_VERSION,
    path_of,
    source_of,
    write,
)
from experiments.datasets.unpickle import DataError

from . import fingerprint, summary
from .config import ToyWorldConfig
from .imagelabels import exact, noisy, word
from .writer import Recorder

_BY_US = "toy world "
SOURCE = f"{_BY_US}{TOY_VERSION}"
"""What made the files. Those of another version are made again, those that models made of the images are left."""


def steps(data_root: Path, split: str) -> list[tuple[bool, Callable[[], None]]]:
    """A split's frames as ``Preparation.steps`` says: exact and noisy files of each."""
    pickle = info_path(data_root, split)
    config = world_of(data_root)
    _, frames = config.size(split)
    labels = [label_path(data_root, info, pickle) for info in read_infos(data_root, split)]
    return [(_is_made(data_root, label), partial(_make, config, data_root, split, *divmod(number, frames), label))
            for number, label in enumerate(labels)]  # fmt: skip


def world_of(data_root: Path) -> ToyWorldConfig:
    """Of the world in a folder; raises DataError if there is none, or one of another version, whose surfaces are not known."""
    real = "pseudo labels of real images are made by prepare pseudo-semantics and prepare pseudo-depth"
    try:
        note = summary(data_root)
        config = ToyWorldConfig(**note["config"])
        known = note["fingerprint"] == fingerprint(config)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise DataError(f"{data_root} holds no generated world (python -m experiments.toyworld makes one): {real}") from None
    if not known or config.layout != "occ3d":
        raise DataError(f"{data_root} holds a world of another version or layout: make one with python -m experiments.toyworld")
    return config


def _is_made(data_root: Path, label: Path) -> bool:
    files = [path_of(root, label, folder) for root in (data_root, data_root / EXACT) for folder in FOLDERS]
    return all(file.is_file() and (source_of(file) == SOURCE or not _is_ours(file)) for file in files)


def _is_ours(file: Path) -> bool:
    return not file.is_file() or source_of(file).startswith(_BY_US)


@cache
def recorder_of(config: ToyWorldConfig, data_root: Path, split: str, scene: int) -> Recorder:
    """What recorded a scene."""
    return Recorder(config, data_root, split, scene)


def _make(config: ToyWorldConfig, data_root: Path, split: str, scene: int, frame: int, label: Path) -> None:
    recorder = recorder_of(config, data_root, split, scene)
    seeds = [config.seed, int(split == "val"), scene]
    drifts = np.random.default_rng([*seeds, word("drift")]).normal(0, 0.04, len(STORED[DEPTH]))
    seen, erring = exact(recorder, frame), {}
    for number, (name, known) in enumerate(sorted(seen.items())):
        rng = np.random.default_rng([*seeds, frame, word(name)])
        erring[name] = noisy(*known, drifts[number], rng)
    for root, maps in ((data_root / EXACT, seen), (data_root, erring)):
        for folder, place in ((SEMANTIC, 0), (DEPTH, 1)):
            array = np.stack([maps[name][place] for name in STORED[folder]])
            if _is_ours(file := path_of(root, label, folder)):
                write(file, array, True, SOURCE)
