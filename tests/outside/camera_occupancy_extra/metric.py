"""A metric: how much of what is predicted as occupied is occupied."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.metrics.registry import Metric

METRIC = Metric("precision", counted="camera_occupancy_extra.metric:Precision")


class Precision:
    def count(self, predicted: NDArray[Any], true: NDArray[Any], counted: NDArray[Any], grid: Any) -> NDArray[Any]:
        known = counted & (true != grid.ignore)
        occupied = known & (predicted != grid.empty)
        return np.array([(occupied & (true != grid.empty)).sum(), occupied.sum()])

    def score(self, total: NDArray[Any], grid: Any) -> float:
        return 100.0 * total[0] / total[1] if total[1] else float("nan")
