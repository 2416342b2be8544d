"""Three planes -> voxel features and logits (valeoai/GaussRender src/model/lifter/tpvformer_lifter.py:85-128)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from baselines.tpvformer.geometry import TPVShape


class TPVAggregator(nn.Module):
    """Up-sample the planes, add them up for every voxel, decode, classify.

    Up-sampling, adding and the decoder's first layer are linear and act on different axes, so the first layer is
    applied to the planes' few tokens instead of to every voxel: the same function, a third fewer operations.

    checkpointing  recompute the voxels' hidden features in the backward pass instead of keeping them
    """

    def __init__(
        self, shape: TPVShape, upsampling: int, dim: int, hidden: int, out: int, num_classes: int, checkpointing: bool
    ) -> None:
        super().__init__()
        self.shape, self.upsampling, self.checkpointing = shape, upsampling, checkpointing
        self.decoder = nn.Sequential(nn.Linear(dim, hidden), nn.Softplus(), nn.Linear(hidden, out))
        self.classifier = nn.Linear(out, num_classes)

    def forward(self, planes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Planes hw, zh, wz, [B, tokens, F] each -> logits [B, C, X, Y, Z] and voxel features [B, F', X, Y, Z].

        Both are views of channels-last tensors. X = upsampling * w, Y = upsampling * h, Z = upsampling * z.
        """
        if self.checkpointing and torch.is_grad_enabled():
            features = checkpoint(self._decode, *planes, use_reentrant=False)
            logits = checkpoint(self.classifier, features, use_reentrant=False)
        else:
            features = self._decode(*planes)
            logits = self.classifier(features)
        return logits.permute(0, 4, 1, 2, 3), features.permute(0, 4, 1, 2, 3)

    def _decode(self, hw: Tensor, zh: Tensor, wz: Tensor) -> Tensor:
        """Voxel features [B, X, Y, Z, F']."""
        first, activation, last = self.decoder
        s = self.shape
        hw = self._upsampled(F.linear(hw, first.weight, first.bias), s.h, s.w).permute(0, 3, 2, 1)
        zh = self._upsampled(F.linear(zh, first.weight), s.z, s.h).permute(0, 3, 2, 1)
        wz = self._upsampled(F.linear(wz, first.weight), s.w, s.z).permute(0, 2, 3, 1)
        return last(activation(hw[:, :, :, None] + zh[:, None] + wz[:, :, None]))

    def _upsampled(self, plane: Tensor, rows: int, columns: int) -> Tensor:
        """[B, rows * columns, F] -> [B, F, rows', columns']."""
        image = plane.transpose(1, 2).unflatten(2, (rows, columns))
        if self.upsampling == 1:
            return image
        return F.interpolate(image, scale_factor=self.upsampling, mode="bilinear", align_corners=False)
