"""What baselines refuse alike of their options, with one wording. Loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sized
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from baselines.interface import OccupancyGrid


def of_size(model: str, size: str, sizes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The arguments of a size of ``model``, as people call it. Raises ValueError for an unknown size."""
    if size not in sizes:
        raise ValueError(f"unknown {model} size '{size}' (known: {', '.join(sizes)})")
    return sizes[size]


class Configuration(Protocol):
    """What makes a config for ``mmdet3d.registry.MODELS.build``, plain data throughout; the package's own name for it registers
    the model.

    gaussrender  fields of GaussRenderConfig for the row with rendering, None for the row without
    loss         arguments of OccupancyLoss that differ from the published ones
    own          further arguments of the model, in place of the size's

    Raises ValueError for an unknown size.
    """

    def __call__(
        self,
        size: str,
        grid: OccupancyGrid,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
        **own: Any,
    ) -> dict[str, Any]: ...


def configuration(model: str, sizes: Mapping[str, dict[str, Any]], title: str = "") -> Configuration:
    """That of a model with these sizes that takes all of its arguments; ``title``: as people call it, where that is not its
    name in the registry."""

    def config(
        size: str,
        grid: OccupancyGrid,
        gaussrender: dict[str, Any] | None = None,
        renderer: str = "cpu",
        camera_seed: int = 0,
        loss: dict[str, Any] | None = None,
        **own: Any,
    ) -> dict[str, Any]:
        chosen = of_size(title or model, size, sizes)
        shared = dict(grid=asdict(grid), gaussrender=gaussrender, renderer=renderer, camera_seed=camera_seed, loss=loss)
        return dict(type=model, **shared) | chosen | own

    return config


def check_choice(name: str, value: object, known: Collection[object]) -> None:
    """Raise ValueError, naming the option, for a value that is none of the known ones."""
    if value not in known:
        raise ValueError(f"unknown {name} '{value}' (known: {', '.join(map(str, known))})")


def check_not_negative(options: object, *names: str) -> None:
    """Raise ValueError, naming it, for a field of ``options`` that is negative or NaN; TypeError for one that is no number."""
    for name in names:
        if not getattr(options, name) >= 0:
            raise ValueError(f"{name} must not be negative, got {getattr(options, name)}")


def check_class_weights(weights: Sized | None, classes: int, of: str = "") -> None:
    """Raise ValueError for class weights that are not one a class; ``of``: what they are an option of, "teaching: " say."""
    if weights is not None and len(weights) != classes:
        raise ValueError(f"{of}class_weights must be one for each of the {classes} classes, got {len(weights)}")
