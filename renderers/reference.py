"""Splatting in plain PyTorch: the definition of "right" that every other backend is held to.

Semantics are those of the original CUDA rasterizer (``valeoai/GaussRender``
extensions/diff-gaussian-rasterization/cuda_rasterizer/forward.cu:75-135, 225-310, 335-460) with everything that
differs between published backends taken from ``RasterSettings``. Gradients come from autograd. Written to be read:
vectorised over pixels and Gaussians, bounded in memory, but slow.

Per view: cull by depth -> project mean and covariance -> stable sort by depth -> for each block of pixels, blend front
to back the Gaussians whose extent touches it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from renderers.dialects import CONTRACT, DIALECTS, Dialect
from renderers.interface import Availability, Cameras, Gaussians, RasterSettings, Renderer, Rendering

BLOCK = 16  # edge of the pixel blocks that are blended together; the result does not depend on it
# Most (pixel, Gaussian) pairs held at once: a block of more is blended in several passes over depth, images of more are computed
# again for their gradients, block by block.
PAIRS = 1 << 21


class ReferenceRenderer(Renderer):
    """Plain PyTorch on any device, float32 or float64.

    dialect  takes the settings of another rasterizer for its own, and refuses others as that one does
             (see ``emulate``); by default it honours every setting
    """

    name = "reference"
    second_derivatives = True

    def __init__(self, dialect: Dialect = CONTRACT) -> None:
        self.dialect = dialect

    @classmethod
    def availability(cls) -> Availability:
        return Availability(True)

    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering:
        b, v, h, w = gaussians.batch, cameras.views, cameras.height, cameras.width
        images = [
            _render_view(gaussians, cameras, settings, scene, view, None if visible is None else visible[scene, view])
            for scene in range(b)
            for view in range(v)
        ]
        blended = torch.stack(images).reshape(b, v, h, w, -1)  # features, depth, transmittance
        features, depth, transmittance = blended[..., :-2], blended[..., -2], blended[..., -1]
        alpha = 1 - transmittance
        if settings.background is not None:
            features = features + transmittance[..., None] * settings.background
        if settings.depth == "expected":
            depth = depth / alpha.clamp_min(1e-10)
        return Rendering(features, depth, alpha)


def emulate(name: str) -> ReferenceRenderer:
    """The reference renderer in the dialect ``name`` of ``renderers.dialects.DIALECTS``: 12x12 tiles, gsplat 1.5, ..."""
    return ReferenceRenderer(DIALECTS[name])


@dataclass(frozen=True)
class Projected:
    """K Gaussians that one view may see, nearest first.

    index [K] their place in the input; centre [K, 2] px; conic [K, 3] = (a, b, c) of the inverse covariance
    [[a, b], [b, c]] in px^-2; opacity [K]; payload [K, C+1] = features and depth; bounds [K, 4] int64 = first column,
    first row, end column, end row of the pixels it may reach (exact for "tile3sigma", a superset for "iso", where
    alpha_min decides).
    """

    index: Tensor
    centre: Tensor
    conic: Tensor
    opacity: Tensor
    payload: Tensor
    bounds: Tensor

    @property
    def requires_grad(self) -> bool:
        return any(t.requires_grad for t in (self.centre, self.conic, self.opacity, self.payload))


def float32(value: float) -> float:
    """``value`` rounded to float32: thresholds in double precision must decide as the float32 kernels do."""
    return float(torch.tensor(value, dtype=torch.float32))


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] (w, x, y, z) of any non-zero length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def project(
    gaussians: Gaussians,
    cameras: Cameras,
    settings: RasterSettings,
    scene: int,
    view: int,
    visible: Tensor | None,
) -> Projected:
    """The Gaussians of ``scene`` as ``view`` sees them, culled and sorted by (depth, index); visible [N] bool."""
    means = gaussians.means[scene]
    if cameras.time_index is not None:
        means = means[int(cameras.time_index[view])]
    pose, k = cameras.world_to_camera[scene, view], cameras.intrinsics[scene, view]
    rotation, translation = pose[:3, :3], pose[:3, 3]
    with torch.no_grad():
        z = means @ rotation[2] + translation[2]
        seen = (z > float32(settings.near)) & (z <= settings.far)
        seen &= gaussians.opacities[scene] >= float32(settings.alpha_min)
        if visible is not None:
            seen &= visible
        index = seen.nonzero().squeeze(1)
        index = index[torch.sort(z[index], stable=True).indices]

    scales, opacity = gaussians.scales[scene][index], gaussians.opacities[scene][index]
    x, y, z = (means[index] @ rotation.T + translation).unbind(-1)
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    tx = _clamped(x, z, cameras.width, fx, cx, settings)
    shape_fy = settings.shape_fy(fx, fy, cameras.width, cameras.height)
    ty = _clamped(y, z, cameras.height, shape_fy, cy, settings)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * tx / z**2, zero, shape_fy / z, -shape_fy * ty / z**2], -1).unflatten(-1, (2, 3))
    root = jacobian @ rotation
    if gaussians.quaternions is not None:
        root = root @ quaternion_to_matrix(gaussians.quaternions[scene][index])
    root = root * scales[:, None, :]  # [K,1,3] or, isotropic, [K,1,1]
    covariance = root @ root.transpose(1, 2)
    sxx = covariance[:, 0, 0] + settings.low_pass
    syy = covariance[:, 1, 1] + settings.low_pass
    sxy = covariance[:, 0, 1]
    determinant = sxx * syy - sxy * sxy

    solid = determinant.detach() > 0
    sxx, syy, sxy, determinant = sxx[solid], syy[solid], sxy[solid], determinant[solid]
    x, y, z, opacity, index = x[solid], y[solid], z[solid], opacity[solid], index[solid]
    centre = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)
    with torch.no_grad():
        bounds = _bounds(centre, sxx, syy, determinant, opacity, cameras, settings)
    return Projected(
        index=index,
        centre=centre,
        conic=torch.stack([syy, -sxy, sxx], -1) / determinant[:, None],
        opacity=opacity,
        payload=torch.cat([gaussians.features[scene][index], z[:, None]], -1),
        bounds=bounds,
    )


def _clamped(x: Tensor, z: Tensor, size: int, focal: Tensor, centre: Tensor, settings: RasterSettings) -> Tensor:
    """The lateral coordinate that enters the Jacobian: x with x/z limited to 30 % beyond the image.

    "symmetric": the original rasterizer, whose backward pass treats a limited value as a constant
    (GaussRender forward.cu:82-87, backward.cu:168-176, 257-264). "principal": gsplat, which differentiates it
    (gsplat/cuda/include/Utils.cuh:584-594, 669-690).
    """
    tan = size / (2 * focal)
    if settings.clamp == "symmetric":
        limited = z * torch.clamp(x / z, -1.3 * tan, 1.3 * tan)
        return torch.where((x / z).abs() > 1.3 * tan, limited.detach(), x)
    return z * torch.clamp(x / z, -(centre / focal + 0.3 * tan), (size - centre) / focal + 0.3 * tan)


def _bounds(
    centre: Tensor,
    sxx: Tensor,
    syy: Tensor,
    determinant: Tensor,
    opacity: Tensor,
    cameras: Cameras,
    settings: RasterSettings,
) -> Tensor:
    """[K, 4] int64 first column, first row, end column, end row, clipped to the image."""
    size = torch.tensor([cameras.width, cameras.height], device=centre.device)
    if settings.extent == "iso":
        # alpha >= alpha_min inside the ellipse d' S^-1 d <= c, whose bounding box is sqrt(c * Sxx) by sqrt(c * Syy);
        # a pixel more on each side keeps rounding out of the decision, which is alpha's.
        reach = torch.sqrt(2 * torch.log(opacity / float32(settings.alpha_min)).clamp_min(0))
        half = reach[:, None] * torch.stack([sxx, syy], -1).sqrt() + 1
        first, end = torch.floor(centre - half), torch.ceil(centre + half)
    else:
        radius = box_radius(sxx, syy, determinant)[:, None]
        tile = settings.tile_size
        index = centre - 0.5  # the original counts pixel centres at whole numbers
        tiles = torch.ceil(size / tile)
        first = torch.trunc((index - radius) / tile).clamp_min(0).minimum(tiles) * tile
        end = torch.trunc((index + radius + tile - 1) / tile).clamp_min(0).minimum(tiles) * tile
    first, end = (torch.minimum(edge.clamp_min(0), size.to(edge.dtype)).long() for edge in (first, end))
    return torch.cat([first, end], -1)


def box_radius(sxx: Tensor, syy: Tensor, determinant: Tensor) -> Tensor:
    """[K] half edge (px) of the square 3-sigma box; the root's floor enlarges that of round Gaussians a little."""
    middle = 0.5 * (sxx + syy)
    return torch.ceil(3 * (middle + torch.sqrt((middle * middle - determinant).clamp_min(0.1))).sqrt())


