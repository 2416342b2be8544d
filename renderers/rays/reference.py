"""Volume rendering in plain PyTorch: the definition of "right" that every other ray backend is held to.

Per chunk of rays: place and contract the samples, in double precision -> drop those that a skip rule drops -> interpolate
density, at once for all that are left -> alpha, transmittance, weights -> interpolate features -> sums. Gradients come from
autograd, first and second ones; chunks are checkpointed, so that memory does not grow with the number of rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from renderers.interface import Availability
from renderers.rays.interface import (
    Exponential,
    GridField,
    Probability,
    RayRenderer,
    RayRendering,
    Rays,
    RaySettings,
    ShiftedSoftplus,
    SphereSampler,
)
from renderers.rays.samplers import kept_samples

CHUNK = 1 << 18  # samples that are held at once; the result does not depend on it


class ReferenceRayRenderer(RayRenderer):
    """Plain PyTorch on any device, float32 or float64."""

    name = "reference"
    second_derivatives = True

    @classmethod
    def availability(cls) -> Availability:
        return Availability(True)

    def _render(self, rays: Rays, grid: GridField, settings: RaySettings) -> RayRendering:
        differentiated = torch.is_grad_enabled() and (grid.density.requires_grad or grid.features.requires_grad)
        parts = []
        for part in chunks(rays, settings):
            arguments = (part, grid.density, grid.features, grid, settings)
            if differentiated:
                parts.append(checkpoint(_sums, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(_sums(*arguments))
        return RayRendering(*(torch.cat(values) for values in zip(*parts, strict=True)))


def chunks(rays: Rays, settings: RaySettings) -> list[Rays]:
    """The rays in parts with some ``CHUNK`` samples."""
    size = max(1, CHUNK // len(settings.sampler.distances()))
    values = [rays.origins, rays.directions, rays.scene, rays.offsets, rays.cosines]
    count = -(-rays.count // size)
    split = [[None] * count if value is None else value.split(size) for value in values]
    return [Rays(*part) for part in zip(*split, strict=True)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Samples:
    """Where the S samples of R rays lie; float64, without gradients.

    points   [R, S, 3] contracted (m)
    inside   [R, S] bool: in the inner region of the sampler
    kept     [R, S] bool: not dropped by the skip rule
    spacing  [R, S] way to the next sample before contraction (m)
    depth    [R, S] distances after the depth transform (m)
    """

    points: Tensor
    inside: Tensor
    kept: Tensor
    spacing: Tensor
    depth: Tensor


@torch.no_grad()
def place(rays: Rays, settings: RaySettings) -> Samples:
    """The samples of some rays."""
    origins, directions = rays.origins.double(), rays.directions.double()
    if settings.unit_directions:
        directions = directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    t = settings.sampler.distances().to(origins.device).expand(len(origins), -1)
    if rays.offsets is not None:
        t = (t + rays.offsets.double()[:, None]).clamp_min(0)
    points, inside = settings.sampler.contract(origins[:, None] + t[..., None] * directions[:, None])
    first, _ = settings.sampler.contract(origins)
    length = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    spacing = t.diff(dim=1) * length
    exponential = isinstance(settings.activation, Exponential)
    last = torch.full_like(length, settings.activation.last) if exponential else spacing[:, -1:]  # type: ignore[union-attr]
    spacing = torch.cat([spacing, last if last.shape[1] else torch.zeros_like(length)], 1)
    depth = t
    if settings.depth == "contracted":
        assert isinstance(settings.sampler, SphereSampler)
        depth = settings.sampler.radius * t / (settings.sampler.radius + t)
    elif settings.depth == "z":
        assert rays.cosines is not None
        depth = t * rays.cosines.double()[:, None]
    return Samples(points, inside, kept_samples(points, inside, first, settings.skip), spacing, depth)


@dataclass(frozen=True)
class Corners:
    """The eight voxels about each of M points: voxel [M, 8] int64, counted through the batch; weight [M, 8], 0 outside."""

    voxel: Tensor
    weight: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Values [B, X, Y, Z, ...] interpolated at the points: [M, ...]."""
        table = values.reshape(values.shape[:4].numel(), -1)
        found = table.index_select(0, self.voxel.flatten()).reshape(*self.voxel.shape, table.shape[1])
        return torch.einsum("mk,mkc->mc", self.weight, found).reshape(len(self.voxel), *values.shape[4:])

    def part(self, index: Tensor) -> Corners:
        return Corners(self.voxel[index], self.weight[index])


@torch.no_grad()
def corners(grid: GridField, scene: Tensor, points: Tensor) -> Corners:
    """About contracted points [M, 3] of the scenes [M]."""
    at, weights = [], []
    for axis, (n, factor, term) in enumerate(zip(grid.density.shape[1:], *grid.to_index, strict=True)):
        index = points[:, axis] * factor + term
        low = index.floor()
        part = (index - low).to(grid.density.dtype)
        both = low.clamp(-2, n).long()[:, None] + torch.tensor([0, 1], device=low.device)  # far beyond is outside as well
        at.append(both.clamp(0, n - 1))
        weights.append(torch.stack([1 - part, part], -1) * ((both >= 0) & (both < n)))
    _, x, y, z = grid.density.shape
    plane = scene[:, None] * x + at[0]
    row = plane[:, :, None] * y + at[1][:, None]
    voxel = row[..., None] * z + at[2][:, None, None]
    weight = (weights[0][:, :, None] * weights[1][:, None])[..., None] * weights[2][:, None, None]
    return Corners(voxel.flatten(1), weight.flatten(1))


