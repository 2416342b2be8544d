"""GaussRender as a plug-in loss for anybody's voxel logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.gaussrender.checks import (
    cameras_on,
    check_camera_values,
    check_labels,
    check_logits,
    check_something_seen,
)
from baselines.gaussrender.config import PAPER, GaussRenderConfig, camera_strategy
from baselines.gaussrender.losses import render_losses
from baselines.gaussrender.rendering import VoxelRenderer
from baselines.gaussrender.views import supervising_cameras
from baselines.gaussrender.voxels import VoxelToGaussians
from baselines.interface import OccupancyGrid
from renderers import Cameras, Renderer

FAINT = 0.1  # opacity below which a voxel counts as empty, where nothing else was taught to say so


class GaussRender(nn.Module):
    """Render predicted and labelled voxels from the same cameras and compare the images.

    Chambon et al., "GaussRender: Learning 3D Occupancy with Gaussian Rendering", 2025; ``valeoai/GaussRender``
    train.py:150-199. The plug-in is for training only; a prediction needs neither it nor its decoder.

    grid              the voxels of the logits; on the papers' grids all constants are the published ones
    renderer          a backend's name, looked up at first use, or a backend
    feature_channels  F of the voxel features that decide the Gaussians' opacity; None derives it from the logits
    config            all options, see ``GaussRenderConfig``

    Parameters and buffers are in ``renderer_prep`` (decoder) and ``renderer`` (``bg_color``), the published names.
    """

    def __init__(
        self,
        grid: OccupancyGrid,
        renderer: str | Renderer = "cpu",
        feature_channels: int | None = None,
        config: GaussRenderConfig = PAPER,
    ) -> None:
        super().__init__()
        camera_strategy(grid, config)  # an impossible configuration fails here, not in the first training step
        self.grid = grid
        self.config = config
        self.renderer_prep = VoxelToGaussians(grid, feature_channels, config)
        self.renderer = VoxelRenderer(grid, renderer, config)
        self._generator: torch.Generator | None = None

    def forward(
        self,
        logits: Tensor,
        features: Tensor | None,
        cameras: Cameras,
        labels: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The weighted sum of ``losses``, a scalar."""
        return torch.stack(list(self.losses(logits, features, cameras, labels, generator).values())).sum()

    def losses(
        self,
        logits: Tensor,
        features: Tensor | None,
        cameras: Cameras,
        labels: Tensor,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms by name: ``loss_render_image``, ``_depth``, ``_bev``, ``_bev_depth``.

        logits    [B, C, X, Y, Z] class logits
        features  [B, F, X, Y, Z] voxel features, or None
        cameras   the V sensor cameras of each sample, reference frame -> camera, in the size of the label cameras' images
        labels    [B, X, Y, Z] integer class ids, ``grid.ignore`` where unknown
        generator of the camera draws; None: the plug-in's own, seeded with ``config.seed``

        Rendering is in float32, under autocast too. Raises ValueError for wrong shapes, for labels that are no class and for
        cameras that cannot be the grid's; ``check_cameras`` tells beforehand what each of them sees.
        """
        self._check(logits, features, cameras, labels)
        device = logits.device
        labels = labels.to(device, torch.long)
        voxels = self.renderer_prep(logits, features)
        with torch.autocast(device.type, enabled=False):
            cameras = cameras_on(cameras, device)
            views = supervising_cameras(cameras, self.grid, self.config, generator or self._own_generator())
            seen = self.renderer.in_image(views)
            if self.config.uses_cameras and not bool(seen.flatten(1).any(dim=1).all()):  # drawn and moved views may see nothing
                check_something_seen(self.renderer.in_image(cameras))
            predicted = self.renderer.prediction(voxels, views, labels, seen)
            truth = self.renderer.truth(labels, views, seen)
            return render_losses(predicted, truth, self.config)

    @torch.no_grad()
    def without_faint(self, logits: Tensor, features: Tensor | None) -> Tensor:
        """Logits [B, C, X, Y, Z] with the empty class on top wherever the Gaussian's opacity is below 0.1.

        The answer of a model that was trained on rendered images alone: nothing but the opacity says there where space is
        empty (``valeoai/GaussRender`` train.py:270-281). logits and features as in ``losses``.
        """
        faint = self.renderer_prep(logits, features).opacities.unflatten(1, self.grid.shape) < FAINT
        emptied = logits.clone()
        emptied[:, self.grid.empty] = torch.where(faint, logits.amax(dim=1) + 1, logits[:, self.grid.empty])
        return emptied

    def _own_generator(self) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.config.seed)
        return self._generator

    def _check(self, logits: Tensor, features: Tensor | None, cameras: Cameras, labels: Tensor) -> None:
        shape = list(self.grid.shape)
        check_labels(labels, self.grid)
        batch = labels.shape[0]
        check_logits(logits, self.grid, batch)
        if features is not None and (features.dim() != 5 or [features.shape[0], *features.shape[2:]] != [batch, *shape]):
            raise ValueError(f"features must be [{batch}, F, {', '.join(map(str, shape))}], got {list(features.shape)}")
        check_camera_values(cameras, batch)
