"""Scene and instance queries that inform each other, and the head that classifies voxels.

Reproduces hustvl/Symphonies ssc_pl/models/decoders/symphonies_decoder.py, layers/{pos_embed,modules}.py and
projections/vpl.py (arXiv:2306.15670, section 3). The scene is a volume of X * Y * Z cells, numbered (x * Y + y) * Z + z,
coarser than the voxels. Module names, with their spelling, are those of the published weights.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.ops.deform_attn import Shapes
from baselines.symphonies.attention import AttentionLayer, MapAttentionLayer, VolumeAttentionLayer
from baselines.symphonies.geometry import SceneViews

Size3 = tuple[int, int, int]


class ScenePosition(nn.Module):
    """A code for each cell from a code of its x, its y and its z.

    fold  how many codes along x, y, z share one cell of a coarser table, whose parts then become heights of one column.
          The published (2, 2, 1) makes the 256 x 256 x 2 table into one of 128 x 128 x 8 in which z = 4 * z' + 2 * a + b
          for the part (a, b) of a cell; (1, 1, 1) is a code for each x, y and z
    """

    def __init__(self, cells: Size3, dim: int, fold: Size3) -> None:
        super().__init__()
        x, y, z = cells
        parts = math.prod(fold)
        if z % parts:
            raise ValueError(f"a scene of {z} cells in height cannot be folded by {fold}: not a multiple of {parts}")
        self.fold = fold
        self.table: Size3 = (x, y, z // parts)
        self.embeds = nn.ModuleList(nn.Embedding(n * f, dim // 2) for n, f in zip(self.table, fold, strict=True))
        self.proj = nn.Linear(dim // 2 * 3, dim)

    def forward(self) -> Tensor:
        """[N, F]."""
        x, y, z = (embed.weight for embed in self.embeds)
        full = (len(x), len(y), len(z))
        along = [x[:, None, None], y[:, None], z]
        code = torch.cat([part.expand(*full, -1) for part in along], dim=-1)
        (a, b, c), (i, j, k) = self.table, self.fold
        return self.proj(code.reshape(a, i, b, j, c, k, -1).permute(0, 2, 4, 1, 3, 5, 6).flatten(0, 5))


class VoxelProposal(nn.Module):
    """Cells that the depth map hits look at the image."""

    def __init__(self, dim: int, heads: int, levels: int, points: int, dropout: float) -> None:
        super().__init__()
        self.attn = MapAttentionLayer(dim, heads, levels, points, dropout)

    def forward(self, scene: Tensor, position: Tensor, pixels: Tensor, shapes: Shapes, views: SceneViews) -> Tensor:
        """scene [B, N, F] in and out; position [N, F]; pixels [B, S, F] of maps with ``shapes``."""
        out = []
        for sample, seen, anchors, index in zip(scene, pixels, views.pixels, views.proposed, strict=True):
            chosen = [part.index_select(0, index)[None] for part in (sample, anchors, position)]
            out.append(sample.index_copy(0, index, self.attn(chosen[0], seen[None], shapes, chosen[1], chosen[2])[0]))
        return torch.stack(out)


class SymphoniesLayer(nn.Module):
    """Instances look at the image, seen cells at the instances and at the scene, then instances at the scene and each other.

    query_update  False leaves the last two out, as in the last layer
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        levels: int,
        points: int,
        dropout: float,
        published_fold: bool,
        query_update: bool,
    ) -> None:
        super().__init__()
        self.query_image_cross_defrom_attn = MapAttentionLayer(dim, heads, levels, points, dropout)
        self.scene_query_cross_attn = AttentionLayer(dim, heads, feedforward=False)
        self.scene_self_deform_attn = VolumeAttentionLayer(dim, heads, 2 * points, dropout, published_fold)
        self.query_update = query_update
        if query_update:
            self.query_scene_cross_deform_attn = VolumeAttentionLayer(
                dim, heads, 2 * points, dropout, published_fold, feedforward=False
            )
            self.query_self_attn = AttentionLayer(dim, heads)

    def forward(
        self,
        scene: Tensor,
        queries: Tensor,
        pixels: Tensor,
        shapes: Shapes,
        position: Tensor,
        anchors: Tensor,
        places: Tensor,
        cells: Tensor,
        seen: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Scene and queries of the next layer.

        scene     [B, X, Y, Z, F]
        queries   [B, Q, F]
        pixels    [B, S, F], pixels of maps with ``shapes``
        position  [N, F]
        anchors   [B, Q, 2] (x, y) of the instances in 0..1 of the image
        places    [B, Q, 3] (x, y, z) of the instances in 0..1 of the scene
        cells     [N, 3] (x, y, z) of the cells in 0..1 of the scene
        seen      one int64 [n] a sample: cells in the image
        """
        queries = self.query_image_cross_defrom_attn(queries, pixels, shapes, anchors)
        updated = []
        for sample, instances, index in zip(scene, queries, seen, strict=True):
            flat = sample.flatten(0, 2)
            code, at = (part.index_select(0, index)[None] for part in (position, cells))
            tokens = self.scene_query_cross_attn(flat.index_select(0, index)[None], instances[None], code)
            tokens = self.scene_self_deform_attn(tokens, sample[None], at, code)
            updated.append(flat.index_copy(0, index, tokens[0]).view_as(sample))
        scene = torch.stack(updated)
        if self.query_update:
            queries = self.query_scene_cross_deform_attn(queries, scene, places)
            queries = self.query_self_attn(queries, queries)
        return scene, queries


class ASPP(nn.Module):
    """Two 3D convolutions at each dilation, summed with their input, ReLU."""

    def __init__(self, dim: int, dilations: Sequence[int] = (1, 3)) -> None:
        super().__init__()
        self.blks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(dim, dim, 3, padding=d, dilation=d, bias=False),
                nn.BatchNorm3d(dim),
                nn.ReLU(inplace=True),
                nn.Conv3d(dim, dim, 3, padding=d, dilation=d, bias=False),
                nn.BatchNorm3d(dim),
            )
            for d in dilations
        )

    def forward(self, volume: Tensor) -> Tensor:
        """[B, F, X, Y, Z] in and out."""
        return F.relu(sum((block(volume) for block in self.blks), start=volume))


def classifier(dim: int, classes: int, volume_scale: int, downsample_z: int) -> nn.Sequential:
    """The shared head: up along z, up along all axes, classes. The first two give what is rendered."""

    def up(stride: Size3) -> list[nn.Module]:
        out: Size3 = (stride[0] - 1, stride[1] - 1, stride[2] - 1)
        return [nn.ConvTranspose3d(dim, dim, 3, stride, padding=1, output_padding=out), nn.BatchNorm3d(dim), nn.ReLU()]

    return nn.Sequential(
        nn.Sequential(*up((1, 1, downsample_z))) if downsample_z > 1 else nn.Identity(),
        nn.Sequential(OrderedDict(up_bn=nn.Sequential(*up((2, 2, 2))))) if volume_scale > 1 else nn.Identity(),
        nn.Conv3d(dim, classes, 1),
    )


class SymphoniesDecoder(nn.Module):
    """Maps, instance queries and geometry -> logits of every layer (the last one only, out of training).

    cells         (X, Y, Z) of the scene
    image_size    (width, height) of the images
    volume_scale  1 or 2: how many voxels of the grid an edge of a cell spans along x and y
    downsample_z  1 or 2: and how many times more along z
    fold          see ScenePosition
    """

    image_grid: Tensor
    voxel_grid: Tensor

    def __init__(
        self,
        dim: int,
        classes: int,
        cells: Size3,
        image_size: tuple[int, int],
        volume_scale: int,
        downsample_z: int,
        layers: int,
        heads: int,
        levels: int,
        points: int,
        dropout: float,
        fold: Size3,
        published_fold: bool,
    ) -> None:
        super().__init__()
        self.cells = cells
        self.voxel_proposal = VoxelProposal(dim, heads, levels, points, dropout)
        self.layers = nn.ModuleList(
            SymphoniesLayer(dim, heads, levels, points, dropout, published_fold, query_update=i + 1 < layers)
            for i in range(layers)
        )
        self.scene_embed = nn.Embedding(math.prod(cells), dim)
        self.scene_pos = ScenePosition(cells, dim, fold)
        self.aspp = ASPP(dim)
        self.cls_head = classifier(dim, classes, volume_scale, downsample_z)
        # Both are in the published weights: pixel numbers (x, y) and cells (x, y, z) in 0..1.
        width, height = image_size
        row, column = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
        self.register_buffer("image_grid", torch.stack([column, row])[None])
        axes = [torch.arange(float(n)) / max(n - 1, 1) for n in cells]
        self.register_buffer("voxel_grid", torch.stack(torch.meshgrid(*axes, indexing="ij")))

    def forward(
        self, features: Sequence[Tensor], queries: Tensor, anchors: Tensor, views: SceneViews
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Logits [B, C, X', Y', Z'] of the voxels, the answer last, and the features [B, F, X', Y', Z'] behind the answer.

        features  maps [B, F, h, w]; queries [B, Q, F]; anchors [B, Q, 2], (x, y) in 0..1 of the image
        """
        shapes = [(int(level.shape[2]), int(level.shape[3])) for level in features]
        pixels = torch.cat([level.flatten(2).transpose(1, 2) for level in features], dim=1)
        position = self.scene_pos()
        places = self.places(anchors, views)
        at = self.voxel_grid.flatten(1).t()
        scene = self.scene_embed.weight.expand(len(queries), -1, -1)
        scene = self.voxel_proposal(scene, position, pixels, shapes, views).unflatten(1, self.cells)
        logits = []
        for number, layer in enumerate(self.layers, start=1):
            scene, queries = layer(scene, queries, pixels, shapes, position, anchors, places, at, views.seen)
            # The tokens' own memory layout is what PyTorch calls channels last, which CPU convolutions are faster with.
            volume = scene.permute(0, 4, 1, 2, 3)
            last = number == len(self.layers)
            if last:
                volume = self.aspp(volume)
            if self.training or last:
                fine = self.cls_head[1](self.cls_head[0](volume))
                logits.append(self.cls_head[2](fine))
        return tuple(logits), fine

    @torch.no_grad()
    def places(self, anchors: Tensor, views: SceneViews) -> Tensor:
        """[B, Q, 3]: the cells that the depth at the anchors points to, (x, y, z) in 0..1, the nearest ones in the scene.

        An anchor without known depth is placed at the camera.
        """
        _, height, width, _ = views.cells.shape
        column = (anchors[..., 0] * width).long().clamp(max=width - 1)
        row = (anchors[..., 1] * height).long().clamp(max=height - 1)
        sample = torch.arange(len(anchors), device=anchors.device)[:, None]
        cell = views.cells[sample, row, column].to(anchors.dtype)
        return (cell / cell.new_tensor([max(n - 1, 1) for n in self.cells])).clamp(0, 1)
