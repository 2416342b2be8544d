"""Voxels -> Gaussians: one Gaussian a voxel, at its centre.

Reproduces ``valeoai/GaussRender`` src/model/head/voxel_render.py:16-266. Upstream decodes an offset from the voxel
centre and sets it to zero; here it is decoded (the layer's shape is published) and not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.gaussrender.config import PAPER, PUBLISHED_CHANNELS, GaussRenderConfig, gaussian_scale
from baselines.interface import OccupancyGrid

PAD_LOGIT = -10_000.0  # its softmax is exactly 0 in float32
OPACITY_SHIFT = -1.0  # opacity starts at sigmoid(-1) = 0.27 (voxel_render.py:108-109, 176-181)
SCALE_SHIFT = -1.0
SCALE_RANGE = (0.01, 0.64)  # metres


@dataclass(frozen=True)
class VoxelGaussians:
    """One Gaussian a voxel, N = X*Y*Z in the order of ``grid.centres().flatten(0, 2)``, float32.

    semantics   [B, N, K] class logits, padded to K = 19 channels (or the number of classes, if larger)
    opacities   [B, N] in 0..1
    scales      [B, N, 3] or [B, N, 1] standard deviations in metres
    rotations   [B, N, 4] unit quaternions (w, x, y, z), or None for isotropic scales
    kept        [B, N] bool, False for those that ``mask_elements`` leaves out; or None
    """

    semantics: Tensor
    opacities: Tensor
    scales: Tensor
    rotations: Tensor | None
    kept: Tensor | None


class GaussianDecoder(nn.Module):
    """Voxel features -> raw Gaussian parameters (voxel_render.py:16-68).

    ``mlp_coarse``: ``num_layers`` times Linear(in, in) and ReLU, then Linear(in, 11 + C), Xavier-uniform, zero bias.
    """

    def __init__(self, in_channels: int, num_classes: int, num_layers: int = 2) -> None:
        super().__init__()
        self.sizes = (3, num_classes, 1, 3, 4)  # offset, semantics, opacity, scale, rotation
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [nn.Linear(in_channels, in_channels), nn.ReLU()]
        self.mlp_coarse = nn.Sequential(*layers, nn.Linear(in_channels, sum(self.sizes)))
        for layer in self.mlp_coarse:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[B, N, F] -> float32 semantics [B, N, C], opacity [B, N], scale [B, N, 3], rotation [B, N, 4], all raw."""
        _, semantics, opacity, scale, rotation = self.mlp_coarse(features).float().split(self.sizes, dim=-1)
        return semantics, opacity[..., 0], scale, rotation


class VoxelToGaussians(nn.Module):
    """Class logits and voxel features -> ``VoxelGaussians``.

    With the published flags gradients reach the logits through the colours, and the features through the opacity.

    feature_channels  F of the features; None makes no decoder, and opacity follows from the logits

    There is a decoder only where the configuration reads one (``GaussRenderConfig.reads_features``): parameters without a
    gradient would stop a training by several processes. Raises ValueError if the configuration needs one and there are no
    features.
    """

    def __init__(self, grid: OccupancyGrid, feature_channels: int | None, config: GaussRenderConfig = PAPER) -> None:
        super().__init__()
        self.grid = grid
        self.config = config
        self.scale = gaussian_scale(grid, config)
        self.feature_channels = feature_channels
        self.decoder: GaussianDecoder | None = None
        if feature_channels is not None:
            # Made even if it is not kept: whatever is initialised behind it starts the same under every option.
            decoder = GaussianDecoder(feature_channels, grid.num_classes, config.num_layers)
            self.decoder = decoder if config.reads_features else None
        elif config.needs_features:
            raise ValueError("transfer_colors=False and overwrite_scales=False need voxel features: pass feature_channels")

    def forward(self, logits: Tensor, features: Tensor | None) -> VoxelGaussians:
        """logits [B, C, X, Y, Z], features [B, F, X, Y, Z] or None.

        Without features the opacity is ``transferred_opacity`` of the logits, the colours are the logits and the
        rotation is the identity (voxel_render.py:182-217). Raises ValueError if features are given and no
        ``feature_channels`` were, or the other way round, or if their numbers differ.
        """
        own_logits = logits.flatten(2).transpose(1, 2).float()
        decoded = None
        if features is not None:
            if self.feature_channels is None:
                raise ValueError("features are given but there is no decoder: pass feature_channels, or features=None")
            if features.shape[1] != self.feature_channels:
                raise ValueError(f"features have {features.shape[1]} channels, the decoder was made for {self.feature_channels}")
            if self.decoder is not None:
                decoded = self.decoder(features.flatten(2).transpose(1, 2))
        elif self.decoder is not None:
            raise ValueError(
                f"features are None but a decoder of {self.feature_channels} channels was configured, which reads them: pass "
                "voxel features, or make the plug-in with feature_channels=None"
            )
        with torch.autocast(logits.device.type, enabled=False):
            return self._gaussians(own_logits, decoded)

    def _gaussians(self, logits: Tensor, decoded: tuple[Tensor, Tensor, Tensor, Tensor] | None) -> VoxelGaussians:
        config, empty = self.config, self.grid.empty
        semantics = logits
        if decoded is not None and not config.transfer_colors:
            semantics = decoded[0]

        if config.overwrite_opacity:
            opacities = (logits.argmax(dim=-1) != empty).float()
        elif decoded is None or config.transfer_opacity:
            opacities = transferred_opacity(logits.softmax(dim=-1)[..., empty])
        else:
            opacities = torch.sigmoid(decoded[1] + OPACITY_SHIFT)

        rotations = None
        if decoded is None or config.overwrite_scales:
            scales = logits.new_full((*logits.shape[:2], 1), self.scale)
        else:
            low, high = SCALE_RANGE
            scales = low + (high - low) * torch.sigmoid(decoded[2] + SCALE_SHIFT)
            identity = logits.new_tensor([1.0, 0.0, 0.0, 0.0])
            rotations = F.normalize(decoded[3], dim=-1)
            # a voxel whose features are all cut off by the ReLUs decodes to zero, which the CUDA kernels read as identity
            no_rotation = (decoded[3] == 0).all(dim=-1, keepdim=True) | config.overwrite_rotations
            rotations = torch.where(no_rotation, identity, rotations)

        kept = None
        if config.mask_elements:
            kept = logits.argmax(dim=-1) != empty
            semantics = semantics.index_fill(-1, torch.tensor(empty, device=logits.device), PAD_LOGIT)
        padding = max(PUBLISHED_CHANNELS - self.grid.num_classes, 0)
        return VoxelGaussians(F.pad(semantics, (0, padding), value=PAD_LOGIT), opacities, scales, rotations, kept)


def transferred_opacity(empty_probability: Tensor) -> Tensor:
    """Opacity from the probability p of empty space: 1 - p^2 below one half, (1 - p)^2 from there on.

    Discontinuous at one half, as published (voxel_render.py:198-217).
    """
    p = empty_probability
    return torch.where(p < 0.5, 1 - p**2, (1 - p) ** 2)
