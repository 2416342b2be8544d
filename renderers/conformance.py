"""The rendering contract as data: cases with analytic or random scenes, and a check of any backend against ``reference``.

``check(renderer, case)`` renders the case with the backend and, in double precision and with the backend's own compiled-in
settings, with ``reference``, and compares every output and every gradient.

    for name in CASES:
        assert (result := check(renderer, CASES[name]())).ok, str(result)

Pixels whose value hangs on a threshold that float32 rounding can turn either way (alpha against alpha_min, transmittance
against its stop) are found by moving the thresholds in the reference, and left out; their share is reported and bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from renderers.interface import Cameras, Gaussians, RasterSettings, Renderer, Rendering
from renderers.reference import ReferenceRenderer

GRADIENTS = ("means", "scales", "opacities", "features", "quaternions")
ALPHA_MIN_SLACK = 1e-4  # relative, how far float32 can be off in alpha: 1e-5 px off centre a few sigma out
STOP_SLACK = 1e-3  # relative, in transmittance after many factors
MOST_UNDECIDED = 0.02  # share of pixels that may hang on a threshold before a case says nothing


@dataclass(frozen=True)
class Pixel:
    """Known values at column x, row y of the first view: features [C], depth (m), alpha."""

    x: int
    y: int
    features: tuple[float, ...]
    depth: float
    alpha: float


@dataclass(frozen=True)
class Case:
    """Inputs of one rendering (float32, CPU) and the pixels known without any renderer."""

    name: str
    gaussians: Gaussians
    cameras: Cameras
    settings: RasterSettings = RasterSettings()
    visible: Tensor | None = None
    pixels: tuple[Pixel, ...] = ()

    def to(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Case:
        """The same case on another device and in another floating-point type."""

        def moved(record: Any) -> Any:
            changes = {
                f.name: value.to(device, dtype if value.is_floating_point() else value.dtype)
                for f in fields(record)
                if isinstance(value := getattr(record, f.name), Tensor)
            }
            return replace(record, **changes)

        return replace(moved(self), **{name: moved(getattr(self, name)) for name in ("gaussians", "cameras", "settings")})


@dataclass(frozen=True)
class Tolerance:
    """Largest differences allowed: features and alpha absolute, depth against the largest depth of the case, gradients
    against the largest entry of the gradient; cosine is that between the two gradients, as one vector a field."""

    features: float = 1e-4
    alpha: float = 1e-4
    depth: float = 1e-4
    gradient: float = 1e-3
    cosine: float = 0.99999


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
    tolerance: Tolerance = Tolerance(),
) -> Comparison:
    """Render ``case`` with ``renderer`` and with ``reference`` (float64, same settings) and compare all that comes out.

    The gradients are those of a fixed random weighting of all outputs. Pixels known without a renderer are compared too,
    unless the backend had to replace a setting of the case.
    """
    departures = renderer.departures(case.settings)
    case = replace(case, settings=renderer.native(case.settings))
    undecided = _undecided(case)
    weights = _weights(case, undecided)
    ours, our_gradients = _differentiated(renderer, case.to(device, dtype), weights)
    right, right_gradients = _differentiated(ReferenceRenderer(), case.to(dtype=torch.float64), weights)

    decided = ~undecided
    far = max(1.0, float(right.depth.max())) if right.depth.numel() else 1.0
    found = [
        Difference("features", _largest((ours.features - right.features)[decided]), tolerance.features),
        Difference("alpha", _largest((ours.alpha - right.alpha)[decided]), tolerance.alpha),
        Difference("depth", _largest((ours.depth - right.depth)[decided]) / far, tolerance.depth),
    ]
    for name, gradient in right_gradients.items():
        scale = _largest(gradient)
        error = _largest(our_gradients[name] - gradient)
        found.append(Difference(f"gradient of {name}", error / scale if scale else error, tolerance.gradient))
        if scale:
            found.append(Difference(f"1 - cosine of {name}", 1 - _cosine(our_gradients[name], gradient), 1 - tolerance.cosine))
    if not departures:
        for pixel in case.pixels:
            at = (0, 0, pixel.y, pixel.x)
            known = torch.tensor([*pixel.features, pixel.depth, pixel.alpha], dtype=torch.float64)
            got = torch.cat([ours.features[at], ours.depth[at][None], ours.alpha[at][None]])
            found.append(Difference(f"pixel ({pixel.x}, {pixel.y})", _largest(got - known), 1e-5))
    share = float(undecided.double().mean()) if undecided.numel() else 0.0
    found.append(Difference("undecided pixels", share, MOST_UNDECIDED))
    return Comparison(case.name, renderer.name, departures, share, tuple(found))


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _undecided(case: Case) -> Tensor:
    """[B, V, H, W] bool, pixels whose value changes when the thresholds move by what float32 cannot resolve."""
    double, reference = case.to(dtype=torch.float64), ReferenceRenderer()
    s = double.settings
    variants = [
        s,
        s.with_(alpha_min=s.alpha_min * (1 + ALPHA_MIN_SLACK)),
        s.with_(alpha_min=s.alpha_min * (1 - ALPHA_MIN_SLACK)),
        s.with_(transmittance_min=s.transmittance_min * (1 + STOP_SLACK)),
        s.with_(transmittance_min=s.transmittance_min * (1 - STOP_SLACK)),
    ]
    with torch.no_grad():
        first, *others = (reference.render(double.gaussians, double.cameras, v, double.visible) for v in variants)
    changed = torch.zeros_like(first.alpha, dtype=torch.bool)
    for other in others:
        changed |= (other.alpha - first.alpha).abs() > 1e-9
        changed |= (other.features - first.features).abs().amax(-1) > 1e-9
    return changed


def _weights(case: Case, undecided: Tensor) -> Rendering:
    """What each output value counts for in the loss whose gradients are compared, float64."""
    generator = torch.Generator().manual_seed(20240817)
    b, v, h, w = undecided.shape
    keep = (~undecided).double()
    features = torch.randn(b, v, h, w, case.gaussians.channels, generator=generator, dtype=torch.float64)
    depth = 0.1 * torch.randn(b, v, h, w, generator=generator, dtype=torch.float64)
    alpha = torch.randn(b, v, h, w, generator=generator, dtype=torch.float64)
    return Rendering(features * keep[..., None], depth * keep, alpha * keep)


def _differentiated(renderer: Renderer, case: Case, weights: Rendering) -> tuple[Rendering, dict[str, Tensor]]:
    """The rendering and the gradients of its weighted sum, both as float64 on the CPU."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        for name in GRADIENTS
        if (value := getattr(case.gaussians, name)) is not None
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


