"""GaussRender: rendered supervision for voxel occupancy, on any model's logits (README.md, "GaussRender on your own network")."""

from baselines.gaussrender.checks import check_cameras
from baselines.gaussrender.config import PAPER, GaussRenderConfig, camera_strategy, gaussian_scale
from baselines.gaussrender.evaluation import RenderedViews, render_views
from baselines.gaussrender.plugin import GaussRender
from baselines.gaussrender.rendering import RenderedOccupancy, VoxelRenderer
from baselines.gaussrender.views import bev_camera, supervising_cameras
from baselines.gaussrender.voxels import GaussianDecoder, VoxelGaussians, VoxelToGaussians

__all__ = [
    "PAPER",
    "GaussRender",
    "GaussRenderConfig",
    "GaussianDecoder",
    "RenderedOccupancy",
    "RenderedViews",
    "VoxelGaussians",
    "VoxelRenderer",
    "VoxelToGaussians",
    "bev_camera",
    "camera_strategy",
    "check_cameras",
    "gaussian_scale",
    "render_views",
    "supervising_cameras",
]
