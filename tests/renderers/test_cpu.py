"""The compiled CPU renderer: conformance, gradients, determinism, edge cases, and its build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from renderers.conformance import CASES, check, rejections
from renderers.cpu import CpuRenderer, StageTimes, native, toolchain
from renderers.interface import Gaussians, RasterSettings, Rendering, SettingNotSupported
from renderers.registry import get
from renderers.scenes import random_scene

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
    """Lists of another length than the forward pass left are told, whatever way the inputs changed; cameras are copies."""
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
    paths = {process.communicate(timeout=240)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes) and len(paths) == 1
    assert [str(p) for p in tmp_path.glob("*.so")] == list(paths)
