"""What of a data set lies on disk, part by part: the index, the labels, the images of a split, and what some models take."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from experiments.datasets.layout import is_below
from experiments.datasets.layouts import layout_of
from experiments.datasets.unpickle import DataError, refusing

LABELS, IMAGES = "labels", "images"


@dataclass(frozen=True)
class Part:
    """One part of a split.

    name      the index's own name (``Layout.index_name``), "labels", "images", or that of a part of a batch
    there     files on disk that the index lists; of the index itself, the frames it lists
    expected  how many there should be; None where no readable index says which
    source    what brings it: a download, or a command
    problem   what is wrong, or "" for a complete part
    missing   the listed files that are not there
    release   of an index: that of the data set's releases which has as many frames, where they differ in the split
    """

    name: str
    there: int
    expected: int | None
    source: str
    problem: str = ""
    missing: tuple[Path, ...] = ()
    release: str = ""


@dataclass(frozen=True)
class Inventory:
    """What there is of a split.

    parts   index, labels, images
    frames  for each frame that the index lists the files it consists of, label first
    optional  what only some models take, by part of a batch
    files   of the same, for each frame its files
    """

    parts: tuple[Part, Part, Part]
    frames: list[list[Path]]
    optional: dict[str, Part] = field(default_factory=dict)
    files: dict[str, list[list[Path]]] = field(default_factory=dict)


def inventory(dataset: str, data_root: Path, split: str) -> Inventory:
    """Index, labels, images and, where the data set has them, files that only some models take. Looks at names only.

    What is missing or damaged is described; DataError is raised for a data set or split that is not known and for a data
    root that is no folder.
    """
    known = layout_of(dataset)
    index, labels, images = known.sources
    counts = {release: frames[split] for release, frames in known.releases.items()}
    published = next(iter(counts.values()), None)
    path = known.index(data_root, split)
    try:
        with refusing(str(path), "copy or download it again"):
            frames = list(known.frame_files(data_root, split))
    except DataError as error:
        problem = str(error) if path.exists() else f"{path.relative_to(data_root)} is missing"
        parts = (
            Part(known.index_name, 0, published, index, problem),
            _unlisted(LABELS, data_root / known.folders[0], labels, known.index_name),
            _unlisted(IMAGES, data_root / known.folders[1], images, known.index_name),
        )
        return Inventory(parts, [], {part: Part(part, 0, None, of.get) for part, of in known.part_files.items()})
    listed_by = path.name if path.is_file() else f"the data set's {known.index_name}"
    release = next((release for release, count in counts.items() if count == len(frames)), None)
    if release is None and counts:
        listed = Part(
            known.index_name, len(frames), published, index, f"{listed_by} lists {len(frames)} frames, {_known(counts)}"
        )
    else:
        which = release if release is not None and len(set(counts.values())) > 1 else ""
        listed = Part(known.index_name, len(frames), len(frames), index, release=which)
    parts = (
        listed,
        _listed(LABELS, [files[0] for files in frames if known.labelled], labels, data_root),
        _listed(IMAGES, [file for files in frames for file in files[1:]], images, data_root),
    )
    files = {part: of.files(data_root, split, frames) for part, of in known.part_files.items()}
    optional = {
        part: _listed(part, list(chain.from_iterable(files[part])), of.get, data_root) for part, of in known.part_files.items()
    }
    return Inventory(parts, frames, optional, files)


def _known(counts: dict[str, int]) -> str:
    """``the published one 6019``, or the number of each release."""
    if len(set(counts.values())) == 1:
        return f"the published one {next(iter(counts.values()))}"
    return ", ".join(f"{release} {count}" for release, count in counts.items())


def _listed(name: str, files: list[Path], source: str, data_root: Path) -> Part:
    missing = tuple(file for file in files if not file.is_file())
    problem = f"{len(missing)} of {len(files)} files are missing" if missing else ""
    outside = next((file for file in missing if not is_below(file, data_root)), None)
    if outside is not None:
        problem += f"; {outside} is outside of the data root: the index was made for the folders of another machine"
        source = (
            "files of nuScenes are found by the end of such a path, from samples/ on: put or link them to nuscenes/samples of "
            f"the data root, or make the index with paths that begin with ./data/nuscenes/. If they are not here: {source}"
        )
    return Part(name, len(files) - len(missing), len(files), source, problem, missing)


def _unlisted(name: str, folder: Path, source: str, index_name: str) -> Part:
    there = folder.is_dir()
    problem = f"the folder is there; which files belong to the split, the {index_name} says" if there else f"no folder {folder}"
    return Part(name, 0, None, source, problem)
