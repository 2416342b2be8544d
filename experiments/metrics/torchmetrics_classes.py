"""mIoU and RayIoU as metrics of torchmetrics, which has to be installed (``pip install torchmetrics``).

    >>> import torch
    >>> from experiments.metrics.torchmetrics_classes import MeanIoU, RayIoU
    >>> true = torch.full((2, 200, 200, 16), 17)  # two frames of Occ3D's grid, all free,
    >>> true[:, :, :, 1] = 11                     # but for a road
    >>> true[0, 120:130, 95:105, 2:6] = 4         # with a car on it
    >>> predicted = true.roll(3, dims=1)          # 1.2 m too far
    >>> origins = torch.tensor([[[0.986, 0.0, 1.84]]] * 2)  # where the lidar stands, metres
    >>> miou, rayiou = MeanIoU(), RayIoU()
    >>> miou.update(predicted, true, mask=true != 17)
    >>> rayiou.update(predicted, true, origins)
    >>> miou.compute(), rayiou.compute()
    (tensor(85.), tensor(79.3264))

What they keep are sums of counts, whole numbers, so that scores are exact over any number of batches and processes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines.interface import OccupancyGrid
from experiments.datasets.dataset_occ3d import DATASET
from experiments.metrics.functions import ray_counts, voxel_counts
from experiments.metrics.rayiou import THRESHOLDS, RayScores, ray_scores
from experiments.metrics.voxel import Absent, IoUScores, scores

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError("torchmetrics is not installed: pip install torchmetrics", name="torchmetrics") from error


class MeanIoU(Metric):
    """Mean IoU over the classes of a grid but the empty one, in percent; NaN as long as nothing counts.

    grid    by default Occ3D-nuScenes'
    absent  what a class is worth that does not occur: by default nothing, as Occ3D counts; "one": 100 %, as GaussRender does
    """

    is_differentiable, higher_is_better, full_state_update = False, True, False
    counts: Tensor

    def __init__(self, grid: OccupancyGrid | None = None, absent: Absent = "drop", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid, self.absent = grid or DATASET.grid(), absent
        shape = (self.grid.num_classes, self.grid.num_classes)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Add frames: class ids [X, Y, Z] or [B, X, Y, Z] twice, and the voxels that count, None for all."""
        counted = voxel_counts(predicted, target, mask, self.grid)
        self.counts += torch.from_numpy(counted).to(self.counts.device)

    def scores(self) -> IoUScores:
        """All there is to say of the frames of this process: IoU, values per class."""
        return scores(self.counts.cpu().numpy(), self.grid.class_names, self.grid.empty, self.absent)

    def compute(self) -> Tensor:
        """The mean over classes."""
        return torch.tensor(self.scores().miou, device=self.counts.device)


class RayIoU(Metric):
    """RayIoU over the classes of a grid but the empty one, in percent, mean of 1, 2 and 4 m; NaN as long as no ray hits anything.

    grid  by default Occ3D-nuScenes'
    """

    is_differentiable, higher_is_better, full_state_update = False, True, False
    counts: Tensor

    def __init__(self, grid: OccupancyGrid | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.grid = grid or DATASET.grid()
        shape = (len(THRESHOLDS) + 2, self.grid.num_classes)
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, target: Tensor, origins: Any) -> None:
        """Add frames: class ids [X, Y, Z] or [B, X, Y, Z] twice, and the ray origins of each, see ``ray_iou``."""
        counted = ray_counts(predicted, target, origins, self.grid)
        self.counts += torch.from_numpy(counted).to(self.counts.device)

    def scores(self) -> RayScores:
        """All there is to say of the frames of this process: a number a threshold, a number a class."""
        return ray_scores(self.counts.cpu().numpy(), self.grid.class_names, self.grid.empty)

    def compute(self) -> Tensor:
        """The mean over classes and thresholds."""
        return torch.tensor(self.scores().rayiou, device=self.counts.device)
