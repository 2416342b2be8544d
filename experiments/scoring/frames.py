"""The frames of a split with the predictions of them: each gives its counts, or says why it cannot be scored."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from experiments.datasets.build import reader
from experiments.datasets.frames import OccupancyFrames
from experiments.datasets.layouts import layout_of
from experiments.datasets.unpickle import DataError
from experiments.metrics.counts import Counts
from experiments.scoring import formats
from experiments.scoring.protocols import frame_counts

NO_LABEL = "without a readable label"


@dataclass(frozen=True)
class Outcome:
    """One frame.

    number      of the frame in its split
    counts      of all protocols; none where there is a problem
    prediction  digest of the class ids that were predicted, whatever file they were in
    truth       digest of labels and masks
    mostly      the class that most voxels are predicted to be
    kind, problem  why it cannot be scored, naming the file; "" where it was
    """

    number: int
    counts: Counts
    prediction: str = ""
    truth: str = ""
    mostly: int = -1
    kind: str = ""
    problem: str = ""


class ScoredFrames(Dataset[Outcome]):
    """Frame number -> ``Outcome``.

    files    frame number -> file with its prediction
    format   that all of them have
    coarsen  voxels that many times as large as the official ones; only our own files have such

    A process that is started with it reads the split's list anew. Raises DataError where the split cannot be listed.
    """

    def __init__(
        self, dataset: str, data_root: Path, split: str, files: Mapping[int, Path], format: str, coarsen: int = 1
    ) -> None:
        self.dataset, self.data_root, self.split = dataset, data_root, split
        self.files, self.format, self.coarsen = dict(files), format, coarsen
        self._frames: OccupancyFrames[Any] | None = None

    @property
    def frames(self) -> OccupancyFrames[Any]:
        """What reads the labels."""
        if self._frames is None:
            self._frames = reader(self.dataset)(self.data_root, self.split, coarsen=self.coarsen)
        return self._frames

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_frames": None}

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Outcome:
        path = self.files[number]
        try:
            predicted = self._read(path)
        except formats.BadPrediction as error:
            return Outcome(number, {}, kind=error.kind, problem=f"{path.parent.name}/{path.name} ({error})")
        frames = self.frames
        try:
            labels, own = frames.labels(number)
            others = frames.other_masks(number)
            origins = frames.meta(number)["ray_origins"] if frames.has_ray_origins else None
        except (DataError, OSError) as error:
            return Outcome(number, {}, kind=NO_LABEL, problem=str(error))
        truth = hashlib.sha256(np.ascontiguousarray(labels).tobytes())
        for mask in (own, *others.values()):
            truth.update(np.packbits(mask).tobytes())
        if origins is not None:
            truth.update(np.ascontiguousarray(origins, np.float64).tobytes())
        return Outcome(
            number,
            frame_counts(predicted, labels, own, others, frames.grid, origins),
            hashlib.sha256(predicted.tobytes()).hexdigest()[:32],
            truth.hexdigest()[:32],
            int(np.bincount(predicted.ravel()).argmax()),
        )

    def _read(self, path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
        content = formats.read(path, layout_of(self.dataset).grid())
        if content.format != self.format:
            raise formats.BadPrediction(formats.OTHER_FORMAT, f"it is {content.format}, others are {self.format}")
        if content.ours is not None and content.ours.grid != self.frames.grid:
            grid, own = content.ours.grid, self.frames.grid
            raise formats.BadPrediction(
                formats.OTHER_GRID,
                f"it is {list(grid.shape)} voxels of {grid.voxel_size:g} m of {grid.dataset}, "
                f"not {list(own.shape)} of {own.voxel_size:g} m of {own.dataset}",
            )
        return content.labels


def outcomes(frames: ScoredFrames, numbers: list[int], workers: int) -> Iterator[Outcome]:
    """The outcomes of frames in the order of ``numbers``, computed by that many processes besides this one; by this one with one.

    Processes are started anew, not copied from this one, whose threads they could not use.
    """
    if workers < 2 or len(numbers) < 2:
        yield from (frames[number] for number in numbers)
        return
    loader: DataLoader[Outcome] = DataLoader(
        frames,
        batch_size=None,
        sampler=numbers,
        num_workers=min(workers, len(numbers)),
        multiprocessing_context="spawn",
        worker_init_fn=_start_of(max(1, len(os.sched_getaffinity(0)) // workers)),
    )
    yield from loader


@dataclass(frozen=True)
class _start_of:
    """What a process does first: leave interrupts to the one that started it, and take its share of the cores."""

    threads: int

    def __call__(self, _: int) -> None:
        import numba

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        numba.set_num_threads(min(self.threads, numba.get_num_threads()))
