"""The compiled CPU renderer: conformance, gradients, determinism, edge cases, and its build."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from renderers.conformance import CASES, check, rejections
from renderers.cpu import CpuRenderer, StageTimes, native, toolchain
from renderers.interface import Cameras, Gaussians, RasterSettings, Rendering, SettingNotSupported
from renderers.reference import density, limited, pixels_of, project
from renderers.registry import get
from renderers.scenes import one_view, pinhole, random_scene

pytestmark = pytest.mark.skipif(not CpuRenderer.availability(), reason=CpuRenderer.availability().reason)

FEW = ("one_gaussian", "channels_20", "tiles_12", "no_clamp_gradient", "legacy_fov_y", "one_pixel")


def usable_targets() -> list[str]:
    """Instruction sets that this processor has."""
    names = toolchain.targets()
    return names[: names.index(native.best_target()) + 1] if CpuRenderer.availability() else []


def outputs_and_gradients(
    renderer: CpuRenderer, gaussians: Gaussians, cameras, settings: RasterSettings | None = None
) -> tuple[Rendering, dict[str, torch.Tensor]]:
    names = [n for n in ("means", "scales", "opacities", "features", "quaternions") if getattr(gaussians, n) is not None]
    leaves = {n: getattr(gaussians, n).clone().requires_grad_() for n in names}
    out = renderer.render(Gaussians(**leaves), cameras, settings)
    generator = torch.Generator().manual_seed(4)
    loss = sum((t * torch.randn(t.shape, generator=generator)).sum() for t in (out.features, out.depth, out.alpha))
    return out, dict(zip(names, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    """Compiles the op with an extra flag and returns the name to ask for it by."""
    folder = tmp_path_factory.mktemp("op")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "_cache", lambda: folder)

        def make(flag: str, base: str = "portable") -> str:
            patch.setitem(toolchain.TARGETS, flag.strip("-"), [*toolchain.TARGETS[base], flag])
            return flag.strip("-")

        native.library(native.best_target())
        yield make


def test_every_setting_is_honoured() -> None:  # and the cases of the contract are in test_conformance.py
    assert not CpuRenderer().dialect.settings


@pytest.mark.parametrize("target", usable_targets())
@pytest.mark.parametrize("name", FEW)
def test_instruction_sets(name: str, target: str) -> None:
    result = check(CpuRenderer(target), CASES[name]())
    assert result.ok, str(result)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["channels_20", "batch_views_visible", "tiles_12", "deep", "one_pixel", "off_screen"])
def test_sixteen_lanes(name: str, variant) -> None:
    """The block layout of AVX-512 in code that any processor runs: blocks are 16 pixels wide and strips hold 32."""
    result = check(CpuRenderer(variant("-DOCC_LANES=16")), CASES[name]())
    assert result.ok, str(result)


@pytest.mark.parametrize("index", range(len(rejections())))
def test_rejects_bad_input(index: int) -> None:
    case = rejections()[index].case
    with pytest.raises(ValueError, match=rejections()[index].argument):
        CpuRenderer().render(case.gaussians, case.cameras, case.settings, case.visible)


def test_float64_is_refused_by_name() -> None:
    case = CASES["one_gaussian"]().to(dtype=torch.float64)
    with pytest.raises(SettingNotSupported, match=r"'cpu' cannot honour dtype=torch.float64.*\.float\(\)"):
        CpuRenderer().render(case.gaussians, case.cameras, case.settings)


@pytest.mark.parametrize("extent", ["iso", "tile3sigma"])
def test_same_bits_for_any_number_of_threads(threads, extent) -> None:
    gaussians, cameras = random_scene(seed=3, count=900, channels=20, views=2, width=150, height=93, isotropic=False)
    settings = RasterSettings(extent=extent, background=torch.linspace(0, 1, 20))
    results = []
    for count in (1, 2, 3, 8):
        threads(count)
        results.append(outputs_and_gradients(CpuRenderer(), gaussians, cameras, settings))
    first, first_gradients = results[0]
    assert first.alpha.max() > 0.5
    for out, gradients in results[1:]:
        assert torch.equal(out.features, first.features) and torch.equal(out.depth, first.depth)
        assert torch.equal(out.alpha, first.alpha)
        for name, gradient in gradients.items():
            assert torch.equal(gradient, first_gradients[name]), name
            assert gradient.abs().max() > 0


def test_threads_that_sort_together_keep_the_order_of_equal_depths(threads) -> None:
    """Enough Gaussians that each of three threads sorts some, a tenth of them with the depth of another."""
    generator = torch.Generator().manual_seed(6)
    count = 60_000
    depth = 2 + torch.randint(0, 50_000, (count,), generator=generator) / 20_000
    across = (torch.rand(count, 2, generator=generator) - 0.5) * depth[:, None]
    scene = Gaussians(
        torch.cat([across, depth[:, None]], -1)[None],
        torch.full((1, count, 1), 0.02),
        torch.full((1, count), 0.05),
        torch.randn(1, count, 2, generator=generator),
    )
    results = []
    for number in (1, 2, 3):
        threads(number)
        results.append(outputs_and_gradients(CpuRenderer(), scene, one_view(pinhole(48, 40, 48.0), 48, 40)))
    for out, gradients in results[1:]:
        assert torch.equal(out.features, results[0][0].features) and out.alpha.max() > 0.5
        assert all(torch.equal(gradient, results[0][1][name]) for name, gradient in gradients.items())


def around_the_borders(isotropic: bool, count: int = 700, fy: float = 36.0) -> tuple[Gaussians, Cameras]:
    """Gaussians in, at and beyond the borders of a small image and behind its camera, from specks to larger than the view."""
    generator = torch.Generator().manual_seed(7)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    depth = torch.exp(uniform(-1.5, 5.0, count)) * torch.where(torch.rand(count, generator=generator) < 0.2, -1.0, 1.0)
    pixels = torch.exp(uniform(-2.0, 5.0, count, 1 if isotropic else 3))  # standard deviations
    # Of the largest one, as many beyond a border as an opaque Gaussian may reach, and somewhat more.
    beyond = uniform(-1.0, 4.5, count, 2) * pixels.amax(-1, keepdim=True) + uniform(-3, 3, count, 2)
    half = torch.tensor([20.0, 15.0])
    side = torch.where(torch.rand(count, 2, generator=generator) < 0.5, -1.0, 1.0)
    far_off = torch.rand(count, 2, generator=generator) < 0.5
    centre = torch.where(far_off, side * (half + beyond), uniform(-1, 1, count, 2) * half) + torch.tensor([3.0, -2.0])
    means = torch.cat([centre * depth[:, None] / torch.tensor([30.0, fy]), depth[:, None]], -1)
    opacities = torch.exp(uniform(-6.0, 0.0, count))
    features = torch.randn(count, 3, generator=generator)
    quaternions = None if isotropic else torch.randn(1, count, 4, generator=generator)
    scales = pixels * depth.abs()[:, None] / 36.0
    camera = one_view(pinhole(40, 30, 30.0, fy, 23.0, 13.0), 40, 30)
    return Gaussians(means[None], scales[None], opacities[None], features[None], quaternions), camera


@pytest.mark.parametrize("target", usable_targets())
@pytest.mark.parametrize(
    "settings", [{}, {"clamp": "principal", "low_pass": 0.0}, {"extent": "tile3sigma"}, {"legacy_fov_y": True}], ids=str
)
@pytest.mark.parametrize("isotropic", [True, False])
def test_nothing_that_reaches_the_image_is_left_out(target: str, settings: dict, isotropic: bool) -> None:
    """Each Gaussian alone in a view of its own, against the reference: what is culled has no pixel."""
    # The other vertical focal length is 22.5: one that is smaller would leave out too much if shapes were taken to have it too.
    gaussians, camera = around_the_borders(isotropic, fy=9.0 if settings.get("legacy_fov_y") else 36.0)
    count = gaussians.count
    visible = torch.eye(count, dtype=torch.bool)[None]
    views = replace(
        camera, intrinsics=camera.intrinsics.expand(1, count, 3, 3), world_to_camera=camera.world_to_camera.expand(1, count, 4, 4)
    )
    chosen = RasterSettings(transmittance_min=0.0, **settings)
    drawn = CpuRenderer(target).render(gaussians, views, chosen, visible).alpha[0].amax((1, 2))
    splats = project(gaussians, camera, chosen, 0, 0, None)
    expected = torch.zeros(count)
    pixels = pixels_of((0, 0, 40, 30), torch.device("cpu"))
    expected[splats.index] = limited(density(splats, slice(None), pixels), splats.bounds, pixels, chosen).amax(0)
    assert 0.1 * count < int((expected > 0).sum()) < 0.7 * count
    decided = (expected == 0) | (expected > chosen.alpha_min * 1.01)
    torch.testing.assert_close(drawn[decided], expected[decided], rtol=2e-2, atol=chosen.alpha_min * 1.01)
    assert bool((drawn[decided & (expected > 0)] > 0).all())


def test_nothing_in_sight() -> None:
    """All behind the camera or beside the image: the background, and gradients that are zeros."""
    gaussians, camera = around_the_borders(isotropic=False)
    for shift in (torch.tensor([0.0, 0.0, -1e4]), torch.tensor([1e7, 0.0, 0.0]), torch.tensor([0.0, -1e7, 0.0])):
        beside = replace(gaussians, means=gaussians.means + shift)
        background = torch.tensor([1.0, 2.0, 3.0])
        out, gradients = outputs_and_gradients(CpuRenderer(), beside, camera, RasterSettings(background=background))
        assert torch.equal(out.features, background.expand_as(out.features)) and not out.alpha.any() and not out.depth.any()
        assert len(gradients) == 5 and not any(gradient.any() for gradient in gradients.values())


def test_what_a_forward_pass_keeps_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last backward pass, or with the graph; a rendering that nobody differentiates keeps nothing."""
    gaussians, cameras = random_scene(seed=5, count=200, channels=4, views=3)
    renderer = CpuRenderer()
    library, freed = native.library(renderer.target), []
    free = library.occ_free
    monkeypatch.setattr(library, "occ_free", lambda block: freed.append(block) or free(block))
    renderer.render(gaussians, cameras)
    gc.collect()
    assert freed == []
    features = gaussians.features.clone().requires_grad_()
    out = renderer.render(replace(gaussians, features=features), cameras)
    first = torch.autograd.grad(out.features.sum(), features, retain_graph=True)[0]
    assert freed == []
    assert torch.equal(torch.autograd.grad(out.features.sum(), features)[0], first) and first.abs().max() > 0
    assert len(freed) == 3
    out = renderer.render(replace(gaussians, features=features), cameras)
    del out
    gc.collect()
    assert len(freed) == 6


