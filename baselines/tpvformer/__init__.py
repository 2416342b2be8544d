"""TPVFormer; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this package."""

from typing import TYPE_CHECKING, Any

from baselines.tpvformer.recipe import RECIPE

if TYPE_CHECKING:
    from baselines.tpvformer.config import SIZES, tpvformer_config
    from baselines.tpvformer.model import TPVFormer, trainable_parameters

__all__ = ["RECIPE", "SIZES", "TPVFormer", "tpvformer_config", "trainable_parameters"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.tpvformer' has no attribute '{name}'")
    from baselines.tpvformer import config, model

    return getattr(config if hasattr(config, name) else model, name)
