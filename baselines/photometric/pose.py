"""How a rig moved between two moments, said by its images alone.

Reproduces GANWANSHUI/GaussianOcc networks/resnet_encoder.py:90-112, networks/pose_decoder.py:17-136 and runner.py:965-1000;
modules have the names of its files ``pose_encoder.pth`` and ``pose.pth``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.images import build_mmdet
from baselines.interface import Neighbours
from baselines.photometric.displacement import displacement

MEAN, SPREAD = 0.45, 0.225  # of colours in 0..1, all channels alike
SHORTEST = 1e-7  # added to the length of a rotation's axis before it divides
TURN = 0.5  # radians a pixel of displacement, by a weight of 1; chosen, so that some hundred steps reach what is needed
_MOTIONS = 2  # that the published decoder says; the first one is used


def rotation_matrix(axis_angle: Tensor) -> Tensor:
    """[..., 3, 3] of ``axis_angle`` [..., 3]: radians about an axis, the vector's length about its direction."""
    angle = torch.linalg.vector_norm(axis_angle, dim=-1, keepdim=True)
    x, y, z = (axis_angle / (angle + SHORTEST)).unbind(-1)
    nought = torch.zeros_like(x)
    cross = torch.stack([nought, -z, y, z, nought, -x, -y, x, nought], dim=-1).unflatten(-1, (3, 3))
    sine, cosine = angle.sin()[..., None], angle.cos()[..., None]
    return torch.eye(3).to(axis_angle) + sine * cross + (1 - cosine) * (cross @ cross)


def rigid(rotation: Tensor, shift: Tensor) -> Tensor:
    """[..., 4, 4] that rotates by ``rotation`` [..., 3, 3], then moves by ``shift`` [..., 3]."""
    upper = torch.cat([rotation, shift[..., None]], dim=-1)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, last], dim=-2)


def inverse(motion: Tensor) -> Tensor:
    """The motion [..., 4, 4] back; a rotation's transpose is its inverse."""
    back = motion[..., :3, :3].transpose(-2, -1)
    return rigid(back, -(back @ motion[..., :3, 3:])[..., 0])


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
    displaced   rotation is told besides by how far images are displaced between the moments, mean over the cameras, at their
                size divided by this (``displacement``): a turn of the rig moves all that its cameras see by the same. None, as
                published: networks from scratch find no rotation within some hundred steps, not even where the true one
                teaches them

    Features are normalised by those of the images at hand, in evaluation too, there of a sample at a time: the published second
    stage has the network in training mode whenever it asks it (runner.py:354-358, 842, 851), so that nothing is ever normalised
    by the statistics that are counted. By those motion can be of another scale.
    """

    def __init__(
        self,
        depth: int = 34,
        base_channels: int = 64,
        channels: int = 256,
        scale: float = 0.01,
        shift: float = 1.0,
        displaced: int | None = None,
    ) -> None:
        super().__init__()
        self.displaced = displaced
        self.pose_encoder = PoseEncoder(depth, base_channels)
        self.pose = PoseDecoder(self.pose_encoder.channels, channels, scale, shift)
        if displaced is not None:
            self.turn = nn.Linear(2, 3, bias=False)
            nn.init.zeros_(self.turn.weight)

    def between(self, earlier: Tensor, later: Tensor) -> Tensor:
        """[N, 4, 4] rig at the earlier moment -> rig at the later one, metres: it brings points to where they are seen from then.

        earlier, later  [N, V, 3, H, W] in 0..1
        """
        shape = earlier.shape[:2]
        features = self.pose_encoder(torch.cat([earlier, later], dim=2).flatten(0, 1))
        axis_angle, shift = self.pose(features.unflatten(0, shape).mean(dim=1))
        if self.displaced is not None:
            axis_angle = axis_angle + TURN * self.turn(displacement(earlier, later, self.displaced).mean(dim=1))
        return rigid(rotation_matrix(axis_angle), shift)

    def forward(self, neighbours: Neighbours, moments: Sequence[int] = (-1, 1)) -> Tensor:
        """[B, T, 4, 4] rig when ``current`` was taken -> rig at each neighbour's moment, metres; of one that no camera has, the
        identity. The network always sees the earlier images first; its motion is turned back for earlier neighbours.

        moments  of the neighbours, in their order: negative ones are earlier
        """
        if self.training:
            return self._motions(neighbours, moments)
        with _by_what_is_at_hand(self):
            return torch.cat([self._motions(neighbours.one(index), moments) for index in range(len(neighbours.current))])

    def _motions(self, neighbours: Neighbours, moments: Sequence[int]) -> Tensor:
        pairs = []
        for images, moment in zip(neighbours.images.unbind(1), moments, strict=True):
            pairs.append((images, neighbours.current) if moment < 0 else (neighbours.current, images))
        forth = self.between(*(torch.cat(side) for side in zip(*pairs, strict=True))).unflatten(0, (len(moments), -1))
        motion = [inverse(one) if moment < 0 else one for one, moment in zip(forth, moments, strict=True)]
        there = neighbours.valid.any(dim=2)[..., None, None]
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
