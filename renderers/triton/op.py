"""Host side: which kernels run on what, and their autograd function. Importing this module imports Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.interface import Cameras, RasterSettings
from renderers.triton import binning, blending, projection

INTERPRETED: bool = triton.knobs.runtime.interpret  # decided when Triton was imported, for good

TILE = 16  # edge of the tiles that are blended as one (px)
BIN = 64  # edge of the bins that lists are first made for
GAUSSIANS = 128  # Gaussians that a program projects
LISTED = 256  # splats that a program tests against CHILDREN parts of the image
CHILDREN = 16
WIDEST = 64  # of a block of payload columns
LEAST_TRANSMITTANCE = 1e-30  # what lies behind it adds nothing in float32, and a chunk's product stays above zero

# More splats a chunk, or fewer warps, and a thread has more of a pixel's chunk to hold: see README.md for what fits.
_FORWARD = [triton.Config({"CHUNK": c}, num_warps=w, num_stages=1) for c, w in ((16, 8), (16, 16), (32, 8), (32, 16))]
_BACKWARD = [triton.Config({"CHUNK": c}, num_warps=w, num_stages=1) for c, w in ((16, 8), (16, 16), (32, 16))]


def _milliseconds(call: Callable[[], None], quantiles: Sequence[float]) -> list[float]:
    """Times of a kernel for ``triton.autotune``, whose own timer would take 256 MB of the GPU to empty its cache."""
    call()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return torch.tensor(times).quantile(torch.tensor(quantiles)).tolist()


def _tuned(kernel: Any, configs: list[Any], key: list[str], accumulated: list[str] | None = None) -> Any:
    """``kernel`` that measures ``configs`` on its first call for a key and keeps the best on disk; as it is if interpreted."""
    if INTERPRETED:
        return kernel
    return triton.autotune(configs, key, reset_to_zero=accumulated, do_bench=_milliseconds, cache_results=True)(kernel)


_KEY = ["width", "height", "channels", "PRECISION"]
_blend = _tuned(blending.blend, _FORWARD, _KEY)
_blend_backward = _tuned(blending.blend_backward, _BACKWARD, [*_KEY, "PAYLOAD", "GEOMETRY"], ["sums"])


def _fixed(precision: str) -> dict[str, int]:
    """Where nothing is measured: deterministic mode, and the interpreter, whose time goes by the number of operations."""
    if INTERPRETED:
        return {"CHUNK": 64}
    return {"CHUNK": 16, "num_warps": 16 if precision == "ieee" else 8, "num_stages": 1}  # these spill least


@dataclass(frozen=True)
class Job:
    """What a call needs besides differentiable tensors."""

    cameras: Cameras
    settings: RasterSettings
    visible: Tensor | None
    precision: str
    deterministic: bool


def column_blocks(columns: int) -> tuple[int, int, int]:
    """Widths of the first and second block of payload columns (0: none), and how many such pairs hold ``columns``.

    Widths are powers of two from 16, the least that a matrix product takes; two of them fit 33 or 65 columns closely.
    """

    def fitting(count: int) -> int:
        return max(16, triton.next_power_of_2(count))

    if columns > 2 * WIDEST:
        return WIDEST, WIDEST, triton.cdiv(columns, 2 * WIDEST)
    if columns <= 32:
        return fitting(columns), 0, 1
    first = fitting(columns + 1) // 2  # the largest power of two up to ``columns``
    first = min(first, WIDEST)
    rest = fitting(columns - first) if columns > first else 0
    return (first, rest, 1) if rest < first else (2 * first, 0, 1) if 2 * first <= WIDEST else (first, rest, 1)


def camera_records(cameras: Cameras, settings: RasterSettings) -> Tensor:
    """[W, 21] float32 of all views, scene by scene; see ``projection``."""
    k, pose = cameras.intrinsics.detach().flatten(0, 1), cameras.world_to_camera.detach().flatten(0, 1)
    columns = [*pose[:, :3, :3].flatten(1).unbind(1), *pose[:, :3, 3].unbind(1)]
    limits = []
    centres = (k[:, 0, 2], k[:, 1, 2])
    focals = (k[:, 0, 0], k[:, 1, 1])
    shape_fy = settings.shape_fy(*focals, cameras.width, cameras.height)
    for size, focal, centre in zip((cameras.width, cameras.height), (focals[0], shape_fy), centres, strict=True):
        tan = size / (2 * focal)
        if settings.clamp == "symmetric":
            limits += [-1.3 * tan, 1.3 * tan]
        else:
            limits += [-(centre / focal + 0.3 * tan), (size - centre) / focal + 0.3 * tan]
    return torch.stack([*columns, *focals, *centres, *limits, shape_fy], 1).contiguous()


@dataclass(frozen=True)
class Splats:
    """The K splats of W views, by view and depth.

    splats [K, 8]; rows [K] int32 of opacities, scales, features; bounds [K, 4] int32, empty unless "tile3sigma"; flat [K]
    int64 view * N + Gaussian; starts [W + 1] int64 of the views' splats.
    """

    splats: Tensor
    rows: Tensor
    bounds: Tensor
    flat: Tensor
    starts: Tensor


def _launch_project(inputs: Inputs, job: Job, flat: Tensor, depths: Tensor, out: Splats | None) -> None:
    total = depths.numel() if out is None else len(out.rows)
    if total == 0:
        return
    s = job.settings
    empty = depths
    visible = empty if job.visible is None else job.visible.contiguous().view(torch.uint8)
    projection.project[(triton.cdiv(total, GAUSSIANS),)](
        flat, inputs.means, inputs.scales, empty if inputs.quaternions is None else inputs.quaternions, inputs.opacities,
        visible, inputs.cameras, inputs.slices, depths,
        empty if out is None else out.splats, empty if out is None else out.rows, empty if out is None else out.bounds,
        total, inputs.count, inputs.views, job.cameras.width, job.cameras.height, s.tile_size,
        s.near, s.far, s.low_pass, s.alpha_min,
        MEASURE=out is None, ISOTROPIC=inputs.isotropic, VISIBLE=job.visible is not None,
        TILE3SIGMA=s.extent == "tile3sigma", BLOCK=GAUSSIANS,
    )  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Contiguous float32 tensors of the kernels; slices [W] int64: the first row of means [rows, 3] that a view shows."""

    means: Tensor
    scales: Tensor
    quaternions: Tensor | None
    opacities: Tensor
    features: Tensor
    cameras: Tensor
    slices: Tensor

    @property
    def count(self) -> int:
        return self.opacities.shape[1]

    @property
    def views(self) -> int:
        return len(self.slices) // max(1, self.opacities.shape[0])

    @property
    def isotropic(self) -> bool:
        return self.scales.shape[-1] == 1


