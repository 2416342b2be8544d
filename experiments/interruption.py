"""Ctrl-C, however it shows. Standard library only."""

from __future__ import annotations


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: compiled code (numba's, for one) turns it into an error of its own."""
    seen: set[int] = set()  # an error raised from itself would be followed for ever
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
