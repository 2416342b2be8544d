"""What a data set is: one light object. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from baselines.published import Published
from experiments.datasets.moments import Moment

if TYPE_CHECKING:
    from baselines.interface import OccupancyGrid


@dataclass(frozen=True)
class Preparation:
    """Files of a data set that are made from what was downloaded.

    steps    "module:function" (data root, split) -> for each frame, whether its files are there, and what makes them, which
             raises DataError naming what is at fault; raises it itself for a split that is not there
    what     is made of a frame, for people
    version  of what is made; raise it with every change to that
    splits   that have such files; all where none is named
    by_name  it is made where it is named alone, not with all that is made of a data set: it takes days, say
    options  whether steps take ``prepare_pseudo.Options`` besides
    """

    steps: str
    what: str
    version: int = 1
    splits: tuple[str, ...] = ()
    by_name: bool = False
    options: bool = False


@dataclass(frozen=True)
class PartFiles:
    """Files that a data set has for a part of the batch alone, and that only some models take.

    files    (data root, split, what ``frame_files`` lists) -> for each frame its files
    get      what brings them
    takers   which rows read them, for people
    counted  whether fingerprints of data cover them; one that has records from before they did is left as it was
    empty    whether a file without content is one of a frame in which there is nothing; False: it is a damaged one
    made     by which of the data set's preparations they are made of generated data; "" where the generator writes them
    """

    files: Callable[[Path, str, list[list[Path]]], list[list[Path]]]
    get: str
    takers: str
    counted: bool = True
    empty: bool = False
    made: str = ""


@dataclass(frozen=True)
class DataSet:
    """A data set: its grid, its layout below a data root, what reads it, what writes a toy one.

    name         by which specs name it
    title        name for people
    reader       "module:Class" of an ``OccupancyFrames``, made with (data root, split, options)
    class_names  by class id, the empty one included
    empty        name of the empty class
    lower, upper, voxel_size, frame  of the official grid, as in ``OccupancyGrid``
    published    constants that papers fixed for it
    splits       names of its splits; one is "train"
    evaluated    the split on which numbers are published
    frame_files  (data root, split) -> for each frame, label first, the files it consists of; of a data set without labels the
                 index comes first
    listing      (data root, split) -> the bytes that list the split's frames
    index        (data root, split) -> the file that lists the split's frames, or a folder whose file names do
    image_size   (width, height) in pixels of every image as published
    folders      below the data root: that of the labels, that of the images
    releases     release -> split -> number of its frames; a split is complete with that of any, the first is today's download;
                 empty where none is published
    sources      what brings the index, the labels, the images
    index_name   of the index, for people
    parts        fields of OccupancyBatch beyond images and cameras that it can provide
    part_files   of the parts that have files of their own
    preparations  what ``python -m experiments.data prepare NAME`` makes, by NAME; under the data set's own what all rows need
    moments      (data root, split) -> when each frame was taken, of a data set with poses
    raw_files    (data root, split) -> for each frame the files that its label was made of, where they are published
    labelled     whether there are voxel labels. Where there are none all voxels are unknown, and what is measured are images
    toy          "module:object" with ``fingerprint(fields)`` and ``ensure(fields)`` of a generated data set, see
                 ``experiments.toyworld``; "" where there is none
    """

    name: str
    title: str
    reader: str
    class_names: tuple[str, ...]
    empty: str
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    voxel_size: float
    frame: str
    splits: tuple[str, ...]
    evaluated: str
    frame_files: Callable[[Path, str], Iterator[list[Path]]]
    listing: Callable[[Path, str], bytes]
    index: Callable[[Path, str], Path]
    image_size: tuple[int, int]
    folders: tuple[str, str]
    published: Published = field(default_factory=Published)
    releases: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sources: tuple[str, str, str] = ("its publisher", "its publisher", "its publisher")
    index_name: str = "info pickle"
    parts: tuple[str, ...] = ()
    part_files: Mapping[str, PartFiles] = field(default_factory=dict)
    preparations: Mapping[str, Preparation] = field(default_factory=dict)
    moments: Callable[[Path, str], list[Moment]] | None = None
    raw_files: Callable[[Path, str], list[list[Path]]] | None = None
    labelled: bool = True
    toy: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes without the empty one."""
        return tuple(name for name in self.class_names if name != self.empty)

    def grid(self, coarsen: int = 1) -> OccupancyGrid:
        """The official grid; ``coarsen`` enlarges the voxels."""
        from baselines.interface import OccupancyGrid

        official = OccupancyGrid(
            lower=self.lower,
            upper=self.upper,
            voxel_size=self.voxel_size,
            class_names=self.class_names,
            empty=self.class_names.index(self.empty),
            frame=self.frame,
            dataset=self.name,
            published=self.published,
        )
        return official if coarsen == 1 else official.coarsened(coarsen)
