"""Symphonies; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this package."""

from typing import TYPE_CHECKING, Any

from baselines.symphonies.recipe import RECIPE

if TYPE_CHECKING:
    from baselines.symphonies.config import SIZES, symphonies_config
    from baselines.symphonies.model import Symphonies

__all__ = ["RECIPE", "SIZES", "Symphonies", "symphonies_config"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.symphonies' has no attribute '{name}'")
    from baselines.symphonies import config, model

    return getattr(config if hasattr(config, name) else model, name)
