"""Gradients in closed form, written out for one pixel, against what the renderers return.

With contributors 1..K front to back, w_i = alpha_i T_i, and g_c, g_d, g_a the gradients of the pixel's features, depth, alpha:

    dL/dc_i = w_i g_c            dL/dz_i = w_i g_d (through depth alone)
    dL/dalpha_i = T_i ((c_i - B_i) . g_c + (z_i - Z_i) g_d + (1 - A_i) g_a) - T_(K+1) / (1 - alpha_i) background . g_c

with B_i, Z_i, A_i what is composited behind i, without background; alpha = opacity G, G = exp(-d' S^-1 d / 2).
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from renderers import Renderer, availability, get
from renderers.cases import Case
from renderers.interface import Gaussians, RasterSettings
from renderers.reference import ReferenceRenderer
from renderers.scenes import one_view, pinhole

pytestmark = pytest.mark.usefixtures("one_thread")

FOCAL, PIXEL = 100.0, (3.0, -2.0)  # px; the pixel lies at this offset from the axis
DEPTHS, SIGMAS, OPACITIES = (2.0, 2.5, 4.0), (0.08, 0.1, 0.2), (0.6, 0.3, 0.8)
COLOURS = ((0.2, -1.0), (0.5, 0.7), (-0.3, 0.4))
BACKGROUND = (0.25, -0.6)
G_FEATURES, G_DEPTH, G_ALPHA = (0.7, -1.3), 0.4, -0.9

CPU = pytest.param("cpu", marks=pytest.mark.skipif(not availability("cpu"), reason="no compiled op here"))


def on_axis(**settings: object) -> Case:
    """Three spheres on the axis of a camera of one pixel, which is off the axis."""
    camera = one_view(pinhole(1, 1, FOCAL, cx=0.5 - PIXEL[0], cy=0.5 - PIXEL[1]), 1, 1)
    gaussians = Gaussians(
        means=torch.tensor([[[0.0, 0.0, z] for z in DEPTHS]]),
        scales=torch.tensor([[[s] for s in SIGMAS]]),
        opacities=torch.tensor([OPACITIES]),
        features=torch.tensor([COLOURS]),
    )
    return Case("", gaussians, camera, RasterSettings(background=torch.tensor(BACKGROUND)).with_(**settings))


def gradients(renderer: Renderer, case: Case) -> dict[str, torch.Tensor]:
    """Of the pixel's features, depth and alpha weighted as above, [N, ...] of the only scene, float64."""
    names = [n for n in ("means", "scales", "opacities", "features", "quaternions") if getattr(case.gaussians, n) is not None]
    leaves = {n: getattr(case.gaussians, n).clone().requires_grad_() for n in names}
    out = renderer.render(Gaussians(**leaves), case.cameras, case.settings)
    loss = (
        (out.features * torch.tensor(G_FEATURES, dtype=torch.float64).to(out.features)).sum()
        + G_DEPTH * out.depth.sum()
        + G_ALPHA * out.alpha.sum()
    )
    return {n: g[0].double() for n, g in zip(names, torch.autograd.grad(loss, list(leaves.values())), strict=True)}


def dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def closed_form(opacities: tuple[float, ...] = OPACITIES, limit: float = 0.99) -> dict[str, list[list[float]] | list[float]]:
    """By the formulas, in plain Python."""
    variances = [(FOCAL * s / z) ** 2 + 0.3 for s, z in zip(SIGMAS, DEPTHS, strict=True)]
    squared = PIXEL[0] ** 2 + PIXEL[1] ** 2
    values = [math.exp(-0.5 * squared / v) for v in variances]
    alphas = [min(limit, o * g) for o, g in zip(opacities, values, strict=True)]
    front = [1.0]
    for alpha in alphas:
        front.append(front[-1] * (1 - alpha))
    behind_c, behind_z, behind_a = (0.0, 0.0), 0.0, 0.0
    found: dict[str, list] = {name: [None] * 3 for name in ("means", "scales", "opacities", "features")}
    for i in reversed(range(3)):
        z, alpha, t, sigma, variance = DEPTHS[i], alphas[i], front[i], SIGMAS[i], variances[i]
        difference = tuple(c - b for c, b in zip(COLOURS[i], behind_c, strict=True))
        by_alpha = t * (dot(difference, G_FEATURES) + (z - behind_z) * G_DEPTH + (1 - behind_a) * G_ALPHA)
        by_alpha -= front[3] / (1 - alpha) * dot(BACKGROUND, G_FEATURES)
        by_exponent = opacities[i] * values[i] * by_alpha  # dL/dG G; the original has no special case at the limit
        # the image position is f x / z and d = mean - pixel = -PIXEL on the axis, where the covariance does not tilt
        by_variance = by_exponent * 0.5 * squared / variance**2
        by_x = by_exponent * PIXEL[0] / variance * FOCAL / z
        by_y = by_exponent * PIXEL[1] / variance * FOCAL / z
        by_z = alpha * t * G_DEPTH - by_variance * 2 * (FOCAL * sigma) ** 2 / z**3
        found["means"][i] = [by_x, by_y, by_z]
        found["scales"][i] = [by_variance * 2 * sigma * (FOCAL / z) ** 2]
        found["opacities"][i] = values[i] * by_alpha
        found["features"][i] = [alpha * t * g for g in G_FEATURES]
        behind_c = tuple(alpha * c + (1 - alpha) * b for c, b in zip(COLOURS[i], behind_c, strict=True))
        behind_z, behind_a = alpha * z + (1 - alpha) * behind_z, alpha + (1 - alpha) * behind_a
    return found


