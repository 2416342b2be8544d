"""Volumes at several scales, merged by a pyramid of 3D deconvolutions and classified at each scale.

Reproduces weiyithu/SurroundOcc projects/mmdet3d_plugin/surroundocc/dense_heads/occ_head.py:68-241 (arXiv:2303.09551,
section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from baselines.interface import OccupancyGrid
from baselines.surroundocc.volume import VolumeSizes, VolumeTransformer, conv_block


class SurroundOccHead(nn.Module):
    """One volume a feature map, fine to coarse, with 1/2, 1/4, ... of the grid's cells along each axis.

    image_channels  width of the feature maps
    widths          channels of the supervised scales, coarse to fine: one more than there are volumes
    """

    def __init__(
        self,
        grid: OccupancyGrid,
        volumes: Sequence[VolumeSizes],
        image_channels: int,
        widths: Sequence[int],
        heads: int,
        groups: int,
        num_cameras: int,
        dropout: float,
        classifier_bias: bool,
    ) -> None:
        super().__init__()
        self.transformer = nn.ModuleList(
            VolumeTransformer(grid, v, heads, groups, num_cameras, dropout) for v in volumes
        )  # fmt: skip
        # From the coarsest volume up: convolution (supervised), deconvolution to twice the cells, where the next volume
        # is added, ...; the last deconvolution reaches the grid itself, which has no volume.
        self.deblocks = nn.ModuleList()
        channels = volumes[-1].dim
        skips = [v.dim for v in volumes[-2::-1]] + [widths[-2]]
        for width, skip in zip(widths, [*skips, None], strict=True):
            self.deblocks.append(conv_block(nn.Conv3d(channels, width, 3, padding=1, bias=False), width, groups))
            if skip is not None:
                self.deblocks.append(conv_block(nn.ConvTranspose3d(width, skip, 2, stride=2, bias=False), skip, groups))
                channels = skip
        self.occ = nn.ModuleList(nn.Conv3d(width, grid.num_classes, 1, bias=classifier_bias) for width in widths)
        self.volume_embedding = nn.ModuleList(nn.Embedding(v.tokens, v.dim) for v in volumes)
        self.transfer_conv = nn.ModuleList(
            nn.Sequential(nn.Conv2d(image_channels, v.dim, 1), nn.ReLU(inplace=True)) for v in volumes
        )  # fmt: skip

    def forward(
        self, features: Sequence[Tensor], projection: Tensor, image_size: tuple[int, int]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Logits [B, C, X/f, Y/f, Z/f] of every scale, coarse to fine, and the features [B, F, X, Y, Z] of the finest.

        features    one [B, V, F', h, w] a volume, fine to coarse
        projection  [B, V, 4, 4] reference frame -> pixel of the images, whose ``image_size`` is (width, height)
        """
        batch = projection.shape[0]
        volumes = []
        for level, transfer, embedding, transformer in zip(
            features, self.transfer_conv, self.volume_embedding, self.transformer, strict=True
        ):
            seen = transfer(level.flatten(0, 1)).unflatten(0, level.shape[:2])
            volumes.append(transformer(embedding.weight.expand(batch, -1, -1), seen, projection, image_size))

        result = volumes.pop()
        logits = []
        for step, block in enumerate(self.deblocks):
            result = block(result)
            if step % 2 == 0:
                logits.append(self.occ[step // 2](result))
            elif volumes:
                result = result + volumes.pop()
        return tuple(logits), result
