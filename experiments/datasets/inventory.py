"""What of a data set lies on disk, part by part: the index, the labels and the images of a split. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.datasets.layouts import layout_of
from experiments.datasets.unpickle import DataError

INDEX, LABELS, IMAGES = PART_NAMES = ("info pickle", "labels", "images")


@dataclass(frozen=True)
class Part:
    """One downloadable part of a split.

    name      one of PART_NAMES
    there     files on disk that the index lists; of the index itself, the frames it lists
    expected  how many there should be; None where no readable index says which
    source    the download that brings it
    problem   what is wrong, or "" for a complete part
    missing   the listed files that are not there
    """

    name: str
    there: int
    expected: int | None
    source: str
    problem: str = ""
    missing: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """A split's parts, and for each frame that its index lists the files it consists of, label first."""

    parts: tuple[Part, Part, Part]
    frames: list[list[Path]]


def inventory(dataset: str, data_root: Path, split: str) -> Inventory:
    """Index, labels and images of a split. Looks at names only.

    What is missing or damaged is described; DataError is raised for a data set or split that is not known and for a data
    root that is no folder.
    """
    known = layout_of(dataset)
    index, labels, images = known.sources
    published = known.frames[split]
    path = known.index(data_root, split)
    try:
        frames = list(known.frame_files(data_root, split))
    except DataError as error:
        problem = str(error) if path.is_file() else f"{path.name} is missing"
        parts = (
            Part(INDEX, 0, published, index, problem),
            _unlisted(LABELS, data_root / known.folders[0], labels),
            _unlisted(IMAGES, data_root / known.folders[1], images),
        )
        return Inventory(parts, [])
    short = "" if len(frames) == published else f"{path.name} lists {len(frames)} frames, the published one {published}"
    parts = (
        Part(INDEX, len(frames), published, index, short),
        _listed(LABELS, [files[0] for files in frames], labels),
        _listed(IMAGES, [file for files in frames for file in files[1:]], images),
    )
    return Inventory(parts, frames)


def _listed(name: str, files: list[Path], source: str) -> Part:
    missing = tuple(file for file in files if not file.is_file())
    problem = f"{len(missing)} of {len(files)} files are missing" if missing else ""
    return Part(name, len(files) - len(missing), len(files), source, problem, missing)


def _unlisted(name: str, folder: Path, source: str) -> Part:
    there = folder.is_dir()
    problem = "the folder is there; which files belong to the split, the info pickle says" if there else f"no folder {folder}"
    return Part(name, 0, None, source, problem)
