"""Symphonies; importing this package registers it in ``mmdet3d.registry.MODELS``."""

from baselines.symphonies.config import SIZES, symphonies_config
from baselines.symphonies.model import Symphonies

__all__ = ["SIZES", "Symphonies", "symphonies_config"]
