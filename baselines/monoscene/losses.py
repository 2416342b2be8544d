"""What MonoScene is taught of how cells of the scene belong together; its voxel losses are in ``baselines.symphonies.losses``.

Reproduces hustvl/Symphonies ssc_pl/models/losses/crp_loss.py and ssc_pl/utils/helper.py (``compute_CP_mega_matrix``), and
astra-vision/MonoScene monoscene/data/NYU/preprocess.py (``_downsample_label``), which made the labels of coarse cells that are
read there (arXiv:2112.00726, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

VACANT = 0.95  # share of a block's voxels above which it has no occupied class


def cell_labels(labels: Tensor, factor: int, classes: int, empty: int, ignore: int) -> Tensor:
    """int64 [B, X / factor, Y / factor, Z / factor] labels of blocks of voxels.

    A block of which more than 95 % of the voxels are empty or unknown is what most of those are (unknown on a tie); another one
    has the most frequent of its occupied classes (the lowest id on a tie).
    """
    b, x, y, z = labels.shape
    blocks = labels.reshape(b, x // factor, factor, y // factor, factor, z // factor, factor)
    blocks = blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).long()
    counts = torch.zeros(*blocks.shape[:4], classes + 1, dtype=torch.int32, device=labels.device)
    known = blocks != ignore
    counts.scatter_add_(-1, blocks.where(known, blocks.new_tensor(classes)), torch.ones_like(blocks, dtype=torch.int32))
    vacant, unknown = counts[..., empty].clone(), counts[..., classes].clone()
    counts[..., empty] = 0
    occupied = counts[..., :classes].argmax(dim=-1)
    nothing = torch.where(vacant > unknown, empty, ignore)
    return torch.where(vacant + unknown > VACANT * factor**3, nothing, occupied)


def relations(cells: Tensor, classes: int, empty: int, ignore: int) -> Tensor:
    """bool [B, 4, N, M]: what each of the N cells has to do with each of the M blocks of 2 x 2 x 2 of them, numbered
    (x * Y + y) * Z + z.

    cells  [B, X, Y, Z] int64 class ids, X, Y and Z even; an unknown cell has no relations, in a block it does not count

    True in 0 if a cell of the block has the same occupied class; in 1, another occupied class; in 2, both are empty; in 3, one of
    them is. A block of several classes can have all that its cells have.
    """
    own = cells.flatten(1)
    known = own != ignore
    kinds = F.one_hot(own.where(known, own.new_tensor(classes)), classes + 1).bool()[..., :classes]
    grid = kinds.unflatten(1, cells.shape[1:])
    b, x, y, z, _ = grid.shape
    held = grid.reshape(b, x // 2, 2, y // 2, 2, z // 2, 2, classes).permute(0, 1, 3, 5, 2, 4, 6, 7)
    held = held.flatten(4, 6).any(dim=4).flatten(1, 3)  # [B, M, C], classes in a block
    occupied = torch.arange(classes, device=cells.device) != empty
    same = (kinds & occupied).float() @ held.transpose(1, 2).float() > 0
    number = (held & occupied).sum(dim=-1)[:, None]  # [B, 1, M]
    vacant = held[..., empty][:, None]
    is_empty, is_occupied = (own == empty)[..., None], (known & (own != empty))[..., None]
    other = is_occupied & (number > same.long())
    return torch.stack([same, other, is_empty & vacant, (is_occupied & vacant) | (is_empty & (number > 0))], dim=1)


def relation_loss(logits: Tensor, truth: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy over samples, relations and pairs, where each relation's pairs that have it weigh as much as
    those that have not; 0 (with zero gradient) without any pair.

    logits   [B, R, N, M]
    truth    [B, R, N, M] bool
    counted  [B, N] bool, cells whose pairs count; None: all. A relation that no pair has is learnt too (NaN upstream)

    In float32, under autocast too.
    """
    if logits.shape != truth.shape:
        raise ValueError(f"logits of relations must be {list(truth.shape)}, got {list(logits.shape)}")
    pairs = torch.ones_like(truth) if counted is None else counted[:, None, :, None].expand_as(truth)
    with torch.autocast(logits.device.type, enabled=False):
        yes, all_pairs = (truth & pairs).sum(dim=(0, 2, 3)), pairs.sum(dim=(0, 2, 3))
        weight = torch.where(yes > 0, (all_pairs - yes) / yes.clamp(min=1), 1.0)[:, None, None]
        terms = F.binary_cross_entropy_with_logits(logits.float(), truth.float(), pos_weight=weight, reduction="none")
        return torch.where(pairs, terms, 0).sum() / all_pairs.sum().clamp(min=1)