def make_inputs(
    means: Tensor,
    scales: Tensor,
    quaternions: Tensor | None,
    opacities: Tensor,
    features: Tensor,
    cameras: Cameras,
    settings: RasterSettings,
) -> Inputs:
    """The kernels' inputs, without their graph."""
    return Inputs(
        means=means.detach().contiguous(),
        scales=scales.detach().contiguous(),
        quaternions=None if quaternions is None else quaternions.detach().contiguous(),
        opacities=opacities.detach().contiguous(),
        features=features.detach().contiguous(),
        cameras=camera_records(cameras, settings),
        slices=_slices(means, cameras),
    )


def _slices(means: Tensor, cameras: Cameras) -> Tensor:
    scenes, count = torch.arange(means.shape[0], device=means.device), means.shape[-2]
    if cameras.time_index is None:
        return (scenes * count).repeat_interleave(cameras.views, output_size=means.shape[0] * cameras.views)
    times = cameras.time_index.to(means.device)
    return ((scenes[:, None] * means.shape[1] + times[None]) * count).flatten()


def make_splats(inputs: Inputs, job: Job) -> Splats:
    """Cull, sort by depth and project the Gaussians of all views. One wait for the device, to learn how many there are."""
    like, views, count = inputs.means, len(inputs.slices), inputs.count
    depths = like.new_empty(views * count)
    _launch_project(inputs, job, like.new_empty(0, dtype=torch.int64), depths, None)
    flat = (depths >= 0).nonzero().squeeze(1)
    # Stable: the first of the input is in front where depths are equal.
    flat = flat[torch.sort(depths[flat], stable=True).indices]
    view = flat // max(1, count)
    if views > 1:
        kind = torch.uint8 if views <= 256 else torch.int32  # a radix sort costs by the byte
        flat = flat[torch.sort(view.to(kind), stable=True).indices]
        view = flat // max(1, count)
    starts = torch.searchsorted(view, torch.arange(views + 1, device=like.device))
    total = len(flat)
    bounds = total if job.settings.extent == "tile3sigma" else 0
    out = Splats(
        splats=like.new_empty(total, projection.SPLAT.value),
        rows=like.new_empty(total, dtype=torch.int32),
        bounds=like.new_empty(bounds, 4, dtype=torch.int32),
        flat=flat,
        starts=starts,
    )
    _launch_project(inputs, job, flat, depths, out)
    return out


