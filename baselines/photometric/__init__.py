"""What self-supervised depth is taught by: images of other moments or cameras that are brought to a camera's own image by depth
and motion, and the network that says how a rig has moved between two moments.

The losses are those of Monodepth2 (Godard et al., ICCV 2019), as GANWANSHUI/GaussianOcc uses them in both of its stages.
"""
