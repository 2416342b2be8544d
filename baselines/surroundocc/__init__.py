"""SurroundOcc; importing this package registers it in ``mmdet3d.registry.MODELS``."""

from baselines.surroundocc.config import SIZES, surroundocc_config
from baselines.surroundocc.model import SurroundOcc

__all__ = ["SIZES", "SurroundOcc", "surroundocc_config"]