def blocks(bounds: Tensor, width: int, height: int) -> Iterator[tuple[tuple[int, int, int, int], Tensor]]:
    """The image in blocks, row by row: (first column, first row, end column, end row) and the Gaussians touching it.

    bounds [K, 4] as in ``Projected``; the indices into it come in its order.
    """
    left, top, right, bottom = bounds.unbind(-1)
    for y in range(0, height, BLOCK):
        y_end = min(y + BLOCK, height)
        in_row = ((top < y_end) & (bottom > y)).nonzero().squeeze(1)
        row_left, row_right = left[in_row], right[in_row]
        for x in range(0, width, BLOCK):
            x_end = min(x + BLOCK, width)
            yield (x, y, x_end, y_end), in_row[(row_left < x_end) & (row_right > x)]


def pixels_of(block: tuple[int, int, int, int], device: torch.device) -> Tensor:
    """[P, 2] int64 column and row of each pixel of a block, row by row."""
    x, y, x_end, y_end = block
    columns, rows = torch.arange(x, x_end, device=device), torch.arange(y, y_end, device=device)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2)


def _render_view(
    gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, scene: int, view: int, visible: Tensor | None
) -> Tensor:
    """[H, W, C+2] accumulated features and depth without background, and the remaining transmittance."""
    splats = project(gaussians, cameras, settings, scene, view, visible)
    parts = list(blocks(splats.bounds, cameras.width, cameras.height))
    again = sum(BLOCK * BLOCK * len(index) for _, index in parts) * gaussians.batch * cameras.views > PAIRS
    images = [blend(splats, index, block, settings, again) for block, index in parts]
    across = -(-cameras.width // BLOCK)
    return torch.cat([torch.cat(images[i : i + across], 1) for i in range(0, len(images), across)], 0)


def blend(
    splats: Projected, index: Tensor, block: tuple[int, int, int, int], settings: RasterSettings, again: bool = True
) -> Tensor:
    """[h, w, C+2] of one block of pixels, from the Gaussians ``index`` [K] in depth order; ``again``: gradients compute it a
    second time, and nothing of it is kept until then."""
    x, y, x_end, y_end = block
    pixels = pixels_of(block, splats.centre.device)
    accumulated = splats.payload.new_zeros(len(pixels), splats.payload.shape[1])
    transmittance = splats.centre.new_ones(len(pixels))
    stopped = torch.zeros_like(transmittance, dtype=torch.bool)
    for part in index.split(max(1, PAIRS // len(pixels))):
        arguments = (splats, part, pixels, accumulated, transmittance, stopped, settings)
        if again and torch.is_grad_enabled() and splats.requires_grad:
            accumulated, transmittance, stopped = checkpoint(
                _accumulate, *arguments, use_reentrant=False, preserve_rng_state=False
            )
        else:
            accumulated, transmittance, stopped = _accumulate(*arguments)
        if bool(stopped.all()):
            break
    return torch.cat([accumulated, transmittance[:, None]], -1).reshape(y_end - y, x_end - x, -1)


def _accumulate(
    splats: Projected,
    index: Tensor,
    pixels: Tensor,
    accumulated: Tensor,
    transmittance: Tensor,
    stopped: Tensor,
    settings: RasterSettings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Blend the next Gaussians ``index`` [K] behind what P pixels [P, 2] hold; returns the new state.

    accumulated [P, C+1], transmittance [P], stopped [P] bool: the stop rule has fired, nothing behind counts.
    """
    alpha = limited(density(splats, index, pixels), splats.bounds[index], pixels, settings)
    # Transmittance in front of each Gaussian and behind the last: a running product. It never grows, so the Gaussians
    # before the stop are those behind which it is still large enough.
    running = torch.cumprod(torch.cat([transmittance[:, None], 1 - alpha], 1), 1)
    included = (running[:, 1:] >= float32(settings.transmittance_min)) & ~stopped[:, None]
    alpha = torch.where(included, alpha, 0)
    accumulated = accumulated + (alpha * running[:, :-1]) @ splats.payload[index]
    last = included.sum(1, keepdim=True)  # ``included`` is a prefix, so its length is the index behind it
    return accumulated, running.gather(1, last).squeeze(1), stopped | (last.squeeze(1) < len(index))


def density(splats: Projected, index: Tensor, pixels: Tensor) -> Tensor:
    """[P, K] opacity times the Gaussian's value at pixels [P, 2], before any limit."""
    dx, dy = (splats.centre[index] - (pixels[:, None] + 0.5)).unbind(-1)
    a, b, c = splats.conic[index].unbind(-1)
    power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    return torch.where(power <= 0, splats.opacity[index] * torch.exp(power), 0)


def limited(density: Tensor, bounds: Tensor, pixels: Tensor, settings: RasterSettings) -> Tensor:
    """[P, K] alpha: density cut to alpha_max, and zero below alpha_min or outside the extent with ``bounds`` [K, 4]."""
    limit = float32(settings.alpha_max)
    alpha = _PassThroughClamp.apply(density, limit) if settings.clamp_gradient else density.clamp_max(limit)
    counts = alpha >= float32(settings.alpha_min)
    if settings.extent == "tile3sigma":
        left_top, right_bottom = bounds.unsqueeze(0).split(2, -1)
        counts &= ((pixels[:, None] >= left_top) & (pixels[:, None] < right_bottom)).all(-1)
    return torch.where(counts, alpha, 0)


class _PassThroughClamp(torch.autograd.Function):
    """min(x, limit) whose gradient is that of x (original CUDA rasterizer, backward.cu:690, 706)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        return x.clamp_max(limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