@pytest.mark.parametrize("extent", ["iso", "tile3sigma"])
@pytest.mark.parametrize("backend", ["reference", CPU])
def test_closed_form(backend: str, extent: str) -> None:
    got = gradients(get(backend), on_axis(extent=extent))
    for name, expected in closed_form().items():
        torch.testing.assert_close(got[name], torch.tensor(expected, dtype=torch.float64), rtol=2e-5, atol=1e-6)


def test_closed_form_in_double_precision() -> None:
    case = on_axis().to(dtype=torch.float64)
    exact = replace(
        case.gaussians,  # the same decimals, not float32's
        scales=torch.tensor([[[s] for s in SIGMAS]], dtype=torch.float64),
        opacities=torch.tensor([OPACITIES], dtype=torch.float64),
        features=torch.tensor([COLOURS], dtype=torch.float64),
    )
    settings = replace(case.settings, background=torch.tensor(BACKGROUND, dtype=torch.float64))
    got = gradients(ReferenceRenderer(), replace(case, gaussians=exact, settings=settings))
    for name, expected in closed_form().items():
        torch.testing.assert_close(got[name], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", CPU])
def test_closed_form_at_the_limit_of_alpha(backend: str) -> None:
    """Where alpha is cut the original's gradient passes as if it were not; in gsplat what leads to alpha gets none."""
    case = on_axis(alpha_max=0.4)
    passing = closed_form(limit=0.4)
    got = gradients(get(backend), case)
    for name, expected in passing.items():
        torch.testing.assert_close(got[name], torch.tensor(expected, dtype=torch.float64), rtol=2e-5, atol=1e-6)
    got = gradients(get(backend), replace(case, settings=case.settings.with_(clamp_gradient=False)))
    cut = [
        o * math.exp(-0.5 * 13.0 / ((FOCAL * s / z) ** 2 + 0.3)) > 0.4 for o, s, z in zip(OPACITIES, SIGMAS, DEPTHS, strict=True)
    ]
    assert cut == [True, False, True]
    for i, limited in enumerate(cut):
        opacity, depth_only = passing["opacities"][i], G_DEPTH * float(got["features"][i, 0]) / G_FEATURES[0]
        assert float(got["opacities"][i]) == pytest.approx(0.0 if limited else opacity, rel=1e-4)
        if limited:
            assert got["means"][i].tolist() == pytest.approx([0.0, 0.0, depth_only], rel=1e-4), "depth still follows z"


@pytest.mark.parametrize("backend", ["reference", CPU])
def test_shape_gradients_of_a_round_gaussian_off_the_axis(backend: str) -> None:
    """S3 = s^2 I: by each axis dL/ds_k = 2 s (dL/dS3)_kk in its own axes, so by s it is 2 s tr(dL/dS3); rotation gets none.

    dL/dS3 = R' J' dL/dS2 J R, with dL/dS2 = dL/de (S2^-1 d)(S2^-1 d)' / 2.
    """
    camera = one_view(pinhole(1, 1, FOCAL, cx=0.5, cy=0.5), 1, 1)
    mean, sigma, opacity = torch.tensor([0.05, -0.03, 2.0], dtype=torch.float64), 0.1, 0.5
    gaussians = Gaussians(
        means=mean.float()[None, None],
        scales=torch.full((1, 1, 3), sigma),
        opacities=torch.tensor([[opacity]]),
        features=torch.tensor([[[0.2, -1.0]]]),
        quaternions=torch.tensor([[[0.8, -0.3, 0.4, 0.1]]]),
    )
    # the image is one pixel, 0.005 wide in tangents: the tilt of the Jacobian is limited to 1.3 of it
    limit = 1.3 * 1 / (2 * FOCAL)
    got = gradients(get(backend), Case("", gaussians, camera))
    z = float(mean[2])
    slopes = [max(-limit, min(limit, float(v) / z)) for v in mean[:2]]
    jacobian = torch.tensor([[FOCAL / z, 0, -FOCAL * slopes[0] / z], [0, FOCAL / z, -FOCAL * slopes[1] / z]], dtype=torch.float64)
    covariance = sigma**2 * jacobian @ jacobian.T + 0.3 * torch.eye(2, dtype=torch.float64)
    offset = FOCAL * mean[:2] / z  # of the mean from the pixel's centre
    value = math.exp(-0.5 * float(offset @ torch.linalg.solve(covariance, offset)))
    by_alpha = 0.2 * G_FEATURES[0] - 1.0 * G_FEATURES[1] + z * G_DEPTH + G_ALPHA
    reach = torch.linalg.solve(covariance, offset)
    by_image = 0.5 * by_alpha * opacity * value * torch.outer(reach, reach)
    by_space = jacobian.T @ by_image @ jacobian
    assert float(got["scales"].sum()) == pytest.approx(2 * sigma * float(by_space.trace()), rel=1e-4)
    assert float(got["quaternions"].abs().max()) < 1e-5 * float(got["scales"].abs().max())
    round_one = replace(gaussians, scales=gaussians.scales[..., :1], quaternions=None)
    alone = gradients(get(backend), Case("", round_one, camera))
    assert float(alone["scales"].sum()) == pytest.approx(2 * sigma * float(by_space.trace()), rel=1e-4)