def opacity(density: Tensor, spacing: Tensor, settings: RaySettings) -> tuple[Tensor, Tensor]:
    """alpha of samples, and the part of the transmittance that each leaves; both like density."""
    activation = settings.activation
    if isinstance(activation, ShiftedSoftplus):
        # log(1 + exp(x)) without the linear branch that torch's softplus has from 20 on.
        exponent = activation.interval * torch.logaddexp(density + activation.shift, torch.zeros_like(density))
        return -torch.expm1(-exponent), torch.exp(-exponent)
    if isinstance(activation, Exponential):
        exponent = torch.relu(density) * spacing
        return -torch.expm1(-exponent), torch.exp(-exponent).clamp_min(activation.least_passed)
    alpha = torch.sigmoid(density)
    return alpha, 1 - alpha


@dataclass(frozen=True)
class Marched:
    """What becomes of the samples of R rays.

    weight         [R, S], 0 for those that do not count
    transmittance  [R] behind the last one that counted
    decisions      [R, S] int64: which of skip rule, alpha_min, the stop and weight_min let a sample count (1, 2, 4, 8), and
                   whether a limit cuts its gradient (16)
    """

    weight: Tensor
    transmittance: Tensor
    decisions: Tensor


def march(samples: Samples, density: Tensor, settings: RaySettings) -> Marched:
    """Weights of samples from their density [R, S], which is of no account where they are not kept."""
    alpha, passed = opacity(density, samples.spacing.to(density.dtype), settings)
    counts = samples.kept & (alpha > settings.alpha_min)
    alpha, passed = torch.where(counts, alpha, 0), torch.where(counts, passed, 1)
    if isinstance(settings.activation, Probability):
        if settings.activation.closed:
            end = torch.zeros_like(counts)
            end[:, -1] = ~samples.kept[:, -1]
            alpha, counts = torch.where(end, 1, alpha), counts | end
        reached = torch.cumsum(alpha, 1).clamp_max(1)
        behind, limited = 1 - reached, torch.cumsum(alpha, 1) > 1
        weight = reached.diff(dim=1, prepend=torch.zeros_like(reached[:, :1]))
    else:
        behind, limited = torch.cumprod(passed, 1), torch.zeros_like(counts)
        if isinstance(settings.activation, Exponential):
            limited = counts & (passed <= settings.activation.least_passed)
        weight = alpha * torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
    before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
    included = before >= settings.transmittance_min  # a prefix: the transmittance never grows
    counted = counts & included & (weight > settings.weight_min)
    last = behind.gather(1, included.sum(1, keepdim=True) - 1).squeeze(1)
    decisions = samples.kept + 2 * counts + 4 * (included & counts) + 8 * counted + 16 * (limited & included)
    return Marched(torch.where(counted, weight, 0), last, decisions)


def _scattered(values: Tensor, kept: Tensor) -> Tensor:
    """Values of the kept samples at their places [R, S], 0 at others."""
    return torch.zeros(kept.shape, dtype=values.dtype, device=values.device).index_put(kept.nonzero(as_tuple=True), values)


def densities(samples: Samples, rays: Rays, grid: GridField) -> Tensor:
    """[R, S] density at the samples that are kept, 0 at others."""
    row, _ = samples.kept.nonzero(as_tuple=True)
    return _scattered(corners(grid, rays.scene[row], samples.points[samples.kept]).of(grid.density), samples.kept)


def _sums(rays: Rays, density: Tensor, features: Tensor, grid: GridField, settings: RaySettings) -> tuple[Tensor, ...]:
    """The fields of ``RayRendering``, in order."""
    samples = place(rays, settings)
    row, _ = samples.kept.nonzero(as_tuple=True)
    around = corners(grid, rays.scene[row], samples.points[samples.kept])
    marched = march(samples, _scattered(around.of(density), samples.kept), settings)
    weight = marched.weight
    # Only kept samples have features, not one that closes a ray.
    of_kept = weight[samples.kept]
    shown = (of_kept > 0).nonzero().squeeze(1)
    values = of_kept[shown, None] * around.part(shown).of(features)
    total = torch.zeros(rays.count, grid.channels, dtype=features.dtype, device=features.device).index_add(0, row[shown], values)
    depth = samples.depth.to(density.dtype)
    moment = weight * depth
    before = weight.cumsum(1) - weight
    return (
        total,
        moment.sum(1),
        weight.sum(1),
        marched.transmittance,
        weight.square().sum(1),
        (weight.square() * samples.spacing.to(density.dtype)).sum(1),
        2 * (weight * (depth * before - (moment.cumsum(1) - moment))).sum(1),
        (weight > 0).sum(1),
    )


def weights(rays: Rays, grid: GridField, settings: RaySettings) -> tuple[Tensor, Samples]:
    """[R, S] weights of all samples, and where they lie: what a rendering sums up, for a look at few rays."""
    samples = place(rays, settings)
    return march(samples, densities(samples, rays, grid), settings).weight, samples
