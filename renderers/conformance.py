"""The check of any backend against ``reference``, output by output and gradient by gradient.

``check(renderer, case)`` renders a case with the backend and, in double precision and with the backend's own compiled-in
settings, with ``reference``, and compares every output and every gradient.

    for name in CASES:
        assert (result := check(renderer, CASES[name]())).ok, str(result)

Pixels whose value hangs on a decision that float32 rounding can turn either way (alpha against alpha_min, transmittance
against its stop, the edge of a tile, the order of two depths) are left out; their share is reported and bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from renderers.cases import CASES, FIELDS, Case, Pixel, Rejection, rejections
from renderers.interface import Gaussians, Renderer, Rendering
from renderers.reference import ReferenceRenderer, blocks, density, float32, limited, pixels_of, project

__all__ = [
    "CASES",
    "Case",
    "Comparison",
    "Difference",
    "Pixel",
    "Rejection",
    "TOLERANCE",
    "Tolerance",
    "check",
    "rejections",
    "undecided",
]

ALPHA_SLACK = 1e-4  # relative, how far float32 can be off in alpha: 1e-5 px off centre a few sigma out
PIXEL_SLACK = 1e-4  # px, in a projected centre, where it decides about tiles
DEPTH_SLACK = 2e-7  # of the largest coordinate: three roundings
MOST_UNDECIDED = 0.02  # share of pixels that may hang on a decision before a case says nothing


@dataclass(frozen=True)
class Tolerance:
    """Largest differences allowed: features and alpha absolute, depth against the largest depth of the case, gradients
    against the largest entry of the gradient; cosine is that between the two gradients, as one vector a field."""

    features: float = 1e-4
    alpha: float = 1e-4
    depth: float = 1e-4
    gradient: float = 1e-3
    cosine: float = 0.99999


TOLERANCE = Tolerance()


@dataclass(frozen=True)
class Difference:
    """One compared quantity: its error and the bound on it."""

    what: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.error <= self.bound  # false for NaN


@dataclass(frozen=True)
class Comparison:
    """What ``check`` found. departures: settings of the case that the backend replaced by its own."""

    case: str
    renderer: str
    departures: Mapping[str, tuple[object, object]]
    undecided: float
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return all(difference.ok for difference in self.differences)

    def __str__(self) -> str:
        lines = [f"{self.renderer} on {self.case}: {'ok' if self.ok else 'DIFFERS'}, {self.undecided:.2%} pixels undecided"]
        lines += [f"  its own {name}: {own!r} (case: {asked!r})" for name, (asked, own) in self.departures.items()]
        lines += [f"  {'  ' if d.ok else '! '}{d.what}: {d.error:.3g} (at most {d.bound:.3g})" for d in self.differences]
        return "\n".join(lines)


def check(
    renderer: Renderer,
    case: Case,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tolerance: Tolerance = TOLERANCE,
) -> Comparison:
    """Render ``case`` with ``renderer`` and with ``reference`` (float64, same settings) and compare all that comes out.

    The gradients are those of a fixed random weighting of all outputs. Pixels known without a renderer are compared too,
    unless the backend had to replace a setting of the case.
    """
    departures = renderer.departures(case.settings)
    case = replace(case, settings=renderer.native(case.settings))
    close = undecided(case)
    weights = loss_weights(case, ~close)
    ours, our_gradients = differentiated(renderer, case.to(device, dtype), weights)
    right, right_gradients = differentiated(ReferenceRenderer(), case.to(dtype=torch.float64), weights)

    decided = ~close
    far = max(1.0, float(right.depth.max())) if right.depth.numel() else 1.0
    found = [
        Difference("features", largest((ours.features - right.features)[decided]), tolerance.features),
        Difference("alpha", largest((ours.alpha - right.alpha)[decided]), tolerance.alpha),
        Difference("depth", largest((ours.depth - right.depth)[decided]) / far, tolerance.depth),
    ]
    found += gradient_differences(our_gradients, right_gradients, tolerance)
    if not departures:
        for pixel in case.pixels:
            at = (pixel.scene, 0, pixel.y, pixel.x)
            known = torch.tensor([*pixel.features, pixel.depth, pixel.alpha], dtype=torch.float64)
            got = torch.cat([ours.features[at], ours.depth[at][None], ours.alpha[at][None]])
            what = f"pixel ({pixel.x}, {pixel.y}) of scene {pixel.scene}"
            found.append(Difference(what, largest(got - known), 1e-5))
    share = float(close.double().mean()) if close.numel() else 0.0
    found.append(Difference("undecided pixels", share, MOST_UNDECIDED))
    return Comparison(case.name, renderer.name, departures, share, tuple(found))


def gradient_differences(ours: Mapping[str, Tensor], right: Mapping[str, Tensor], tolerance: Tolerance) -> list[Difference]:
    """Of gradients by name: the largest error as a part of the largest entry, and what is missing of a cosine of 1."""
    found = []
    for name, gradient in right.items():
        scale = largest(gradient)
        error = largest(ours[name] - gradient)
        found.append(Difference(f"gradient of {name}", error / scale if scale else error, tolerance.gradient))
        if scale:
            found.append(Difference(f"1 - cosine of {name}", 1 - cosine(ours[name], gradient), 1 - tolerance.cosine))
    return found


def largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def undecided(case: Case) -> Tensor:
    """[B, V, H, W] bool: pixels in which float32 may decide otherwise than float64, and so differ by more than rounding.

    A decision is close if the reference takes it differently once opacities or image positions move by what float32
    cannot resolve, or if it is about the order of two depths that float32 cannot tell apart.
    """
    double = case.to(dtype=torch.float64)
    decided, close = _decisions(double)
    for part in (1 - ALPHA_SLACK, 1 + ALPHA_SLACK):
        gaussians = replace(double.gaussians, opacities=double.gaussians.opacities * part)
        close |= _decisions(replace(double, gaussians=gaussians))[0] != decided
    if case.settings.extent == "tile3sigma":
        for shift in (-PIXEL_SLACK, PIXEL_SLACK):
            intrinsics = double.cameras.intrinsics.clone()
            intrinsics[..., :2, 2] += shift
            close |= _decisions(replace(double, cameras=replace(double.cameras, intrinsics=intrinsics)))[0] != decided
    return close


@torch.no_grad()
def _decisions(case: Case) -> tuple[Tensor, Tensor]:
    """Per pixel [B, V, H, W]: a number that tells which Gaussians count (int64), and whether a close pair of depths does."""
    g, c, s = case.gaussians, case.cameras, case.settings
    which = torch.zeros(g.batch, c.views, c.height, c.width, dtype=torch.int64)
    close = torch.zeros_like(which, dtype=torch.bool)
    names = torch.arange(1, g.count + 1) * 2654435761 % (1 << 40)  # sums of few of them tell the sets apart
    for scene in range(g.batch):
        for view in range(c.views):
            splats = project(g, c, s, scene, view, None if case.visible is None else case.visible[scene, view])
            reach = max(float(g.means.abs().max()), float(c.world_to_camera[scene, view, :3, 3].abs().max())) if g.count else 0.0
            for (x, y, x_end, y_end), index in blocks(splats.bounds, c.width, c.height):
                if len(index) == 0:
                    continue
                pixels = pixels_of((x, y, x_end, y_end), which.device)
                raw = density(splats, index, pixels)
                alpha = limited(raw, splats.bounds[index], pixels, s)
                counts = (alpha > 0) & (torch.cumprod(1 - alpha, 1) >= float32(s.transmittance_min))
                number = (counts * names[splats.index[index]]).sum(1)
                if not s.clamp_gradient:
                    number += (counts & (raw > s.alpha_max)).sum(1)
                gaps = splats.payload[index, -1].diff()
                tied = counts[:, 1:] & counts[:, :-1] & (gaps > 0) & (gaps < DEPTH_SLACK * reach)
                at = (scene, view, slice(y, y_end), slice(x, x_end))
                which[at] = number.reshape(y_end - y, -1)
                close[at] = tied.any(1).reshape(y_end - y, -1)
    return which, close


def loss_weights(case: Case, counted: Tensor) -> Rendering:
    """What each output value counts for in the loss whose gradients are compared (float64): random, zero where not counted.

    counted [B, V, H, W] bool.
    """
    generator = torch.Generator().manual_seed(20240817)
    b, v, h, w = counted.shape
    keep = counted.double()
    features = torch.randn(b, v, h, w, case.gaussians.channels, generator=generator, dtype=torch.float64)
    depth = 0.1 * torch.randn(b, v, h, w, generator=generator, dtype=torch.float64)
    alpha = torch.randn(b, v, h, w, generator=generator, dtype=torch.float64)
    return Rendering(features * keep[..., None], depth * keep, alpha * keep)


def differentiated(renderer: Renderer, case: Case, weights: Rendering) -> tuple[Rendering, dict[str, Tensor]]:
    """The rendering and the gradients of its weighted sum, both as float64 on the CPU."""
    leaves = {
        name: value.detach().clone().requires_grad_() for name in FIELDS if (value := getattr(case.gaussians, name)) is not None
    }
    out = renderer.render(Gaussians(**leaves), case.cameras, case.settings, case.visible)
    names = ("features", "depth", "alpha")
    loss = torch.stack([(getattr(out, n) * getattr(weights, n).to(out.alpha)).sum() for n in names]).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    filled = {
        name: (torch.zeros_like(leaf) if g is None else g).double().cpu()
        for (name, leaf), g in zip(leaves.items(), gradients, strict=True)
    }
    return Rendering(*(getattr(out, n).detach().double().cpu() for n in names)), filled
