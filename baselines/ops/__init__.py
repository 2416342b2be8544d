"""Deformable operators that run on any device."""

from baselines.ops.deform_attn import deformable_attention
from baselines.ops.deform_conv import ModulatedDeformConv2dPack, modulated_deform_conv2d

__all__ = ["ModulatedDeformConv2dPack", "deformable_attention", "modulated_deform_conv2d"]
