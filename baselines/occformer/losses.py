"""What queries are taught: each class of a scene is matched with one query, whose class and mask it teaches at some voxels.

Reproduces the loss of zhangyp15/OccFormer projects/mmdet3d_plugin/occformer/mask2former/mask2former_occ.py, its head for dense
labels (SemanticKITTI). Its head for nuScenes is taught at LiDAR points, of which dense labels have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmdet.models.task_modules.assigners import HungarianAssigner
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Teaching:
    """What queries are taught by.

    points          voxels at which a mask is taught, and as many others at which queries are matched
    oversampling    times as many are drawn,
    uncertain       of which those teach that the mask is least sure of, until they are this share of the points; the rest are
                    voxels that are drawn alike, whatever their class
    balance         of n voxels of a class, the class with the most having m, each is drawn with weight (m / n)^balance. n is
                    counted in the scene (published: in all of SemanticKITTI)
    class_weight, mask_weight, dice_weight
                    of the three terms, in the matching and in the loss
    no_object       weight of a query without a class, against one of the empty class
    class_weighted  classes and masks are weighted by the class weights of the data set, that of the empty class being 1; as
                    published for SemanticKITTI, and False for nuScenes
    masked          voxels that the evaluation leaves out (``OccupancyBatch.camera_mask``) teach nothing

    Raises ValueError for numbers that cannot be.
    """

    points: int = 50_176
    oversampling: float = 3.0
    uncertain: float = 0.75
    balance: float = 0.25
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1
    class_weighted: bool = False
    masked: bool = True

    def __post_init__(self) -> None:
        if self.points < 1 or self.oversampling < 1 or not 0 <= self.uncertain <= 1:
            raise ValueError(
                "teaching: points and oversampling must be at least 1 and uncertain within 0..1, got "
                f"{self.points}, {self.oversampling} and {self.uncertain}"
            )
        for name in ("balance", "class_weight", "mask_weight", "dice_weight", "no_object"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"teaching: {name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class Scene:
    """What one sample teaches.

    labels   [N] class ids of its voxels, in the order (x * Y + y) * Z + z
    known    [N] bool, those that teach
    rare     [N] weights with which voxels are drawn; 0 where not known
    present  [K] the classes that there are among those known
    """

    labels: Tensor
    known: Tensor
    rare: Tensor
    present: Tensor


def scene(labels: Tensor, seen: Tensor, in_sight: float, ignore: int, balance: float) -> Scene:
    """labels, seen [N] class ids, ``ignore`` where they teach nothing; ``seen`` of voxels in sight alone, which have the share
    ``in_sight`` of the draws."""
    known, own = labels != ignore, seen != ignore
    if in_sight == 1:
        known = own
    present, number, counts = labels[known].unique(return_inverse=True, return_counts=True)
    rare = torch.zeros(labels.shape, device=labels.device)
    rare[known] = ((counts.max() if len(counts) else counts.sum()) / counts).pow(balance)[number]
    if 0 < in_sight < 1 and bool(own.any()):
        visible = rare * own
        rare = (1 - in_sight) * rare / rare.sum() + in_sight * visible / visible.sum()
    return Scene(labels, known, rare, present)


def drawn(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[n] places among the weights [N], each once, those of weight 0 never; n = count, or all of them if they are fewer."""
    count = min(count, int((weights > 0).sum()))
    if not count:  # which multinomial refuses
        return torch.zeros(0, dtype=torch.long, device=weights.device)
    return torch.multinomial(weights, count, generator=generator)


def at_voxels(masks: Tensor, voxels: Tensor, shape: tuple[int, int, int], corners: bool) -> Tensor:
    """[Q, n] masks [Q, x, y, z] at voxels [n] of a finer grid of ``shape`` over the same range.

    corners  the outermost voxels of both have the same middle, as published; False: both have the same faces
    """
    places = torch.stack(torch.unravel_index(voxels, shape), dim=-1).to(masks)
    size = places.new_tensor(shape)
    places = places / (size - 1) if corners else (places + 0.5) / size
    grid = (places * 2 - 1).flip(-1)[None, None, None]
    return F.grid_sample(masks[None], grid, padding_mode="border", align_corners=corners)[0, :, 0, 0]


