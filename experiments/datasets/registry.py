"""All data sets by name. No torch."""

from __future__ import annotations

from experiments.datasets.dataset import DataSet
from experiments.datasets.unpickle import DataError
from renderers.registry import Registry

DATASETS: Registry[DataSet] = Registry(
    "data set",
    {
        "occ3d": "experiments.datasets.dataset_occ3d:DATASET",
        "surroundocc": "experiments.datasets.dataset_surroundocc:DATASET",
        "kitti360": "experiments.datasets.dataset_kitti360:DATASET",
        "ddad": "experiments.datasets.dataset_ddad:DATASET",
    },
    "datasets",
    DataError,
)
