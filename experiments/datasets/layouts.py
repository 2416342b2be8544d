"""What lies of a data set below a data root, and a fingerprint of it. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.datasets import layout
from experiments.datasets.dataset import DataSet
from experiments.datasets.moments import Timeline
from experiments.datasets.registry import DATASETS
from experiments.datasets.unpickle import DataError, refusing


def layout_of(dataset: str) -> DataSet:
    """The data set called ``dataset``; raises DataError with a suggestion."""
    return DATASETS.load(dataset)


@dataclass(frozen=True)
class FoundSplit:
    """What lies on disk of one split: ``frames`` listed, ``usable`` of them with label and all images."""

    dataset: str
    split: str
    frames: int
    usable: int
    problem: str = ""


def describe(data_root: str | Path) -> list[FoundSplit]:
    """The splits found below a data root with their frame counts; empty if there are none. Damage is described."""
    root = Path(data_root)
    if not root.is_dir():
        return []
    found = []
    for known in map(DATASETS.load, DATASETS.names()):
        for split in known.splits:
            try:
                if not known.index(root, split).exists():
                    continue
                with refusing(str(known.index(root, split)), "copy or download it again"):
                    complete = [all(file.is_file() for file in files) for files in known.frame_files(root, split)]
            except DataError as error:
                found.append(FoundSplit(known.title, split, 0, 0, str(error)))
                continue
            missing = len(complete) - sum(complete)
            problem = f"{missing} frame(s) without label or images" if missing else ""
            found.append(FoundSplit(known.title, split, len(complete), sum(complete), problem))
    return found


@dataclass(frozen=True)
class SplitFiles:
    """The files of a split as they lie on disk.

    fingerprint  of all of them, see ``data_fingerprint``
    read         the same of the frames that are read alone
    frames       for each frame that is read, label first: file -> its size, -1 if it is missing
    parts        part of a batch -> the files that are read for it besides: file -> its size
    """

    fingerprint: str
    read: str
    frames: list[dict[Path, int]]
    parts: dict[str, dict[Path, int]]

    def extra(self, dataset: str) -> str:
        """A fingerprint of the parts' files; "" where there are none that fingerprints cover."""
        left_out = {part for part, of in layout_of(dataset).part_files.items() if not of.counted}
        counted = {part: files for part, files in self.parts.items() if files and part not in left_out}
        listing = ",".join(sorted(counted)).encode()
        return _fingerprint(listing, [counted[part] for part in sorted(counted)]) if counted else ""


def look(
    dataset: str, data_root: str | Path, split: str, mini: bool = False, reads: Mapping[str, Iterable[int]] | None = None
) -> SplitFiles:
    """Look at a split's files, once each. Raises DataError like ``data_fingerprint``.

    mini   only upstream's ``mini_indices`` are read
    reads  parts of a batch that are read too -> the moments that they show (``Recipe.parts``)
    """
    known, root = layout_of(dataset), Path(data_root)
    with refusing(str(known.index(root, split)), "copy or download it again"):
        names = list(known.frame_files(root, split))  # reads the index with all its checks
        listing = known.listing(root, split)
        frames = [{file: _size(file) for file in files} for files in names]
        chosen = list(layout.mini_indices(len(frames)) if mini else range(len(frames)))
        read = [frames[index] for index in chosen]
        parts = _part_files(known, root, split, names, chosen, reads or {})
    sizes = {part: {file: _size(file) for file in files} for part, files in parts.items()}
    return SplitFiles(_fingerprint(listing, frames), _fingerprint(listing, read), read, sizes)


def _part_files(
    known: DataSet, root: Path, split: str, names: list[list[Path]], chosen: list[int], reads: Mapping[str, Iterable[int]]
) -> dict[str, list[Path]]:
    """The files of each part beyond those of the frames that are read anyway, in order."""
    anyway = {file for index in chosen for file in names[index]}
    timeline = Timeline(known.moments(root, split)) if known.moments and any(set(at) != {0} for at in reads.values()) else None
    found: dict[str, list[Path]] = {}
    for part, offsets in reads.items():
        if part in known.part_files:
            listed = known.part_files[part].files(root, split, names)
        elif timeline is not None and set(offsets) != {0}:
            listed = [images for _, *images in names]
        else:
            continue
        shown = [timeline.shown(part, index, offsets) if timeline else [index] for index in chosen]
        files = dict.fromkeys(file for positions in shown for position in positions for file in listed[position])
        found[part] = [file for file in files if file not in anyway]
    return found


def data_fingerprint(dataset: str, data_root: str | Path, split: str) -> str:
    """sha256 (hex) over the bytes that list the frames and the sizes of the images and labels that they name.

    It does not depend on where the data root lies. Reading sizes instead of contents keeps it to seconds on the
    full data set; a file that is missing counts as size -1. Raises DataError if the data set is not there, and
    for an unknown name.
    """
    return look(dataset, data_root, split).fingerprint


def _fingerprint(listing: bytes, frames: Sequence[Mapping[Path, int]]) -> str:
    digest = hashlib.sha256(listing)
    for size in (size for files in frames for size in files.values()):
        digest.update(b"%d," % size)
    return digest.hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1
