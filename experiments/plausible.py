"""Whether a record may be a table's: its classes those of the data set, its percentages at most 100. No torch, no mm stack."""

from __future__ import annotations

from pathlib import Path

from experiments.datasets.layouts import layout_of
from experiments.metrics.registry import METRICS
from experiments.records import Record, RecordError
from experiments.spec import TableSpec


def check(record: Record, spec: TableSpec, path: Path, empty: bool = False) -> None:
    """Raise RecordError, naming the file and the field, for a value that no cell of the table has.

    empty  a record without a number, which a run leaves where nothing counts, is let through
    """

    def refuse(field: str, why: str) -> None:
        raise RecordError(f"{path} is not a valid record ({field}: {why}); delete it and run the cell again")

    if not record.metrics and not empty:
        refuse("metrics", "there are none")
    known = set(METRICS.names())
    percent = {name for name in (*record.metrics, *record.per_class) if name in known and METRICS.load(name).unit == "%"}
    dataset = layout_of(spec.dataset)
    classes = {*dataset.class_names, *dataset.classes}
    for name, value in record.metrics.items():
        if name in percent and value > 100.0001:
            refuse(f"metrics.{name}", f"{value:g} %")
    for name, values in record.per_class.items():
        for class_name, value in values.items():
            if class_name not in classes:
                refuse(f"per_class.{name}", f"'{class_name[:80]}' is no class of {spec.dataset}")
            if name in percent and value > 100.0001:
                refuse(f"per_class.{name}.{class_name}", f"{value:g} %")
    for name, names in record.absent.items():
        for class_name in names:
            if class_name not in classes:
                refuse(f"absent.{name}", f"'{class_name[:80]}' is no class of {spec.dataset}")