def _divide(
    splats: Splats, ids: Tensor | None, starts: Tensor, total: int, children: int, across: int, cameras: Cameras
) -> tuple[Tensor, Tensor, int]:
    """The lists of all children: ids int32, their starts [parents * children + 1] int64, and how many ids there are.

    ids, starts, total: the parents' lists likewise; without ids the parents are views. Waits for the device once.
    """
    device = starts.device
    parents = len(starts) - 1
    chunks = (starts.diff() + (LISTED - 1)) // LISTED
    chunk_starts = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))
    most = total // LISTED + parents  # at least as many chunks as there are, known without asking the device
    chunk_parents = torch.searchsorted(chunk_starts[1:].contiguous(), torch.arange(most, device=device), right=True)
    counts = torch.zeros(most * children, dtype=torch.int32, device=device)
    offsets = torch.zeros(most * children + 1, dtype=torch.int64, device=device)
    bins_across = triton.cdiv(cameras.width, BIN)
    first = ids is None

    def launch(fill: bool, out: Tensor) -> None:
        binning.divide[(most, triton.cdiv(children, CHILDREN))](
            splats.splats, splats.bounds, splats.rows if ids is None else ids, starts, chunk_starts, chunk_parents,
            counts, offsets, out, parents, children, across, bins_across * triton.cdiv(cameras.height, BIN), bins_across,
            cameras.width, cameras.height, FIRST=first, FILL=fill, TILE3SIGMA=len(splats.bounds) > 0,
            PARENT=BIN, CHILD=BIN if first else TILE, CHUNK=LISTED, BLOCK=CHILDREN, num_warps=8,
        )  # fmt: skip

    launch(False, counts)
    torch.cumsum(counts, 0, dtype=torch.int64, out=offsets[1:])
    child = torch.arange(children, device=device)
    child_starts = offsets[chunk_starts[:-1, None] * children + child * chunks[:, None]].flatten()
    child_starts = torch.cat([child_starts, offsets[-1:]])
    found = int(offsets[-1])
    child_ids = torch.empty(found, dtype=torch.int32, device=device)
    if found:
        launch(True, child_ids)
    return child_ids, child_starts, found


