"""Every backend that runs here against the contract, and the check itself against backends that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from contract_checks import CHECKS
from renderer_doubles import FakeGsplat, fake_original
from torch import Tensor

from renderers import availability, get, names
from renderers.conformance import CASES, check, rejections
from renderers.diff_gauss import DiffGaussRenderer
from renderers.gsplat import GsplatRenderer
from renderers.interface import Cameras, Gaussians, RasterSettings, Renderer, Rendering
from renderers.reference import ReferenceRenderer

pytestmark = pytest.mark.usefixtures("one_thread")

AVAILABLE = [name for name in names() if availability(name)]
CUDA = ("triton", "gsplat", "diff_gauss")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", AVAILABLE)
def test_conforms(backend: str, case: str) -> None:
    result = check(get(backend), CASES[case](), device="cuda" if backend in CUDA else "cpu")
    assert result.ok, str(result)


@pytest.mark.parametrize("backend", AVAILABLE)
def test_bad_input_is_refused_by_name(backend: str) -> None:
    renderer = get(backend)
    for rejection in rejections():  # refused before any kernel runs, so CPU tensors do for every backend
        case = rejection.case
        with pytest.raises(ValueError, match=rejection.argument):
            renderer.render(case.gaussians, case.cameras, renderer.native(case.settings), case.visible)


# The CUDA adapters over doubles of their packages; triton's interpreter needs a process of its own (test_triton.py).
DOUBLES: dict[str, Callable[[], Renderer]] = {
    "gsplat over a double": lambda: GsplatRenderer(library=FakeGsplat("1.5.3"), device_type="cpu"),
    "diff_gauss over a double": lambda: DiffGaussRenderer(library=fake_original("diff_gauss", 19, 12), device_type="cpu"),
    "graphdeco's over a double": lambda: DiffGaussRenderer(
        library=fake_original("diff_gaussian_rasterization", 3, 16), device_type="cpu"
    ),
}


@pytest.mark.parametrize("keeps_to", CHECKS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("backend", [*(name for name in AVAILABLE if name not in CUDA), *DOUBLES])
def test_contract_beyond_images(backend: str, keeps_to: Callable[[Renderer], None]) -> None:
    keeps_to(DOUBLES[backend]() if backend in DOUBLES else get(backend))


@pytest.mark.parametrize("backend", DOUBLES)
def test_adapters_refuse_bad_input_too(backend: str) -> None:
    renderer = DOUBLES[backend]()
    for rejection in rejections():
        case = rejection.case
        with pytest.raises(ValueError, match=rejection.argument):
            renderer.render(case.gaussians, case.cameras, renderer.native(case.settings), case.visible)


class _Wrong(ReferenceRenderer):
    """A renderer with one mistake."""

    name = "wrong"

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering:
        if self.mistake == "half a pixel":
            shift = torch.zeros_like(cameras.intrinsics)
            shift[..., 0, 2] = 0.5
            cameras = replace(cameras, intrinsics=cameras.intrinsics + shift)
        if self.mistake == "fx for fy":
            intrinsics = cameras.intrinsics.clone()
            intrinsics[..., 1, 1] = intrinsics[..., 0, 0]
            cameras = replace(cameras, intrinsics=intrinsics)
        if self.mistake == "no gradient to means":
            gaussians = replace(gaussians, means=gaussians.means.detach())
        if self.mistake == "x, y, z, w":
            assert gaussians.quaternions is not None
            gaussians = replace(gaussians, quaternions=gaussians.quaternions.roll(1, -1))
        out = super()._render(gaussians, cameras, settings, visible)
        if self.mistake == "depth over alpha":
            out = replace(out, depth=out.depth / out.alpha.clamp_min(1e-10))
        return out


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        ("half a pixel", "features"),
        ("fx for fy", "alpha"),
        ("no gradient to means", "gradient of means"),
        ("x, y, z, w", "features"),
        ("depth over alpha", "depth"),
    ],
)
def test_the_check_finds_mistakes(mistake: str, found: str) -> None:
    result = check(_Wrong(mistake), CASES["random"]())
    assert not result.ok
    assert found in {d.what for d in result.differences if not d.ok}, str(result)


def test_the_check_finds_nan() -> None:
    class Nan(ReferenceRenderer):
        def _render(self, *arguments: object) -> Rendering:
            out = super()._render(*arguments)  # type: ignore[arg-type]
            return replace(out, features=out.features * float("nan"))

    assert not check(Nan(), CASES["one_gaussian"]()).ok


def test_cases_exercise_their_subject() -> None:
    """A case in which nothing is drawn, or in which its setting changes nothing, would pass with anything."""
    base = RasterSettings()
    for name in (
        "expected_depth",
        "far",
        "low_pass",
        "alpha_limits",
        "early_stop",
        "tiles_12",
        "principal_clamp",
        "legacy_fov_y",
    ):
        case = CASES[name]()
        with_, without = (
            ReferenceRenderer().render(case.gaussians, case.cameras, s, case.visible) for s in (case.settings, base)
        )
        change = (with_.features - without.features).abs().max() + (with_.depth - without.depth).abs().max()
        assert float(change) > 1e-3, name
    for name, build in CASES.items():
        case = build()
        if name != "no_gaussians":
            out = ReferenceRenderer().render(case.gaussians, case.cameras, case.settings, case.visible)
            assert float(out.alpha.max()) > (0.05 if name != "alpha_threshold" else 1 / 255), name
