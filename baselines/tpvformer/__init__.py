"""TPVFormer; importing this package registers it in ``mmdet3d.registry.MODELS``."""

from baselines.tpvformer.config import SIZES, tpvformer_config
from baselines.tpvformer.model import TPVFormer, trainable_parameters

__all__ = ["SIZES", "TPVFormer", "tpvformer_config", "trainable_parameters"]
