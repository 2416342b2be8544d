"""GaussianOcc's first stage (arXiv:2408.11447): depth and motion in metres, from what several cameras see at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet3d.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from baselines.gaussianocc_gsp.clouds import cloud, depth_of, half_sized, overlap, splatted, where_exposed
from baselines.gaussianocc_gsp.losses import Teaching, cross_view_loss
from baselines.gaussianocc_gsp.network import PixelNetwork
from baselines.images import check_images
from baselines.interface import Neighbours, OccupancyBatch, OccupancyGrid, OccupancyPrediction, RenderedDepth
from baselines.model import OccupancyModel
from baselines.photometric.losses import neighbour_loss, smoothness
from baselines.photometric.pose import PoseNetwork, camera_motion
from baselines.photometric.rigid import inverse
from renderers import RasterSettings, Renderer, get

RASTER = RasterSettings()
"""The rasterizer of the published second stage, a fork of Inria's; that of the first one is not known."""


@MODELS.register_module()
class GaussianOccGSP(OccupancyModel):
    """A depth network, whose pixels are Gaussians too, and a pose network.

    grid               of the data set; nothing is said of its voxels: all are called empty
    backbone, backbone_channels, decoder_channels
                       those of PixelNetwork
    pose               arguments of PoseNetwork
    depth_range        metres, the least and the largest depth; 0.1 and 80 as in the second stage
    moments            of the batch's ``neighbours``: negative ones are earlier
    teaching           fields of Teaching
    renderer           name of a backend that renders Gaussians, or a backend
    camera_seed        seed of the noise between ties

    Reads of a batch its ``neighbours``, also where it is not trained: how the rig moved is an answer, too. The pose network is
    ``pose_network``, which the second stage takes on. Rendering and losses run in float32, also under autocast.

    Raises ValueError for sizes and options that do not fit together.
    """

    def __init__(
        self,
        grid: OccupancyGrid | dict[str, Any],
        backbone: dict[str, Any],
        backbone_channels: Sequence[int],
        decoder_channels: Sequence[int],
        pose: dict[str, Any] | None = None,
        depth_range: tuple[float, float] = (0.1, 80.0),
        moments: tuple[int, ...] = (-1, 1),
        teaching: dict[str, Any] | None = None,
        renderer: str | Renderer = "cpu",
        camera_seed: int = 0,
    ) -> None:
        grid = grid if isinstance(grid, OccupancyGrid) else OccupancyGrid(**grid)
        super().__init__(grid, camera_seed=camera_seed, loss={"class_weights": (1.0,) * grid.num_classes})
        if not 0 < depth_range[0] < depth_range[1]:
            raise ValueError(f"depth_range must be two positive numbers of metres, the nearer first, got {depth_range}")
        if not moments or 0 in moments:
            raise ValueError(f"moments must be other ones than the batch's own, 0, got {moments}")
        self.depth_range, self.moments = depth_range, moments
        self.teaching = Teaching(**(teaching or {}))
        self._renderer = renderer
        self.pixel_network = PixelNetwork(backbone, backbone_channels, decoder_channels)
        self.pose_network = PoseNetwork(**(pose or {}))

    @property
    def backend(self) -> Renderer:
        """The renderer in use; raises RendererUnavailable or UnknownRenderer if it cannot be had."""
        return get(self._renderer) if isinstance(self._renderer, str) else self._renderer

    @property
    def departures(self) -> dict[str, tuple[object, object]]:
        """Settings in use that differ from the published ones: name -> (published, used)."""
        return self.backend.departures(RASTER) if self.teaching.cross_view_weight else {}

    def start_from_bias(self, bias: Sequence[float]) -> None:
        """Nothing is classified."""

    def extract(self, batch: OccupancyBatch) -> OccupancyPrediction:
        """Empty voxels, how the rig moved and, of a batch with ``lidar``, its images' depth; errors as in ``neighbours``."""
        neighbours = self.neighbours(batch)
        motion = self.pose_network(neighbours, self.moments).float()
        x, y, z = self.grid.shape
        empty = F.one_hot(torch.tensor(self.grid.empty, device=motion.device), self.grid.num_classes).to(motion)
        logits = empty.view(1, -1, 1, 1, 1).expand(batch.batch_size, -1, x, y, z)
        depth = None
        if batch.lidar is not None:
            to_view = neighbours.intrinsics @ torch.linalg.inv(batch.intrinsics)  # of cameras in one place, turned alike
            depth = RenderedDepth(self.depth(self.raw(batch), (batch.images.shape[-2], batch.images.shape[-1])), to_view)
        return OccupancyPrediction((logits,), depth=depth, motion=motion)

    def depth(self, raw: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, V, H, W] metres at ``size`` (height, width) of raw attributes [B, V, 9, h, w]."""
        return F.interpolate(depth_of(raw, self.depth_range), size=size, mode="bilinear", align_corners=False)

    def raw(self, batch: OccupancyBatch) -> Tensor:
        """float32 [B, V, 9, h, w] what the network says of each pixel at half the images' size."""
        check_images(batch, batch.images.shape[1])
        return self.pixel_network(batch.images.flatten(0, 1)).float().unflatten(0, batch.images.shape[:2])

    def neighbours(self, batch: OccupancyBatch) -> Neighbours:
        """The batch's; ValueError without, or with others than ``moments``."""
        if batch.neighbours is None:
            raise ValueError("GaussianOcc's first stage needs the batch's 'neighbours'")
        found = batch.neighbours.images.shape[1]
        if found != len(self.moments):
            raise ValueError(f"neighbours must be of the moments {self.moments}, the batch has {found}")
        return batch.neighbours

    def loss(self, batch: OccupancyBatch) -> dict[str, Tensor]:
        """``loss_temporal``, ``loss_smoothness`` and ``loss_cross_view``, weighted; those without a weight are left out.

        Raises ValueError for a batch without ``neighbours``.
        """
        neighbours, teaching, generator = self.neighbours(batch), self.teaching, self.camera_generator()
        raw = self.raw(batch)
        motion = self.pose_network(neighbours, self.moments)
        with torch.autocast(raw.device.type, enabled=False):
            depth = self.depth(raw, (batch.images.shape[-2], batch.images.shape[-1]))
            losses = {}
            if teaching.temporal_weight:
                moves = camera_motion(motion.float(), neighbours.camera_to_ego)
                temporal = neighbour_loss(depth, neighbours, moves, teaching.images, generator)
                losses["loss_temporal"] = teaching.temporal_weight * temporal
            else:  # distributed training waits for every gradient
                losses["loss_temporal"] = 0 * motion.sum()
            if teaching.images.smoothness:
                losses["loss_smoothness"] = teaching.images.smoothness * smoothness(depth, neighbours.current)
            if teaching.cross_view_weight:
                losses["loss_cross_view"] = teaching.cross_view_weight * self.cross_view(raw, batch, motion.float())
        return losses

    def rig(self, batch: OccupancyBatch, motion: Tensor) -> Tensor:
        """[B, V, 4, 4] where cameras stand to each other by ``Teaching.rig``; ``motion`` [B, T, 4, 4] teaches nothing by it."""
        neighbours, teaching = self.neighbours(batch), self.teaching
        if teaching.rig == "compensated":
            return inverse(batch.reference_to_camera)
        mounted = neighbours.camera_to_ego
        if teaching.rig == "mounted":
            return mounted
        if len(teaching.exposures) != mounted.shape[1]:
            raise ValueError(f"exposures are of {len(teaching.exposures)} cameras, the batch has {mounted.shape[1]}")
        shares = mounted.new_tensor(teaching.exposures) / teaching.frame_time
        valid = neighbours.valid.any(dim=2)
        return where_exposed(motion.detach(), valid, mounted, mounted.new_tensor(self.moments), shares)

    def cross_view(self, raw: Tensor, batch: OccupancyBatch, motion: Tensor) -> Tensor:
        """The loss between cameras of raw attributes [B, V, 9, h, w] of a rig that moves by ``motion`` [B, T, 4, 4], without
        its weight."""
        neighbours, teaching = self.neighbours(batch), self.teaching
        size = (raw.shape[-2], raw.shape[-1])
        colours, intrinsics = half_sized(neighbours, size)
        rig = self.rig(batch, motion)
        backend = self.backend
        gaussians = cloud(raw, intrinsics, self.depth_range)
        rendered = splatted(gaussians, colours, intrinsics, rig, backend, backend.native(RASTER))
        nearest, farthest, count = teaching.overlap
        distances = nearest * (farthest / nearest) ** torch.linspace(0, 1, count, device=raw.device)
        shared = overlap(intrinsics, rig, size, distances, teaching.overlap_share, teaching.erosion)
        return cross_view_loss(rendered, colours, shared, teaching.images.ssim)
