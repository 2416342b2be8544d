"""2D-3D attention: a volume of queries looks at the cameras (arXiv:2303.09551, section 3.3).

Reproduces weiyithu/SurroundOcc projects/mmdet3d_plugin/surroundocc/modules. A volume has h cells along y, w along x and z
along z; its tokens are numbered (z * H + h) * W + w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmcv.cnn.bricks.transformer import FFN
from torch import Tensor, nn

from baselines.interface import OccupancyGrid
from baselines.ops.camera_attention import CameraViews, attend_to_cameras, camera_views, project, sampling_directions

LEVEL_ROWS = 4  # level codes in the published weights; a volume attends to one level and uses the first


@dataclass(frozen=True)
class VolumeSizes:
    """One volume: cells (x, y, z), width of its tokens, layers, points of a head, hidden width of the feed-forward."""

    cells: tuple[int, int, int]
    dim: int
    layers: int
    points: int
    feedforward: int

    @property
    def tokens(self) -> int:
        x, y, z = self.cells
        return x * y * z


def reference_points(cells: tuple[int, int, int]) -> Tensor:
    """Cell centres in the order of the tokens, [1, 1, N, 3] (x, y, z) in 0..1 of the box."""
    x, y, z = (torch.linspace(0.5, n - 0.5, n) / n for n in cells)
    grid = torch.stack(torch.meshgrid(z, y, x, indexing="ij"), dim=-1)
    return grid.flip(-1).flatten(0, 2)[None, None]


def conv_block(layer: nn.Module, channels: int, groups: int) -> nn.Sequential:
    """A convolution without bias, GroupNorm, ReLU."""
    return nn.Sequential(layer, nn.GroupNorm(groups, channels), nn.ReLU(inplace=True))


class VolumeDeformableAttention(nn.Module):
    """Each token samples ``points`` places around its projection in one feature map (spatial_cross_attention.py)."""

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(dim, heads * points * 2)
        self.attention_weights = nn.Linear(dim, heads * points)
        self.value_proj = nn.Linear(dim, dim)

    def init_sampling(self) -> None:
        """Published start: offsets fan out, one direction a head and one distance a point; weights are equal."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        start = sampling_directions(self.heads)[:, None] * torch.arange(1, self.points + 1)[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(start.flatten())
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.zeros_(self.value_proj.bias)

    def forward(self, query: Tensor, tokens: Tensor, shape: tuple[int, int], view: CameraViews) -> Tensor:
        """query [B, N, F]; tokens [B*V, h*w, F], the pixels of a map of ``shape`` (h, w) -> [B, N, F]."""
        value = self.value_proj(tokens).unflatten(-1, (self.heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, 1, 1, self.points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, 1, self.points)).softmax(dim=-1)
        return attend_to_cameras(value, [shape], offsets, weights, view)


class VolumeCrossAttention(nn.Module):
    """The above, averaged over the cameras that see a token, projected, with a residual."""

    def __init__(self, dim: int, heads: int, points: int, dropout: float) -> None:
        super().__init__()
        self.deformable_attention = VolumeDeformableAttention(dim, heads, points)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.output_proj.bias)

    def forward(self, query: Tensor, tokens: Tensor, shape: tuple[int, int], view: CameraViews) -> Tensor:
        """Arguments as in VolumeDeformableAttention; returns [B, N, F], the residual included."""
        return query + self.dropout(self.output_proj(self.deformable_attention(query, tokens, shape, view)))


class VolumeLayer(nn.Module):
    """Cross-attention, norm, feed-forward, norm, then two 3D convolutions with a residual."""

    def __init__(self, sizes: VolumeSizes, heads: int, groups: int, dropout: float) -> None:
        super().__init__()
        dim = sizes.dim
        self.cells = sizes.cells
        self.attentions = nn.ModuleList([VolumeCrossAttention(dim, heads, sizes.points, dropout)])
        self.ffns = nn.ModuleList(
            [FFN(embed_dims=dim, feedforward_channels=sizes.feedforward, num_fcs=2, ffn_drop=dropout)]
        )  # fmt: skip
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.deblock = nn.ModuleList(
            conv_block(nn.Conv3d(dim, dim, 3, padding=1, bias=False), dim, groups) for _ in range(2)
        )  # fmt: skip

    def forward(self, query: Tensor, tokens: Tensor, shape: tuple[int, int], view: CameraViews) -> Tensor:
        """query [B, N, F] in and out; the other arguments as in the attention."""
        query = self.norms[0](self.attentions[0](query, tokens, shape, view))
        query = self.norms[1](self.ffns[0](query))
        volume = as_volume(query, self.cells)
        for block in self.deblock:
            volume = block(volume)
        return query + as_tokens(volume)


def as_volume(query: Tensor, cells: tuple[int, int, int]) -> Tensor:
    """[B, N, F] -> [B, F, X, Y, Z], channels last in memory, which 3D convolutions on a CPU are faster with."""
    x, y, z = cells
    volume = query.unflatten(1, (z, y, x)).permute(0, 4, 3, 2, 1)
    return volume.contiguous(memory_format=torch.channels_last_3d)


def as_tokens(volume: Tensor) -> Tensor:
    """[B, F, X, Y, Z] -> [B, N, F]."""
    return volume.permute(0, 4, 3, 2, 1).flatten(1, 3)


class VolumeEncoder(nn.Module):
    """The layers of a volume."""

    def __init__(self, sizes: VolumeSizes, heads: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VolumeLayer(sizes, heads, groups, dropout) for _ in range(sizes.layers))


class VolumeTransformer(nn.Module):
    """Volume queries refined by one feature map of all cameras.

    Starts as published: Xavier-uniform for every matrix and kernel, the attention's own start, unit normals for the
    camera and level codes. ``reference_points`` is in the published weights and unused; it is not trained, as in
    GaussRender's counts.
    """

    def __init__(
        self, grid: OccupancyGrid, sizes: VolumeSizes, heads: int, groups: int, num_cameras: int, dropout: float
    ) -> None:
        super().__init__()
        self.lower, self.upper, self.cells = grid.lower, grid.upper, sizes.cells
        self.encoder = VolumeEncoder(sizes, heads, groups, dropout)
        self.level_embeds = nn.Parameter(torch.empty(LEVEL_ROWS, sizes.dim))
        self.cams_embeds = nn.Parameter(torch.empty(num_cameras, sizes.dim))
        self.reference_points = nn.Linear(sizes.dim, 3).requires_grad_(False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, VolumeDeformableAttention):
                module.init_sampling()
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.cams_embeds)
        nn.init.zeros_(self.reference_points.bias)

    def forward(self, query: Tensor, features: Tensor, projection: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Volume [B, F, X, Y, Z].

        query       [B, N, F]
        features    [B, V, F, h, w]
        projection  [B, V, 4, 4] reference frame -> pixel of the images, whose ``image_size`` is (width, height)
        """
        cameras, (height, width) = features.shape[1], features.shape[-2:]
        code = self.cams_embeds[:cameras, None] + self.level_embeds[0]
        tokens = (features.flatten(3).transpose(2, 3) + code).flatten(0, 1)
        with torch.no_grad():
            points = reference_points(self.cells).to(features.device)
            view = camera_views(*project(points, self.lower, self.upper, projection, image_size))
        for layer in self.encoder.layers:
            query = layer(query, tokens, (height, width), view)
        return as_volume(query, self.cells)
