"""The voxel losses that every occupancy network here is trained with: weighted cross entropy and Lovasz-softmax.

Reproduces ``valeoai/GaussRender`` src/loss/occupancy_loss.py:161-275 and utils.py:25-58, 135-144. Lovasz-softmax is
Berman et al., "The Lovasz-Softmax loss", CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.interface import OccupancyGrid
from renderers.interface import first_derivative_only

CE_WEIGHT = 10.0
LOVASZ_WEIGHT = 1.0
SCALE_DECAY = 0.5  # a scale counts half as much as the next finer one

CoarseRule = Literal["majority", "corner"]


class OccupancyLoss(nn.Module):
    """10 x cross entropy + Lovasz-softmax, at every scale a network predicts.

    class_weights    one weight a class for the cross entropy; None: the data set's published ones
    in_sight         share of the cross entropy that is the mean over the voxels in sight (``OccupancyBatch.sight``); the rest
                     is the mean over all. Above 0 Lovasz-softmax takes those in sight alone. Published is 0: what no camera
                     sees is supervised like the rest, although Occ3D's evaluation leaves it out
    coarse           how labels of coarser scales are made, see ``coarse_labels``. Published is "corner"
    """

    class_weights: Tensor

    def __init__(
        self,
        grid: OccupancyGrid,
        class_weights: Sequence[float] | None = None,
        in_sight: float = 0.0,
        coarse: CoarseRule = "majority",
    ) -> None:
        super().__init__()
        if class_weights is None:
            if grid.published.class_weights is None:
                raise ValueError(f"data set '{grid.dataset}' has no published class weights: pass class_weights")
            class_weights = grid.published.class_weights
        if len(class_weights) != grid.num_classes:
            raise ValueError(f"class_weights must be {grid.num_classes} numbers, one a class, got {len(class_weights)}")
        if not 0.0 <= in_sight <= 1.0:
            raise ValueError(f"in_sight must be within 0..1, got {in_sight}")
        self.grid = grid
        self.in_sight = in_sight
        self.coarse: CoarseRule = coarse
        self.register_buffer("class_weights", torch.tensor(class_weights, dtype=torch.float32), persistent=False)

    def forward(self, logits: Sequence[Tensor], labels: Tensor, sight: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted terms by name: ``loss_ce`` and ``loss_lovasz``, with ``_scale1``, ``_scale2``, ... for coarser scales.

        logits       one [B, C, X/f, Y/f, Z/f] a scale, coarse to fine, f a whole number
        labels       [B, X, Y, Z] integer class ids; ``grid.ignore`` counts nowhere
        sight        [B, X, Y, Z] bool, voxels that a camera sees; read (and required) only where ``in_sight`` is above 0

        In float32, under autocast too. Raises ValueError for shapes that do not fit.
        """
        labels, seen = labels.long(), self.seen(labels, sight)
        losses = {}
        for scale, prediction in enumerate(reversed(logits)):  # 0 is the finest
            target = self._labels_for(prediction, seen)
            suffix = f"_scale{scale}" if scale else ""
            weight = SCALE_DECAY**scale
            with torch.autocast(prediction.device.type, enabled=False):
                scores = prediction.float()
                ce = self.cross_entropy(scores, target, self._labels_for(prediction, labels))
                jaccard = lovasz_softmax(scores.softmax(dim=1), target, self.grid.ignore)
            losses[f"loss_ce{suffix}"] = weight * CE_WEIGHT * ce
            losses[f"loss_lovasz{suffix}"] = weight * LOVASZ_WEIGHT * jaccard
        return losses

    def seen(self, labels: Tensor, sight: Tensor | None) -> Tensor:
        """int64 labels [B, X, Y, Z], with ``grid.ignore`` out of sight if ``in_sight`` is above 0; else as they are."""
        if not self.in_sight:
            return labels.long()
        if sight is None:
            raise ValueError(f"in_sight={self.in_sight} needs 'sight', the voxels that a camera sees: load data with sight=True")
        return labels.long().masked_fill(~sight, self.grid.ignore)

    def cross_entropy(self, logits: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
        """The unweighted cross entropy of one scale: over the labels in sight, over all of them, or both by ``in_sight``."""
        parts = {0.0: (labels,), 1.0: (seen,)}.get(self.in_sight, (seen, labels))
        values = [cross_entropy(logits, target, self.class_weights, self.grid.ignore) for target in parts]
        return values[0] if len(values) == 1 else torch.lerp(values[1], values[0], self.in_sight)

    def _labels_for(self, logits: Tensor, labels: Tensor) -> Tensor:
        if logits.dim() != 5 or logits.shape[1] != self.grid.num_classes or logits.shape[0] != labels.shape[0]:
            raise ValueError(f"logits must be [{labels.shape[0]}, {self.grid.num_classes}, X, Y, Z], got {list(logits.shape)}")
        factors = {fine // coarse for fine, coarse in zip(labels.shape[1:], logits.shape[2:], strict=True)}
        factor = factors.pop()
        if factors or factor < 1 or [size * factor for size in logits.shape[2:]] != list(labels.shape[1:]):
            raise ValueError(f"logits {list(logits.shape[2:])} are no whole-number reduction of {list(labels.shape[1:])}")
        return labels if factor == 1 else coarse_labels(labels, factor, self.grid, self.coarse)


def cross_entropy(logits: Tensor, labels: Tensor, class_weights: Tensor, ignore: int) -> Tensor:
    """Mean over voxels weighted by class, ignoring ``ignore``; 0 (with zero gradient) if every voxel is ignored.

    logits [B, C, X, Y, Z], labels [B, X, Y, Z].
    """
    if not bool((labels != ignore).any()):
        return logits.sum() * 0
    return F.cross_entropy(logits, labels, weight=class_weights.to(logits), ignore_index=ignore)


def lovasz_softmax(probabilities: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Lovasz extension of the Jaccard loss, mean over the classes present in the labels of the whole batch.

    probabilities [B, C, X, Y, Z], labels [B, X, Y, Z]; 0 (with zero gradient) if every voxel is ignored.
    """
    loss = _LovaszSoftmax.apply(probabilities.movedim(1, -1).flatten(0, -2), labels.flatten(), ignore)
    return first_derivative_only(loss, "lovasz_softmax", "leave it out of a loss whose gradients are differentiated")


class _LovaszSoftmax(torch.autograd.Function):
    """(probabilities [N, C], labels [N], ignore) -> loss. Linear in the errors once they are sorted, so that its gradient,
    plus or minus the steps of the Jaccard loss, falls out of the forward pass.

    Only voxels whose error reaches the smallest error among the class's own voxels are sorted: behind the last of those
    the Jaccard loss is 1 and its steps are zero, so the others have no part in value or gradient.
    """

    @staticmethod
    def forward(ctx: Any, probabilities: Tensor, labels: Tensor, ignore: int) -> Tensor:
        known = labels != ignore
        present = labels[known].unique()
        errors = probabilities.detach().t().contiguous()
        gradient = torch.zeros_like(errors)
        losses = []
        for class_id in present.tolist():
            own = labels == class_id
            error = torch.where(own, 1 - errors[class_id], errors[class_id])
            matters = ((error >= error[own].min()) & known).nonzero()[:, 0]
            error, order = error[matters].sort(descending=True)
            matters = matters[order]
            own = own[matters]
            steps = jaccard_steps(own).to(error) / len(present)
            losses.append(torch.dot(error, steps))
            gradient[class_id, matters] = torch.where(own, -steps, steps)
        ctx.save_for_backward(gradient)
        return torch.stack(losses).sum() if losses else errors.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grad * gradient).t(), None, None


def jaccard_steps(own: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each voxel counted as wrong; own [n] bool in order of falling error -> float64."""
    # float32 counts exactly only up to 2^24 voxels
    wrong_own = own.cumsum(0).double()
    wrong_other = (~own).cumsum(0).double()
    total = own.sum().double()
    jaccard = 1 - (total - wrong_own) / (total + wrong_other)
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))


def coarse_labels(labels: Tensor, factor: int, grid: OccupancyGrid, rule: CoarseRule = "majority") -> Tensor:
    """Labels [B, X, Y, Z] of voxels ``factor`` times as large; raises ValueError for an unknown rule.

    "majority"  the most frequent occupied class (lowest id on a tie); a block without occupied voxels is ``grid.ignore`` if
                any voxel in it is, else empty
    "corner"    the voxel with the highest indices decides alone, empty or not: valeoai/GaussRender's training
                (occupancy_loss.py:253-275) writes all voxels of a block to one place, and this one comes last. (On a GPU it
                need not: there the published code is not deterministic.) Thin things go: of the occupied blocks of an official
                Occ3D label it keeps 34 % at half the resolution, 13 % at a quarter and 5 % at an eighth; of sparser labels
                less
    """
    if rule == "corner":
        last = slice(factor - 1, None, factor)
        return labels[:, last, last, last]
    if rule != "majority":
        raise ValueError(f"unknown rule '{rule}' for coarse labels (known: majority, corner)")
    b, x, y, z = labels.shape
    blocks = labels.reshape(b, x // factor, factor, y // factor, factor, z // factor, factor)
    blocks = blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
    counts = torch.zeros(*blocks.shape[:4], grid.num_classes, dtype=torch.int32, device=labels.device)
    occupied = (blocks != grid.ignore) & (blocks != grid.empty)
    counts.scatter_add_(-1, blocks.where(occupied, blocks.new_tensor(grid.empty)), occupied.int())
    unknown = (blocks == grid.ignore).any(dim=-1)
    vacant = torch.where(unknown, grid.ignore, grid.empty)
    return torch.where(occupied.any(dim=-1), counts.argmax(dim=-1), vacant)