# --- scenes ----------------------------------------------------------------------------------------------------------


def pinhole(
    width: int, height: int, fx: float, fy: float | None = None, cx: float | None = None, cy: float | None = None
) -> Tensor:
    """Intrinsics [3, 3] in pixels; the principal point defaults to the image centre."""
    cx, cy = width / 2 if cx is None else cx, height / 2 if cy is None else cy
    return torch.tensor([[fx, 0.0, cx], [0.0, fx if fy is None else fy, cy], [0.0, 0.0, 1.0]])


def one_view(intrinsics: Tensor, width: int, height: int, pose: Tensor | None = None) -> Cameras:
    """One camera [3, 3] of one scene, at the origin unless ``pose`` [4, 4] (world to camera) says otherwise."""
    pose = torch.eye(4) if pose is None else pose
    return Cameras(intrinsics[None, None], pose[None, None], width, height)


def spheres(*items: tuple[tuple[float, float, float], float, float, int], classes: int = 2) -> Gaussians:
    """Isotropic Gaussians from (centre in m, sigma in m, opacity, class); features are one-hot."""
    return Gaussians(
        means=torch.tensor([[item[0] for item in items]]),
        scales=torch.tensor([[[item[1]] for item in items]]),
        opacities=torch.tensor([[item[2] for item in items]]),
        features=torch.nn.functional.one_hot(torch.tensor([[item[3] for item in items]]), classes).float(),
    )


