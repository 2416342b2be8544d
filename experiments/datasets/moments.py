"""The key frames of scenes in the order of time: which ones come before and after a frame. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """When a key frame was taken: its scene, and a time stamp in microseconds."""

    scene: str
    microseconds: int


class Timeline:
    """Neighbours of the frames of a split by position in its list.

    Scenes are put together and in order of time whatever the order of the list. A frame that the list lacks is not there: its
    neighbours count as neighbours of each other.
    """

    def __init__(self, moments: Sequence[Moment]) -> None:
        self._moments = moments
        self._scenes: dict[str, list[int]] = {}
        for position in sorted(range(len(moments)), key=lambda position: moments[position].microseconds):
            self._scenes.setdefault(moments[position].scene, []).append(position)
        self._rank = {position: rank for scene in self._scenes.values() for rank, position in enumerate(scene)}

    def at(self, position: int, offset: int) -> int | None:
        """Position of the frame ``offset`` key frames later (negative: earlier) in the scene of a frame; None past its ends."""
        scene, rank = self._scenes[self._moments[position].scene], self._rank[position] + offset
        return scene[rank] if 0 <= rank < len(scene) else None

    def back(self, position: int, offset: int) -> int:
        """The same for an earlier one, past the beginning of the scene its first frame."""
        scene, rank = self._scenes[self._moments[position].scene], self._rank[position] + offset
        return scene[max(0, rank)]

    def seconds(self, position: int, other: int) -> float:
        """From a frame to another one."""
        return (self._moments[other].microseconds - self._moments[position].microseconds) * 1e-6

    def shown(self, part: str, position: int, offsets: Iterable[int]) -> list[int]:
        """Positions of the frames that a part of a batch shows (``Recipe.frames``)."""
        if part == "neighbours":  # of other camera frames, which belong to the frame's own
            return [position]
        if part == "history":
            return [self.back(position, offset) for offset in offsets]
        return [other for offset in offsets if (other := self.at(position, offset)) is not None]
