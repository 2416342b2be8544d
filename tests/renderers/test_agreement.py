"""Differences between dialects: predicted, met, and not taken for mistakes; mistakes not taken for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
import torch
from contract_checks import device_of

import renderers.reference as reference
from renderers import availability, get, names
from renderers.agreement import DIFFERENCES, Prediction, compare, compare_dialects, predict, shared_settings
from renderers.cases import BEHIND, CASES, FRONT, Case, half
from renderers.dialects import CONTRACT, DIALECTS, Dialect
from renderers.interface import RasterSettings
from renderers.reference import ReferenceRenderer, emulate
from renderers.scenes import one_view, pinhole, random_scene, spheres

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = [("gaussrender", "original"), ("gaussrender", "gsplat-1.5"), ("original", "gsplat-1.6"), ("gsplat-1.5", "gsplat-1.6")]
# On these the pair that parts in most is compared, all pairs on one case more; the rest is slow.
QUICK = ("saturation_stops", "equal_depths", "off_screen", "wide", "bev_kitti360", "deep", "expected_depth", "none_visible")


def _compared() -> Iterator[Any]:
    for case in CASES:
        if case.startswith(("channels", "vectors")):
            continue
        for pair in PAIRS:
            quick = case == "random_opaque" or (case in QUICK and pair == ("gaussrender", "gsplat-1.5"))
            yield pytest.param(pair, case, id=f"{'-'.join(pair)}-{case}", marks=() if quick else pytest.mark.slow)


AVAILABLE = [name for name in names() if availability(name)]


@pytest.mark.parametrize(("pair", "case"), _compared())
def test_pairs_differ_as_predicted(pair: tuple[str, str], case: str) -> None:
    result = compare_dialects(*pair, CASES[case]())
    assert result.ok, str(result)


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_backends_that_run_here_agree_with_every_dialect(backend: str, dialect: str) -> None:
    result = compare(get(backend), emulate(dialect), CASES["random_opaque"](), devices=(device_of(backend), "cpu"))
    assert result.ok, str(result)


def scene(*items: Any, **settings: Any) -> Case:
    camera = one_view(pinhole(64, 64, 100.0), 64, 64)
    return Case("scene", spheres(*items), camera, RasterSettings(background=BEHIND, **settings))


def predicted(a: str, b: str, case: Case) -> tuple[Prediction, dict[str, torch.Tensor], torch.Tensor]:
    """The prediction, its weights by code, and the change of alpha in double precision, [V, H, W] of the first scene."""
    prediction = predict(DIALECTS[a], DIALECTS[b], case)
    double = case.to(dtype=torch.float64)
    outs = [
        ReferenceRenderer().render(double.gaussians, double.cameras, replace(s, background=None)) for s in prediction.settings
    ]
    change = (outs[0].alpha - outs[1].alpha).abs()
    assert bool((change <= prediction.alpha + 1e-9).all())
    return prediction, {e.code: e.weight[0, 0] for e in prediction.effects}, change[0, 0]


def test_d1_saturated_pixels() -> None:
    prediction, weights, change = predicted("gsplat-1.5", "gsplat-1.6", scene(FRONT))
    at = (31, 31)
    assert float(weights["D1"][at]) == pytest.approx(0.009, rel=1e-5), "0.999 - 0.99"
    assert float(prediction.depth[0, 0][at]) == pytest.approx(0.009 * 2.0, rel=1e-3), "0.9 % of z"
    assert float(change[at]) == pytest.approx(0.9901672 - 0.99, abs=1e-6), "saturated, but below the higher limit"
    assert float(weights["D1"][31, 40]) == 0.0 == float(change[31, 40])


def test_d2_the_tail_beyond_the_tiles() -> None:
    _, weights, change = predicted("gaussrender", "gsplat-1.6", scene(FRONT))
    assert float(change[31, 48]) == pytest.approx(0.0045831, abs=1e-6)
    # 16 px box, standard deviation 5.03 px
    assert float(weights["D2"][31, 48]) == pytest.approx(math.exp(-0.5 * 15**2 / 25.3), rel=1e-3)
    assert not weights["D2"][:, 12:48][12:48].any(), "nothing is lost inside the touched tiles"


def test_d2_overlapping_tails_add_up() -> None:
    items = [((0.0, 0.0, 2.0 + 0.001 * k), 0.1, 1.0, k % 2) for k in range(5)]
    _, weights, _ = predicted("gaussrender", "gsplat-1.6", scene(*items))
    _, one, _ = predicted("gaussrender", "gsplat-1.6", scene(items[0]))
    assert 3 * float(one["D2"].max()) < float(weights["D2"].max()) <= 5 * float(one["D2"].max())


def test_d2_the_box_can_end_almost_a_pixel_inside_three_sigma() -> None:
    """A centre between pixels: the tile rectangle is cut at trunc(u + radius), less than 3 sigma away. The bound covers it,
    exp(-4.5) times the opacity would not."""
    variance = 1.45  # with the floor of the radius: 3 sqrt(1.45 + 0.316) = 3.99, so 4 px
    sigma = math.sqrt((variance - 0.3) / 50.0**2)
    camera = one_view(pinhole(48, 24, 100.0, cx=0.5 + 20.95, cy=12.5), 48, 24)
    case = Case("", spheres(((0.0, 0.0, 2.0), sigma, 1.0, 0)), camera, RasterSettings())
    _, weights, change = predicted("gaussrender", "gsplat-1.6", case)
    # centre at index 20.95: pixel 24, the first of the third tile, is 3.05 px away and dropped; three sigma are 3.61 px
    assert float(change[12, 24]) == pytest.approx(math.exp(-0.5 * 3.05**2 / variance), rel=1e-3)
    assert math.exp(-4.5) < float(change[12, 24]) <= float(weights["D2"][12, 24])


def test_d3_only_where_the_tiles_differ() -> None:
    assert "D3" not in predicted("gaussrender", "original", scene(FRONT))[1], "both end at column 48"
    moved = scene(((-0.22, 0.0, 2.0), 0.1, 1.0, 0))  # centre at index 20.5, box to 36.5: tiles to 36 and to 48
    _, weights, change = predicted("gaussrender", "original", moved)
    wide = 25 * (1 + 0.11**2) + 0.3  # variance along x, tilted
    assert float(change[31, 36]) == pytest.approx(math.exp(-0.5 * (15.5**2 / wide + 0.5**2 / 25.3)), rel=1e-4)
    assert not weights["D3"][:, :36].any()


def test_d9_covariance_beside_an_off_centre_camera() -> None:
    """Principal point on the left edge, tan(fov/2) = 0.5, x/z = 0.9: the limits are 0.65 and 1.15 (the bird's eye of
    KITTI-360)."""
    camera = one_view(pinhole(80, 80, 80.0, cx=0.0), 80, 80)
    case = Case("", spheres(((1.8, 0.0, 2.0), 0.05, 0.9, 0)), camera, RasterSettings())
    variances = []
    prediction = predict(DIALECTS["original"], DIALECTS["gsplat-1.6"], case)
    for settings in prediction.settings:
        a, b, c = reference.project(case.gaussians, camera, settings, 0, 0, None).conic[0].tolist()
        variances.append(c / (a * c - b * b))
    assert variances == pytest.approx([4 * (1 + 0.65**2) + 0.3, 4 * (1 + 0.9**2) + 0.3], rel=1e-5)
    _, weights, change = predicted("original", "gsplat-1.6", case)
    assert 0.01 < float(change.max()) <= float(weights["D9"].max())
    centred = replace(case, cameras=one_view(pinhole(80, 80, 80.0), 80, 80))
    assert "D9" not in predicted("original", "gsplat-1.6", centred)[1], "inside the limits both rules are one"


def test_d10_is_about_gradients_only() -> None:
    prediction, weights, _ = predicted("original", "gsplat-1.6", scene(FRONT))
    assert not weights["D10"].any()
    (effect,) = [e for e in prediction.effects if e.code == "D10"]
    # opacity 1, so the density is above 0.99 within sqrt(-2 ln 0.99 25.3) = 0.71 px of the centre at 31.5
    assert effect.touched.nonzero()[:, 2:].tolist() == [[31, 31], [31, 32], [32, 31], [32, 32]]
    assert not any(e.code == "D10" for e in predict(DIALECTS["original"], DIALECTS["gsplat-1.6"], scene(half(FRONT))).effects)


def test_the_stop_rule_can_amplify_a_difference() -> None:
    """Alpha 0.97 leaves 0.03; behind it a saturated Gaussian leaves 3e-4 at 0.99 and counts, 3e-5 at 0.999 and is excluded."""
    camera = one_view(pinhole(64, 64, 100.0, cx=31.5, cy=31.5), 64, 64)
    behind = ((0.0, 0.0, 4.0), 0.2, 1.0, 1)
    case = Case("", spheres(((0.0, 0.0, 2.0), 0.1, 0.97, 0), behind), camera, RasterSettings())
    _, weights, change = predicted("gsplat-1.5", "gsplat-1.6", case)
    assert float(change[31, 31]) == pytest.approx(0.03 * 0.99, rel=1e-4), "more than the 0.009 of a lone Gaussian"
    assert float(weights["stop"][31, 31]) == pytest.approx(0.03, rel=1e-4)
    result = compare_dialects("gsplat-1.5", "gsplat-1.6", case)
    assert result.ok and "stop" in str(result)


def test_one_dialect_has_no_differences_but_rounding() -> None:
    for name in DIALECTS:
        prediction = predict(DIALECTS[name], DIALECTS[name], CASES["random_opaque"]())
        assert {e.code for e in prediction.effects} <= {"D5", "D7"}
        assert bool(prediction.untouched.all()) and float(prediction.alpha.max()) < 2e-4


def test_every_difference_has_its_line() -> None:
    assert list(DIFFERENCES) == [f"D{k}" for k in range(1, 18)]


def test_settings_are_shared_as_far_as_both_can() -> None:
    a, b = shared_settings(DIALECTS["gaussrender"], DIALECTS["gsplat-1.5"], RasterSettings(near=0.01, low_pass=1.0))
    assert a.near == b.near == 0.2 and a.low_pass == b.low_pass == 0.3, "gsplat is given what the original has compiled in"
    assert (a.alpha_max, b.alpha_max) == (0.99, 0.999) and (a.extent, b.extent) == ("tile3sigma", "iso")
    strange = Dialect("strange", MappingProxyType({"alpha_min": 0.01}))
    with pytest.raises(ValueError, match="gaussrender and strange differ in alpha_min"):
        shared_settings(DIALECTS["gaussrender"], strange, RasterSettings())


class _Undeclared(ReferenceRenderer):
    """Renders with other settings than its dialect says."""

    name = "undeclared"

    def __init__(self, dialect: Dialect, **settings: Any) -> None:
        super().__init__(dialect)
        self.settings = settings

    def _render(self, gaussians, cameras, settings, visible):  # type: ignore[no-untyped-def]
        return super()._render(gaussians, cameras, settings.with_(**self.settings), visible)


@pytest.mark.parametrize(
    ("settings", "case", "found"),
    [
        ({"low_pass": 0.5}, "random", "features"),
        ({"alpha_max": 0.97}, "random_opaque", "alpha"),
        ({"clamp": "principal"}, "bev_kitti360", "features"),
        ({"clamp": "principal"}, "wide", "gradient of means beyond prediction"),
        ({"clamp_gradient": False}, "random_opaque", "gradient of opacities beyond prediction"),
        ({"tile_size": 5}, "random", "alpha"),
        ({"extent": "iso"}, "deep", "gradient of scales beyond prediction"),
        ({"transmittance_min": 0.009}, "deep", "alpha"),
        ({"alpha_min": 0.01}, "random", "alpha"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_undeclared_departures_are_found(settings: dict[str, Any], case: str, found: str) -> None:
    wrong = _Undeclared(DIALECTS["original"], **settings)
    result = compare(wrong, emulate("gaussrender"), CASES[case]())
    assert not result.ok
    assert found in {d.what for d in result.differences if not d.ok}, str(result)


def _dropped_jacobian_limit(x: torch.Tensor, *_: object) -> torch.Tensor:
    return x


@pytest.mark.parametrize(
    ("broken", "case", "found"),
    [
        ({"_clamped": _dropped_jacobian_limit}, "wide", "alpha"),
        ({"float32": lambda value: 0.5 * value if value == 0.99 else value}, "random_opaque", "alpha"),
    ],
)
def test_a_broken_kernel_is_found(
    broken: dict[str, Callable[..., Any]], case: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(ReferenceRenderer):
        def _render(self, *arguments):  # type: ignore[no-untyped-def]
            with monkeypatch.context() as patch:
                for name, function in broken.items():
                    patch.setattr(reference, name, function)
                return super()._render(*arguments)

    result = compare(Broken(DIALECTS["original"]), emulate("gsplat-1.6"), CASES[case]())
    assert found in {d.what for d in result.differences if not d.ok}, str(result)


def test_nan_never_agrees() -> None:
    class Nan(ReferenceRenderer):
        def _render(self, *arguments):  # type: ignore[no-untyped-def]
            out = super()._render(*arguments)
            return replace(out, depth=out.depth * float("nan"))

    assert not compare(Nan(CONTRACT), emulate("gsplat-1.6"), CASES["off_centre"]()).ok


def test_bounds_hold_for_each_alpha_on_random_scenes() -> None:
    """The prediction is a theorem: it holds in every pixel, decided or not, with little to spare where it says much."""
    for seed in range(3):
        gaussians, cameras = random_scene(seed=40 + seed, count=60, channels=3, spread=2.0, opacity=(0.2, 1.0), isotropic=True)
        case = Case("", gaussians, cameras, RasterSettings())
        for a, b in PAIRS:
            predicted(a, b, case)