def matched(classes: Tensor, masks: Tensor, present: Tensor, truth: Tensor, teaching: Teaching) -> tuple[Tensor, Tensor]:
    """The queries [K] that the classes teach, and which of ``present`` [K] each of them has, of the least cost together.

    classes  [Q, C + 1] logits
    masks    [Q, n] logits at n voxels
    truth    [K, n] whether they are of the present classes

    Raises ValueError if the logits are not finite.
    """
    if not (bool(torch.isfinite(classes).all()) and bool(torch.isfinite(masks).all())):
        raise ValueError("the queries' logits are not finite: the training has diverged")
    assigner = HungarianAssigner(
        match_costs=[
            dict(type="mmdet.ClassificationCost", weight=teaching.class_weight),
            dict(type="mmdet.CrossEntropyLossCost", weight=teaching.mask_weight, use_sigmoid=True),
            dict(type="mmdet.DiceCost", weight=teaching.dice_weight, pred_act=True, eps=1.0),
        ]
    )
    predicted = InstanceData(scores=classes.detach(), masks=masks.detach())
    found = assigner.assign(predicted, InstanceData(labels=present, masks=truth.to(masks))).gt_inds
    queries = found.nonzero()[:, 0]
    return queries, found[queries] - 1


def taught_voxels(
    masks: Tensor, own: Scene, shape: tuple[int, int, int], corners: bool, teaching: Teaching, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Voxels [K, n] that teach the masks [K, x, y, z], and the masks there.

    Drawn are they once for all masks of a scene (published: for each anew).
    """
    least_sure = int(teaching.uncertain * teaching.points)
    candidates = drawn(own.rare, int(teaching.oversampling * teaching.points), generator)
    values = at_voxels(masks, candidates, shape, corners)
    chosen = values.detach().abs().topk(min(least_sure, len(candidates)), dim=1, largest=False).indices
    others = drawn(own.known.float(), teaching.points - least_sure, generator)
    voxels = torch.cat([candidates[chosen], others.expand(len(masks), -1)], dim=1)
    return voxels, torch.cat([values.gather(1, chosen), at_voxels(masks, others, shape, corners)], dim=1)


def dice(masks: Tensor, truth: Tensor) -> Tensor:
    """[K] 1 - (2 |masks * truth| + 1) / (|masks| + |truth| + 1) of logits and 0 or 1 [K, n]."""
    share = masks.sigmoid()
    return 1 - (2 * (share * truth).sum(dim=1) + 1) / (share.sum(dim=1) + truth.sum(dim=1) + 1)


def set_losses(
    classes: Tensor,
    masks: Tensor,
    scenes: Sequence[Scene],
    shape: tuple[int, int, int],
    class_weights: Tensor,
    corners: bool,
    teaching: Teaching,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The weighted terms "cls", "mask" and "dice" of one layer's queries.

    classes        [B, Q, C + 1] logits
    masks          [B, Q, x, y, z] logits
    scenes         one a sample, of voxels of ``shape``
    class_weights  [C + 1], the last of no class

    Queries that no class is matched with are of no class. The mean of classes is over the weights of all queries, that of masks
    over the weights of the matched ones, in all processes together.
    """
    labels = torch.full(classes.shape[:2], classes.shape[2] - 1, device=classes.device)
    entropy, overlap, weights = [], [], []
    for sample, own in enumerate(scenes):
        if not len(own.present):
            continue
        with torch.no_grad():
            points = drawn(own.rare, teaching.points, generator)
            truth = own.labels[points] == own.present[:, None]
            values = at_voxels(masks[sample], points, shape, corners)
            queries, number = matched(classes[sample], values, own.present, truth, teaching)
        taught = own.present[number]
        labels[sample, queries] = taught
        voxels, values = taught_voxels(masks[sample, queries], own, shape, corners, teaching, generator)
        truth = (own.labels[voxels] == taught[:, None]).to(values)
        entropy.append(F.binary_cross_entropy_with_logits(values, truth, reduction="none").mean(dim=1))
        overlap.append(dice(values, truth))
        weights.append(class_weights[taught])
    losses = {"cls": F.cross_entropy(classes.flatten(0, 1), labels.flatten(), weight=class_weights)}
    if weights:
        weight = torch.cat(weights)
        total = reduce_mean(weight.sum()).clamp(min=1e-6)
        losses |= {"mask": (weight * torch.cat(entropy)).sum() / total, "dice": (weight * torch.cat(overlap)).sum() / total}
    else:
        losses |= {"mask": 0 * masks.sum(), "dice": 0 * masks.sum()}
    own_weights = {"cls": teaching.class_weight, "mask": teaching.mask_weight, "dice": teaching.dice_weight}
    return {name: own_weights[name] * value for name, value in losses.items()}
