"""BEVDet-Occ; its model is in ``mmdet3d.registry.MODELS`` as soon as anything but the recipe is asked of this package."""

from typing import TYPE_CHECKING, Any

from baselines.bevdetocc.recipe import RECIPE

if TYPE_CHECKING:
    from baselines.bevdetocc.config import SIZES, bevdetocc_config
    from baselines.bevdetocc.model import BEVDetOcc

__all__ = ["RECIPE", "SIZES", "BEVDetOcc", "bevdetocc_config"]


def __getattr__(name: str) -> Any:
    """Model and configuration at first use: they load torch and mmdet3d, which the recipe does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'baselines.bevdetocc' has no attribute '{name}'")
    from baselines.bevdetocc import config, model

    return getattr(config if hasattr(config, name) else model, name)
