"""Time, memory and agreement of one backend on one workload, in this process.

Time     wall clock of ``render`` with gradients wanted (forward), and of the gradients of the trained fields from gradients of
         features and depth (backward), the device synchronised before and after; after one step that is not counted.
Memory   what the first step needs beyond the process that holds scene and image gradients (see ``MEMORY``).
Agreement  see ``renderers.spotcheck``.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from renderers import registry
from renderers.cases import Case
from renderers.interface import Renderer, Rendering
from renderers.spotcheck import Coverage, agreement, coverage
from renderers.workloads import Scene, Source, Workload

Status = Literal["measured", "not run", "unavailable", "failed"]

MEMORY = {
    "cpu": "MiB of resident memory that the first forward and backward pass needs at its peak, beyond the process that holds the "
    "scene and the images' gradients (VmHWM reset, minus VmRSS); outputs and the scene's gradients are included",
    "cuda": "MiB that torch's allocator hands out at its peak in the first forward and backward pass, beyond the scene and the "
    "images' gradients (max_memory_allocated minus memory_allocated); outputs and the scene's gradients are included",
}
AGREEMENT = (
    "against the reference renderer in float64 with the backend's own settings, in blocks of 16x16 pixels of the full scene "
    "drawn with a fixed seed (rays: 1,024 of them); what hangs on a threshold is left out. max_abs_error: the largest of "
    "features, alpha and depth (as a part of the largest depth); grad_cosine: the smallest cosine over the trained fields"
)
SECONDS = 6.0  # spent on repetitions where their number is not given
FEWEST, MOST = 3, 20
LONGEST = 60.0  # no repetition starts after this many seconds if one is there
REFERENCE_LIMIT = 1e8  # (pixel, Gaussian) pairs that plain PyTorch evaluates in some ten seconds on two cores


@dataclass(frozen=True)
class Result:
    """What was found. Times in ms: the median, and (smallest, largest); peak_mb in MiB as ``MEMORY`` says.

    errors    of features, alpha, depth (as a part of the largest depth), and of each gradient relative to its largest entry
    cosines   between each gradient and the reference's
    pixels, undecided   compared (pixels or rays), and the share of those looked at that were left out
    settings  that the backend replaced by its own: name -> [asked for, used]
    scene     counts: Gaussians, drawn ones, (16x16 tile, Gaussian) pairs by bounding box, views, image size, channels
    stages    the "cpu" renderer's own account
    """

    status: Status
    reason: str = ""
    forward_ms: float | None = None
    forward_range_ms: tuple[float, float] | None = None
    backward_ms: float | None = None
    backward_range_ms: tuple[float, float] | None = None
    repeats: int = 0
    peak_mb: float | None = None
    max_abs_error: float | None = None
    grad_cosine: float | None = None
    errors: dict[str, float] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)
    pixels: int = 0
    undecided: float | None = None
    settings: dict[str, list[Any]] = field(default_factory=dict)
    scene: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Any] | None = None


def measure(name: str, workload: Workload, source: Source, device: str, repeat: int | None) -> Result:
    """All of it for the backend ``name``; repeat: repetitions, None for as many as fit into ``SECONDS``."""
    renderer = registry.get(name)
    scene = workload.build(source)
    parts = [replace(case, settings=renderer.native(case.settings)).to(device) for case in scene.parts]
    seen = [coverage(case) for case in parts]
    settings = {key: list(pair) for case in scene.parts for key, pair in renderer.departures(case.settings).items()}
    base = Result("measured", settings=settings, scene=_facts(scene, seen))
    if name == "reference" and (pairs := 256.0 * base.scene["tile_pairs"]) > REFERENCE_LIMIT:
        reason = f"the reference would evaluate {pairs:.1e} (pixel, Gaussian) pairs; it is run up to {REFERENCE_LIMIT:.0e}"
        return replace(base, status="not run", reason=reason)

    step = _Step(renderer, parts, workload.trained, device)
    peak = PeakMemory(device)
    step.run()
    peak_mb = peak.megabytes()
    forward, backward, rounds = repeated(step.run, repeat, _stage_times(renderer))
    found = agreement(renderer, parts, seen, workload.trained)
    return replace(
        base,
        forward_ms=statistics.median(forward),
        forward_range_ms=(min(forward), max(forward)),
        backward_ms=statistics.median(backward),
        backward_range_ms=(min(backward), max(backward)),
        repeats=len(forward),
        peak_mb=peak_mb,
        max_abs_error=max(found.errors[key] for key in ("features", "alpha", "depth")) if found.pixels else None,
        grad_cosine=min(found.cosines.values(), default=None),
        errors=found.errors,
        cosines=found.cosines,
        pixels=found.pixels,
        undecided=found.undecided,
        stages=_stages(rounds, step.channels) if rounds else None,
    )


def _facts(scene: Scene, seen: list[list[Coverage]]) -> dict[str, Any]:
    cases = scene.parts
    return {
        "gaussians": max(case.gaussians.count for case in cases),
        "channels": cases[0].gaussians.channels,
        "views": sum(case.cameras.views for case in cases),
        "images": ", ".join(f"{c.cameras.views} x {c.cameras.width}x{c.cameras.height}" for c in cases),
        "drawn": sum(view.drawn for views in seen for view in views),
        "tile_pairs": sum(int(view.counts.sum()) for views in seen for view in views),
        "label": scene.label,
    }


class _Step:
    """One forward and backward pass over the parts of a scene; holds the inputs and the images' gradients."""

    def __init__(self, renderer: Renderer, parts: list[Case], trained: tuple[str, ...], device: str) -> None:
        self._renderer, self._parts, self._device = renderer, parts, device
        self._leaves = [{name: getattr(c.gaussians, name).detach().requires_grad_() for name in trained} for c in parts]
        self._gradients: list[Tensor] = []
        for case, leaves in zip(parts, self._leaves, strict=True):
            size = (1, case.cameras.views, case.cameras.height, case.cameras.width)
            like = leaves["features"]
            self._gradients += [like.new_full((*size, case.gaussians.channels), 0.1), like.new_ones(size)]

    def run(self) -> tuple[float, float]:
        """Milliseconds of the forward and the backward pass."""
        start = self._now()
        images: list[Tensor] = []
        for case, leaves in zip(self._parts, self._leaves, strict=True):
            out: Rendering = self._renderer.render(
                replace(case.gaussians, **leaves),
                case.cameras,
                case.settings,
                case.visible,  # type: ignore[arg-type]
            )
            images += [out.features, out.depth]
        middle = self._now()
        torch.autograd.grad(images, [leaf for part in self._leaves for leaf in part.values()], self._gradients)
        return 1e3 * (middle - start), 1e3 * (self._now() - middle)

    def _now(self) -> float:
        return now(self._device)

    @property
    def channels(self) -> int:
        return self._parts[0].gaussians.channels


