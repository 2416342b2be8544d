"""Records of scores: what ``python -m experiments.score`` leaves of somebody's predictions, one file a folder of them.

    results/local/scores/<data set>/<split>/<folder's name>-<digest>.json

They are of no cell, so no table has a place for them. Light: no torch, no mm stack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from experiments.records import Amount, Count, Hardware, Strict, Value, load_as

FOLDER = "scores"


class ScoreRecord(Strict):
    """Predictions, scored.

    format       of their files
    source       what made them: of our own files the table, the preset and the cell, else ""
    predictions  name of their folder
    predictions_fingerprint  digest of the class ids of all frames, the same whatever files they are in
    labels_fingerprint       digest of the labels, masks and ray origins that they were held against
    frames       that were scored, ``of`` how many that the split has; ``subset``: name of the file that chose them, "" for all
    voxel_size   metres
    metrics      key -> number, in percent; the keys without a mask's name are those of a cell's record
    names        key -> the protocol in full
    per_class    key -> class -> number; ``absent``: key -> classes that do not occur and count 100 % in it
    counts       what all of it follows from, summed over frames: "voxels" and "voxels <mask>", rows by true class, columns by
                 predicted one; "rays", see ``experiments.metrics.rayiou.ray_counts``
    remarks      what must be known of the numbers, one line each
    """

    schema_version: Literal[1] = 1
    dataset: str
    split: str
    format: str
    source: str = ""
    predictions: str
    predictions_fingerprint: str
    labels_fingerprint: str
    frames: Count
    of: Count
    subset: str = ""
    voxel_size: Amount
    class_names: list[str]
    metrics: dict[str, Value]
    names: dict[str, str]
    per_class: dict[str, dict[str, Value]]
    absent: dict[str, list[str]] = Field(default_factory=dict)
    counts: dict[str, list[list[Count]]]
    remarks: list[str] = Field(default_factory=list)
    git_commit: str
    git_dirty: bool
    command: str
    versions: dict[str, str]
    hardware: Hardware
    started: str
    seconds: Amount


def load(path: Path) -> ScoreRecord:
    """Read one record; raises RecordError naming the file if it is not a valid one."""
    return load_as(ScoreRecord, path, "score the predictions again")
