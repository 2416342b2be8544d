"""How far two rasterizers may differ on a scene, predicted from their dialects, and a check that they differ no more.

If blending weights are all that changes, with T_i the transmittance in front of Gaussian i in one rendering and B_i what
the other one composites behind it, the difference of two renderings of a pixel is exactly

    sum over i of T_i (alpha_i - alpha'_i) (c_i - B_i)

so it is at most ``weight`` = sum of T_i |alpha_i - alpha'_i| times the range of the feature (for depth, times the largest
depth). ``predict`` counts, pixel by pixel, the Gaussians at which two dialects part, bounds each |alpha_i - alpha'_i| by
what the dialects say, and adds them up. ``compare`` renders with two backends and holds them to it.

Of the differences between published rasterizers (``DIFFERENCES``), some are removed by the adapters or by giving both
backends the same setting; what remains is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import torch
from torch import Tensor

from renderers.cases import Case
from renderers.conformance import (
    MOST_UNDECIDED,
    TOLERANCE,
    Difference,
    Tolerance,
    cosine,
    differentiated,
    largest,
    loss_weights,
    undecided,
)
from renderers.dialects import Dialect
from renderers.interface import Cameras, RasterSettings, Renderer
from renderers.reference import (
    Projected,
    ReferenceRenderer,
    blocks,
    box_radius,
    density,
    emulate,
    float32,
    limited,
    pixels_of,
    project,
)

DIFFERENCES: Mapping[str, str] = MappingProxyType(
    {
        "D1": "largest alpha: at most its difference for each saturated Gaussian",
        "D2": "tiles of a 3-sigma box against the exact contour: the tail outside the tiles",
        "D3": "tile size: the tail outside one's tiles and inside the other's",
        "D4": "floor in the radius of the box: part of D2 and D3",
        "D5": "fast exponential: relative error of alpha",
        "D6": "stop rule at equality: none, such pixels are undecided; 'stop' is what the others move it by",
        "D7": "offset in the perspective division and rounding: image position",
        "D8": "near plane: none, both are given the same",
        "D9": "limit of the Jacobian: covariance beside the image, and its gradient by depth",
        "D10": "gradient of a saturated alpha: passes or is zero",
        "D11": "transmittance recomputed as 1 - alpha: gradients, within the tolerance",
        "D12": "order of sums: within the tolerance",
        "D13": "image of no Gaussians: none, adapters give the background",
        "D14": "length of quaternions: none, adapters normalise them",
        "D15": "opacity below the alpha threshold: none",
        "D16": "depth over alpha or not: none, adapters ask for what the settings say",
        "D17": "equal depths: none, all blend in the order of the input",
    }
)
COVERED = {"alpha_max", "extent", "tile_size", "clamp", "clamp_gradient"}  # settings that may differ in a prediction
ROUNDINGS = 3 * 2.0**-24  # of float32, relative to the terms of a projection


@dataclass(frozen=True)
class Effect:
    """One way in which two dialects part on a case.

    code     key of ``DIFFERENCES``, or "stop"
    weight   [B, V, H, W] bound on what it adds to the change of blending weights
    touched  [B, V, H, W] bool, pixels whose gradients it changes by more than rounding
    """

    code: str
    weight: Tensor
    touched: Tensor

    def __str__(self) -> str:
        what = DIFFERENCES.get(self.code, "it ends a pixel at another Gaussian")
        share = float(self.touched.double().mean()) if self.touched.numel() else 0.0
        return f"{self.code} ({what}): weights by at most {largest(self.weight):.3g}, gradients in {share:.2%} of pixels"


@dataclass(frozen=True)
class Prediction:
    """Bounds on the difference of two renderings of a case, exact arithmetic apart from D5 and D7.

    settings           the case's, as each of the two can honour them
    effects            those that change something, largest weight first
    features           [B, V, H, W, C]
    depth              [B, V, H, W] m
    alpha              [B, V, H, W]
    """

    settings: tuple[RasterSettings, RasterSettings]
    effects: tuple[Effect, ...]
    features: Tensor
    depth: Tensor
    alpha: Tensor

    @property
    def untouched(self) -> Tensor:
        """[B, V, H, W] bool: pixels in which both dialects are one."""
        return ~torch.stack([effect.touched for effect in self.effects] or [torch.zeros_like(self.alpha, dtype=torch.bool)]).any(
            0
        )


def shared_settings(a: Dialect, b: Dialect, settings: RasterSettings) -> tuple[RasterSettings, RasterSettings]:
    """``settings`` for each of two dialects: what one has compiled in the other is given too, as far as it can honour it.

    Raises ValueError if they still differ in something that no prediction covers.
    """
    pair = settings.with_(**b.settings).with_(**a.settings), settings.with_(**a.settings).with_(**b.settings)
    names = {f.name for f in fields(RasterSettings)} - COVERED
    different = sorted(
        n for n in names if getattr(pair[0], n) is not getattr(pair[1], n) and getattr(pair[0], n) != getattr(pair[1], n)
    )
    if different:
        raise ValueError(
            f"dialects {a.name} and {b.name} differ in {', '.join(different)}: how much that changes is not predicted"
        )
    return pair


@torch.no_grad()
def predict(a: Dialect, b: Dialect, case: Case) -> Prediction:
    """How much renderings of ``case`` in the dialects ``a`` and ``b`` can differ."""
    settings = shared_settings(a, b, case.settings)
    case = replace(case, settings=settings[0]).to(dtype=torch.float64)
    g, c = case.gaussians, case.cameras
    shape = (g.batch, c.views, c.height, c.width)
    weights: dict[str, Tensor] = {}
    touched: dict[str, Tensor] = {}
    shown, far = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[:2], dtype=torch.float64)
    for scene in range(g.batch):
        for view in range(c.views):
            visible = None if case.visible is None else case.visible[scene, view]
            pair = [project(g, c, s, scene, view, visible) for s in settings]
            assert pair[0].index.equal(pair[1].index), "culling depends on settings that both share"
            if len(pair[0].index) == 0:
                continue
            far[scene, view] = pair[0].payload[:, -1].max()
            shift = _shift(pair[0], case, scene, view, a.w_offset + b.w_offset)
            bounds = torch.cat(
                [torch.minimum(*(p.bounds[:, :2] for p in pair)), torch.maximum(*(p.bounds[:, 2:] for p in pair))], 1
            )
            steep = _beyond_limit(pair[0], c, settings, scene, view)
            for (x, y, x_end, y_end), index in blocks(bounds, c.width, c.height):
                if len(index) == 0:
                    continue
                pixels = pixels_of((x, y, x_end, y_end), bounds.device)
                found = _block(pair, index, pixels, settings, shift, steep, a.exp_error + b.exp_error)
                at = (scene, view, slice(y, y_end), slice(x, x_end))
                shown[at] = found.pop("alpha")[0].reshape(y_end - y, -1)
                for code, (weight, touches) in found.items():
                    weights.setdefault(code, torch.zeros(shape, dtype=torch.float64))[at] = weight.reshape(y_end - y, -1)
                    touched.setdefault(code, torch.zeros(shape, dtype=torch.bool))[at] = touches.reshape(y_end - y, -1)
    effects = [Effect(code, weights[code], touched[code]) for code in weights]
    effects = [e for e in effects if bool(e.touched.any()) or largest(e.weight) > 0]
    total = torch.stack([e.weight for e in effects]).sum(0) if effects else torch.zeros(shape, dtype=torch.float64)
    behind = g.features.new_zeros(g.channels) if case.settings.background is None else case.settings.background
    values = torch.cat([g.features, behind.expand(g.batch, 1, -1)], 1)
    spread = values.amax(1) - values.amin(1)
    depth = total
    if settings[0].depth == "expected":  # |D/A - D'/A'| <= (|D - D'| + far |A - A'|) / A, and both lie in 0..far
        depth = (2 * total / shown.clamp_min(1e-30)).clamp_max(1)
    ordered = tuple(sorted(effects, key=lambda e: -largest(e.weight)))
    return Prediction(settings, ordered, total[..., None] * spread[:, None, None, None], depth * far[..., None, None], total)


def _block(
    pair: list[Projected],
    index: Tensor,
    pixels: Tensor,
    settings: tuple[RasterSettings, RasterSettings],
    shift: Tensor,
    steep: Tensor,
    exp_error: float,
) -> dict[str, tuple[Tensor, Tensor]]:
    """By effect, the weight [P] and the pixels touched [P]; "alpha" is what the first of the pair shows, [P] and nothing."""
    raw = [density(p, index, pixels) for p in pair]
    alpha = [limited(r, p.bounds[index], pixels, s) for r, p, s in zip(raw, pair, settings, strict=True)]
    behind = [torch.cumprod(1 - each, 1) for each in alpha]
    least = float32(settings[0].transmittance_min)
    ends = [(each >= least).sum(1) for each in behind]
    end = torch.minimum(*ends)
    front = torch.cat([torch.ones_like(behind[0][:, :1]), behind[0]], 1)  # in front of each and behind the last
    before = torch.arange(len(index)) < end[:, None]  # Gaussians that both come to
    weight = front[:, :-1] * before
    counts = (alpha[0] > 0) | (alpha[1] > 0)

    def effect(alphas: Tensor) -> tuple[Tensor, Tensor]:
        total = (weight * torch.where(counts, alphas, 0)).sum(1)
        return total, total > 0

    found: dict[str, tuple[Tensor, Tensor]] = {}
    caps = [float32(s.alpha_max) for s in settings]
    saturated = counts & before & (torch.maximum(*raw) > min(caps))
    if caps[0] != caps[1]:
        found["D1"] = effect(saturated * abs(caps[0] - caps[1]))
    if settings[0].clamp_gradient != settings[1].clamp_gradient:
        found["D10"] = torch.zeros_like(weight[:, 0]), saturated.any(1)
    if settings[0].extent != settings[1].extent or settings[0].tile_size != settings[1].tile_size:
        outside = [_tails(p, index, pixels, s) for p, s in zip(pair, settings, strict=True)]
        one_only = (outside[0] > 0) != (outside[1] > 0)
        tiled = settings[0].extent == settings[1].extent
        if not tiled or settings[0].extent == "tile3sigma":
            found["D3" if tiled else "D2"] = effect(torch.where(one_only, torch.maximum(*outside), 0))
    if settings[0].clamp != settings[1].clamp:
        same = settings[0].with_(extent="iso")  # all but the covariance alike
        uncut = [limited(r, p.bounds[index], pixels, same) for r, p in zip(raw, pair, strict=True)]
        total = (weight * (uncut[0] - uncut[1]).abs()).sum(1)
        found["D9"] = total, (total > 0) | (counts & before & steep[index]).any(1)
    found["stop"] = torch.where(ends[0] != ends[1], front.gather(1, end[:, None]).squeeze(1), 0), ends[0] != ends[1]
    nowhere = torch.zeros_like(end, dtype=torch.bool)
    found["D5"] = (weight * alpha[0] * exp_error).sum(1), nowhere
    # d alpha / d centre = alpha conic d, whose length is at most alpha sqrt(d' conic d) / sigma along the short axis
    power = torch.log((raw[0] / pair[0].opacity[index]).clamp_min(1e-30)).clamp_max(0)
    found["D7"] = (weight * alpha[0] * torch.sqrt(-2 * power) * shift[index]).sum(1), nowhere
    shown = 1 - front.gather(1, ends[0][:, None]).squeeze(1)
    return found | {"alpha": (shown, nowhere)}


def _tails(splats: Projected, index: Tensor, pixels: Tensor, settings: RasterSettings) -> Tensor:
    """[P, K] most that a Gaussian can show at a pixel outside its extent, 0 inside it.

    Outside the touched tiles a pixel is more than radius - 1 px away along an axis: the tile rectangle ends at
    trunc((u + radius + tile - 1) / tile), which for a centre between pixels can be up to a pixel short of the box. With a
    whole radius, alpha there would be at most opacity exp(-4.5) = 0.0111 opacity.
    """
    if settings.extent == "iso":
        return torch.zeros(len(pixels), len(index), dtype=splats.conic.dtype)
    a, b, c = splats.conic[index].unbind(-1)
    inverse = a * c - b * b
    sxx, syy = c / inverse, a / inverse
    middle = 0.5 * (sxx + syy)
    widest = middle + torch.sqrt((middle * middle - 1 / inverse).clamp_min(0))
    short = (box_radius(sxx, syy, 1 / inverse) - 1).clamp_min(0)
    left_top, right_bottom = splats.bounds[index].split(2, -1)
    inside = ((pixels[:, None] >= left_top) & (pixels[:, None] < right_bottom)).all(-1)
    return torch.where(inside, 0, splats.opacity[index] * torch.exp(-0.5 * short**2 / widest))


def _shift(splats: Projected, case: Case, scene: int, view: int, w_offset: float) -> Tensor:
    """[K] how far the image position can be off (px), over the standard deviation along the narrow axis."""
    k, pose = case.cameras.intrinsics[scene, view], case.cameras.world_to_camera[scene, view]
    z = splats.payload[:, -1]
    slope = ((splats.centre - k[:2, 2]) / k[[0, 1], [0, 1]]).abs().amax(1)
    focal = float(k[[0, 1], [0, 1]].max())
    reach = float(case.gaussians.means.abs().max()) + float(pose[:3, 3].abs().max())
    rounding = ROUNDINGS * (focal * (1 + slope) * reach / z + splats.centre.abs().amax(1))
    a, b, c = splats.conic.unbind(-1)
    sharpest = 0.5 * (a + c) + torch.sqrt(0.25 * (a - c) ** 2 + b * b)  # 1 / variance along the narrow axis
    return (rounding + w_offset * focal * slope / z) * sharpest.sqrt()


def _beyond_limit(
    splats: Projected, cameras: Cameras, settings: tuple[RasterSettings, RasterSettings], scene: int, view: int
) -> Tensor:
    """[K] bool: x/z or y/z beyond the limit of the Jacobian in either rule, where their gradients differ."""
    k = cameras.intrinsics[scene, view]
    size = torch.tensor([cameras.width, cameras.height], dtype=k.dtype)
    focal, centre = k[[0, 1], [0, 1]], k[:2, 2]
    slope = (splats.centre - centre) / focal
    focal = torch.stack([focal[0], settings[0].shape_fy(focal[0], focal[1], cameras.width, cameras.height)])
    tan = size / (2 * focal)
    beyond = (slope.abs() > 1.3 * tan).any(1)
    if any(s.clamp == "principal" for s in settings):
        beyond |= ((slope < -(centre / focal + 0.3 * tan)) | (slope > (size - centre) / focal + 0.3 * tan)).any(1)
    return beyond


@dataclass(frozen=True)
class Agreement:
    """What ``compare`` found: effects predicted, and the largest difference of each output with the bound on it there."""

    case: str
    renderers: tuple[str, str]
    effects: tuple[Effect, ...]
    undecided: float
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return all(difference.ok for difference in self.differences)

    def __str__(self) -> str:
        verdict = "agree as predicted" if self.ok else "DIFFER MORE THAN PREDICTED"
        lines = [f"{' and '.join(self.renderers)} on {self.case}: {verdict}, {self.undecided:.2%} pixels undecided"]
        lines += [f"  {effect}" for effect in self.effects]
        lines += [f"  {'  ' if d.ok else '! '}{d.what}: {d.error:.3g} (at most {d.bound:.3g})" for d in self.differences]
        return "\n".join(lines)


def compare_dialects(a: str, b: str, case: Case) -> Agreement:
    """``compare`` for the reference renderer in two dialects of ``renderers.dialects.DIALECTS``."""
    return compare(emulate(a), emulate(b), case)


def compare(
    a: Renderer,
    b: Renderer,
    case: Case,
    devices: tuple[torch.device | str, torch.device | str] = ("cpu", "cpu"),
    tolerance: Tolerance = TOLERANCE,
) -> Agreement:
    """Render ``case`` in float32 with two backends and hold each output and gradient to the predicted difference.

    Outputs: at every decided pixel within the prediction plus the tolerance. Gradients of a fixed random weighting:

    - of pixels in which both dialects are one: equal, within the tolerance;
    - of all pixels, features: within the sum over pixels of weight times the loss's own gradient, the closed form;
    - of all pixels, every field: their difference equals that of the emulated dialects in double precision, within twice
      the tolerance (each backend has its own).

    Raises ValueError for dialects that differ in a setting no prediction covers.
    """
    prediction = predict(a.dialect, b.dialect, case)
    cases = [replace(case, settings=s) for s in prediction.settings]
    close = undecided(cases[0]) | undecided(cases[1])
    everywhere, alike = loss_weights(case, ~close), loss_weights(case, ~close & prediction.untouched)
    renderers = list(zip((a, b), cases, devices, strict=True))
    (out_a, all_a), (out_b, all_b) = (differentiated(r, x.to(device), everywhere) for r, x, device in renderers)
    (_, alike_a), (_, alike_b) = (differentiated(r, x.to(device), alike) for r, x, device in renderers)
    (_, true_a), (_, true_b) = (differentiated(ReferenceRenderer(), x.to(dtype=torch.float64), everywhere) for x in cases)

    far = max(1.0, float(out_a.depth.max()), float(out_b.depth.max())) if out_a.depth.numel() else 1.0
    outputs = (
        ("features", prediction.features, tolerance.features),
        ("alpha", prediction.alpha, tolerance.alpha),
        ("depth", prediction.depth, tolerance.depth * far),
    )
    found = []
    for name, bounds, slack in outputs:
        change = (getattr(out_a, name) - getattr(out_b, name)).abs()[~close]
        found.append(_worst(name, change, bounds[~close] + slack))
    closed_form = (prediction.alpha[..., None] * everywhere.features.abs()).sum((1, 2, 3)).amax()
    for name in all_a:
        scale = max(largest(alike_a[name]), largest(alike_b[name]))
        error = largest(alike_a[name] - alike_b[name])
        what = f"gradient of {name} where nothing parts them"
        found.append(Difference(what, error / scale if scale else error, tolerance.gradient))
        if scale:
            found.append(Difference(f"1 - cosine of {what}", 1 - cosine(alike_a[name], alike_b[name]), 1 - tolerance.cosine))
        scale = max(largest(true_a[name]), largest(true_b[name]), 1e-30)
        beyond = (all_a[name] - all_b[name]) - (true_a[name] - true_b[name])
        found.append(Difference(f"gradient of {name} beyond prediction", largest(beyond) / scale, 2 * tolerance.gradient))
        if name == "features":
            bound = float(closed_form) + tolerance.gradient * scale
            found.append(Difference("gradient of features in all", largest(all_a[name] - all_b[name]), bound))
    share = float(close.double().mean()) if close.numel() else 0.0
    found.append(Difference("undecided pixels", share, 2 * MOST_UNDECIDED))
    names = (f"{a.name} ({a.dialect.name})", f"{b.name} ({b.dialect.name})")
    return Agreement(case.name, names, prediction.effects, share, tuple(found))


def _worst(what: str, change: Tensor, bound: Tensor) -> Difference:
    """The entry that exceeds its bound most; if none does, the largest one."""
    if change.numel() == 0:
        return Difference(what, 0.0, 0.0)
    excess = torch.where(change.isnan(), torch.inf, change - bound)
    at = int(excess.argmax() if float(excess.max()) > 0 else change.argmax())
    return Difference(what, float(change.flatten()[at]), float(bound.flatten()[at]))
