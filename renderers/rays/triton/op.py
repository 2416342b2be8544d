"""Host side: which kernels run on what, and their autograd function. Importing this module imports Triton.

Everything is done for chunks of rays, whose records are held at once; the backward pass marches again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.rays.interface import GridField, Rays, RaySettings
from renderers.rays.plain import Plain, plain
from renderers.rays.triton import marching, showing
from renderers.triton.op import INTERPRETED

NUMBERS = (
    *("centre", "half", "radius", "shell", "tau", "factor", "term", "skip", "shift", "interval", "last", "least_passed"),
    *("alpha_min", "weight_min", "transmittance_min"),
)
"""Fields of ``Plain`` in the order of the kernels' array of numbers."""

ROOM = 640 << 20  # bytes of records held at once, at most
RECORD = 36  # bytes: a cell and eight shares
BLOCK = 64 if INTERPRETED else 32  # rays of a program that marches: a warp
WIDEST = 64  # block of channels
BINS = 256  # directions around, to order rays by


@dataclass(frozen=True)
class Job:
    """What a call needs besides the tensors that are saved for the backward pass; the rays are the renderer's own copies."""

    rays: Rays
    grid: GridField
    settings: RaySettings


class March(torch.autograd.Function):
    """(job, density, features) -> the fields of ``RayRendering``."""

    @staticmethod
    def forward(ctx: Any, job: Job, density: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        inputs = _Inputs.of(job, density.detach().contiguous(), features.detach().contiguous())
        image = features.new_empty(job.rays.count, features.shape[-1])
        lists = _Lists.of(inputs)
        for first, count in inputs.chunks():
            _march(inputs, lists, first, count)
            _show(inputs, lists, image, first, count)
        ctx.job = job
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(lists.seen)
        ctx.save_for_backward(inputs.density, inputs.features, inputs.numbers, inputs.order)
        return image, *(total.float() for total in lists.sums), lists.seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(g is None for g in grads[:-1]):
            return None, None, None
        inputs = _Inputs(ctx.job, plain(ctx.job.settings, ctx.job.grid), *ctx.saved_tensors)
        wanted = [want and (i == 0 or grads[0] is not None) for i, want in enumerate(ctx.needs_input_grad[1:])]
        results = [torch.zeros_like(t) if w else None for t, w in zip((inputs.density, inputs.features), wanted, strict=True)]
        if any(wanted):
            zero = inputs.density.new_zeros(inputs.rays.count)
            gradients = torch.stack([zero if g is None else g for g in grads[1:-1]])
            image = None if grads[0] is None else grads[0].contiguous()
            lists = _Lists.of(inputs)
            for first, count in inputs.chunks():
                _march(inputs, lists, first, count)
                if image is not None:
                    _give_back(inputs, lists, image, results[0], results[1], first, count)
                if results[0] is not None:
                    _differentiate(inputs, lists, gradients, image is not None, results[0], first, count)
        return None, *results


@dataclass(frozen=True)
class _Inputs:
    """Contiguous inputs of the kernels; see ``marching.march``."""

    job: Job
    plain: Plain
    density: Tensor
    features: Tensor
    numbers: Tensor
    order: Tensor

    @classmethod
    def of(cls, job: Job, density: Tensor, features: Tensor) -> _Inputs:
        numbers = plain(job.settings, job.grid)
        values: list[float] = []
        for name in NUMBERS:
            value = getattr(numbers, name)
            values += value if isinstance(value, tuple) else (value,)
        assert len(values) == marching.DISTANCES.value
        array = torch.cat([torch.tensor(values, dtype=torch.float64), job.settings.sampler.distances()])
        return cls(job, numbers, density, features, array.to(density.device), order_of(job.rays))

    @property
    def rays(self) -> Rays:
        return self.job.rays

    @property
    def samples(self) -> int:
        return len(self.numbers) - int(marching.DISTANCES.value)

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First place and number of the rays that are marched at once."""
        size = _at_once(self.rays.count, self.samples)
        for first in range(0, self.rays.count, size):
            yield first, min(size, self.rays.count - first)

    @property
    def steps(self) -> tuple[int, int, int]:
        """To the next voxel on each axis; 0 where there is none."""
        _, x, y, z = self.density.shape
        return y * z if x > 1 else 0, z if y > 1 else 0, 1 if z > 1 else 0

    def ray_arguments(self) -> tuple[Any, ...]:
        r = self.rays
        unused = r.origins
        optional = (unused if value is None else value for value in (r.offsets, r.cosines))
        return self.numbers, self.order, r.origins, r.directions, r.scene, *optional, self.density

    def kinds(self) -> dict[str, Any]:
        p = self.plain
        return {
            "CONTRACTION": p.contraction, "RULE": p.skip_rule, "ACTIVATION": p.activation, "CLOSED": p.closed,
            "UNIT": p.unit_directions, "DEPTH": p.depth, "JITTER": self.rays.offsets is not None,
            "BLOCK": BLOCK, "num_warps": 1, "num_stages": 1, "enable_fp_fusion": False,
        }  # fmt: skip


def _at_once(rays: int, samples: int) -> int:
    """Rays that are marched at once, in chunks of about one size."""
    chunks = triton.cdiv(rays, max(1, ROOM // (RECORD * samples)))
    return triton.cdiv(rays, chunks)


@dataclass(frozen=True)
class _Lists:
    """What ``march`` makes: of all rays ``sums`` [6, R] float64 and ``seen`` [R] int64; of a chunk's the records."""

    sums: Tensor
    seen: Tensor
    cells: Tensor
    shares: Tensor
    records: Tensor
    worth: Tensor

    @classmethod
    def of(cls, inputs: _Inputs) -> _Lists:
        count, like = inputs.rays.count, inputs.density
        size = _at_once(count, inputs.samples)
        return cls(
            sums=like.new_empty(marching.SUMS.value, count, dtype=torch.float64),
            seen=like.new_empty(count, dtype=torch.int64),
            cells=like.new_empty(size, inputs.samples, dtype=torch.int32),
            shares=like.new_empty(size, inputs.samples, 8),
            records=like.new_empty(size, dtype=torch.int32),
            worth=like.new_empty(count, dtype=torch.float64),
        )


def order_of(rays: Rays) -> Tensor:
    """[R] int64: rays by scene, by direction about the vertical, then by height, so that neighbours meet the same voxels."""
    x, y, z = rays.directions.unbind(1)
    turn = torch.atan2(y, x) / (2 * torch.pi) + 0.5
    level = torch.atan2(z, torch.hypot(x, y)) / torch.pi + 0.5
    key = rays.scene * BINS + (turn * BINS).long().clamp(max=BINS - 1)
    return torch.argsort(key.double() + 0.999 * level)


def _march(inputs: _Inputs, lists: _Lists, first: int, count: int) -> None:
    marching.march[(triton.cdiv(count, BLOCK),)](
        *inputs.ray_arguments(), lists.sums, lists.seen, lists.cells, lists.shares, lists.records,
        first, count, inputs.rays.count, inputs.samples, *inputs.density.shape[1:], *inputs.steps, **inputs.kinds(),
    )  # fmt: skip


def _differentiate(
    inputs: _Inputs, lists: _Lists, gradients: Tensor, features: bool, grad_density: Tensor, first: int, count: int
) -> None:
    marching.differentiate[(triton.cdiv(count, BLOCK),)](
        *inputs.ray_arguments(), lists.sums, lists.worth, lists.shares, gradients, grad_density,
        first, count, inputs.rays.count, inputs.samples, *inputs.density.shape[1:], *inputs.steps, FEATURES=features,
        **inputs.kinds(),
    )  # fmt: skip


def _tile(channels: int) -> dict[str, int]:
    """Rays and channels of a program over channels: as many as a warp has lanes, or one ray."""
    width = min(WIDEST, triton.next_power_of_2(channels))
    return {"RAYS": 64 if INTERPRETED else max(1, 32 // width), "WIDTH": width, "num_warps": 1}


def _show(inputs: _Inputs, lists: _Lists, image: Tensor, first: int, count: int) -> None:
    channels = image.shape[1]
    tile = _tile(channels)
    showing.show[(triton.cdiv(count, tile["RAYS"]), triton.cdiv(channels, tile["WIDTH"]))](
        inputs.order, inputs.rays.scene, lists.cells, lists.shares, lists.records, inputs.features, image,
        first, count, inputs.samples, inputs.density[0].numel(), channels, *inputs.steps,
        **tile,
    )  # fmt: skip


def _give_back(
    inputs: _Inputs,
    lists: _Lists,
    grad_image: Tensor,
    grad_density: Tensor | None,
    grad_features: Tensor | None,
    first: int,
    count: int,
) -> None:
    channels = grad_image.shape[1]
    tile = _tile(channels)
    showing.give_back[(triton.cdiv(count, tile["RAYS"]),)](
        inputs.order, inputs.rays.scene, lists.cells, lists.shares, lists.records, inputs.features, grad_image, lists.worth,
        grad_image if grad_features is None else grad_features,
        first, count, inputs.samples, inputs.density[0].numel(), channels, *inputs.steps,
        PRODUCTS=grad_density is not None, FEATURES=grad_features is not None, **tile,
    )  # fmt: skip
