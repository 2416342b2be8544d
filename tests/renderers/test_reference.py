"""The reference renderer against numbers computed by hand, finite differences, and its own invariances."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import renderers.reference as reference
from renderers.cases import BACK, BEHIND, CASES, FRONT, OBLIQUE, Case, half
from renderers.dialects import DIALECTS
from renderers.interface import Cameras, Gaussians, RasterSettings, Rendering
from renderers.reference import ReferenceRenderer
from renderers.scenes import bird_eye, one_view, pinhole, random_scene, spheres

pytestmark = pytest.mark.usefixtures("one_thread")

HALF = half(FRONT)
EMPTY = (0.0, 1.0, 0.0, 0.0)
DTYPES = [torch.float32, torch.float64]


def render(case: Case) -> Rendering:
    return ReferenceRenderer().render(case.gaussians, case.cameras, case.settings, case.visible)


def at(out: Rendering, x: int, y: int) -> torch.Tensor:
    """Features, depth and alpha of a pixel as one float64 vector."""
    return torch.cat([out.features[0, 0, y, x], out.depth[0, 0, y, x][None], out.alpha[0, 0, y, x][None]]).double()


def scene(*items: tuple[tuple[float, float, float], float, float, int], **settings: object) -> Case:
    camera = one_view(pinhole(64, 64, 100.0), 64, 64)
    return Case("", spheres(*items), camera, RasterSettings(background=BEHIND).with_(**settings))


# Computed with a scalar implementation, seven digits: (Gaussians, pixel, dialect, class 0, class 1, depth, alpha).
ALL = ["gaussrender", "original", "gsplat-1.5", "gsplat-1.6"]
AT_99 = ["gaussrender", "original", "gsplat-1.6"]
BOXES, CONTOURS = ["gaussrender", "original"], ["gsplat-1.5", "gsplat-1.6"]
VECTORS = [
    ((FRONT,), (31, 31), AT_99, (0.99, 0.01, 1.98, 0.99)),
    ((FRONT,), (31, 31), ["gsplat-1.5"], (0.9901672, 0.0098327, 1.9803345, 0.9901672)),
    ((FRONT,), (41, 31), ALL, (0.1672045, 0.8327955, 0.3344090, 0.1672045)),
    ((FRONT,), (47, 31), ALL, (0.0086261, 0.9913739, 0.0172522, 0.0086261)),
    ((FRONT,), (48, 31), CONTOURS, (0.0045831, 0.9954169, 0.0091662, 0.0045831)),
    ((FRONT,), (48, 31), BOXES, EMPTY),  # beyond the tiles that its 3-sigma box touches
    ((FRONT,), (49, 31), ALL, EMPTY),  # alpha < 1/255
    ((FRONT, BACK), (31, 31), AT_99, (0.99, 0.01, 1.98, 0.99)),  # the stop rule excludes the second
    ((HALF, BACK), (31, 31), AT_99, (0.4950836, 0.5049164, 2.9896361, 0.9949508)),
    ((HALF, BACK), (31, 31), ["gsplat-1.5"], (0.4950836, 0.5049164, 2.9899738, 0.9950353)),
    ((OBLIQUE,), (51, 39), ALL, (0.7947127, 0.2052873, 1.9867817, 0.7947127)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("items", "pixel", "dialect", "expected"),
    [(items, pixel, dialect, expected) for items, pixel, dialects, expected in VECTORS for dialect in dialects],
)
def test_known_pixels(items, pixel, dialect, expected, dtype) -> None:
    out = render(scene(*items, **DIALECTS[dialect].settings).to(dtype=dtype))
    # seven printed digits; one unit more in the last for the float32 rounding of z
    torch.testing.assert_close(at(out, *pixel), torch.tensor(expected, dtype=torch.float64), atol=3e-7, rtol=0)


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("depth", ["accumulated", "expected"])
@pytest.mark.parametrize("extent", ["iso", "tile3sigma"])
@pytest.mark.parametrize("clamp", ["symmetric", "principal"])
def test_gradients_of_every_input(isotropic: bool, depth: str, extent: str, clamp: str) -> None:
    gaussians, cameras = random_scene(seed=4, count=7, channels=2, width=9, height=7, isotropic=isotropic, opacity=(0.1, 0.8))
    background = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    settings = RasterSettings(depth=depth, extent=extent, clamp=clamp, tile_size=4)  # type: ignore[arg-type]
    case = Case("", gaussians, cameras, settings).to(dtype=torch.float64)
    names = ["means", "scales", "opacities", "features"] + ([] if isotropic else ["quaternions"])

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *fields, behind = values
        changed = replace(case.gaussians, **dict(zip(names, fields, strict=True)))
        out = ReferenceRenderer().render(changed, case.cameras, settings.with_(background=behind))
        return out.features, out.depth, out.alpha

    inputs = [getattr(case.gaussians, name).requires_grad_() for name in names]
    assert torch.autograd.gradcheck(function, [*inputs, background], eps=1e-6, atol=1e-5, rtol=1e-4)
    features, *_ = function(*inputs, background)
    touched = torch.autograd.grad(features.square().sum(), inputs)
    assert all(float(g.abs().max()) > 1e-6 for g in touched), "a scene in which some input does not matter tests nothing"


def test_gradient_passes_the_alpha_limit_or_not() -> None:
    camera = one_view(pinhole(1, 1, 100.0), 1, 1)

    def opacity_gradient(clamp_gradient: bool) -> float:
        gaussians = spheres(((0.0, 0.0, 2.0), 0.1, 0.9, 0), classes=1)
        opacities = gaussians.opacities.clone().requires_grad_()
        settings = RasterSettings(alpha_max=0.5, clamp_gradient=clamp_gradient)
        ReferenceRenderer().render(replace(gaussians, opacities=opacities), camera, settings).alpha.sum().backward()
        assert opacities.grad is not None
        return float(opacities.grad)

    assert opacity_gradient(True) == pytest.approx(1.0)  # the pixel is at the centre: d alpha / d opacity = 1
    assert opacity_gradient(False) == 0.0


def test_jacobian_limit_in_both_rules() -> None:
    # tan(fov/2) = 0.32 on both sides; x/z = 1 is far outside. f/z = 100 px/m, sigma 0.1 m, so 100 px^2 before the tilt.
    intrinsics = pinhole(64, 64, 100.0, cx=0.0)
    gaussians = spheres(((1.0, 0.0, 1.0), 0.1, 0.5, 0))
    cameras = one_view(intrinsics, 64, 64)

    def variance(clamp: str) -> float:
        settings = RasterSettings(clamp=clamp)  # type: ignore[arg-type]
        a, b, c = reference.project(gaussians, cameras, settings, 0, 0, None).conic[0].tolist()
        return c / (a * c - b * b)  # Sxx

    assert variance("symmetric") == pytest.approx(100 * (1 + (1.3 * 0.32) ** 2) + 0.3, rel=1e-5)
    assert variance("principal") == pytest.approx(100 * (1 + (0.64 + 0.3 * 0.32) ** 2) + 0.3, rel=1e-5)
    centred = one_view(pinhole(64, 64, 100.0), 64, 64)
    conics = [
        reference.project(gaussians, centred, RasterSettings(clamp=clamp), 0, 0, None).conic  # type: ignore[arg-type]
        for clamp in ("symmetric", "principal")
    ]
    torch.testing.assert_close(*conics)  # one rule for a centred principal point


def test_limited_lateral_position_is_a_constant_for_depth_only_in_the_original() -> None:
    # J02 = -f * limit / z: the full derivative by z is f * limit / z^2, the original's is twice that, since it holds
    # limit * z fixed. Only Sxx depends on it here.
    def dsxx_dz(clamp: str) -> float:
        means = torch.tensor([[[1.0, 0.0, 1.0]]], dtype=torch.float64, requires_grad=True)
        one = spheres(((1.0, 0.0, 1.0), 0.1, 0.5, 0))
        case = Case("", one, one_view(pinhole(64, 64, 100.0), 64, 64)).to(dtype=torch.float64)
        settings = RasterSettings(clamp=clamp)  # type: ignore[arg-type]
        projected = reference.project(replace(case.gaussians, means=means), case.cameras, settings, 0, 0, None)
        a, b, c = projected.conic[0]
        (gradient,) = torch.autograd.grad(c / (a * c - b * b), means)
        assert float(gradient[0, 0, 0]) == pytest.approx(0.0, abs=1e-9), "none by x, which the limit hides"
        return float(gradient[0, 0, 2])

    limit, variance = 1.3 * 0.32, 0.01 * 100.0**2
    # Sxx = s^2 ((f/z)^2 + J02^2) at z = 1
    assert dsxx_dz("principal") == pytest.approx(-2 * variance - 2 * variance * limit**2)
    assert dsxx_dz("symmetric") == pytest.approx(-2 * variance - 4 * variance * limit**2)


@pytest.mark.parametrize("extent", ["iso", "tile3sigma"])
def test_chunks_and_blocks_do_not_show(extent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["deep"]()
    case = replace(case, settings=case.settings.with_(extent=extent)).to(dtype=torch.float64)
    whole = render(case)
    monkeypatch.setattr(reference, "PAIRS", 500)  # a Gaussian or two at a time
    monkeypatch.setattr(reference, "BLOCK", 13)
    parts = render(case)
    for name in ("features", "depth", "alpha"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-12, rtol=0)


def test_extent_iso_reaches_exactly_the_contour() -> None:
    case = replace(scene(((0.013, -0.07, 2.0), 0.1, 0.7, 0)), settings=RasterSettings()).to(dtype=torch.float64)
    alpha = render(case).alpha[0, 0]
    # centre (32.65, 28.5) px, variance 25.3 px^2 on the axis; tilt changes it by less than 0.2 %
    x, y = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="xy")
    true = 0.7 * torch.exp(-((x - 32.65) ** 2 + (y - 28.5) ** 2) / (2 * 25.3))
    assert bool((alpha[true > 1.1 / 255] > 0).all()) and not bool(alpha[true < 0.9 / 255].any())
    assert float(alpha[alpha > 0].min()) >= 1 / 255 - 1e-9


@pytest.mark.parametrize("tile_size", [12, 16])
def test_three_sigma_boxes_lose_at_most_the_tail(tile_size: int) -> None:
    # Outside the box of 3 sigma, alpha is below opacity * exp(-4.5). For both tile sizes a border lies at column 48.
    exact = render(scene(FRONT, extent="iso"))
    boxed = render(scene(FRONT, extent="tile3sigma", tile_size=tile_size))
    lost = (exact.alpha - boxed.alpha).abs()
    assert 0 < float(lost.max()) <= math.exp(-4.5)
    assert float(lost[0, 0, 12:48, 12:48].max()) == 0, "nothing is lost inside the touched tiles"


@pytest.mark.parametrize("dataset", ["occ3d", "surroundocc", "kitti360"])
def test_equal_depths_blend_in_input_order(dataset: str) -> None:
    gaussians, cameras = bird_eye(dataset)
    z = (gaussians.means @ cameras.world_to_camera[0, 0, 2, :3]) + cameras.world_to_camera[0, 0, 2, 3]
    assert len(z.unique()) <= 3, "the scene has layers of equal depth"
    projected = reference.project(gaussians, cameras, RasterSettings(), 0, 0, None)
    order = {tuple(f): i for i, f in enumerate(gaussians.features[0].tolist())}
    indices = torch.tensor([order[tuple(f)] for f in projected.payload[:, :-1].tolist()])
    depths = projected.payload[:, -1]
    assert bool((depths.diff() >= 0).all())
    for depth in depths.unique():
        assert bool((indices[depths == depth].diff() > 0).all())


def test_order_of_inputs_does_not_matter_when_depths_differ() -> None:
    case = CASES["random"]().to(dtype=torch.float64)
    shuffle = torch.randperm(case.gaussians.count, generator=torch.Generator().manual_seed(3))
    g = case.gaussians
    assert g.quaternions is not None
    shuffled = Gaussians(
        g.means[:, shuffle], g.scales[:, shuffle], g.opacities[:, shuffle], g.features[:, shuffle], g.quaternions[:, shuffle]
    )
    a, b = render(case), render(replace(case, gaussians=shuffled))
    torch.testing.assert_close(a.features, b.features, atol=1e-12, rtol=0)


def test_invisible_equals_absent() -> None:
    case = CASES["random"]()
    keep = torch.rand(case.gaussians.count, generator=torch.Generator().manual_seed(5)) < 0.5
    g = case.gaussians
    assert g.quaternions is not None
    some = Gaussians(g.means[:, keep], g.scales[:, keep], g.opacities[:, keep], g.features[:, keep], g.quaternions[:, keep])
    masked, removed = render(replace(case, visible=keep[None, None])), render(replace(case, gaussians=some))
    assert masked.features.equal(removed.features) and masked.depth.equal(removed.depth)


def test_isotropic_equals_three_equal_scales() -> None:
    case = CASES["isotropic"]()
    turned = torch.randn(1, case.gaussians.count, 4, generator=torch.Generator().manual_seed(2))
    full = replace(case.gaussians, scales=case.gaussians.scales.expand(-1, -1, 3), quaternions=turned)
    torch.testing.assert_close(render(case).features, render(replace(case, gaussians=full)).features, atol=2e-5, rtol=0)


def test_time_slices() -> None:
    case = CASES["moving"]()
    out = render(case)
    assert case.cameras.time_index is not None
    for view, t in enumerate(case.cameras.time_index.tolist()):
        still = replace(case.gaussians, means=case.gaussians.means[:, t])
        cameras = replace(case.cameras, time_index=None)
        alone = ReferenceRenderer().render(still, cameras, case.settings)
        assert out.features[:, view].equal(alone.features[:, view])


def test_expected_depth_is_the_depth_of_a_lone_gaussian() -> None:
    out = render(scene(OBLIQUE, depth="expected"))
    seen = out.alpha > 0
    torch.testing.assert_close(out.depth[seen], torch.full_like(out.depth[seen], 2.5), atol=1e-4, rtol=0)
    assert not out.depth[~seen].any()


def test_nothing_to_see_still_has_gradients() -> None:
    case = scene(((0.0, 0.0, -3.0), 0.1, 0.5, 0))
    opacities = case.gaussians.opacities.clone().requires_grad_()
    out = ReferenceRenderer().render(replace(case.gaussians, opacities=opacities), case.cameras, case.settings)
    assert out.features.equal(BEHIND.expand_as(out.features)) and not out.alpha.any() and not out.depth.any()
    out.features.sum().backward()
    assert opacities.grad is not None and not opacities.grad.any()


def test_no_views() -> None:
    case = scene(FRONT)
    cameras = Cameras(case.cameras.intrinsics[:, :0], case.cameras.world_to_camera[:, :0], 64, 48)
    out = ReferenceRenderer().render(case.gaussians, cameras, case.settings)
    assert out.features.shape == (1, 0, 48, 64, 2) and out.depth.shape == out.alpha.shape == (1, 0, 48, 64)


def test_mixed_precision_training_does_not_reach_in() -> None:
    case = scene(FRONT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = render(case)
    assert out.features.equal(render(case).features) and out.features.dtype == torch.float32
