"""All data sets by name. No torch."""

from __future__ import annotations

from typing import Any

from experiments.datasets.dataset import DataSet
from experiments.datasets.unpickle import DataError
from renderers.registry import Registry

DATASETS: Registry[DataSet] = Registry(
    "data set",
    {
        "occ3d": "experiments.datasets.dataset_occ3d:DATASET",
        "surroundocc": "experiments.datasets.dataset_surroundocc:DATASET",
        "kitti360": "experiments.datasets.dataset_kitti360:DATASET",
    },
    "datasets",
    DataError,
)


def part_of(target: str) -> Any:
    """What a data set names as "module:object"; raises DataError if it cannot be imported."""
    return _PARTS.load(target)


_PARTS: Registry[Any] = Registry("part of a data set", {}, "", DataError)
