"""Memory for images, used again when nobody holds an image any more.

A system's allocator hands out large blocks as new, zeroed pages in every call, which for a 1600x900 image of 19 channels
takes as long as blending a third of it. Blocks are returned by the storage itself: whatever shares it keeps it.
"""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST = 1 << 20  # elements; smaller blocks the allocator reuses by itself
KEPT = 1 << 26  # elements kept at most: 256 MiB

_free: dict[int, list[NDArray[np.float32]]] = {}  # by number of elements


def empty(*shape: int) -> Tensor:
    """An uninitialised float32 tensor on the CPU."""
    count = math.prod(shape)
    if count < SMALLEST:
        return torch.empty(shape)
    blocks = _free.get(count)
    block = blocks.pop() if blocks else np.empty(count, np.float32)
    lent = block[:]  # the storage holds this view, and lets go of it when it is freed
    weakref.finalize(lent, _returned, block)
    return torch.frombuffer(lent, dtype=torch.float32).view(shape)


def _returned(block: NDArray[np.float32]) -> None:
    kept = sum(size * len(blocks) for size, blocks in _free.items())
    if kept + block.size <= KEPT:
        _free.setdefault(block.size, []).append(block)
