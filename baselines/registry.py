"""All baselines by name. Loads no torch."""

from __future__ import annotations

from typing import Any

from baselines.recipe import Recipe
from renderers.registry import Registry

BASELINES: Registry[Recipe] = Registry(
    "model",
    {
        "prior": "baselines.prior.recipe:RECIPE",
        "tpvformer": "baselines.tpvformer.recipe:RECIPE",
        "surroundocc": "baselines.surroundocc.recipe:RECIPE",
        "symphonies": "baselines.symphonies.recipe:RECIPE",
    },
    "baselines",
)


def part_of(target: str) -> Any:
    """What a recipe names as "module:attribute"; raises UnknownName if it cannot be imported."""
    return _PARTS.load(target)


_PARTS: Registry[Any] = Registry("part of a recipe", {}, "")
