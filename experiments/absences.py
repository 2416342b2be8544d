"""What must be said beside a mean in which classes count that do not occur, and where nothing counts. Light: no torch.

By the published rule a class without a single true element counts 100 % (`experiments.metrics.voxel.scores`), so that on few
frames a network that predicts nothing scores well. The rule is kept; every mean that it touches says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from experiments.metrics.registry import own
from experiments.records import Record

SHUFFLED = "mIoU_shuffled_images"
"""The check of a record that is an mIoU."""

NOTHING = "no number: nothing in the ground truth counts for it"

_MEANS = tuple(name for name, metric in own().items() if metric.over_classes)
_CLOSE = 1e-6  # of a mean that was computed from the same numbers

# Metrics without numbers per class, and the one that is measured whenever they are.
_MEASURED_WITH = {name: metric.measured_with for name, metric in own().items() if metric.measured_with}
_ALWAYS = tuple(name for name in _MEASURED_WITH if not own()[name].of_sums)  # by every evaluation


def absent(record: Record, metric: str, classes: Sequence[str]) -> list[str]:
    """The classes that do not occur and count 100 % in a metric or check of a record; ``classes`` are all but the empty one.

    A record without ``absent`` may be older: then those are meant that have no number of their own, if with 100 % for each of
    them the mean comes out.
    """
    if record.absent:
        return record.absent.get(metric, [])
    if metric == SHUFFLED:
        return absent(record, "mIoU", classes)
    known = record.per_class.get(metric, {})
    left = [name for name in classes if name not in known]
    if metric not in _MEANS or metric not in record.metrics or not left:
        return []
    mean = fmean([*(value for name, value in known.items() if name in classes), *(100.0 for _ in left)])
    return left if abs(mean - record.metrics[metric]) < _CLOSE else []


def of_others(record: Record, metric: str, classes: Sequence[str]) -> float | None:
    """The metric or check as the mean over the classes that do occur; None if it has no number, or none occurs."""
    value, missing = record.metrics.get(metric, record.checks.get(metric)), len(absent(record, metric, classes))
    if value is None or missing >= len(classes):
        return None
    return max(0.0, (value * len(classes) - 100.0 * missing) / (len(classes) - missing)) if missing else value


def statement(records: Sequence[Record], metric: str, classes: Sequence[str]) -> str:
    """``8 of 17 classes do not occur and count 100 %`` of the mean of records, "" where all occur."""
    numbers = sorted({len(absent(record, metric, classes)) for record in records})
    if not any(numbers):
        return ""
    if numbers[0] == len(classes):
        return f"none of the {len(classes)} classes occurs, which counts 100 %"
    return f"{' or '.join(map(str, numbers))} of {len(classes)} classes do not occur and count 100 %"


def over_others(records: Sequence[Record], metric: str, classes: Sequence[str]) -> float | None:
    """The mean of records over the classes that do occur, where others do not; None where all occur, or none."""
    if not any(absent(record, metric, classes) for record in records):
        return None
    values = [value for record in records if (value := of_others(record, metric, classes)) is not None]
    return fmean(values) if values else None


def note(records: Sequence[Record], metric: str, classes: Sequence[str], digits: int = 2) -> str:
    """``8 of 17 classes do not occur and count 100 %; over the others 0.00``, "" where all occur."""
    others = over_others(records, metric, classes)
    return statement(records, metric, classes) + ("" if others is None else f"; over the others {others:.{digits}f}")


def remark(statement: str, others: float | None) -> str:
    """What the mark of a number says that ``bracketed`` stands beside, "" without a statement."""
    return statement + ("" if others is None else "; in brackets over the others")


def bracketed(others: float | None, digits: int, sign: str = "") -> str:
    """`` [0.00]``, the mean over the classes that occur; "" where there is nothing to say. sign: "+" for differences."""
    return "" if others is None else f" [{others:{sign}.{digits}f}]"


def uncounted(record: Record, metric: str) -> bool:
    """Whether the metric has no number because it was measured and nothing in the ground truth counts for it.

    Then there are no numbers per class either, and the record has a place for them.
    """
    return metric not in record.metrics and record.per_class.get(_MEASURED_WITH.get(metric, metric)) == {}


def without_number(record: Record) -> list[str]:
    """The metrics that every evaluation measures and for which nothing in the ground truth counts."""
    return [metric for metric in (*_MEANS, *_ALWAYS, "RayIoU") if uncounted(record, metric)]


def no_number(records: Sequence[Record], metric: str) -> str:
    """What stands in place of a metric for which nothing counted in any of the records, else ""."""
    return NOTHING if records and all(uncounted(record, metric) for record in records) else ""


def tags(record: Record, classes: Sequence[str]) -> dict[str, str]:
    """All of it for a tracking store: ``absent.<metric>`` -> the note and the names, ``uncounted`` -> metrics."""
    return dict(_tags(record, classes))


def _tags(record: Record, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    for metric in (*record.metrics, *record.checks):
        if said := note([record], metric, classes):
            yield f"absent.{metric}", f"{said} (absent: {', '.join(absent(record, metric, classes))})"
    if nothing := without_number(record):
        yield "uncounted", f"{', '.join(nothing)}: {NOTHING}"
