"""What teaches GaussianFormer-2's voxels: cross entropy and Lovasz-softmax of probabilities (loss/occupancy_loss.py:119-175)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.losses import CE_WEIGHT, LOVASZ_WEIGHT, OccupancyLoss, lovasz_softmax

LEAST = 1e-6
"""Probabilities are held to this and 1 less it before their logarithm is taken."""


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Their logarithms, held to ``LEAST`` .. 1 - ``LEAST``."""
    return probabilities.clamp(LEAST, 1 - LEAST).log()


def voxel_losses(probabilities: Tensor, labels: Tensor, sight: Tensor | None, rules: OccupancyLoss) -> dict[str, Tensor]:
    """``loss_ce`` and ``loss_lovasz``, weighted.

    probabilities  [B, C, X, Y, Z] of the grid's classes; they need not sum to one
    labels         [B, X, Y, Z] integer class ids; ``grid.ignore`` counts nowhere, and what is empty not in Lovasz-softmax
    sight          [B, X, Y, Z] bool, see OccupancyLoss
    rules          class weights, and how much what is in sight counts
    """
    grid = rules.grid
    everywhere, seen = labels.long(), rules.seen(labels, sight)
    with torch.autocast(probabilities.device.type, enabled=False):
        logarithms, weights = log_probabilities(probabilities), rules.class_weights.to(probabilities)

        def mean(target: Tensor) -> Tensor:
            if not bool((target != grid.ignore).any()):
                return probabilities.sum() * 0
            return F.nll_loss(logarithms, target, weight=weights, ignore_index=grid.ignore)

        if rules.in_sight in (0.0, 1.0):
            entropy = mean(seen)  # all of them, if none is to be in sight
        else:
            entropy = torch.lerp(mean(everywhere), mean(seen), rules.in_sight)
        occupied = seen.masked_fill(seen == grid.empty, grid.ignore)
        jaccard = lovasz_softmax(probabilities, occupied, grid.ignore)
    return {"loss_ce": CE_WEIGHT * entropy, "loss_lovasz": LOVASZ_WEIGHT * jaccard}
