"""Every choice of GaussRender as data; the defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from baselines.interface import OccupancyGrid
from baselines.published import Strategy
from renderers import RasterSettings

LossKind = Literal["l1", "kl"]

# Channels of the released rasterizer; a data set with fewer classes is padded (valeoai/GaussRender
# src/model/head/voxel_render.py:235-238, gaussian_render.py:184-190).
PUBLISHED_CHANNELS = 19


@dataclass(frozen=True)
class GaussRenderConfig:
    """Options of the plug-in; ``GaussRenderConfig()`` is the paper's preset (``PAPER``).

    Source: ``valeoai/GaussRender`` config/tpvformer/render.py:6-34, config/_base_/loss_render.py:3-7.

    Voxel to Gaussian (src/model/head/voxel_render.py:71-266)
        mask_elements        leave out predicted voxels whose arg-max class is empty, and never colour one as empty.
                             False, as published, keeps them (so an opaque empty voxel has the right colour and a wrong
                             depth, and opacity must learn to vanish) while the ground truth never holds them. True
                             stops upstream with a shape error; here the rest of the prediction is rendered and the
                             ground truth stays whole
        transfer_colors      colours are the softmax of the voxel logits; False takes the decoder's own classes
        transfer_opacity     opacity from the probability of empty space instead of the decoder. Upstream cannot run it;
                             the rule that it spells out is implemented
        overwrite_scales     one isotropic standard deviation for all (``gaussian_scale``); False: the decoder's
        overwrite_rotations  identity rotations; False: the decoder's, which only matter with decoded scales
        overwrite_opacity    opacity 0 where the arg-max class is empty, else 1
        num_layers           hidden layers of the decoder; each has its own weights (upstream ties those beyond two)
        gaussian_scale       standard deviation in metres; None: published for the data set, and in the same ratio to
                             the voxel edge on a coarser grid
        scale_factor         multiplies the published standard deviation, which follows the voxel edge: the same ratio means the
                             same on every grid. Not together with ``gaussian_scale``

    Cameras (src/model/head/gaussian_render.py:286-445)
        camera_strategy      None: the data set's published one
        num_cameras          cameras drawn a sample (doubled by "stereo"); fixed ``camera_indices`` take precedence
        image_reduction      camera images are rendered at width // it, height // it
        bev_reduction        the view from above is rendered at 400 // it pixels; must divide 400
        seed                 of the draws when no generator is passed

    Losses (src/loss/occupancy_loss.py:17-158)
        loss                 of the semantic images: "l1" or "kl"
        with_* / *_weight    which of the four terms there are, and their weights
        with_occupancy       a model adds its own losses on voxels. False (upstream's ``w_occupancy``) trains on rendered
                             images alone; predicted voxels of opacity below 0.1 then are empty (train.py:270-281)

    Published quirks, on by default
        trajectory_cancels       "trajectory" moves the camera by y_max - |y_min| and x_max - |x_min|, which cancel on
                                 symmetric ranges: what stays is 2 m up. False uses y_max and x_max alone
        weighted_camera_draw     of nuScenes' six cameras the first and the fourth (front and back) are drawn with
                                 probability 1/4, the others 1/8; other data sets and numbers of cameras have no
                                 published weights and are drawn uniformly. False: always uniformly
        empty_view_drops_depth   one camera without any ground-truth depth sets the sample's whole depth term to zero.
                                 False averages over the cameras that have some
        drop_ignored             predicted voxels whose label is ``grid.ignore`` are not rendered
        raster                   numerical settings; "accumulated" depth is not divided by alpha, as published
    """

    mask_elements: bool = False
    transfer_colors: bool = True
    transfer_opacity: bool = False
    overwrite_scales: bool = True
    overwrite_rotations: bool = False
    overwrite_opacity: bool = False
    num_layers: int = 2
    gaussian_scale: float | None = None
    scale_factor: float = 1.0

    camera_strategy: Strategy | None = None
    num_cameras: int = 1
    camera_indices: tuple[int, ...] | None = None
    image_reduction: int = 1
    bev_reduction: int = 1
    seed: int = 0

    loss: LossKind = "l1"
    with_camera: bool = True
    with_depth: bool = True
    with_bev: bool = True
    with_bev_depth: bool = True
    camera_weight: float = 10.0
    depth_weight: float = 10.0
    bev_weight: float = 10.0
    bev_depth_weight: float = 10.0
    with_occupancy: bool = True

    trajectory_cancels: bool = True
    weighted_camera_draw: bool = True
    empty_view_drops_depth: bool = True
    drop_ignored: bool = True
    raster: RasterSettings = field(default_factory=RasterSettings)

    def __post_init__(self) -> None:
        strategies = ("sensor", "elevated", "random", "stereo", "trajectory", None)
        if self.camera_strategy not in strategies:
            known = ", ".join(str(s) for s in strategies)
            raise ValueError(f"camera_strategy must be one of {known}, got {self.camera_strategy!r}")
        if self.loss not in ("l1", "kl"):
            raise ValueError(f"loss must be 'l1' or 'kl', got {self.loss!r}")
        for name in ("num_layers", "num_cameras", "image_reduction", "bev_reduction"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.scale_factor <= 0:
            raise ValueError(f"scale_factor must be positive, got {self.scale_factor}")
        if self.gaussian_scale is not None and self.scale_factor != 1:
            raise ValueError("gaussian_scale is in metres and scale_factor multiplies the published one: set one of them")
        if self.camera_indices is not None and not self.camera_indices:
            raise ValueError("camera_indices is empty: name at least one camera, or use None to draw num_cameras of them")
        if not (self.with_camera or self.with_depth or self.with_bev or self.with_bev_depth):
            raise ValueError("no rendered loss is left: set one of with_camera, with_depth, with_bev, with_bev_depth")
        if self.raster.background is not None:
            raise ValueError("raster.background must be None: GaussRender's background is the empty class")

    @property
    def reads_features(self) -> bool:
        """Whether any of a Gaussian's parameters is decoded from voxel features, where there are any."""
        decoded_opacity = not (self.overwrite_opacity or self.transfer_opacity)
        return decoded_opacity or not (self.transfer_colors and self.overwrite_scales)

    @property
    def needs_features(self) -> bool:
        """Whether there is no other way to have them than from voxel features."""
        return not (self.transfer_colors and self.overwrite_scales)

    @property
    def uses_cameras(self) -> bool:
        """Whether any term needs camera views."""
        return self.with_camera or self.with_depth

    @property
    def uses_bev(self) -> bool:
        """Whether any term needs the view from above."""
        return self.with_bev or self.with_bev_depth


PAPER = GaussRenderConfig()


def gaussian_scale(grid: OccupancyGrid, config: GaussRenderConfig = PAPER) -> float:
    """Standard deviation of the Gaussians in metres: the configured one, or ``scale_factor`` times the published one.

    On a grid with other voxels than the paper's, the published ratio to the voxel edge is kept. Raises ValueError for a
    data set without a published scale.
    """
    if config.gaussian_scale is not None:
        if config.gaussian_scale <= 0:
            raise ValueError(f"gaussian_scale must be positive, got {config.gaussian_scale}")
        return config.gaussian_scale
    if grid.published.gaussian_scale is None:
        raise ValueError(f"data set '{grid.dataset}' has no published Gaussian scale: set GaussRenderConfig.gaussian_scale")
    voxel, sigma = grid.published.gaussian_scale
    return config.scale_factor * (sigma if grid.voxel_size == voxel else sigma / voxel * grid.voxel_size)


def camera_strategy(grid: OccupancyGrid, config: GaussRenderConfig = PAPER) -> Strategy:
    """The configured strategy, or the data set's published one; ValueError where there is neither."""
    if config.camera_strategy is not None:
        return config.camera_strategy
    if grid.published.camera_strategy is None:
        raise ValueError(f"data set '{grid.dataset}' has no published camera strategy: set GaussRenderConfig.camera_strategy")
    return grid.published.camera_strategy
