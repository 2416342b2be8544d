"""MonoScene; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this package."""

from typing import TYPE_CHECKING, Any

from baselines.monoscene.recipe import RECIPE

if TYPE_CHECKING:
    from baselines.monoscene.config import SIZES, monoscene_config
    from baselines.monoscene.model import MonoScene

__all__ = ["RECIPE", "SIZES", "MonoScene", "monoscene_config"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.monoscene' has no attribute '{name}'")
    from baselines.monoscene import config, model

    return getattr(config if hasattr(config, name) else model, name)
