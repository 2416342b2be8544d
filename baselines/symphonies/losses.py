"""The voxel losses of Symphonies: cross entropy, scene-class affinity of classes and of occupancy, frustum proportions.

Reproduces hustvl/Symphonies ssc_pl/models/losses/ssc_loss.py, which are MonoScene's (arXiv:2112.00726, sections 3.3-3.4).
All but the cross entropy depend on the predicted probabilities only through their sums over the voxels of each label in
each frustum; those sums are taken once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.losses import cross_entropy

EARLIER_WEIGHT = 0.5  # of every output but the last (ssc_pl/models/segmentors/symphonies.py:70-76)


@dataclass(frozen=True)
class Sums:
    """Known voxels by frustum (the last row: none) and label.

    mass    [F + 1, C, C] probability that they give to each class (last axis)
    counts  [F + 1, C] how many they are
    """

    mass: Tensor
    counts: Tensor


def voxel_losses(
    logits: Tensor, labels: Tensor, frustums: Tensor, parts: int, class_weights: Tensor, empty: int, ignore: int
) -> dict[str, Tensor]:
    """The four terms by name: "ce", "sem_scal", "geo_scal", "frustum".

    logits         [B, C, X, Y, Z]
    labels         [B, X, Y, Z] int64 class ids; ``ignore`` counts nowhere
    frustums       [B, X, Y, Z] int64, part of the image 0 .. parts - 1, or -1
    class_weights  [C], of the cross entropy

    In float32, under autocast too. Raises ValueError for shapes that do not fit.
    """
    if logits.dim() != 5 or logits.shape[2:] != labels.shape[1:] or len(logits) != len(labels):
        shape = ", ".join(map(str, labels.shape[1:]))
        raise ValueError(f"logits must be [{len(labels)}, C, {shape}], got {list(logits.shape)}")
    if frustums.shape != labels.shape:
        raise ValueError(f"frustums must be {list(labels.shape)}, got {list(frustums.shape)}")
    with torch.autocast(logits.device.type, enabled=False):
        scores = logits.float()
        sums = probability_sums(scores.softmax(dim=1), labels, frustums, parts, ignore)
        mass, counts = sums.mass.sum(dim=0), sums.counts.sum(dim=0)
        return {
            "ce": cross_entropy(scores, labels, class_weights, ignore),
            "sem_scal": class_affinity(mass, counts),
            "geo_scal": occupancy_affinity(mass, counts, empty),
            "frustum": frustum_proportion(sums.mass[:-1].sum(dim=1), sums.counts[:-1]),
        }


def probability_sums(probabilities: Tensor, labels: Tensor, frustums: Tensor, parts: int, ignore: int) -> Sums:
    """Sums over all voxels of the batch; probabilities [B, C, X, Y, Z], the others as in ``voxel_losses``."""
    classes = probabilities.shape[1]
    rows = probabilities.movedim(1, -1).flatten(0, -2)
    known = (labels != ignore).flatten()
    bins = torch.where(frustums < 0, parts, frustums) * classes + labels
    # one more bin, for unknown voxels, is dropped
    size = (parts + 1) * classes
    bins = bins.flatten().where(known, bins.new_tensor(size))
    mass = rows.new_zeros(size + 1, classes).index_add(0, bins, rows)
    counts = torch.bincount(bins, minlength=size + 1).to(rows.dtype)
    return Sums(mass[:-1].view(parts + 1, classes, classes), counts[:-1].view(parts + 1, classes))


def _surprise(parts: Tensor, whole: Tensor) -> Tensor:
    """-log(parts / whole) summed over the entries whose whole is not zero, each at most 100."""
    ratio = (parts / whole.where(whole > 0, 1)).clamp(max=1)
    terms = F.binary_cross_entropy(ratio, torch.ones_like(ratio), reduction="none")
    return torch.where(whole > 0, terms, 0).sum()


def class_affinity(mass: Tensor, counts: Tensor) -> Tensor:
    """Mean over the classes present of -log precision - log recall - log specificity; 0 if there is none.

    mass [C, C], counts [C] as in ``Sums``, over all frustums.
    """
    present = counts > 0
    own, given, count = mass.diagonal()[present], mass.sum(dim=0)[present], counts[present]
    others = counts.sum() - count
    rejected = others - (given - own)
    total = _surprise(own, given) + _surprise(own, count) + _surprise(rejected.clamp(min=0), others)
    return total / max(len(count), 1)


def occupancy_affinity(mass: Tensor, counts: Tensor, empty: int) -> Tensor:
    """-log precision - log recall - log specificity of "not empty"; a term over no voxels is left out (NaN upstream)."""
    occupied = torch.arange(len(counts), device=counts.device) != empty
    given = mass[:, occupied]
    right = given[occupied].sum()
    precision, recall = _surprise(right, given.sum()), _surprise(right, counts[occupied].sum())
    return precision + recall + _surprise(mass[empty, empty], counts[empty])


def frustum_proportion(mass: Tensor, counts: Tensor) -> Tensor:
    """Mean over the frustums with known voxels of KL(shares of the labels || predicted shares); 0 if there is none.

    mass [F, C] probability given to each class by the frustum's voxels, counts [F, C] of their labels. Frustums of all
    samples of a batch with the same number are one, as published.
    """
    filled = counts.sum(dim=1) > 0
    counts, mass = counts[filled], mass[filled]
    truth = counts / counts.sum(dim=1, keepdim=True)
    predicted = mass / mass.sum(dim=1, keepdim=True)
    divergence = torch.xlogy(truth, truth) - truth * predicted.clamp(min=1e-12).log()
    return divergence.sum() / max(len(counts), 1)
