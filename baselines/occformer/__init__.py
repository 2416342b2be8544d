"""OccFormer; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipes is asked of this package."""

from typing import TYPE_CHECKING, Any

from baselines.occformer.recipe import FRONT, RECIPE

if TYPE_CHECKING:
    from baselines.occformer.config import FRONT_SIZES, SIZES, occformer_config, occformer_front_config
    from baselines.occformer.model import OccFormer

__all__ = ["FRONT", "FRONT_SIZES", "RECIPE", "SIZES", "OccFormer", "occformer_config", "occformer_front_config"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipes do not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.occformer' has no attribute '{name}'")
    from baselines.occformer import config, model

    return getattr(config if hasattr(config, name) else model, name)
