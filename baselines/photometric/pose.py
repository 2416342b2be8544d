"""How a rig moved between two moments, said by its images alone.

Reproduces GANWANSHUI/GaussianOcc networks/resnet_encoder.py:90-112, networks/pose_decoder.py:17-136 and runner.py:965-1000;
modules have the names of its files ``pose_encoder.pth`` and ``pose.pth``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.images import build_mmdet
from baselines.interface import Neighbours
from baselines.photometric.alignment import aligned
from baselines.photometric.rigid import inverse, rigid, rotation_matrix

MEAN, SPREAD = 0.45, 0.225  # of colours in 0..1, all channels alike
_MOTIONS = 2  # that the published decoder says; the first one is used


class PoseEncoder(nn.Module):
    """A ResNet of two images one behind the other [N, 6, H, W] in 0..1 -> [N, F, h, w], its last stage.

    depth          of the ResNet, 34 as published
    base_channels  of its first stage, 64 as published
    """

    def __init__(self, depth: int = 34, base_channels: int = 64) -> None:
        super().__init__()
        config = dict(type="ResNet", depth=depth, in_channels=6, base_channels=base_channels, stem_channels=base_channels)
        self.encoder = build_mmdet(config | dict(out_indices=(3,), norm_eval=False, style="pytorch"))
        self.channels = base_channels * 8 * (1 if depth < 50 else 4)

    def forward(self, pairs: Tensor) -> Tensor:
        return self.encoder((pairs - MEAN) / SPREAD)[0]


class PoseDecoder(nn.Module):
    """Features [N, F, h, w] of pairs, one a rig -> axis-angle and shift of the motion, [N, 3] radians and metres.

    inputs    F
    channels  hidden ones, 256 as published
    scale     of what the last convolution says, 0.01 as published
    shift     and of the metres among it besides, 1 as published. It decides how soon a training moves far

    ``refine_mlp`` and ``finial_conv`` (sic) belong to published files; nothing runs through them, there neither.
    """

    def __init__(self, inputs: int = 512, channels: int = 256, scale: float = 0.01, shift: float = 1.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift
        self.net = nn.ModuleList(
            [
                nn.Conv2d(inputs, channels, 1),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.Conv2d(channels, 6 * _MOTIONS, 1),
            ]
        )
        hidden = [nn.Sequential(nn.Linear(256, 256)) for _ in range(5)]
        self.refine_mlp = nn.Sequential(nn.Linear(1280 + 6, 256), nn.ReLU(), *hidden, nn.Linear(256, 6 * _MOTIONS))
        self.finial_conv = nn.Conv2d(256, 128, 1)
        for idle in (self.refine_mlp, self.finial_conv):  # no gradient arrives, which distributed training would wait for
            idle.requires_grad_(False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.net[:-1]:
            features = layer(features).relu()
        said = self.scale * self.net[-1](features).mean(dim=(2, 3))
        return said[:, :3], self.shift * said[:, 3:6]


class PoseNetwork(nn.Module):
    """The motion of a rig between the moments of its images; one motion for all of its cameras.

    depth, base_channels, channels, scale, shift
                those of PoseEncoder and PoseDecoder
    aligned     the motion is told besides by ``alignment.aligned``, whose rotation the network corrects, and of whose length it
                says how many metres a metre of it has. False, as published: networks from scratch find no rotation and no speed
                within some hundred steps, not even where the true motion teaches them

    Features are normalised by those of the images at hand, of a sample at a time, in evaluation too: the published second stage
    has the network in training mode whenever it asks it (runner.py:354-358, 842, 851), with one sample in a process, so that
    nothing is ever normalised by the statistics that are counted. By those, and by those of several samples, motion is another.
    """

    def __init__(
        self,
        depth: int = 34,
        base_channels: int = 64,
        channels: int = 256,
        scale: float = 0.01,
        shift: float = 1.0,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.aligned = aligned
        self.pose_encoder = PoseEncoder(depth, base_channels)
        self.pose = PoseDecoder(self.pose_encoder.channels, channels, scale, shift)

    def between(self, earlier: Tensor, later: Tensor, told: Tensor | None = None) -> Tensor:
        """[N, 4, 4] rig at the earlier moment -> rig at the later one, metres: it brings points to where they are seen from then.

        earlier, later  [N, V, 3, H, W] in 0..1
        told            [N, 6] what ``aligned`` says of them
        """
        shape = earlier.shape[:2]
        features = self.pose_encoder(torch.cat([earlier, later], dim=2).flatten(0, 1))
        axis_angle, shift = self.pose(features.unflatten(0, shape).mean(dim=1))
        if told is not None:
            axis_angle = axis_angle + told[:, :3]
            shift = shift * torch.linalg.vector_norm(told[:, 3:], dim=1, keepdim=True)
        return rigid(rotation_matrix(axis_angle), shift)

    def forward(self, neighbours: Neighbours, moments: Sequence[int] = (-1, 1)) -> Tensor:
        """[B, T, 4, 4] rig when ``current`` was taken -> rig at each neighbour's moment, metres; of one that no camera has, the
        identity. The network always sees the earlier images first; its motion is turned back for earlier neighbours.

        moments  of the neighbours, in their order: negative ones are earlier
        """
        with nullcontext() if self.training else _by_what_is_at_hand(self):
            return torch.cat([self._motions(neighbours.one(index), moments) for index in range(len(neighbours.current))])

    def _motions(self, one: Neighbours, moments: Sequence[int]) -> Tensor:
        """[1, T, 4, 4] of a single sample."""
        pairs = []
        for images, moment in zip(one.images.unbind(1), moments, strict=True):
            pairs.append((images, one.current) if moment < 0 else (one.current, images))
        earlier, later = (torch.cat(side) for side in zip(*pairs, strict=True))
        told = None
        if self.aligned:
            with torch.autocast(earlier.device.type, enabled=False):
                told = torch.cat([aligned(*pair, one, valid) for pair, valid in zip(pairs, one.valid.unbind(1), strict=True)])
        forth = self.between(earlier, later, told).unflatten(0, (1, -1))
        motion = [inverse(each) if moment < 0 else each for each, moment in zip(forth.unbind(1), moments, strict=True)]
        there = one.valid.any(dim=2)[..., None, None]
        return torch.where(there, torch.stack(motion, dim=1), torch.eye(4).to(forth))


@contextmanager
def _by_what_is_at_hand(network: nn.Module) -> Iterator[None]:
    """In evaluation mode batches are normalised by themselves; what was counted stays, and no process waits for another."""
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    counted = [(layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.running_mean = layer.running_var = None
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(layers, counted, strict=True):
            layer.running_mean, layer.running_var = mean, variance


def camera_motion(motion: Tensor, camera_to_rig: Tensor) -> Tensor:
    """[B, T, V, 4, 4] of the cameras as the rig moves by ``motion`` [B, T, 4, 4]: inverse(E) . motion . E.

    camera_to_rig  [B, V, 4, 4] E, the rig's calibration, metres
    """
    mounted = camera_to_rig[:, None]
    return inverse(mounted) @ motion[:, :, None] @ mounted
