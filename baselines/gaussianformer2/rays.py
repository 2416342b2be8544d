"""Where along the rays of pixels something is: the first stage's network, what it is taught, and points drawn from what it says.

Reproduces huang-yh/GaussianFormer model/lifter/gaussian_lifter_v2.py, gaussian_initializer/resnet_secondfpn.py and
model/utils/sampler.py (distribution-based initialisation, arXiv:2412.04384, section 3.3).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from mmdet3d.models.necks import SECONDFPN
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.gaussianformer2.anchors import CLASSES, OPACITY, ROTATION, SCALE, Space, raw_of
from baselines.images import build_mmdet
from baselines.interface import OccupancyBatch, OccupancyGrid
from baselines.model import OccupancyModel

SPREAD = 0.1
"""Metres of the noise on points that are taken more than once."""


class RayNeck(SECONDFPN):
    """mmdet3d's neck; maps of images that its strides do not divide are cut to the finest one's size."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        """[N, C_i, h_i, w_i], fine to coarse -> [N, sum of out_channels, h, w]."""
        resized = [deblock(one) for deblock, one in zip(self.deblocks, maps, strict=True)]
        height, width = resized[0].shape[-2:]
        return torch.cat([one[..., :height, :width] for one in resized], dim=1)


class RayNetwork(nn.Module):
    """Images [N, 3, H, W] -> features [N, F, h, w] of the pixels that rays go through."""

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any]) -> None:
        super().__init__()
        self.img_backbone = build_mmdet(backbone)
        self.img_neck = RayNeck(**neck)

    def forward(self, images: Tensor) -> Tensor:
        return self.img_neck(list(self.img_backbone(images)))


class Rays(nn.Module):
    """Bins along the ray of each pixel, and how likely each of them, or none, has something.

    bins         their number
    depth_range  metres along the camera's axis, the first bin's and the last one's
    """

    depth_bins: Tensor

    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        bins: int,
        depth_range: tuple[float, float],
        nothing_is_farthest: bool,
    ) -> None:
        super().__init__()
        self.bins, self.nothing_is_farthest = bins, nothing_is_farthest
        self.initialize_backbone = RayNetwork(backbone, neck)
        self.projection = nn.Sequential(nn.ReLU(), nn.Linear(sum(neck["out_channels"]), bins + 1))
        self.register_buffer("depth_bins", torch.linspace(*depth_range, bins), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """float32 logits [B, V, h, w, D + 1] of images [B, V, 3, H, W]; the last one is that of nothing."""
        features = self.initialize_backbone(images.flatten(0, 1)).float().unflatten(0, images.shape[:2])
        with torch.autocast(images.device.type, enabled=False):
            return self.projection(features.permute(0, 1, 3, 4, 2))

    def points(self, batch: OccupancyBatch, size: tuple[int, int]) -> Tensor:
        """[B, V, h, w, D, 3] the bins of pixels of maps of ``size`` (height, width), metres in the reference frame."""
        (height, width), images = size, batch.images
        device = images.device
        u = (torch.arange(width, device=device) + 0.5) / width * images.shape[-1]
        v = (torch.arange(height, device=device) + 0.5) / height * images.shape[-2]
        pixels = torch.stack(
            [u.expand(height, -1), v[:, None].expand(-1, width), torch.ones(height, width, device=device)], dim=-1
        )
        scaled = pixels[:, :, None] * self.depth_bins[:, None]  # [h, w, D, 3]
        back = torch.linalg.inv(batch.projection.double()).float()[:, :, None, None, None, :3]
        return (back[..., :3] @ scaled[..., None])[..., 0] + back[..., 3]

    def drawn(self, logits: Tensor, points: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        """``drawn_points`` of one sample by chances of a CPU generator."""
        chance = torch.rand(logits.shape[:-1], generator=generator, device="cpu").to(logits)
        return drawn_points(logits, points, space, self.nothing_is_farthest, chance)


def ray_targets(points: Tensor, labels: Tensor, grid: OccupancyGrid) -> Tensor:
    """[..., D + 1] bool of points [B, ..., D, 3]: whose voxel is occupied, and last, whether none is."""
    lower = points.new_tensor(grid.lower)
    index = ((points - lower) / grid.voxel_size).floor()
    size = points.new_tensor(grid.shape)
    inside = ((index >= 0) & (index < size)).all(dim=-1)
    x, y, z = index.clamp_min(0).minimum(size - 1).long().unbind(-1)
    sample = torch.arange(len(points), device=points.device).view(-1, *(1,) * (x.dim() - 1))
    found = labels.long()[sample, x, y, z]
    occupied = inside & (found != grid.empty) & (found != grid.ignore)
    return torch.cat([occupied, ~occupied.any(dim=-1, keepdim=True)], dim=-1)


def ray_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy of the softmax over each ray (loss/bce_loss.py:57-80, without sigmoid)."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.binary_cross_entropy(logits.float().softmax(dim=-1), targets.float())


def drawn_points(logits: Tensor, points: Tensor, space: Space, nothing_is_farthest: bool, chance: Tensor) -> Tensor:
    """[P, 3] a point of each ray where something is likelier than nothing, those outside of the range left out.

    logits  [V, h, w, D + 1] of one sample
    points  [V, h, w, D, 3]
    chance  [V, h, w] in 0..1, what decides
    """
    shares = logits.softmax(dim=-1)
    bins = points.shape[-2]
    among = shares if nothing_is_farthest else shares[..., :bins]
    sums = (among / among.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    index = torch.searchsorted(sums, chance[..., None], right=True).clamp_max(bins - 1)
    drawn = points.gather(-2, index[..., None].expand(*index.shape, 3))[..., 0, :]
    return drawn[(shares.argmax(dim=-1) != bins) & space.inside(drawn)]


def exactly(points: Tensor, count: int, space: Space, generator: torch.Generator) -> Tensor:
    """[count, 3] of points [P, 3]: the ones furthest from each other; fewer are taken again, with noise, and of none any places
    of the range. ``generator`` is a CPU one."""
    low, high = (points.new_tensor(corner) for corner in (space.lower, space.upper))
    if not len(points):
        return low + torch.rand(count, 3, generator=generator, device="cpu").to(points) * (high - low)
    more = math.ceil(count / len(points)) - 1
    if more > 0:
        again = points.repeat(more, 1)
        noise = torch.randn(again.shape, generator=generator, device="cpu").to(points)
        points = torch.cat([points, (again + SPREAD * noise).clamp(low, high)])
    return points[farthest_points(points, count)]


def farthest_points(points: Tensor, count: int) -> Tensor:
    """[count] indices into points [P, 3], at least ``count`` of them: the first one, then each time the one furthest from all
    that are chosen."""
    chosen = torch.zeros(count, dtype=torch.long, device=points.device)
    distance = torch.full((len(points),), torch.inf, dtype=points.dtype, device=points.device)
    for number in range(1, count):
        distance = torch.minimum(distance, (points - points.index_select(0, chosen[number - 1 : number])).square().sum(dim=-1))
        chosen[number] = distance.argmax()
    return chosen


class Lifter(Rays):
    """Where Gaussians begin: at points of a frozen first stage, and at learned places.

    space                          of the Gaussians
    dim, classes                   width of features, logits of classes
    pixel_anchors, learned_anchors Gaussians of the two kinds

    Of the first kind everything but their place is drawn once and not trained, nor are the features that all begin with, zeros.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        bins: int,
        depth_range: tuple[float, float],
        nothing_is_farthest: bool,
        space: Space,
        dim: int,
        classes: int,
        pixel_anchors: int,
        learned_anchors: int,
    ) -> None:
        super().__init__(backbone, neck, bins, depth_range, nothing_is_farthest)
        self.space = space
        self.requires_grad_(False)
        count = pixel_anchors + learned_anchors
        self.anchor = nn.Parameter(_first_anchors(pixel_anchors, classes)[:, SCALE.start :].clone(), requires_grad=False)
        self.random_anchors = nn.Parameter(_first_anchors(learned_anchors, classes))
        self.instance_feature = nn.Parameter(torch.zeros(count, dim), requires_grad=False)

    def anchors(self, images: Tensor, batch: OccupancyBatch, generators: list[torch.Generator]) -> Tensor:
        """[B, N, 11 + K]: those at points, then the learned ones.

        images      the batch's, as the network takes them
        generators  a CPU one for each sample
        """
        with torch.no_grad():
            logits = self(images)
            size = (logits.shape[2], logits.shape[3])
            points = self.points(batch, size)
            places = []
            for own_logits, own_points, generator in zip(logits, points, generators, strict=True):
                drawn = self.drawn(own_logits, own_points, self.space, generator)
                places.append(self.space.raw(exactly(drawn, len(self.anchor), self.space, generator)))
        seen = torch.cat([torch.stack(places), self.anchor.expand(len(places), -1, -1)], dim=-1)
        return torch.cat([seen, self.random_anchors.expand(len(places), -1, -1)], dim=1)


