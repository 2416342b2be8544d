"""Memory for images and gradients, used again when nobody holds them any more.

A system's allocator hands out large blocks as new, zeroed pages in every call, which for a 1600x900 image of 19 channels
takes as long as blending a third of it. Blocks are returned by the storage itself: whatever shares it keeps it.
"""

from __future__ import annotations

import math
import mmap
import weakref

import torch
from torch import Tensor

SMALLEST = 1 << 22  # bytes; smaller blocks the allocator reuses by itself
KEPT = 1 << 30  # bytes kept at most: GaussianFlowOcc's 42 views of 704x256 pixels are half of it

_free: dict[int, list[mmap.mmap]] = {}  # by size


def zeros_like(tensor: Tensor) -> Tensor:
    """float32 zeros on the CPU in the shape of ``tensor``."""
    return empty(*tensor.shape).zero_()


def empty(*shape: int) -> Tensor:
    """An uninitialised float32 tensor on the CPU."""
    size = 4 * math.prod(shape)
    if size < SMALLEST:
        return torch.empty(shape)
    blocks = _free.get(size)
    block = blocks.pop() if blocks else mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    lent = memoryview(block)  # the storage holds this view, and lets go of it when it is freed
    weakref.finalize(lent, _returned, block)
    return torch.frombuffer(lent, dtype=torch.float32).view(shape)


def _returned(block: mmap.mmap) -> None:
    kept = sum(size * len(blocks) for size, blocks in _free.items())
    if kept + len(block) <= KEPT:
        _free.setdefault(len(block), []).append(block)
