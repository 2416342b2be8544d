"""The diff_gauss adapter against the packages' call signature with the reference renderer behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from renderer_doubles import assert_exact, fake_original

from renderers.cases import CASES
from renderers.dialects import DIALECTS
from renderers.diff_gauss import DiffGaussRenderer, projection_matrix
from renderers.interface import RasterSettings, SettingNotSupported
from renderers.registry import RendererUnavailable
from renderers.scenes import one_view, pinhole, random_scene, spheres

pytestmark = pytest.mark.usefixtures("one_thread")
BUILDS: dict[str, dict[str, Any]] = {
    "gaussrender": {"package": "diff_gauss", "channels": 19, "tile_size": 12},
    "stock": {"package": "diff_gauss", "channels": 3, "tile_size": 16},
    "graphdeco": {"package": "diff_gaussian_rasterization", "channels": 3, "tile_size": 16},
    "graphdeco_antialiasing": {
        "package": "diff_gaussian_rasterization",
        "channels": 3,
        "tile_size": 16,
        "antialiasing": True,
    },
}


def adapter(build: str) -> tuple[DiffGaussRenderer, Any]:
    library = fake_original(**BUILDS[build])
    return DiffGaussRenderer(library=library, device_type="cpu"), library


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "build",
    ["gaussrender", pytest.param("stock", marks=pytest.mark.slow), pytest.param("graphdeco", marks=pytest.mark.slow)],
)
def test_every_case_exactly(build: str, case: str) -> None:
    renderer, library = adapter(build)
    scene = CASES[case]()
    library.cameras = scene.cameras
    # quaternions of other lengths are normalised by the adapter, and once more behind the double
    assert_exact(renderer, scene, 5e-6 if case == "quaternion_lengths" else 1e-6)


def test_the_double_refuses_other_cameras() -> None:
    renderer, library = adapter("gaussrender")
    case = CASES["off_centre"]()
    intrinsics = case.cameras.intrinsics.clone()
    intrinsics[..., 1, 2] += 1e-3
    library.cameras = replace(case.cameras, intrinsics=intrinsics)
    with pytest.raises(AssertionError, match="none of the cameras"):
        renderer.render(case.gaussians, case.cameras, renderer.native(case.settings))


@pytest.mark.parametrize("build", BUILDS)
def test_compiled_widths_are_measured_without_reading_out_of_bounds(build: str) -> None:
    renderer, library = adapter(build)
    expected = BUILDS[build]
    assert renderer.build.colours == expected["channels"]
    assert renderer.build.extras == (34 if expected["package"] == "diff_gauss" else 0)
    assert renderer.dialect == DIALECTS["gaussrender" if expected["tile_size"] == 12 else "original"]
    assert len(library.calls) == 1


def test_a_build_with_other_constants_is_refused() -> None:
    with pytest.raises(RendererUnavailable, match="0.90000 at its centre.*renderers.build"):
        DiffGaussRenderer(library=fake_original("diff_gauss", 19, 12, alpha_max=0.9), device_type="cpu")


@pytest.mark.parametrize(
    ("build", "channels", "passes", "extras"),
    [
        ("gaussrender", 17, 1, [0]),
        ("gaussrender", 19, 1, [0]),
        ("gaussrender", 20, 1, [1]),
        ("gaussrender", 64, 2, [34, 0]),
        ("stock", 3, 1, [0]),
        ("stock", 18, 1, [15]),
        ("stock", 40, 2, [34, 0]),
        ("graphdeco", 1, 1, [0]),  # with alpha and depth: 3
        ("graphdeco", 18, 7, [0] * 7),
    ],
)
def test_passes(build: str, channels: int, passes: int, extras: list[int]) -> None:
    renderer, library = adapter(build)
    gaussians, cameras = random_scene(count=8, channels=channels, width=10, height=9)
    library.calls.clear()
    library.calls.append(None)  # the double takes its first call for the probe
    renderer.render(gaussians, cameras, renderer.native(RasterSettings()))
    calls = [arguments for _, arguments in library.calls[1:]]
    assert len(calls) == passes
    assert [a["extra_attrs"].shape[1] if "extra_attrs" in a else 0 for a in calls] == extras


@pytest.mark.parametrize("build", ["gaussrender", "stock", "graphdeco"])
def test_background_stands_behind_every_channel(build: str) -> None:
    # Alpha at the centre is 0.99: one percent of each channel's own background shows, extra attributes included.
    renderer, _ = adapter(build)
    background = torch.arange(1.0, 25.0)
    settings = renderer.native(RasterSettings(background=background))
    camera = one_view(pinhole(64, 64, 100.0), 64, 64)
    out = renderer.render(spheres(((0.0, 0.0, 2.0), 0.1, 1.0, 0), classes=24), camera, settings)
    expected = 0.01 * background
    expected[0] += 0.99
    torch.testing.assert_close(out.features[0, 0, 31, 31], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.features[0, 0, 0, 0], background)


def test_projection_reaches_the_pixel_of_the_intrinsics() -> None:
    intrinsics = pinhole(1600, 900, 1266.0, 1257.0, 816.3, 491.5)
    point = torch.tensor([1.7, -0.6, 9.0])
    clip = projection_matrix(intrinsics, 1600, 900, 0.2) @ torch.cat([point, torch.ones(1)])
    index = ((clip[:2] / clip[3] + 1) * torch.tensor([1600.0, 900.0]) - 1) / 2
    pixel = (intrinsics @ point)[:2] / point[2]
    torch.testing.assert_close(index + 0.5, pixel, atol=1e-3, rtol=0)


def test_only_visible_gaussians_are_passed_on() -> None:
    renderer, library = adapter("gaussrender")
    gaussians, cameras = random_scene(count=6, views=3, width=8, height=8)
    visible = torch.zeros(1, 3, 6, dtype=torch.bool)
    visible[0, 0, :4] = True
    visible[0, 2, 5] = True
    renderer.render(gaussians, cameras, renderer.native(RasterSettings()), visible)
    drawn = [arguments["means3D"] for _, arguments in library.calls[1:]]
    assert len(drawn) == 2, "an empty view never reaches a kernel"
    assert drawn[0].equal(gaussians.means[0, :4]) and drawn[1].equal(gaussians.means[0, 5:])


@pytest.mark.parametrize("name", ["near", "alpha_max", "extent", "clamp"])
def test_compiled_in_settings_are_refused_until_accepted(name: str) -> None:
    renderer, _ = adapter("gaussrender")
    other = {"near": 0.01, "alpha_max": 0.999, "extent": "iso", "clamp": "principal"}
    gaussians, cameras = random_scene(count=5, width=8, height=8)
    asked = renderer.native(RasterSettings()).with_(**{name: other[name]})
    with pytest.raises(SettingNotSupported, match=f"cannot honour {name}={other[name]!r}"):
        renderer.render(gaussians, cameras, asked)
    assert getattr(renderer.native(asked), name) == DIALECTS["gaussrender"].settings[name]


def test_a_build_that_fails_is_reported_in_one_line() -> None:
    library = fake_original("diff_gauss", 19, 12)

    def broken(_: object) -> None:
        raise RuntimeError("no kernel image is available\nfor execution")

    library.GaussianRasterizer = broken
    with pytest.raises(RendererUnavailable, match="diff_gauss does not run here: RuntimeError: no kernel image") as error:
        DiffGaussRenderer(library=library, device_type="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_unavailable_without_cuda_and_says_what_to_do() -> None:
    state = DiffGaussRenderer.availability()
    assert not state and state.reason
    assert "python -m renderers.build diff_gauss" in state.remedy and "CUDA" in state.remedy