def now(device: str) -> float:
    """Seconds, once ``device`` has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


Round = tuple[dict[str, float], dict[str, float]]
"""What the "cpu" renderer notes of one forward and one backward pass."""


def repeated(
    run: Callable[[], tuple[float, float]], repeat: int | None, times: Any
) -> tuple[list[float], list[float], list[Round]]:
    """Times of each repetition of ``run``, and what the "cpu" renderer noted in ``times`` (its StageTimes, or None)."""
    forward: list[float] = []
    backward: list[float] = []
    rounds: list[Round] = []
    start = time.perf_counter()

    def enough() -> bool:
        spent = time.perf_counter() - start
        if repeat is not None:
            return len(forward) >= repeat
        return len(forward) >= MOST or (len(forward) >= FEWEST and spent > SECONDS) or bool(forward and spent > LONGEST)

    while not enough():
        if times is not None:
            times.forward.clear()
            times.backward.clear()
        there, back = run()
        forward.append(there)
        backward.append(back)
        if times is not None:
            rounds.append((dict(times.forward), dict(times.backward)))
    return forward, backward, rounds


def _stage_times(renderer: Renderer) -> Any:
    """Where the "cpu" renderer will note its stages; None for others."""
    if renderer.name != "cpu":
        return None
    from renderers.cpu import CpuRenderer, StageTimes

    assert isinstance(renderer, CpuRenderer)
    renderer.times = StageTimes()
    return renderer.times


def medians(rounds: list[Round], stages: tuple[str, ...]) -> dict[str, Any]:
    """Milliseconds by stage of each pass."""

    def of(which: int) -> dict[str, float]:
        return {stage: 1e3 * statistics.median(r[which].get(stage, 0.0) for r in rounds) for stage in stages}

    return {"forward_ms": of(0), "backward_ms": of(1)}


def _stages(rounds: list[Round], channels: int) -> dict[str, Any]:
    """Medians in ms by stage, counts of one pass, and the rate of the blending product: 2 flop a weight and channel."""
    from renderers.cpu import native

    first = rounds[0][0]
    found: dict[str, Any] = medians(rounds, native.STAGES)
    found["counts"] = {name: int(first.get(name, 0)) for name in native.COUNTS} | {
        "needed_pairs": int(rounds[0][1].get("needed_pairs", 0))
    }
    flop = 2.0 * (channels + 1) * first.get("weights", 0.0)  # the depth is one more channel
    found["blend_gflop"] = flop / 1e9
    if found["forward_ms"].get("blend"):
        found["blend_gflops"] = flop / 1e6 / found["forward_ms"]["blend"]
    return found


class PeakMemory:
    """Memory used at most since this was made, beyond what was used then (``MEMORY``)."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._ok = True
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device) / 2**20
            return
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what building the scene freed must not be found again unnoticed
            Path("/proc/self/clear_refs").write_text("5")
        except (OSError, AttributeError):
            self._ok = False
        self._before = _status("VmRSS")

    def megabytes(self) -> float | None:
        """None where the system does not let a process reset its peak."""
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)
            return torch.cuda.max_memory_allocated(self._device) / 2**20 - self._before
        return max(_status("VmHWM") - self._before, 0.0) if self._ok else None


def _status(key: str) -> float:
    """A line of /proc/self/status in MiB; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key + ":")), 0.0)
