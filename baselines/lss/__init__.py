"""Lift-splat parts that several models share: image features, times a distribution over depth, summed up in voxels.

Philion and Fidler, "Lift, Splat, Shoot" (arXiv:2008.05711); depth told of the camera from BEVDepth (arXiv:2206.10092), stereo
from BEVStereo (arXiv:2209.10248), as HuangJunJie2017/BEVDet and its descendants have them. Parameters have BEVDet's names.
"""
