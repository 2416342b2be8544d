"""Rendering of predicted and labelled voxels from the same cameras with the same visibility.

Reproduces ``valeoai/GaussRender`` src/model/head/gaussian_render.py:447-818. Where upstream assumes one sample a batch,
every sample here has its own cameras and masks; a view without any Gaussian shows the background (upstream: zeros).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.gaussrender.config import PAPER, PUBLISHED_CHANNELS, GaussRenderConfig, gaussian_scale
from baselines.gaussrender.views import bev_camera, in_image
from baselines.gaussrender.voxels import VoxelGaussians
from baselines.interface import OccupancyGrid
from renderers import Cameras, Gaussians, RasterSettings, Renderer, Rendering, get


@dataclass(frozen=True)
class RenderedOccupancy:
    """Class images and depth images of a grid; those that the configuration does not use are None.

    image      [B, n, H, W, C] class shares of each pixel, summing to 1
    depth      [B, n, H, W] metres, accumulated (0 where nothing is rendered)
    bev        [B, 1, Hb, Wb, C]
    bev_depth  [B, 1, Hb, Wb]
    """

    image: Tensor | None = None
    depth: Tensor | None = None
    bev: Tensor | None = None
    bev_depth: Tensor | None = None


class VoxelRenderer(nn.Module):
    """Splats the voxels of one grid.

    ``bg_color`` [19] (or the number of classes, if larger) is the published buffer: one-hot of the empty class.

    The backend is looked up at first use, so that a model can be built where its backend cannot run. Settings that the
    backend has compiled in differently take the backend's own value: ``settings`` are those in use and ``departures``
    says what differs from the configuration, as setting -> (asked for, used).
    """

    bg_color: Tensor
    centres: Tensor

    def __init__(self, grid: OccupancyGrid, renderer: str | Renderer = "cpu", config: GaussRenderConfig = PAPER) -> None:
        super().__init__()
        self.grid = grid
        self.config = config
        self.scale = gaussian_scale(grid, config)
        self._renderer = renderer
        channels = max(PUBLISHED_CHANNELS, grid.num_classes)
        self.register_buffer("bg_color", F.one_hot(torch.tensor(grid.empty), channels).float())
        self.register_buffer("centres", grid.centres().flatten(0, 2), persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> VoxelRenderer:
        """A copy that shares the backend, which has no state of its own and may hold what cannot be copied."""
        memo[id(self._renderer)] = self._renderer
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    @property
    def backend(self) -> Renderer:
        """The renderer in use; raises RendererUnavailable or UnknownRenderer if it cannot be had."""
        if isinstance(self._renderer, str):
            self._renderer = get(self._renderer)
        return self._renderer

    @property
    def settings(self) -> RasterSettings:
        """Numerical settings in use, without the background."""
        return self.backend.native(self.config.raster)

    @property
    def departures(self) -> dict[str, tuple[object, object]]:
        """Settings in use that differ from the configured ones: name -> (configured, used)."""
        return self.backend.departures(self.config.raster)

    def splat(self, gaussians: Gaussians, cameras: Cameras, visible: Tensor | None) -> Rendering:
        """Render C class channels (no more: the padded ones are exactly zero) over the empty class."""
        background = self.bg_color[: gaussians.channels].to(gaussians.features)
        return self.backend.render(gaussians, cameras, self.settings.with_(background=background), visible)

    @torch.no_grad()
    def in_image(self, cameras: Cameras) -> Tensor:
        """[B, V, N] bool: the voxels whose centres each camera sees, see ``views.in_image``."""
        return in_image(self.centres, cameras)

    def known(self, labels: Tensor) -> Tensor:
        """[B, N] bool: voxels that are rendered at all, in prediction and ground truth; labels [B, X, Y, Z]."""
        labels = labels.flatten(1)
        return labels != self.grid.ignore if self.config.drop_ignored else torch.ones_like(labels, dtype=torch.bool)

    def prediction(self, voxels: VoxelGaussians, cameras: Cameras, labels: Tensor, seen: Tensor) -> RenderedOccupancy:
        """Render predicted voxels, the empty ones included.

        cameras [B, n]; labels [B, X, Y, Z] (those of ``ignore`` are dropped); seen [B, n, N] from ``in_image``.
        """
        classes = voxels.semantics.softmax(dim=-1)[..., : self.grid.num_classes]
        batch, count = voxels.opacities.shape
        gaussians = Gaussians(
            means=self.centres.expand(batch, count, 3),
            scales=voxels.scales,
            opacities=voxels.opacities,
            features=classes,
            quaternions=voxels.rotations,
        )
        kept = self.known(labels)
        if voxels.kept is not None:
            kept = kept & voxels.kept
        views = above = None
        if self.config.uses_cameras:
            views = self.splat(gaussians, cameras, seen & kept[:, None])
        if self.config.uses_bev:
            above = self.splat(gaussians, self.above(cameras), kept[:, None])
        return _collect(views, above)

    @torch.no_grad()
    def truth(self, labels: Tensor, cameras: Cameras, seen: Tensor) -> RenderedOccupancy:
        """Render the occupied voxels of labels [B, X, Y, Z]: opaque, one-hot; cameras and ``seen`` as in ``prediction``.

        A backend that cuts alpha at 0.99 leaves at most 0.9999 of a class in a pixel.
        """
        occupied = self.occupied(labels)
        colours = [self.one_hot(sample[chosen]) for sample, chosen in zip(labels.flatten(1), occupied, strict=True)]
        views = above = None
        if self.config.uses_cameras:
            views = self.solid(occupied, colours, cameras, seen)
        if self.config.uses_bev:
            above = self.solid(occupied, colours, self.above(cameras), None)
        return _collect(views, above)

    def occupied(self, labels: Tensor) -> Tensor:
        """[B, N] bool: voxels with a class that is neither empty nor ignored; labels [B, X, Y, Z]."""
        return ((labels != self.grid.empty) & (labels != self.grid.ignore)).flatten(1)

    def one_hot(self, classes: Tensor) -> Tensor:
        """[n] class ids -> [n, C] float32."""
        return F.one_hot(classes, self.grid.num_classes).float()

    def above(self, cameras: Cameras) -> Cameras:
        """The view from above for each sample of ``cameras``."""
        return bev_camera(self.grid, cameras.intrinsics.shape[0], self.config, self.centres.device)

    def solid(self, chosen: Tensor, colours: Sequence[Tensor], cameras: Cameras, seen: Tensor | None) -> Rendering:
        """Render only the voxels in ``chosen`` [B, N] bool, fully opaque, without gradient to their opacity.

        colours: one [n_b, C] a sample, for its chosen voxels in order; seen [B, V, N] bool or None for all. Samples have
        different numbers of voxels, hence one call of the backend each.
        """
        samples = []
        for b, (index, colour) in enumerate(zip(map(_where, chosen), colours, strict=True)):
            ones = self.centres.new_ones(1, len(index))
            gaussians = Gaussians(self.centres[index][None], self.scale * ones[..., None], ones, colour[None])
            sample = Cameras(cameras.intrinsics[b : b + 1], cameras.world_to_camera[b : b + 1], cameras.width, cameras.height)
            samples.append(self.splat(gaussians, sample, None if seen is None else seen[b : b + 1, :, index]))
        return Rendering(
            torch.cat([s.features for s in samples]),
            torch.cat([s.depth for s in samples]),
            torch.cat([s.alpha for s in samples]),
        )


def _where(mask: Tensor) -> Tensor:
    return mask.nonzero()[:, 0]


def _collect(views: Rendering | None, above: Rendering | None) -> RenderedOccupancy:
    return RenderedOccupancy(
        image=None if views is None else views.features,
        depth=None if views is None else views.depth,
        bev=None if above is None else above.features,
        bev_depth=None if above is None else above.depth,
    )