def _first_anchors(count: int, classes: int) -> Tensor:
    """[count, 11 + K] all over the range, of middle size and opacity, not rotated, of any class (PyTorch's generator)."""
    anchors = torch.zeros(count, CLASSES + classes)
    anchors[:, : SCALE.start] = raw_of(torch.rand(count, 3))
    anchors[:, SCALE] = raw_of(torch.tensor(0.5))
    anchors[:, ROTATION.start] = 1
    anchors[:, OPACITY] = raw_of(torch.tensor(0.5))
    anchors[:, CLASSES:] = torch.randn(count, classes)
    return anchors


def draws(model: OccupancyModel, count: int) -> list[torch.Generator]:
    """A CPU generator for each of ``count`` samples: in training a new one, by iteration, process and place in the batch; in
    evaluation the same for all, so that an answer depends on its own sample alone."""
    if not model.training:
        return [torch.Generator().manual_seed(model.camera_seed) for _ in range(count)]
    return [torch.Generator().manual_seed(seed) for seed in _seeds(model, count + 1)[1:]]


def half_mirrored(model: OccupancyModel, batch: OccupancyBatch) -> OccupancyBatch:
    """The batch with all images of half of its samples mirrored, by iteration and process; what is around them stays as it is."""
    generator = torch.Generator().manual_seed(_seeds(model, 1)[0])
    chosen = (torch.rand(batch.batch_size, generator=generator, device="cpu") < 0.5).to(batch.images.device)
    mirror = torch.eye(4, device=batch.images.device)
    mirror[0, 0], mirror[0, 2] = -1.0, batch.images.shape[-1]
    images = torch.where(chosen[:, None, None, None, None], batch.images.flip(-1), batch.images)
    projection = torch.where(chosen[:, None, None, None], mirror @ batch.projection, batch.projection)
    return replace(batch, images=images, projection=projection)


def _seeds(model: OccupancyModel, count: int) -> list[int]:
    first = model.camera_generator().initial_seed()
    return [int(seed) for seed in np.random.SeedSequence(first).generate_state(count, np.uint64)]