def make_lists(splats: Splats, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """The splats that reach each tile, in depth order: ids int32 of all tiles, and starts [tiles + 1] int64.

    Tiles are counted view by view, bin by bin, row by row within the bin.
    """
    across, down = triton.cdiv(cameras.width, BIN), triton.cdiv(cameras.height, BIN)
    side = BIN // TILE
    ids, starts, total = _divide(splats, None, splats.starts, len(splats.rows), across * down, across, cameras)
    ids, starts, _ = _divide(splats, ids, starts, total, side * side, side, cameras)
    return ids, starts


@dataclass(frozen=True)
class Blended:
    """What the blending of an image leaves to its backward pass; see ``blending.blend``. background [C] or None."""

    ids: Tensor
    starts: Tensor
    left_over: Tensor
    lasts: Tensor
    reached: Tensor
    background: Tensor | None


class Splat(torch.autograd.Function):
    """(job, means, scales, quaternions, opacities, features, background) -> features, depth, alpha [B, V, H, W(, C)]."""

    @staticmethod
    def forward(
        ctx: Any,
        job: Job,
        means: Tensor,
        scales: Tensor,
        quaternions: Tensor | None,
        opacities: Tensor,
        features: Tensor,
        background: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        c, s = job.cameras, job.settings
        inputs = make_inputs(means, scales, quaternions, opacities, features, c, s)
        features = inputs.features
        shape, channels = (means.shape[0], c.views, c.height, c.width), features.shape[-1]
        splats = make_splats(inputs, job)
        ids, starts = make_lists(splats, c)
        image = features.new_empty(*shape, channels)
        depth, alpha, left_over = (features.new_empty(shape) for _ in range(3))
        lasts = features.new_empty(shape, dtype=torch.int32)
        reached = features.new_zeros(len(starts) - 1, dtype=torch.int32)
        c1, c2, blocks = column_blocks(channels + 1)
        behind = features if background is None else background.detach().contiguous()
        fixed = INTERPRETED or job.deterministic
        (blending.blend if fixed else _blend)[(len(reached), blocks)](
            splats.splats, splats.bounds, splats.rows, ids, starts, features, behind,
            image, depth, alpha, left_over, lasts, reached,
            c.width, c.height, triton.cdiv(c.width, BIN) * triton.cdiv(c.height, BIN), triton.cdiv(c.width, BIN), channels,
            s.alpha_min, s.alpha_max, max(s.transmittance_min, LEAST_TRANSMITTANCE),
            BACKGROUND=background is not None, TILE3SIGMA=s.extent == "tile3sigma", PRECISION=job.precision,
            BIN=BIN, TILE=TILE, C1=c1, C2=c2, **(_fixed(job.precision) if fixed else {}),
        )  # fmt: skip
        ctx.job = job
        ctx.save_for_backward(
            inputs.means, inputs.scales, inputs.quaternions, inputs.opacities, inputs.features, inputs.cameras, inputs.slices,
            splats.splats, splats.rows, splats.bounds, splats.flat, splats.starts,
            ids, starts, left_over, lasts, reached, None if background is None else behind,
        )  # fmt: skip
        return image, depth, alpha

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        job: Job = ctx.job
        inputs, splats = Inputs(*saved[:7]), Splats(*saved[7:12])
        blended = Blended(*saved[12:])
        grads = tuple(g.contiguous() for g in grads)
        wanted = dict(zip(("means", "scales", "quaternions", "opacities", "features"), ctx.needs_input_grad[1:6], strict=True))
        given = (inputs.means, inputs.scales, inputs.quaternions, inputs.opacities, inputs.features)
        drawn = len(splats.rows) > 0
        filled = ("features", "scales", "opacities") if drawn else ()  # by kernels, all of them
        results = {
            name: torch.empty_like(t) if name in filled else torch.zeros_like(t)
            for (name, want), t in zip(wanted.items(), given, strict=True)
            if want and t is not None
        }
        if results and drawn:
            _gather(job, inputs, splats, _splat_gradients(job, inputs, splats, blended, grads, results), results)
        behind = None
        if ctx.needs_input_grad[6]:
            behind = torch.einsum("bvhw,bvhwc->c", blended.left_over, grads[0])
        return None, *(results.get(name) for name in wanted), behind


def _splat_gradients(
    job: Job, inputs: Inputs, splats: Splats, blended: Blended, grads: tuple[Tensor, ...], results: dict[str, Tensor]
) -> Tensor:
    """[K, channels + 7]: what each splat's payload and shape get from the image; see ``projection.project_backward``.

    grads: of features, depth and alpha; results: by their names, which gradients are wanted.
    """
    c, s = job.cameras, job.settings
    ids, reached = blended.ids, blended.reached
    channels, total = inputs.features.shape[-1], len(splats.rows)
    columns = channels + 1 + projection.MOMENTS.value
    c1, c2, blocks = column_blocks(channels + 1)
    shaped = any(name in results for name in ("means", "scales", "quaternions"))
    slot_starts = owners = ids
    rows = total
    if job.deterministic:
        slot_starts = torch.nn.functional.pad(reached.cumsum(0, dtype=torch.int64), (1, 0))
        rows = int(slot_starts[-1])
        owners = torch.empty(rows, dtype=torch.int32, device=ids.device)
    sums = inputs.features.new_zeros(rows, columns)
    fixed = INTERPRETED or job.deterministic
    (blending.blend_backward if fixed else _blend_backward)[(len(reached),)](
        splats.splats, splats.bounds, splats.rows, ids, blended.starts, inputs.features,
        inputs.features if blended.background is None else blended.background, blended.left_over, blended.lasts, reached,
        *grads, sums, slot_starts, owners,
        c.width, c.height, triton.cdiv(c.width, BIN) * triton.cdiv(c.height, BIN), triton.cdiv(c.width, BIN), channels,
        s.alpha_min, s.alpha_max,
        BACKGROUND=blended.background is not None, TILE3SIGMA=s.extent == "tile3sigma", CLAMP_GRADIENT=s.clamp_gradient,
        PAYLOAD="features" in results or "means" in results,
        GEOMETRY=2 if shaped else 1 if "opacities" in results else 0, SLOTS=job.deterministic, PRECISION=job.precision,
        BIN=BIN, TILE=TILE, BLOCKS=blocks, C1=c1, C2=c2, **(_fixed(job.precision) if fixed else {}),
    )  # fmt: skip
    if not job.deterministic:
        return sums
    owners, order = torch.sort(owners, stable=True)
    ends = torch.searchsorted(owners, torch.arange(total + 1, dtype=torch.int32, device=ids.device))
    added = sums.new_empty(total, columns)
    blending.add_slots[(triton.cdiv(total, 32), triton.cdiv(columns, 32))](
        sums, order, ends, added, total, columns, BLOCK=32, COLUMNS=32
    )
    return added


def _gather(job: Job, inputs: Inputs, splats: Splats, sums: Tensor, results: dict[str, Tensor]) -> None:
    """Fill ``results`` with the gradients of the Gaussians from those of their splats."""
    scenes, count, channels = inputs.features.shape
    positions = torch.full((len(inputs.slices) * count,), -1, dtype=torch.int32, device=sums.device)
    positions[splats.flat] = torch.arange(len(splats.flat), dtype=torch.int32, device=sums.device)
    if "features" in results:
        width = min(64, triton.next_power_of_2(channels))
        projection.collect_features[(triton.cdiv(count, 64), scenes, triton.cdiv(channels, width))](
            positions, sums, results["features"], count, inputs.views, channels, BLOCK=64, COLUMNS=width
        )
    shape = {name: name in results for name in ("means", "scales", "quaternions", "opacities")}
    if inputs.isotropic:
        shape["quaternions"] = False  # a sphere has no direction: zero
    if any(shape.values()):
        unused = sums
        projection.project_backward[(triton.cdiv(count, GAUSSIANS), scenes)](
            positions, splats.splats, sums, inputs.means, inputs.scales,
            unused if inputs.quaternions is None else inputs.quaternions, inputs.cameras, inputs.slices,
            *(results.get(name, unused) for name in ("means", "scales", "quaternions", "opacities")),
            count, inputs.views, channels, job.settings.low_pass,
            ISOTROPIC=inputs.isotropic, SYMMETRIC=job.settings.clamp == "symmetric",
            MEANS=shape["means"], SCALES=shape["scales"], QUATERNIONS=shape["quaternions"], OPACITIES=shape["opacities"],
            BLOCK=GAUSSIANS,
        )  # fmt: skip
