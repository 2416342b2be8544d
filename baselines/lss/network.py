"""BEVStereo4D's network with a volume in place of a plane: what lift-splat models of occupancy have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import baselines.lss.images  # noqa: F401  registers backbones and necks
from baselines.images import RGB_DEVIATION, build_mmdet, check_images, imagenet_rgb
from baselines.interface import CameraChain, History, OccupancyBatch, OccupancyGrid
from baselines.lss.geometry import camera_vector
from baselines.lss.view import StereoView, ViewTransformer
from baselines.lss.volumes import Conv3D, Neck3D, ResNet3D
from baselines.model import OccupancyModel

# Loaders give images in the order blue, green, red less ImageNet's mean. ImageNet's mean and deviation, red, green, blue:
_MEAN = (123.675, 116.28, 103.53)

NUM_STAGES = 3
"""Of the network on the volume: at the grid's resolution, a half and a quarter of it."""


@dataclass(frozen=True)
class Lifted:
    """What images become.

    features  [B, F, X, Y, Z] of the voxels, not negative
    shares    [B, V, D, h, w] of the depths, of the key frame's image features
    """

    features: Tensor
    shares: Tensor


class LiftSplat(OccupancyModel):
    """Images of three moments -> backbone -> neck -> depth, told of camera and stereo -> lift, splat -> 3D network -> features.

    backbone           a stereo backbone (``baselines.lss.images``), a config for mmdet's registry, with two maps for the neck
    neck               a config for mmdet's registry: two maps to one of the finer one's size
    neck_channels      of that
    depth              (first, end, step) of the depths in metres
    reduction          pixels of an image per cell of the neck's output
    stereo_reduction   and of the backbone's stereo map; a power of two times that is ``reduction``
    aspp               channels of each branch of the depth network's ASPP
    adjacent           earlier frames whose volumes stand beside the key frame's; stereo takes one more. ``history`` must have
                       as many, adjacent + 1
    channels           of the volume and of the voxels' features
    volume_blocks      residual blocks of the 3D network's three stages
    dropout            after the ASPP
    swapped_channels   images enter as blue, green, red, of which red's, green's and blue's mean and deviation are taken, as the
                       released weights were trained; False: as red, green, blue
    published_rounding  of the splat, see ``voxel_numbers``

    ``grid``, ``camera_seed`` and ``loss`` are those of OccupancyModel. Reads ``chain`` and ``history`` of a batch, and ``depth``
    where that teaches. Any batch size. Earlier frames have no gradient. Everything after the neck runs in float32, also under
    autocast. Reproduces mmdet3d/models/detectors/bevdet.py and bevdet_occ.py of HuangJunJie2017/BEVDet; parameters have its
    names. Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        grid: OccupancyGrid,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        neck_channels: int,
        depth: tuple[float, float, float],
        reduction: int,
        stereo_reduction: int,
        aspp: int,
        adjacent: int,
        channels: int,
        volume_blocks: tuple[int, int, int],
        dropout: float,
        swapped_channels: bool,
        published_rounding: bool,
        camera_seed: int,
        loss: dict[str, Any],
    ) -> None:
        super().__init__(grid, camera_seed=camera_seed, loss=loss)
        check_sizes(reduction, stereo_reduction, adjacent, depth)
        self.adjacent = adjacent
        self.reduction = reduction
        self.swapped_channels = swapped_channels
        self.img_backbone, self.img_neck = build_mmdet(backbone), build_mmdet(neck)
        self.img_view_transformer = ViewTransformer(
            grid, neck_channels, channels, depth, reduction, stereo_reduction, aspp, 5.0, published_rounding, dropout
        )
        self.pre_process_net = ResNet3D(channels, (1,), (channels,), (1,))
        widths = [channels << stage for stage in range(NUM_STAGES)]
        self.img_bev_encoder_backbone = ResNet3D((adjacent + 1) * channels, volume_blocks, widths, (1, 2, 2))
        self.img_bev_encoder_neck = Neck3D(sum(widths), channels)
        self.final_conv = Conv3D(channels, channels, 3, norm=False)

    def lifted(self, batch: OccupancyBatch) -> Lifted:
        """The features of all voxels.

        Raises ValueError for images of the wrong shape, and for a batch without ``chain`` or ``history`` or with too short a one.
        """
        chain, history = self._parts(batch)
        projection, vector = chain.projection(), camera_vector(chain)
        volumes = []
        with torch.no_grad():
            oldest = history.projection.shape[1] - 1
            earlier = self._stereo_view(history.images[:, oldest], history.projection[:, oldest])
            for frame in reversed(range(oldest)):
                volume, _, earlier = self._lift(history.images[:, frame], history.projection[:, frame], vector, earlier)
                volumes.append(volume)
        if torch.is_autocast_enabled(batch.images.device.type):
            torch.clear_autocast_cache()  # weights that were cast without a gradient
        volume, shares, _ = self._lift(batch.images, projection, vector, earlier)
        with torch.autocast(batch.images.device.type, enabled=False):
            joined = torch.cat([*volumes, volume], dim=1)
            return Lifted(self.final_conv(self.img_bev_encoder_neck(self.img_bev_encoder_backbone(joined))), shares)

    def depth_loss(self, shares: Tensor, batch: OccupancyBatch) -> Tensor:
        """See ``ViewTransformer.depth_loss``; raises ValueError for a batch without ``depth`` too."""
        if batch.depth is None:
            raise ValueError(f"{type(self).__name__}'s lss_depth loss needs the batch's 'depth', of LiDAR points in the images")
        return self.img_view_transformer.depth_loss(shares, batch.depth)

    def _lift(self, images: Tensor, projection: Tensor, vector: Tensor, earlier: StereoView) -> tuple[Tensor, Tensor, StereoView]:
        """Volume [B, channels, X, Y, Z], shares of the depths, and what the next newer frame compares itself with."""
        shape, size = images.shape[:2], (images.shape[-1], images.shape[-2])
        stereo, *maps = self.img_backbone(self._normalised(images).flatten(0, 1))
        features = self.img_neck(maps)
        with torch.autocast(images.device.type, enabled=False):
            current = StereoView(stereo.float().unflatten(0, shape), projection)
            cost = self.img_view_transformer.compare(current, earlier, size)
            features = features.float().unflatten(0, shape)
            volume, shares = self.img_view_transformer(features, vector, projection, size, cost)
            return self.pre_process_net(volume)[0], shares, current

    def _stereo_view(self, images: Tensor, projection: Tensor) -> StereoView:
        stereo = self.img_backbone.first_stage(self._normalised(images).flatten(0, 1))
        return StereoView(stereo.float().unflatten(0, images.shape[:2]), projection)

    def _normalised(self, images: Tensor) -> Tensor:
        """[..., 3, H, W] as loaders give them -> as the backbone was trained with."""
        if self.swapped_channels:
            mean, deviation = (images.new_tensor(values)[:, None, None] for values in (_MEAN, RGB_DEVIATION))
            return (images + mean.flip(0) - mean) / deviation
        return imagenet_rgb(images)

    def _parts(self, batch: OccupancyBatch) -> tuple[CameraChain, History]:
        check_images(batch, most_cameras=batch.images.shape[1])
        name = type(self).__name__
        if batch.chain is None:
            raise ValueError(f"{name} needs the batch's 'chain': how its cameras' pixels come about")
        wanted = self.adjacent + 1
        if batch.history is None or batch.history.images.shape[1] != wanted:
            found = "none" if batch.history is None else batch.history.images.shape[1]
            raise ValueError(f"{name} needs the batch's 'history' of {wanted} earlier frames, got {found}")
        if any(extent % self.reduction for extent in batch.images.shape[-2:]):
            raise ValueError(
                f"images must be a multiple of {self.reduction} pixels high and wide, got "
                f"{batch.images.shape[-2]} x {batch.images.shape[-1]}"
            )
        return batch.chain, batch.history


def voxel_layers(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """What says something of each voxel by its features: [..., inputs] -> [..., outputs]."""
    return nn.Linear(inputs, 2 * inputs), nn.Softplus(), nn.Linear(2 * inputs, outputs)


def check_sizes(reduction: int, stereo_reduction: int, adjacent: int, depth: tuple[float, float, float]) -> None:
    """Raise ValueError for strides, a number of frames or depths that cannot be."""
    ratio = reduction // stereo_reduction
    if reduction != ratio * stereo_reduction or ratio < 1 or ratio & (ratio - 1):
        raise ValueError(f"reduction {reduction} must be stereo_reduction {stereo_reduction} times a power of two")
    if adjacent < 0:
        raise ValueError(f"adjacent must be a number of earlier frames, got {adjacent}")
    first, end, step = depth
    if not (0 < first < end and step > 0) or abs((end - first) / step - round((end - first) / step)) > 1e-6:
        raise ValueError(f"depth must be (first, end, step), a whole number of steps from a positive first to end, got {depth}")
