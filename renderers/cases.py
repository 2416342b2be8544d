"""The rendering contract as data: scenes, some with pixels known to seven digits, and inputs that every backend refuses.

``CASES`` maps names to functions that build a case. ``renderers.conformance.check`` holds a backend to one,
``renderers.agreement.compare`` two backends to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from renderers.dialects import DIALECTS
from renderers.interface import Cameras, Gaussians, RasterSettings
from renderers.scenes import Sphere, bird_eye, one_view, pinhole, random_scene, spheres

FIELDS = ("means", "scales", "opacities", "features", "quaternions")  # of Gaussians, all differentiable


@dataclass(frozen=True)
class Pixel:
    """Known values at column x, row y of the first view of a scene: features [C], depth (m), alpha."""

    x: int
    y: int
    features: tuple[float, ...]
    depth: float
    alpha: float
    scene: int = 0


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


BEHIND = torch.tensor([0.0, 1.0])  # background of the two-class cases: all of the second class
FRONT = ((0.0, 0.0, 2.0), 0.1, 1.0, 0)
BACK = ((0.0, 0.0, 4.0), 0.2, 1.0, 1)
UNSEEN = ((0.0, 0.0, -4.0), 0.2, 1.0, 1)  # behind the camera


OBLIQUE = ((0.5, 0.2, 2.5), 0.15, 0.8, 0)
NOTHING = (0.0, 1.0)  # features of a pixel that no Gaussian reaches


def half(sphere: Sphere) -> Sphere:
    """The same at opacity 0.5."""
    return (*sphere[:2], 0.5, sphere[3])


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
        Pixel(47, 31, (0.0086261, 0.9913739), 0.0172522, 0.0086261),
        Pixel(48, 31, (0.0045831, 0.9954169), 0.0091662, 0.0045831),
        Pixel(49, 31, (0.0, 1.0), 0.0, 0.0),
    )


def _vectors(name: str) -> Case:
    """The pixels of a scalar implementation, seven digits, in the dialect ``name`` ends with: four scenes of a batch.

    The dialects part where a Gaussian is saturated (alpha_max) and where the tiles of its 3-sigma box end (column 48,
    for tiles of 12 and of 16 pixels).
    """
    dialect = DIALECTS[name.removeprefix("vectors_")]
    scenes = [(FRONT, UNSEEN), (FRONT, BACK), (half(FRONT), BACK), (OBLIQUE, UNSEEN)]
    saturated = ((0.9901672, 0.0098327), 1.9803345, 0.9901672)
    second = ((0.4950836, 0.5049164), 2.9899738, 0.9950353)
    if dialect.settings["alpha_max"] == 0.99:
        saturated, second = ((0.99, 0.01), 1.98, 0.99), ((0.4950836, 0.5049164), 2.9896361, 0.9949508)
    tail = ((0.0045831, 0.9954169), 0.0091662, 0.0045831)
    pixels = [
        Pixel(31, 31, *saturated),
        Pixel(41, 31, (0.1672045, 0.8327955), 0.3344090, 0.1672045),
        Pixel(47, 31, (0.0086261, 0.9913739), 0.0172522, 0.0086261),
        Pixel(48, 31, *(tail if dialect.settings["extent"] == "iso" else (NOTHING, 0.0, 0.0))),
        Pixel(49, 31, NOTHING, 0.0, 0.0),
        Pixel(31, 31, *second, scene=2),
        Pixel(51, 39, (0.7947127, 0.2052873), 1.9867817, 0.7947127, scene=3),
    ]
    if dialect.settings["alpha_max"] == 0.99:  # the stop rule leaves the second Gaussian out
        pixels.append(Pixel(31, 31, *saturated, scene=1))
    batch = [spheres(*items) for items in scenes]
    gaussians = Gaussians(*(torch.cat([getattr(g, f) for g in batch]) for f in ("means", "scales", "opacities", "features")))
    camera = one_view(pinhole(64, 64, 100.0), 64, 64)
    cameras = Cameras(camera.intrinsics.repeat(4, 1, 1, 1), camera.world_to_camera.repeat(4, 1, 1, 1), 64, 64)
    return Case(name, gaussians, cameras, RasterSettings(background=BEHIND).with_(**dialect.settings), pixels=tuple(pixels))


def _off_centre(name: str) -> Case:
    # fx != fy and a principal point far from the middle of the image.
    camera = one_view(pinhole(64, 64, 120.0, 80.0, 20.25, 44.5), 64, 64)
    pixels = (
        Pixel(37, 36, (0.7939586, 0.2060414), 1.5879172, 0.7939586),
        Pixel(38, 36, (0.7993265, 0.2006735), 1.5986529, 0.7993265),
        Pixel(41, 35, (0.6743848, 0.3256152), 1.3487696, 0.6743848),
        Pixel(35, 39, (0.5523116, 0.4476884), 1.1046231, 0.5523116),
    )
    return Case(name, spheres(((0.3, -0.2, 2.0), 0.1, 0.8, 0)), camera, RasterSettings(background=BEHIND), pixels=pixels)


def _squashed(name: str) -> Case:
    # Shapes as if fy were 75 px, at centres for 80: variances 25.3 and 14.3625 px^2.
    camera = one_view(pinhole(64, 48, 100.0, 80.0), 64, 48)
    pixels = (
        Pixel(31, 23, (0.7891590, 0.2108410), 1.5783180, 0.7891590),
        Pixel(34, 27, (0.4615711, 0.5384289), 0.9231422, 0.4615711),
    )
    settings = RasterSettings(background=BEHIND, legacy_fov_y=True)
    return Case(name, spheres(((0.0, 0.0, 2.0), 0.1, 0.8, 0)), camera, settings, pixels=pixels)


def _alpha_threshold(name: str) -> Case:
    # 0.14 px off a pixel's centre, opacities one percent above and below 1/255: the first shows in one pixel only.
    camera = one_view(pinhole(64, 64, 100.0, cx=31.6, cy=31.6), 64, 64)
    items = [((-0.2, 0.0, 2.0), 0.1, 1.01 / 255, 0), ((0.2, 0.0, 2.0), 0.1, 0.99 / 255, 0)]
    alpha = 1.01 / 255 * math.exp(-(0.1**2 + 0.1**2) / (2 * 25.3))
    pixels = (
        Pixel(21, 31, (alpha, 1 - alpha), 2 * alpha, alpha),
        Pixel(20, 31, NOTHING, 0.0, 0.0),
        Pixel(41, 31, NOTHING, 0.0, 0.0),
    )
    return Case(name, spheres(*items), camera, RasterSettings(background=BEHIND), pixels=pixels)


def _behind_and_beside(name: str) -> Case:
    unseen = [((0.0, 0.0, -2.0), 0.1, 1.0, 1), ((0.0, 0.0, -0.1), 5.0, 1.0, 1), ((5.0, 0.0, 2.0), 0.1, 1.0, 1)]
    seen = Pixel(31, 31, (0.4950836, 0.5049164), 0.9901672, 0.4950836)
    return _analytic(name, spheres(*unseen, half(FRONT)), seen, Pixel(0, 31, NOTHING, 0.0, 0.0), Pixel(63, 31, NOTHING, 0.0, 0.0))


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
        spheres(half(FRONT), BACK),
        Pixel(31, 31, (0.4950836, 0.5049164), 2.9896361, 0.9949508),
    ),
    "oblique": lambda name: _analytic(
        name,
        spheres(OBLIQUE),
        Pixel(51, 39, (0.7947127, 0.2052873), 1.9867817, 0.7947127),
    ),
    **{f"vectors_{dialect}": _vectors for dialect in DIALECTS},
    "off_centre": _off_centre,
    "alpha_threshold": _alpha_threshold,
    "behind_and_beside": _behind_and_beside,
    "tie": lambda name: _analytic(  # same place: the first of the input is in front
        name,
        spheres(half(FRONT), (*half(FRONT)[:3], 1)),
        Pixel(31, 31, (0.4950836, 0.5049164), 1.4901189, 0.7450594),
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
    "early_stop": _with(transmittance_min=0.1, alpha_max=0.85),
    "tiles_12": _with(extent="tile3sigma", tile_size=12),
    "tiles_16": _with(extent="tile3sigma", tile_size=16),
    "principal_clamp": _with(clamp="principal"),
    "squashed": _squashed,
    "legacy_fov_y": _with(legacy_fov_y=True),
    "legacy_fov_y_principal": _with(legacy_fov_y=True, clamp="principal"),
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
    """Wrong shapes, types, values and gradients that nobody has, and cameras that are none, one argument each."""
    gaussians, cameras = random_scene(count=6, channels=3, views=2, width=16, height=12)
    assert gaussians.quaternions is not None
    good = Case("rejected", gaussians, cameras)

    def spoiled(value: Tensor, with_: float) -> Tensor:
        value = value.clone()
        value.view(-1)[-1] = with_
        return value

    found = []
    for name in FIELDS:
        value = getattr(gaussians, name)
        short = value[..., :-1] if name == "means" else value[:, :-1]  # the number of Gaussians is that of the means
        bad = [spoiled(value, math.nan), spoiled(value, math.inf), short, value.to(torch.float16)]
        found += [Rejection(name, replace(good, gaussians=replace(gaussians, **{name: v}))) for v in bad]
    for name in ("intrinsics", "world_to_camera"):
        value = getattr(cameras, name)
        bad = [spoiled(value, math.nan), value[:, :, :2], value.double(), value.clone().requires_grad_()]
        found += [Rejection(name, replace(good, cameras=replace(cameras, **{name: v}))) for v in bad]

    def with_entry(matrices: Tensor, row: int, column: int, value: float) -> Tensor:
        """The last view's matrix with one other entry."""
        matrices = matrices.clone()
        matrices[0, -1, row, column] = value
        return matrices

    k, pose = cameras.intrinsics, cameras.world_to_camera
    no_pinholes = [
        with_entry(k, 0, 1, 0.5),  # skew
        with_entry(k, 1, 0, 0.5),
        with_entry(k, 2, 2, 2.0),
        with_entry(k, 2, 0, 0.01),
        with_entry(k, 0, 0, -10.0),  # focal lengths
        with_entry(k, 1, 1, 0.0),
        k.mT.contiguous(),
    ]
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    half = torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0]))
    no_poses = [
        pose.mT.contiguous(),
        mirror @ pose,
        half @ pose,
        torch.diag(torch.tensor([1.01, 1.0, 1.0, 1.0])) @ pose,
        with_entry(pose, 3, 3, 0.0),
        with_entry(pose, 3, 0, 1.0),
        torch.zeros_like(pose),
    ]
    found += [Rejection("intrinsics", replace(good, cameras=replace(cameras, intrinsics=bad))) for bad in no_pinholes]
    found += [Rejection("world_to_camera", replace(good, cameras=replace(cameras, world_to_camera=bad))) for bad in no_poses]
    sizes: list[Any] = [0, -1, 16.0, 1 << 21, True, "16", None]
    found += [Rejection("width and height", replace(good, cameras=replace(cameras, width=size))) for size in sizes]
    found += [Rejection("width and height", replace(good, cameras=replace(cameras, height=size))) for size in sizes]
    found += [Rejection("opacities", replace(good, gaussians=replace(gaussians, opacities=spoiled(gaussians.opacities, v))))
              for v in (-0.1, 1.1, -4.0)]  # fmt: skip
    found += [Rejection("scales", replace(good, gaussians=replace(gaussians, scales=spoiled(gaussians.scales, v))))
              for v in (-0.1, -3.0)]  # fmt: skip
    for length in (0.0, 1e-20, 1e20):
        turned = gaussians.quaternions.clone()
        turned[0, -1] = length
        found.append(Rejection("quaternions", replace(good, gaussians=replace(gaussians, quaternions=turned))))
    moving = replace(good, gaussians=replace(gaussians, means=gaussians.means[:, None].repeat(1, 2, 1, 1)))
    times = [None, torch.tensor([0, 2]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0]), torch.tensor([0])]
    found += [Rejection("time_index", replace(moving, cameras=replace(cameras, time_index=index))) for index in times]
    found += [
        Rejection("quaternions", replace(good, gaussians=replace(gaussians, quaternions=None))),
        Rejection("time_index", replace(good, cameras=replace(cameras, time_index=torch.tensor([0, 0])))),
        Rejection("background", replace(good, settings=RasterSettings(background=torch.zeros(2)))),
        Rejection("background", replace(good, settings=RasterSettings(background=torch.full((3,), math.nan)))),
        Rejection("visible", replace(good, visible=torch.ones(1, 2, 5, dtype=torch.bool))),
        Rejection("visible", replace(good, visible=torch.ones(1, 2, 6))),
        Rejection("visible", replace(good, visible=cast(Any, [[[True] * 6] * 2]))),
        Rejection("opacities", replace(good, gaussians=replace(gaussians, opacities=cast(Any, gaussians.opacities.numpy())))),
    ]
    return found
