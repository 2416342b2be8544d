"""Which classes of a grid images show by name, and which of them move."""

from __future__ import annotations

from collections.abc import Sequence

from baselines.interface import OccupancyGrid


def rendered_classes(grid: OccupancyGrid, catch_all: Sequence[str] | None) -> tuple[int, ...]:
    """Ids of the classes that images show by name: all but the empty one and those that stand for whatever is none of the others.

    Raises ValueError for names that are not the grid's.
    """
    names = (grid.published.catch_all or ()) if catch_all is None else tuple(catch_all)
    left_out = {grid.empty, *class_ids(grid, "catch_all", names)}
    classes = tuple(number for number in range(grid.num_classes) if number not in left_out)
    if not classes:
        raise ValueError("catch_all names every class but the empty one: nothing is left to be rendered")
    return classes


def moving_channels(grid: OccupancyGrid, classes: Sequence[int], moving: Sequence[str] | None) -> list[int]:
    """Which of the rendered classes move by themselves; raises ValueError for names that are not the grid's, or where none are
    published and none are given."""
    names = grid.published.moving if moving is None else tuple(moving)
    if names is None:
        raise ValueError(
            f"{grid.dataset}: nothing is published of which classes move; name them with the option 'moving', [] for none"
        )
    ids = class_ids(grid, "moving", names)
    return [channel for channel, number in enumerate(classes) if number in ids]


def class_ids(grid: OccupancyGrid, what: str, names: Sequence[str]) -> set[int]:
    """Ids of classes by name; raises ValueError for names that are not the grid's."""
    unknown = [name for name in names if name not in grid.class_names]
    if unknown:
        raise ValueError(f"{what}: the grid has no class {', '.join(map(repr, unknown))} (known: {', '.join(grid.class_names)})")
    return {grid.class_names.index(name) for name in names}
