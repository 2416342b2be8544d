"""Complete reading of frames through the loaders, with a note of those that were found good."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from experiments.datasets.build import reader
from experiments.datasets.layouts import layout_of
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError

CHECKS = 3  # raise it with every check that is added: frames noted under an older number are read again

_ENDS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
_MATRICES = ("projection", "intrinsics", "reference_to_camera", "reference_to_lidar")
_FEW = 32  # frames that one process reads sooner than others have started


class FrameChecks(Dataset[tuple[int, str]]):
    """Frame number -> (the number, what is wrong with the frame or ""), for a split of a data set.

    Each frame goes through the loader as training reads it, at the published image size: its images are decoded, its
    labels and mask are checked for shape and class range, its matrices for their form. On top of that: images of the
    published size and complete files, finite matrices, and labels of this data set: its empty class fills most of a scene,
    and where the raw voxels are there, they say the same. Where the frame has the files of a part that only some models take,
    that is read too.

    Raises DataError where the split cannot be listed.
    """

    def __init__(self, dataset: str, data_root: Path, split: str) -> None:
        self.layout = layout_of(dataset)
        width, height = self.layout.image_size
        self.frames = reader(dataset)(data_root, split, image=ImageTransform(width=width, height=height, distort=False))
        frames = list(self.layout.frame_files(data_root, split)) if self.layout.part_files else []
        self.optional = {part: of.files(data_root, split, frames) for part, of in self.layout.part_files.items()}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, number: int) -> tuple[int, str]:
        try:
            self._check(number)
        except (DataError, OSError) as error:
            return number, str(error)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # values of a wrong type
            return number, f"frame {number} of the {self.layout.index_name} is unusable ({type(error).__name__}: {error})"
        return number, ""

    def _check(self, number: int) -> None:
        batch = self.frames[number]
        meta = batch.meta[0]
        if batch.camera_size != self.layout.image_size:
            found, published = ("x".join(map(str, size)) for size in (batch.camera_size, self.layout.image_size))
            raise DataError(f"images of frame {meta['token']} are {found}, published: {published} ({meta['image_paths'][0]})")
        for name in meta["image_paths"]:
            _check_end(Path(name))
        for name in _MATRICES:
            if not torch.isfinite(getattr(batch, name)).all():
                raise DataError(f"frame {meta['token']}: {name} has NaN or infinite values")
        if self.layout.labelled:
            self._check_classes(number, str(meta["token"]))
        self.frames.check_source(number)
        for part, files in self.optional.items():
            if files[number] and all(path.is_file() for path in files[number]):
                self.frames.check_part(part, number)

    def _check_classes(self, number: int, token: str) -> None:
        labels, grid = self.frames.labels(number)[0], self.frames.grid
        counts = np.bincount(labels[labels != grid.ignore].ravel(), minlength=grid.num_classes)
        most = int(counts.argmax())
        if most != grid.empty and 2 * counts[most] > counts.sum():
            shares = [f"{100 * counts[c] / counts.sum():.0f} % {grid.class_names[c]} ({c})" for c in (most, grid.empty)]
            raise DataError(
                f"label of frame {token} is {' and '.join(shares)}: it has the class ids of another data set; "
                f"{self.layout.title}'s own labels are needed ({self.layout.sources[1]})"
            )


def _check_end(path: Path) -> None:
    """The decoder fills what a cut-off image lacks with grey and says nothing, so the end is looked at here."""
    end = _ENDS.get(path.suffix.lower())
    if end is None:
        return
    with path.open("rb") as file:
        file.seek(-len(end), os.SEEK_END)
        if file.read() != end:
            raise DataError(f"image {path} is cut off: copy or download it again")


class Notes:
    """Which frames of a split were found good, one JSON line each, appended as they are read.

    folder  where notes are kept
    files   for each frame the files it is read from, all of them there for the frames asked about
    of      of what else than the data set the notes are, if anything: they lie under another name, and another word for it
            makes them void
    name    of the file, by default the data set's and the split's; what they are of, and where, is added to it

    A frame counts for as long as the index's content and the sizes and times of the frame's files stay what they were.
    Raises OSError if the file cannot be written.
    """

    def __init__(
        self, folder: Path, dataset: str, data_root: Path, split: str, files: list[list[Path]], of: str = "", name: str = ""
    ) -> None:
        root = Path(os.path.realpath(data_root))
        place = hashlib.sha256(f"{root}{of}".encode()).hexdigest()[:12]
        self.path = folder / f"{name or f'{dataset}-{split}'}-{place}.jsonl"
        self._index = hashlib.sha256(layout_of(dataset).listing(root, split)).hexdigest()
        self._files, self._of = files, of
        self._good: dict[int, str] = {}
        self._found: dict[int, Any] = {}
        if self.path.is_file():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                self._read(line)
            if not text.endswith("\n"):  # a process was killed while it wrote
                self._write("\n")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._append({"dataset": dataset, "split": split, "data_root": str(root)})

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            if "frame" in entry:
                self._good[int(entry["frame"])] = str(entry["fingerprint"])
                self._found[int(entry["frame"])] = entry.get("found")
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return  # what a process wrote when it was killed: the frame is read again

    def known(self, number: int) -> bool:
        """Whether the frame was found good as it is now."""
        return number in self._good and self._good[number] == self._fingerprint(number)

    def found(self, number: int) -> Any:
        """What was noted of a known frame."""
        return self._found[number]

    def add(self, number: int, found: Any = None) -> None:
        """Note that the frame was found good, and what was found."""
        self._good[number], self._found[number] = self._fingerprint(number), found
        content = {} if found is None else {"found": found}
        self._append({"frame": number, "fingerprint": self._good[number], **content})

    def _append(self, entry: dict[str, Any]) -> None:
        self._write(json.dumps(entry) + "\n")

    def _write(self, text: str) -> None:
        with self.path.open("ab", buffering=0) as file:  # a line at a time, also where two processes write
            file.write(text.encode())

    def _fingerprint(self, number: int) -> str:
        digest = hashlib.sha256(f"{CHECKS} {self._index}{self._of}".encode())
        for path in self._files[number]:
            state = path.stat()
            digest.update(f" {state.st_size} {state.st_mtime_ns}".encode())
        return digest.hexdigest()[:16]


def check_frames(checks: FrameChecks, numbers: list[int]) -> Iterator[tuple[int, str]]:
    """(frame number, what is wrong or "") in the order of ``numbers``; many of them on all cores."""
    workers = len(os.sched_getaffinity(0)) if len(numbers) > _FEW else 0
    loader: DataLoader[Any] = DataLoader(
        checks,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )
    for number, problem in loader:
        yield int(number), str(problem)


def _leave_interrupts_to_the_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
