"""Class weights from what the training labels hold, for worlds that the published weights know nothing of."""

from __future__ import annotations

import numpy as np

from experiments.metrics.prior import LabelledFrames

TYPICAL_SHARE = 0.005  # a class of half a per cent of the voxels has weight 1
LIGHTEST, HEAVIEST = 0.3, 6.0


def class_weights(frames: LabelledFrames) -> tuple[float, ...]:
    """Weights [C] of the cross entropy: sqrt(0.5 % / share of the training voxels), within 0.3 to 6.

    All voxels count whose class is known, in sight or not: small things, which are rarely hidden, weigh more by that. Classes
    that do not occur have the heaviest weight. Raises ValueError without frames.
    """
    if len(frames) == 0:
        raise ValueError("class weights need at least one labelled frame")
    counts = np.zeros(256, np.int64)
    for index in range(len(frames)):
        counts += np.bincount(frames.labels(index)[0].ravel(), minlength=256)
    known = counts[: frames.grid.num_classes]
    shares = known / max(int(known.sum()), 1)
    weights = np.sqrt(TYPICAL_SHARE / np.maximum(shares, TYPICAL_SHARE / HEAVIEST**2))
    return tuple(round(float(weight), 4) for weight in np.clip(weights, LIGHTEST, HEAVIEST))