def test_what_a_forward_pass_keeps_may_be_copied() -> None:
    """As hooks on saved tensors do that move them elsewhere until the backward pass."""
    gaussians, cameras = random_scene(seed=5, count=200, channels=4, views=2)
    expected = outputs_and_gradients(CpuRenderer(), gaussians, cameras)[1]
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        gradients = outputs_and_gradients(CpuRenderer(), gaussians, cameras)[1]
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients.items())


def test_only_what_requires_a_gradient_gets_one() -> None:
    gaussians, cameras = random_scene(seed=5, count=80, channels=4)
    full = outputs_and_gradients(CpuRenderer(), gaussians, cameras)[1]
    features, opacities = gaussians.features.clone().requires_grad_(), gaussians.opacities.clone().requires_grad_()
    part = Gaussians(gaussians.means, gaussians.scales, opacities, features, gaussians.quaternions)
    out = CpuRenderer().render(part, cameras)
    generator = torch.Generator().manual_seed(4)
    sum((t * torch.randn(t.shape, generator=generator)).sum() for t in (out.features, out.depth, out.alpha)).backward()
    assert gaussians.means.grad is None
    torch.testing.assert_close(features.grad, full["features"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(opacities.grad, full["opacities"], rtol=1e-6, atol=1e-6)


def test_features_alone_and_depth_alone() -> None:
    gaussians, cameras = random_scene(seed=5, count=80, channels=4)
    features = gaussians.features.clone().requires_grad_()
    part = Gaussians(gaussians.means, gaussians.scales, gaussians.opacities, features, gaussians.quaternions)
    out = CpuRenderer().render(part, cameras)
    out.features.sum().backward()
    weights = CpuRenderer().render(
        Gaussians(part.means, part.scales, part.opacities, torch.eye(80)[None].contiguous(), part.quaternions), cameras
    )
    expected = weights.features.sum((1, 2, 3))[0]  # each Gaussian's weight over all pixels
    torch.testing.assert_close(features.grad, expected[None, :, None].expand(1, 80, 4), rtol=1e-4, atol=1e-4)

    means = gaussians.means.clone().requires_grad_()
    moved = Gaussians(means, part.scales, part.opacities, gaussians.features, part.quaternions)
    CpuRenderer().render(moved, cameras).depth.sum().backward()
    assert means.grad is not None and means.grad.abs().max() > 0


def test_gradient_of_the_background() -> None:
    gaussians, cameras = random_scene(seed=2, count=40, channels=3)
    background = torch.zeros(3, requires_grad=True)
    out = CpuRenderer().render(gaussians, cameras, RasterSettings(background=background))
    out.features.sum().backward()
    expected = (1 - out.alpha).sum()
    torch.testing.assert_close(background.grad, expected.expand(3), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("what", ["means", "world_to_camera"])
def test_a_change_past_pytorchs_notice_reads_nothing_outside_of_buffers(what: str) -> None:
    """Means that are not those of the forward pass are told, whatever way they changed; cameras are copies."""
    gaussians, cameras = random_scene(seed=5, count=300, channels=4, width=70, height=60)
    leaves = {n: getattr(gaussians, n).clone().requires_grad_() for n in ("means", "opacities", "features")}
    scene = Gaussians(leaves["means"], gaussians.scales, leaves["opacities"], leaves["features"], gaussians.quaternions)
    out = CpuRenderer().render(scene, cameras)
    right = torch.autograd.grad(out.alpha.sum(), leaves["opacities"], retain_graph=True)[0]
    if what == "means":
        leaves["means"].data.fill_(1e6)
        with pytest.raises(RuntimeError, match="renderer 'cpu'.*changed since its forward pass"):
            out.alpha.sum().backward()
    else:
        cameras.world_to_camera.numpy()[..., 2, 3] -= 1000
        assert torch.autograd.grad(out.alpha.sum(), leaves["opacities"])[0].equal(right)


def test_non_contiguous_inputs() -> None:
    gaussians, cameras = random_scene(seed=1, count=50, channels=6)
    strided = Gaussians(
        gaussians.means.transpose(1, 2).contiguous().transpose(1, 2),
        gaussians.scales,
        gaussians.opacities,
        gaussians.features.transpose(1, 2).contiguous().transpose(1, 2),
        gaussians.quaternions,
    )
    a, a_gradients = outputs_and_gradients(CpuRenderer(), gaussians, cameras)
    b, b_gradients = outputs_and_gradients(CpuRenderer(), strided, cameras)
    assert torch.equal(a.features, b.features)
    assert torch.equal(a_gradients["features"], b_gradients["features"])


@pytest.mark.slow
def test_gradient_slots_in_several_rounds(variant) -> None:
    """A slot buffer too small for the image: the same bits as with one that holds all pairs at once."""
    gaussians, cameras = random_scene(seed=3, count=400, channels=7, width=120, height=80)
    at_once = outputs_and_gradients(CpuRenderer(), gaussians, cameras)[1]
    in_rounds = outputs_and_gradients(
        CpuRenderer(variant("-DOCC_SLOT_BYTES=20000", native.default_target())), gaussians, cameras
    )[1]
    for name, gradient in at_once.items():
        assert torch.equal(gradient, in_rounds[name]), name


def test_stage_times_add_up() -> None:
    gaussians, cameras = random_scene(seed=1, count=200, channels=5)
    times = StageTimes()
    outputs_and_gradients(CpuRenderer(times=times), gaussians, cameras)
    assert 0 < times.forward["visible"] <= 200 and times.forward["pairs"] >= times.forward["visible"]
    assert times.forward["weights"] > 0 and times.backward["needed_pairs"] > 0
    assert all(times.forward[stage] >= 0 for stage in native.STAGES) and times.backward["blend"] > 0


def test_the_variable_chooses_where_no_target_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_CPU_TARGET", "portable")
    assert CpuRenderer().target == "portable" and CpuRenderer(native.best_target()).target == native.best_target()
    monkeypatch.delenv("OCC_CPU_TARGET")
    assert CpuRenderer().target == native.best_target()
    monkeypatch.setenv("OCC_CPU_TARGET", "mmx")
    state = CpuRenderer.availability()
    assert not state and state.reason == "OCC_CPU_TARGET is 'mmx'" and "portable" in state.remedy


def test_registered() -> None:
    assert isinstance(get("cpu"), CpuRenderer)


def test_missing_compiler_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_cache", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native.library.cache_clear()
    native.best_target.cache_clear()
    try:
        state = CpuRenderer.availability()
    finally:
        native.library.cache_clear()
        native.best_target.cache_clear()
    assert not state and "no C++ compiler" in state.reason and "apt-get install g++" in state.remedy


def test_compile_error_names_line_and_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_cache", lambda: tmp_path)
    monkeypatch.setattr(toolchain, "FLAGS", [*toolchain.FLAGS, "-include", "no_such_header.h"])
    with pytest.raises(toolchain.BuildError, match=r"no_such_header\.h.*whole output is in .*\.log") as caught:
        toolchain.ensure("portable")
    assert list(tmp_path.glob("*.log")) and not list(tmp_path.glob("*.so")) and not list(tmp_path.glob("*.tmp"))
    assert caught.value.remedy


@pytest.mark.slow
def test_two_builds_at_once(tmp_path: Path) -> None:
    code = (
        "import pathlib; from renderers.cpu import toolchain; "
        f"toolchain._cache = lambda: pathlib.Path({str(tmp_path)!r}); print(toolchain.ensure('portable'))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=1200)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes) and len(paths) == 1
    assert [str(p) for p in tmp_path.glob("*.so")] == list(paths)
