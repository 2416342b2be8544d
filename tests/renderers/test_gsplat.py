"""The gsplat adapter against gsplat's call signature with the reference renderer behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from renderer_doubles import COMPILED, FakeGsplat, assert_exact

from renderers.cases import CASES, Case
from renderers.dialects import DIALECTS
from renderers.gsplat import ChannelPlan, GsplatRenderer, parse_version, plan_channels
from renderers.interface import RasterSettings, SettingNotSupported
from renderers.registry import RendererUnavailable
from renderers.scenes import random_scene
from renderers.workloads import WORKLOADS, Source

pytestmark = pytest.mark.usefixtures("one_thread")
VERSIONS = ["1.5.3", "1.6.0"]


def adapter(version: str = "1.5.3", **options: bool) -> tuple[GsplatRenderer, FakeGsplat]:
    library = FakeGsplat(version)
    renderer = GsplatRenderer(library=library, device_type="cpu", **options)
    library.calls.clear()
    return renderer, library


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", ["1.5.3", pytest.param("1.6.0", marks=pytest.mark.slow)])
def test_every_case_exactly(version: str, case: str) -> None:
    assert_exact(adapter(version)[0], CASES[case]())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("channels", range(1, 101))
def test_every_pass_has_a_compiled_channel_count(version: str, channels: int) -> None:
    plan = plan_channels(channels, parse_version(version))
    total = channels + plan.padding + 1
    passes = [min(plan.chunk, total - start) for start in range(0, total, plan.chunk)]
    assert set(passes) <= COMPILED[version]
    assert sum(passes) == total and plan.padding >= 0
    assert len(passes) == -(-(channels + 1) // plan.chunk), "padding never adds a pass"


def test_plans_of_the_published_models() -> None:
    # 18 classes and depth; gsplat 1.5 would pad 19 to 32 by itself, 1.6 has a kernel for 21
    assert plan_channels(18, (1, 5)) == ChannelPlan(padding=13, chunk=32)
    assert plan_channels(18, (1, 6)) == ChannelPlan(padding=2, chunk=21)
    assert plan_channels(16, (1, 5)) == ChannelPlan(padding=0, chunk=17)
    assert plan_channels(32, (1, 6)) == ChannelPlan(padding=0, chunk=33)
    assert plan_channels(64, (1, 6)) == ChannelPlan(padding=0, chunk=32)


def test_arguments() -> None:
    renderer, library = adapter("1.5.3", packed=False)
    gaussians, cameras = random_scene(count=12, channels=18, batch=2, views=3, width=20, height=18)
    background = torch.arange(18.0)
    settings = renderer.native(RasterSettings(near=0.2, far=50.0, low_pass=0.4, background=background, depth="expected"))
    out = renderer.render(gaussians, cameras, settings)
    assert out.features.shape == (2, 3, 18, 20, 18)
    first, call = library.calls  # one a scene
    assert first["viewmats"].equal(cameras.world_to_camera[0]) and call["viewmats"].equal(cameras.world_to_camera[1])
    assert call["Ks"].equal(cameras.intrinsics[1]) and call["means"].equal(gaussians.means[1])
    assert call["quats"].equal(gaussians.quaternions[1]) and call["opacities"].equal(gaussians.opacities[1])
    assert call["colors"][..., :18].equal(gaussians.features[1]) and not call["colors"][..., 18:].any()
    assert call["backgrounds"] is None  # it takes none in its packed layout: the adapter adds what shines through
    plain = renderer.render(gaussians, cameras, settings.with_(background=None))
    assert out.features.equal(plain.features + (1 - plain.alpha[..., None]) * background)
    assert (call["width"], call["height"]) == (20, 18)
    assert 0.2 < call["near_plane"] < 0.2 + 1e-7, "gsplat keeps z == near_plane, the contract drops z == near"
    assert call["far_plane"] == 50.0 and call["eps2d"] == 0.4 and call["packed"] is False
    assert call["render_mode"] == "RGB+ED" and call["rasterize_mode"] == "classic"


def test_a_call_draws_all_views_and_masks_only_leave_out_what_they_hide() -> None:
    renderer, library = adapter()
    gaussians, cameras = random_scene(count=9, batch=2, views=3, width=8, height=8)
    settings = renderer.native(RasterSettings())
    renderer.render(gaussians, cameras, settings)
    assert [len(call["viewmats"]) for call in library.calls] == [3, 3]
    library.calls.clear()
    visible = torch.ones(2, 3, 9, dtype=torch.bool)
    visible[0, 1, 3] = False
    visible[0, 1, 5:] = False
    visible[1, 2] = False
    renderer.render(gaussians, cameras, settings, visible)
    assert [len(call["means"]) for call in library.calls] == [9, 4, 9, 9, 9], "what sees nothing never reaches a kernel"
    hidden = library.calls[1]
    assert hidden["means"].equal(gaussians.means[0, [0, 1, 2, 4]]), "in the input's order"
    library.calls.clear()
    out = renderer.render(gaussians, cameras, settings, torch.zeros_like(visible))
    assert not library.calls and not out.alpha.any()


@pytest.mark.parametrize(
    ("times", "calls"),
    [
        ([0, 0, 1, 1, 2, 2], [2, 2, 2]),
        ([2, 0, 1, 0, 1, 2], [2, 2, 2]),
        ([1, 1, 1, 1, 1, 1], [6]),
        ([2, 0, 0, 1, 2, 2], [3, 2, 1]),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_all_views_of_a_time_are_one_call(times: list[int], calls: list[int], masked: bool) -> None:
    renderer, library = adapter()
    gaussians, cameras = random_scene(seed=3, count=15, batch=2, views=6, width=12, height=10)
    offsets = torch.linspace(-0.4, 0.4, 3)[None, :, None, None]
    gaussians = replace(gaussians, means=gaussians.means[:, None] + offsets)
    cameras = replace(cameras, time_index=torch.tensor(times))
    visible = torch.rand(2, 6, 15, generator=torch.Generator().manual_seed(2)) < 0.6 if masked else None
    assert_exact(renderer, Case("times", gaussians, cameras, visible=visible))
    assert [len(call["viewmats"]) for call in library.calls] == (12 * [1] if masked else calls + calls)


def test_the_published_workload_is_a_call_a_time() -> None:
    renderer, library = adapter()
    (part,) = WORKLOADS["gaussianflowocc"].build(Source(shrink=32)).parts
    renderer.render(part.gaussians, part.cameras, renderer.native(part.settings))
    assert [len(call["viewmats"]) for call in library.calls] == 7 * [6]


def test_isotropic_gaussians_get_identity_rotations() -> None:
    renderer, library = adapter()
    gaussians, cameras = random_scene(count=5, isotropic=True, width=8, height=8)
    renderer.render(gaussians, cameras, renderer.native(RasterSettings()))
    assert library.calls[0]["quats"].equal(torch.tensor([1.0, 0, 0, 0]).expand(5, 4))
    assert library.calls[0]["scales"].equal(gaussians.scales[0].expand(5, 3))


@pytest.mark.parametrize(("version", "alpha_max"), [("1.5.3", 0.999), ("1.6.0", 0.99)])
def test_compiled_in_settings_are_refused_until_accepted(version: str, alpha_max: float) -> None:
    renderer, _ = adapter(version)
    gaussians, cameras = random_scene(count=5, width=8, height=8)
    asked = RasterSettings()
    with pytest.raises(SettingNotSupported, match="renderer 'gsplat' cannot honour .*renderer.native"):
        renderer.render(gaussians, cameras, asked)
    departures = renderer.departures(asked)
    assert departures["clamp"] == ("symmetric", "principal") and departures["clamp_gradient"] == (True, False)
    assert ("alpha_max" in departures) == (alpha_max != 0.99)
    with pytest.raises(SettingNotSupported, match="cannot honour legacy_fov_y=True"):
        renderer.render(gaussians, cameras, renderer.native(asked).with_(legacy_fov_y=True))
    native = renderer.native(asked)
    assert (native.alpha_max, native.near, native.extent) == (alpha_max, asked.near, "iso")
    assert not renderer.departures(native)
    renderer.render(gaussians, cameras, native)


def test_the_dialect_is_measured_not_read_from_the_version() -> None:
    rebuilt = FakeGsplat("1.5.3", alpha_max=0.99)
    assert GsplatRenderer(library=rebuilt, device_type="cpu").dialect == DIALECTS["gsplat-1.6"]
    with pytest.raises(RendererUnavailable, match="alpha 0.95000"):
        GsplatRenderer(library=FakeGsplat("1.5.3", alpha_max=0.95), device_type="cpu")


def test_a_build_that_fails_is_reported_in_one_line() -> None:
    library = FakeGsplat("1.5.3")

    def broken(**_: object) -> None:
        raise ImportError("gsplat_cuda.so: cannot open shared object file\nlong\ntrace")

    library.rasterization = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(RendererUnavailable, match="gsplat does not run here: ImportError: gsplat_cuda.so") as error:
        GsplatRenderer(library=library, device_type="cpu")
    assert "\n" not in str(error.value)


def test_wrong_device_and_type_are_named() -> None:
    renderer, _ = adapter()
    gaussians, cameras = random_scene(count=5, width=8, height=8)
    settings = renderer.native(RasterSettings())
    double = replace(gaussians, **{k: getattr(gaussians, k).double() for k in vars(gaussians)})
    cameras64 = replace(cameras, intrinsics=cameras.intrinsics.double(), world_to_camera=cameras.world_to_camera.double())
    with pytest.raises(ValueError, match="float32, means are torch.float64"):
        renderer.render(double, cameras64, settings)
    renderer.device_type = "cuda"
    with pytest.raises(ValueError, match="runs on cuda, means are on cpu"):
        renderer.render(gaussians, cameras, settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_unavailable_without_cuda_and_says_what_to_do() -> None:
    state = GsplatRenderer.availability()
    assert not state and "CUDA" in state.reason + state.remedy and state.remedy