def random_scene(
    seed: int = 0,
    count: int = 150,
    channels: int = 5,
    batch: int = 1,
    views: int = 1,
    width: int = 61,
    height: int = 43,
    isotropic: bool = False,
    opacity: tuple[float, float] = (0.05, 0.95),
    spread: float = 1.0,
) -> tuple[Gaussians, Cameras]:
    """Gaussians in front of cameras that look about the same way from about the same place, in a turned world frame.

    Intrinsics differ by view, with fx != fy and the principal point off the centre. spread > 1 puts Gaussians beside
    the image too.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    depth = uniform(1.5, 12.0, batch, count)
    lateral = uniform(-0.6 * spread, 0.6 * spread, batch, count, 2) * depth[..., None]
    in_camera = torch.cat([lateral, depth[..., None]], -1)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    turn = turn * torch.linalg.det(turn)  # a rotation, not a reflection
    shift = uniform(-5.0, 5.0, 3)
    poses = torch.eye(4).repeat(batch, views, 1, 1)
    intrinsics = torch.zeros(batch, views, 3, 3)
    for scene in range(batch):
        for view in range(views):
            wobble = torch.linalg.matrix_exp(_skew(uniform(-0.15, 0.15, 3)))
            poses[scene, view, :3, :3] = wobble @ turn.T
            poses[scene, view, :3, 3] = uniform(-0.2, 0.2, 3) - wobble @ turn.T @ shift
            fx, fy = (float(uniform(0.7, 1.1, 1)) * width for _ in range(2))
            cx, cy = float(uniform(0.35, 0.65, 1)) * width, float(uniform(0.35, 0.65, 1)) * height
            intrinsics[scene, view] = pinhole(width, height, fx, fy, cx, cy)
    gaussians = Gaussians(
        means=in_camera @ turn.T + shift,
        scales=uniform(0.03, 0.4, batch, count, 1 if isotropic else 3),
        opacities=uniform(*opacity, batch, count),
        features=torch.randn(batch, count, channels, generator=generator),
        quaternions=None if isotropic else torch.randn(batch, count, 4, generator=generator),
    )
    return gaussians, Cameras(intrinsics, poses, width, height)


def _skew(v: Tensor) -> Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def bird_eye(dataset: str, size: int = 80) -> tuple[Gaussians, Cameras]:
    """The straight-down camera of GaussRender over a coarse voxel layer cake: within a layer all depths are equal.

    As published but for the image, 400 px there (GaussRender src/model/head/camera.py; KITTI-360 has its principal
    point on the left edge, as its range begins at the vehicle).
    """
    lower, upper = {
        "occ3d": ((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4)),
        "surroundocc": ((-50.0, -50.0, -5.0), (50.0, 50.0, 3.0)),
        "kitti360": ((0.0, -25.6, -2.0), (51.2, 25.6, 4.4)),
    }[dataset]
    cells = (10, 10, 3)
    axes = [(torch.arange(n) + 0.5) * (hi - lo) / n + lo for n, lo, hi in zip(cells, lower, upper, strict=True)]
    means = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(1, -1, 3)
    generator = torch.Generator().manual_seed(len(dataset))
    count, edge = means.shape[1], (upper[0] - lower[0]) / cells[0]
    gaussians = Gaussians(
        means=means,
        scales=torch.full((1, count, 1), edge / 3),
        opacities=torch.rand(1, count, generator=generator),
        features=torch.softmax(torch.randn(1, count, 4, generator=generator), -1),
    )
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[2, 3] = upper[0] - lower[0]
    intrinsics = pinhole(size, size, float(size), cx=0.0 if dataset == "kitti360" else None)
    return gaussians, one_view(intrinsics, size, size, pose)


# --- cases -----------------------------------------------------------------------------------------------------------

BEHIND = torch.tensor([0.0, 1.0])  # background of the two-class cases: all of the second class
FRONT = ((0.0, 0.0, 2.0), 0.1, 1.0, 0)
BACK = ((0.0, 0.0, 4.0), 0.2, 1.0, 1)


def _analytic(name: str, gaussians: Gaussians, *pixels: Pixel, **settings: Any) -> Case:
    camera = one_view(pinhole(64, 64, 100.0), 64, 64)
    return Case(name, gaussians, camera, RasterSettings(background=BEHIND, **settings), pixels=pixels)


def _random(name: str, settings: RasterSettings | None = None, **scene: Any) -> Case:
    gaussians, cameras = random_scene(**scene)
    return Case(name, gaussians, cameras, settings or RasterSettings())


def _one_gaussian(name: str) -> Case:
    # Projected variance 25.3 px^2 about pixel index 31.5; alpha falls below 1/255 between columns 48 and 49.
    return _analytic(
        name,
        spheres(FRONT),
        Pixel(31, 31, (0.99, 0.01), 1.98, 0.99),
        Pixel(41, 31, (0.1672045, 0.8327955), 0.3344090, 0.1672045),
        Pixel(48, 31, (0.0045831, 0.9954169), 0.0091662, 0.0045831),
        Pixel(49, 31, (0.0, 1.0), 0.0, 0.0),
    )


def _near_plane(name: str) -> Case:
    # Small and close: at z = 0.2 exactly a Gaussian is dropped, just behind it is drawn.
    items = [((0.01 * k - 0.03, 0.0, z), 0.004, 0.8, k % 2) for k, z in enumerate((0.05, 0.15, 0.2, 0.2001, 0.3, 0.5))]
    return _analytic(name, spheres(*items))


def _off_screen(name: str) -> Case:
    gaussians, cameras = random_scene(seed=5, count=200, spread=3.0)
    behind = gaussians.means.clone()
    pose = cameras.world_to_camera[0, 0]
    centre = -pose[:3, :3].T @ pose[:3, 3]
    behind[:, ::4] = 2 * centre - behind[:, ::4]  # every fourth one mirrored to behind the camera
    return Case(name, replace(gaussians, means=behind), cameras)


def _wide(name: str) -> Case:
    # Beyond 1.3 times the field of view the Jacobian is limited; Gaussians this large reach into the image from there.
    items = [((side * 2.2, 0.1 * side, 3.0), 0.9, 0.7, k) for k, side in enumerate((-1.0, 1.0))]
    return _analytic(name, spheres(*items, ((1.0, -2.0, 2.5), 0.8, 0.5, 0)))


def _equal_depths(name: str) -> Case:
    # All in one plane: blending order is the input's.
    items = [((0.03 * (k % 7) - 0.1, 0.03 * (k // 7) - 0.05, 2.0), 0.08, 0.6, k % 2) for k in range(28)]
    return _analytic(name, spheres(*items))


def _opacities(name: str) -> Case:
    items = [((0.25 * k - 0.4, 0.0, 2.0 + 0.1 * k), 0.1, o, k % 2) for k, o in enumerate((0.0, 1 / 300, 0.5, 1.0))]
    return _analytic(name, spheres(*items))


def _quaternion_lengths(name: str) -> Case:
    gaussians, cameras = random_scene(seed=6)
    assert gaussians.quaternions is not None
    lengths = torch.logspace(-2, 2, gaussians.count)[None, :, None]
    return Case(name, replace(gaussians, quaternions=gaussians.quaternions * lengths), cameras)


def _channels(name: str) -> Case:
    channels = int(name.split("_")[1])
    background = torch.linspace(-1, 1, channels)
    return _random(name, RasterSettings(background=background), seed=channels, count=60, channels=channels, width=33, height=30)


def _no_gaussians(name: str) -> Case:
    gaussians, cameras = random_scene(count=0, channels=2, batch=2, views=3)
    return Case(name, gaussians, cameras, RasterSettings(background=BEHIND), pixels=(Pixel(0, 0, (0.0, 1.0), 0.0, 0.0),))


def _none_visible(name: str) -> Case:
    gaussians, cameras = random_scene(count=20, channels=2, views=2)
    visible = torch.zeros(1, 2, 20, dtype=torch.bool)
    visible[:, 1] = True
    pixels = (Pixel(30, 20, (0.0, 1.0), 0.0, 0.0),)
    return Case(name, gaussians, cameras, RasterSettings(background=BEHIND), visible, pixels)


def _batch_views_visible(name: str) -> Case:
    gaussians, cameras = random_scene(seed=8, count=80, batch=2, views=3, width=40, height=36)
    visible = torch.rand(2, 3, 80, generator=torch.Generator().manual_seed(1)) < 0.6
    return Case(name, gaussians, cameras, visible=visible)


def _moving(name: str) -> Case:
    gaussians, cameras = random_scene(seed=9, count=60, batch=2, views=4, width=40, height=36)
    offsets = torch.linspace(-0.5, 0.5, 3)[None, :, None, None]
    return Case(
        name,
        replace(gaussians, means=gaussians.means[:, None] + offsets),
        replace(cameras, time_index=torch.tensor([2, 0, 1, 2])),
    )


def _deep(name: str) -> Case:
    # Many layers behind one another: the stop rule ends most pixels.
    return _random(name, seed=11, count=600, channels=3, isotropic=True, opacity=(0.3, 0.99), width=32, height=32)


def _bird_eye(name: str) -> Case:
    gaussians, cameras = bird_eye(name.split("_")[1])
    return Case(name, gaussians, cameras, RasterSettings(background=torch.tensor([0.0, 0.0, 0.0, 1.0])))


def _with(**settings: Any) -> Callable[[str], Case]:
    return lambda name: _random(name, RasterSettings(**settings), seed=12, count=100, spread=1.6)


_BUILDERS: dict[str, Callable[[str], Case]] = {
    "one_gaussian": _one_gaussian,
    "saturation_stops": lambda name: _analytic(name, spheres(FRONT, BACK), Pixel(31, 31, (0.99, 0.01), 1.98, 0.99)),
    "two_overlapping": lambda name: _analytic(
        name,
        spheres(((0.0, 0.0, 2.0), 0.1, 0.5, 0), BACK),
        Pixel(31, 31, (0.4950836, 0.5049164), 2.9896361, 0.9949508),
    ),
    "oblique": lambda name: _analytic(
        name,
        spheres(((0.5, 0.2, 2.5), 0.15, 0.8, 0)),
        Pixel(51, 39, (0.7947127, 0.2052873), 1.9867817, 0.7947127),
    ),
    "near_plane": _near_plane,
    "off_screen": _off_screen,
    "wide": _wide,
    "equal_depths": _equal_depths,
    "opacities": _opacities,
    "quaternion_lengths": _quaternion_lengths,
    "no_gaussians": _no_gaussians,
    "none_visible": _none_visible,
    "batch_views_visible": _batch_views_visible,
    "moving": _moving,
    "isotropic": lambda name: _random(name, seed=7, isotropic=True),
    "deep": _deep,
    "one_pixel": lambda name: _random(name, seed=3, count=30, width=1, height=1),
    "bev_occ3d": _bird_eye,
    "bev_surroundocc": _bird_eye,
    "bev_kitti360": _bird_eye,
    "channels_1": _channels,
    "channels_19": _channels,
    "channels_20": _channels,
    "channels_33": _channels,
    "channels_64": _channels,
    "random": lambda name: _random(name, seed=1),
    "random_opaque": lambda name: _random(name, seed=2, opacity=(0.9, 1.0)),
    "expected_depth": _with(depth="expected"),
    "far": _with(far=6.0),
    "low_pass": _with(low_pass=1.5),
    "alpha_limits": _with(alpha_min=0.02, alpha_max=0.6),
    "early_stop": _with(transmittance_min=0.1),
    "tiles_12": _with(extent="tile3sigma", tile_size=12),
    "tiles_16": _with(extent="tile3sigma", tile_size=16),
    "principal_clamp": _with(clamp="principal"),
    "no_clamp_gradient": lambda name: _random(
        name, RasterSettings(alpha_max=0.5, clamp_gradient=False), seed=13, opacity=(0.3, 0.9)
    ),
}


def _bound(name: str, builder: Callable[[str], Case]) -> Callable[[], Case]:
    return lambda: builder(name)


CASES: Mapping[str, Callable[[], Case]] = MappingProxyType({n: _bound(n, build) for n, build in _BUILDERS.items()})


@dataclass(frozen=True)
class Rejection:
    """Inputs that every backend must refuse with a ValueError that contains ``argument``."""

    argument: str
    case: Case


def rejections() -> list[Rejection]:
    """Wrong shapes, types and non-finite values, one argument each."""
    gaussians, cameras = random_scene(count=6, channels=3, views=2, width=16, height=12)
    assert gaussians.quaternions is not None
    good = Case("rejected", gaussians, cameras)

    def spoiled(value: Tensor, with_: float) -> Tensor:
        value = value.clone()
        value.view(-1)[-1] = with_
        return value

    found = []
    for name in GRADIENTS:
        value = getattr(gaussians, name)
        short = value[..., :-1] if name == "means" else value[:, :-1]  # the number of Gaussians is that of the means
        bad = [spoiled(value, math.nan), spoiled(value, math.inf), short, value.to(torch.float16)]
        found += [Rejection(name, replace(good, gaussians=replace(gaussians, **{name: v}))) for v in bad]
    for name in ("intrinsics", "world_to_camera"):
        value = getattr(cameras, name)
        bad = [spoiled(value, math.nan), value[:, :, :2], value.double()]
        found += [Rejection(name, replace(good, cameras=replace(cameras, **{name: v}))) for v in bad]
    unturned = replace(gaussians, quaternions=torch.zeros_like(gaussians.quaternions))
    found += [
        Rejection("quaternions", replace(good, gaussians=unturned)),
        Rejection("quaternions", replace(good, gaussians=replace(gaussians, quaternions=None))),
        Rejection("time_index", replace(good, cameras=replace(cameras, time_index=torch.tensor([0, 0])))),
        Rejection("width and height", replace(good, cameras=replace(cameras, width=0))),
        Rejection("background", replace(good, settings=RasterSettings(background=torch.zeros(2)))),
        Rejection("background", replace(good, settings=RasterSettings(background=torch.full((3,), math.nan)))),
        Rejection("visible", replace(good, visible=torch.ones(1, 2, 5, dtype=torch.bool))),
        Rejection("visible", replace(good, visible=torch.ones(1, 2, 6))),
    ]
    return found
