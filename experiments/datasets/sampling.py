"""The order of training frames: seeded, the same for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class TrainSampler(Sampler[tuple[int, int]]):
    """Shuffled pairs (index, epoch) for a data set of ``size`` frames; the epoch seeds the augmentation.

    The permutation comes from ``seed + epoch``; rank r of ``world_size`` takes every world_size-th entry from r on,
    and the remainder is dropped so that all ranks see equally many (GaussRender dataset/__init__.py:17-79,
    DistributedSampler with drop_last). Call ``set_epoch`` before each epoch; mmengine's loops do.
    """

    def __init__(self, size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        if size < world_size:
            raise ValueError(f"{size} training frame(s) cannot be shared by {world_size} processes")
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        mine = order[self.rank :: self.world_size][: len(self)]
        return iter([(index, self.epoch) for index in mine])
