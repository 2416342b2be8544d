"""Class weights and first biases from what the training labels hold, for worlds that published ones know nothing of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from experiments.metrics.prior import LabelledFrames

TYPICAL_SHARE = 0.005  # a class of half a per cent of the voxels has weight 1
LIGHTEST, HEAVIEST = 0.3, 6.0
RAREST = 1e-5  # a share below that counts as that
LEAST_LIKELY = 1e-4


def class_shares(frames: LabelledFrames) -> NDArray[np.float64]:
    """Share [C] of each class in the training voxels whose class is known, in sight or not. Raises ValueError without frames."""
    if len(frames) == 0:
        raise ValueError("class shares need at least one labelled frame")
    counts = np.zeros(256, np.int64)
    for index in range(len(frames)):
        counts += np.bincount(frames.labels(index)[0].ravel(), minlength=256)
    known = counts[: frames.grid.num_classes]
    shares: NDArray[np.float64] = known / max(int(known.sum()), 1)
    return shares


def class_weights(shares: NDArray[np.float64]) -> tuple[float, ...]:
    """Weights [C] of the cross entropy: sqrt(0.5 % / share), within 0.3 to 6; 6 for classes that do not occur.

    With shares of all voxels small things, which are rarely hidden, weigh more than with those of the voxels in sight.
    """
    weights = np.sqrt(TYPICAL_SHARE / np.maximum(shares, TYPICAL_SHARE / HEAVIEST**2))
    return tuple(round(float(weight), 4) for weight in np.clip(weights, LIGHTEST, HEAVIEST))


def class_bias(shares: NDArray[np.float64], weights: tuple[float, ...]) -> tuple[float, ...]:
    """First biases [C] of a classifier: the logarithm of weight times share, as a part of the whole, at least 1e-4.

    A network that knows nothing yet then answers what minimises the weighted cross entropy without knowing anything, and its
    first iterations are not spent on unlearning that all classes are alike (Lin et al., Focal loss, 2017, section 3.3).
    """
    likely = np.maximum(shares, RAREST) * np.asarray(weights)
    return tuple(round(float(value), 4) for value in np.log(np.maximum(likely / likely.sum(), LEAST_LIKELY)))
