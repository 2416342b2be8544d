"""The Triton renderer: in Triton's interpreter against the contract, and compiled for a GPU that need not be there.

Whether kernels are interpreted is decided when Triton is imported, so a process of its own runs those tests; here Triton is
the compiler.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract_checks import CHECKS
from hopper import Absent, Compiled, Found, compiled_apart, fits, interpreter

from renderers.conformance import CASES, Case, Comparison, check
from renderers.interface import RasterSettings, Renderer, SettingNotSupported
from renderers.registry import names
from renderers.scenes import random_scene
from renderers.triton import INTERPRETER, TritonRenderer

installed = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed")
# Several views or many tiles, a second or more each; what else they hold, a faster case holds too.
SLOW = ("vectors_gaussrender", "vectors_gsplat-1.5", "moving", "bev_surroundocc", "bev_kitti360")


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Calls a function of this module in a process whose Triton interprets kernels."""
    with interpreter() as call:
        yield call


def conforms(case: str | Case, options: dict[str, Any]) -> Comparison:
    return check(TritonRenderer(**options), CASES[case]() if isinstance(case, str) else case)


@installed
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_conforms(name: str, interpreted: Callable[..., Any]) -> None:
    result = interpreted(conforms, name, {})
    assert result.ok, str(result)
    assert not result.departures  # it honours every setting


@installed
@pytest.mark.parametrize("name", ["channels_33", "tiles_12", "none_visible", "no_gaussians"])
def test_deterministic_mode_conforms(name: str, interpreted: Callable[..., Any]) -> None:
    result = interpreted(conforms, name, {"deterministic": True})
    assert result.ok, str(result)


@installed
@pytest.mark.parametrize("keeps_to", CHECKS, ids=lambda function: function.__name__)
def test_contract_beyond_images(keeps_to: Callable[[Renderer], None], interpreted: Callable[..., Any]) -> None:
    interpreted(keeps_to, TritonRenderer())


@installed
@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_other_precisions(precision: str, interpreted: Callable[..., Any]) -> None:
    """That the option reaches the matrix products; the interpreter computes them in float32 whatever it says."""
    result = interpreted(conforms, "channels_19", {"precision": precision})
    assert result.ok, str(result)


def precisions_measured() -> None:
    from renderers.triton.precisions import measured
    from renderers.workloads import Source, select

    found = list(measured(select(["occ3d-camera-gt"]), Source(shrink=25), "cpu", repeat=1))
    assert [(w, p) for w, p, _ in found] == [("occ3d-camera-gt", p) for p in ("ieee", "tf32x3", "tf32")]
    for _, _, result in found:
        assert result.status == "measured" and result.max_abs_error is not None
        assert result.max_abs_error < 1e-4 and (result.forward_ms or 0) > 0


def special(name: str) -> Case:
    """Scenes beyond the common cases."""
    if name == "140 channels":  # more than one pair of column blocks
        gaussians, cameras = random_scene(seed=14, count=40, channels=140, width=20, height=18)
        return Case(name, gaussians, cameras, RasterSettings(background=torch.linspace(-1, 1, 140)))
    if name == "several bins and chunks":
        gaussians, cameras = random_scene(seed=15, count=700, channels=3, width=140, height=70, opacity=(0.02, 0.3))
        return Case(name, replace(gaussians, scales=gaussians.scales * 0.3), cameras)
    if name == "nothing stops":  # opaque splats let nothing through, and the list goes on behind them
        gaussians, cameras = random_scene(seed=16, count=90, width=24, height=20, opacity=(0.5, 1.0))
        return Case(name, gaussians, cameras, RasterSettings(alpha_max=0.9999, transmittance_min=0.0))
    raise KeyError(name)


@installed
@pytest.mark.parametrize(
    "name", ["140 channels", "nothing stops", pytest.param("several bins and chunks", marks=pytest.mark.slow)]
)
def test_special_scenes(name: str, interpreted: Callable[..., Any]) -> None:
    result = interpreted(conforms, special(name), {})
    assert result.ok, str(result)


def _gradients(trained: tuple[str, ...], deterministic: bool | None = None) -> dict[str, torch.Tensor]:
    gaussians, cameras = random_scene(seed=5, count=50, channels=4, views=2, width=30, height=20)
    leaves = {name: getattr(gaussians, name).clone().requires_grad_() for name in trained}
    out = TritonRenderer(deterministic=deterministic).render(replace(gaussians, **leaves), cameras)
    generator = torch.Generator().manual_seed(4)
    sum((t * torch.randn(t.shape, generator=generator)).sum() for t in (out.features, out.depth, out.alpha)).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def each_gradient_alone() -> None:
    fields = ("means", "scales", "opacities", "features", "quaternions")
    full = _gradients(fields)
    for name in fields:
        torch.testing.assert_close(_gradients((name,))[name], full[name], rtol=1e-5, atol=1e-5)
        assert full[name].abs().max() > 0.1


def determinism_follows_torch() -> None:
    from renderers.triton import blending

    calls = []
    kernel = blending.add_slots

    class Counted:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            calls.append(grid)
            return kernel[grid]

    blending.add_slots = Counted()
    try:
        plain = _gradients(("means", "features"))
        assert not calls, "atomic additions are the default"
        torch.use_deterministic_algorithms(True)
        fixed = _gradients(("means", "features"))
        assert len(calls) == 1, "torch.use_deterministic_algorithms switches the mode on"
        _gradients(("means", "features"), deterministic=False)
        assert len(calls) == 1, "an explicit option has the last word"
    finally:
        torch.use_deterministic_algorithms(False)
        blending.add_slots = kernel
    for name, value in plain.items():
        torch.testing.assert_close(fixed[name], value, rtol=1e-5, atol=1e-5)


def background_gradient() -> None:
    gaussians, cameras = random_scene(seed=2, count=40, channels=3, width=30, height=20)
    background = torch.zeros(3, requires_grad=True)
    out = TritonRenderer().render(gaussians, cameras, RasterSettings(background=background))
    out.features.sum().backward()
    torch.testing.assert_close(background.grad, (1 - out.alpha).sum().expand(3), rtol=1e-5, atol=1e-4)


def no_views() -> None:
    gaussians, cameras = random_scene(count=7, channels=3, views=2, width=8, height=8)
    none = replace(cameras, intrinsics=cameras.intrinsics[:, :0], world_to_camera=cameras.world_to_camera[:, :0])
    out = TritonRenderer().render(gaussians, none)
    assert list(out.features.shape) == [1, 0, 8, 8, 3] and list(out.depth.shape) == [1, 0, 8, 8]


def strided_inputs() -> None:
    gaussians, cameras = random_scene(seed=1, count=30, channels=6, width=20, height=18)
    strided = {
        n: t.transpose(1, 2).contiguous().transpose(1, 2) for n in ("means", "features") if (t := getattr(gaussians, n)).numel()
    }
    a, b = (TritonRenderer().render(g, cameras) for g in (gaussians, replace(gaussians, **strided)))
    assert torch.equal(a.features, b.features) and a.alpha.max() > 0.1


def lists_hold_what_is_needed_and_little_more() -> None:
    """Every pixel that a splat reaches is in a tile that lists it, in depth order; few tiles list one that reaches none."""
    from renderers.reference import density, project
    from renderers.triton import op

    gaussians, cameras = random_scene(seed=21, count=300, channels=1, width=100, height=80, opacity=(0.02, 0.9))
    scales = gaussians.scales * torch.tensor([0.1, 0.5, 1.0])  # needles too
    gaussians, settings = replace(gaussians, scales=scales), RasterSettings()
    inputs = op.make_inputs(
        *(getattr(gaussians, n) for n in ("means", "scales", "quaternions", "opacities", "features")), cameras, settings
    )
    splats = op.make_splats(inputs, op.Job(cameras, settings, None, "ieee", False))
    ids, starts = op.make_lists(splats, cameras)
    right = project(gaussians, cameras, settings, 0, 0, None)
    kept = torch.isin(right.index, splats.flat)
    assert right.index[kept].equal(splats.flat), "same order"
    pixels = torch.stack(torch.meshgrid(torch.arange(100), torch.arange(80), indexing="xy"), -1).reshape(-1, 2)
    alpha = density(right, torch.arange(len(right.index)), pixels)  # [P, K]
    assert not (alpha[:, ~kept] >= settings.alpha_min).any(), "what is not drawn reaches no pixel"
    bin_of = pixels // op.BIN
    tile = (pixels % op.BIN) // op.TILE
    side, across = op.BIN // op.TILE, -(-100 // op.BIN)
    number = (bin_of[:, 1] * across + bin_of[:, 0]) * side * side + tile[:, 1] * side + tile[:, 0]
    needed = torch.zeros(len(starts) - 1, int(kept.sum()), dtype=torch.int64)
    needed.index_add_(0, number, (alpha[:, kept] >= settings.alpha_min).long())
    listed = torch.zeros_like(needed)
    for index in range(len(starts) - 1):
        part = ids[int(starts[index]) : int(starts[index + 1])].long()
        assert (part.diff() > 0).all(), "depth order"
        listed[index, part] = 1
    assert not ((needed > 0) & (listed == 0)).any()
    assert listed.sum() < 1.15 * (needed > 0).sum(), f"{listed.sum()} pairs listed, {(needed > 0).sum()} needed"


@installed
@pytest.mark.parametrize(
    "function",
    [
        each_gradient_alone,
        determinism_follows_torch,
        background_gradient,
        no_views,
        strided_inputs,
        lists_hold_what_is_needed_and_little_more,
        pytest.param(precisions_measured, marks=pytest.mark.slow),
    ],
)
def test_in_the_interpreter(function: Callable[[], None], interpreted: Callable[..., Any]) -> None:
    interpreted(function)


def refusals() -> None:
    case = CASES["one_gaussian"]().to(dtype=torch.float64)
    with pytest.raises(SettingNotSupported, match=r"'triton' cannot honour dtype=torch.float64.*\.float\(\)"):
        TritonRenderer().render(case.gaussians, case.cameras, case.settings)


@installed
def test_float64_is_refused_by_name(interpreted: Callable[..., Any]) -> None:
    interpreted(refusals)


@installed
@pytest.mark.skipif(os.environ.get(INTERPRETER) == "1", reason="this process interprets kernels")
def test_cpu_tensors_are_refused_by_compiled_kernels() -> None:
    case = CASES["one_gaussian"]()
    with pytest.raises(SettingNotSupported, match="'triton' cannot honour device='cpu'.*runs on cuda"):
        TritonRenderer().render(case.gaussians, case.cameras, case.settings)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="ieee, tf32x3, tf32, got 'fp16'"):
        TritonRenderer(precision="fp16")  # type: ignore[arg-type]


def test_registered() -> None:
    assert "triton" in names()


# --- availability ----------------------------------------------------------------------------------------------------


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    state = TritonRenderer.availability()
    assert not state and "triton is not installed" in state.reason and "pip install" in state.remedy


def test_hidden_by_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = importlib.util.find_spec("renderers.triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: here)
    state = TritonRenderer.availability()
    assert not state and "hides the package triton" in state.reason and "python -m" in state.remedy


@installed
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_never_interprets_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INTERPRETER, raising=False)
    state = TritonRenderer.availability()
    assert not state and "needs a CUDA device" in state.reason and f"{INTERPRETER}=1" in state.remedy
    monkeypatch.setenv(INTERPRETER, "1")
    told = TritonRenderer.availability()
    assert told and "interpreter" in told.reason


# --- compiled for a GPU ----------------------------------------------------------------------------------------------


@installed
def test_column_blocks() -> None:
    from renderers.triton.op import column_blocks

    for columns in range(1, 300):
        first, second, pairs = column_blocks(columns)
        widths = [w for w in (first, second) if w]
        assert all(w >= 16 and w & (w - 1) == 0 and w <= 64 for w in widths)
        assert (first + second) * (pairs - 1) < columns <= (first + second) * pairs
        assert pairs == 1 or columns > 128
    assert column_blocks(20) == (32, 0, 1)  # 19 classes and depth
    assert column_blocks(34) == (32, 16, 1)
    assert column_blocks(65) == (64, 16, 1)


def compile_without_a_gpu(name: str) -> Found:
    """Each kernel that rendering and differentiating a scene launches."""
    import triton

    from renderers.triton import binning, blending, op, projection

    found: Found = {}

    divide = binning.divide

    def fill(arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if "FIRST" in options and not options["FILL"]:
            arguments[divide.arg_names.index("counts")].fill_(1)  # lists to fill

    triton.runtime.driver.set_active(Absent())
    for module in (projection, binning, blending):
        for kernel in ("project", "divide", "blend", "blend_backward", "add_slots", "collect_features", "project_backward"):
            if hasattr(module, kernel):
                setattr(module, kernel, Compiled(getattr(module, kernel), found, launched=fill))
    op._blend = Compiled(blending.blend.kernel, found, [c.all_kwargs() for c in op._FORWARD])
    op._blend_backward = Compiled(blending.blend_backward.kernel, found, [c.all_kwargs() for c in op._BACKWARD])

    settings = RasterSettings(background=torch.ones(19))
    visible: torch.Tensor | None = None
    if name == "gaussrender":
        gaussians, cameras = random_scene(count=300, channels=19, isotropic=True, width=80, height=64)
        trained, visible = ("opacities", "features"), torch.ones(1, 1, 300, dtype=torch.bool)
    elif name == "everything":
        gaussians, cameras = random_scene(count=60, channels=16, batch=2, views=3, width=40, height=36)
        gaussians = replace(gaussians, means=gaussians.means[:, None].repeat(1, 2, 1, 1))
        cameras = replace(cameras, time_index=torch.tensor([0, 1, 1]))
        settings = RasterSettings(extent="tile3sigma", tile_size=12, clamp="principal", clamp_gradient=False)
        trained = ("means", "scales", "opacities", "features", "quaternions")
    else:  # Triton compiles arguments that are 1 in
        gaussians, cameras = random_scene(count=1, channels=1, width=1, height=1)
        settings, trained = RasterSettings(), ("means", "scales", "opacities", "features", "quaternions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", torch.Tensor.new_zeros)  # depths of 0: all are seen
        leaves = {n: getattr(gaussians, n).clone().requires_grad_() for n in trained}
        moving = replace(gaussians, **leaves)
        fields = (getattr(moving, n) for n in ("means", "scales", "quaternions", "opacities", "features"))
        job = op.Job(cameras, settings, visible, "tf32x3" if name == "one" else "ieee", deterministic=name == "everything")
        sum(t.sum() for t in op.Splat.apply(job, *fields, settings.background)).backward()
    return found


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussrender", "everything", "one"])
def test_compiles_for_a_gpu(name: str) -> None:
    """Types, shapes, launches and resources are right for an H100 or H200; that the kernels run there, this cannot tell."""
    found = compiled_apart(compile_without_a_gpu, name)
    expected = {"project": 2, "divide": 4, "collect_features": 1, "project_backward": 1}
    expected |= {"blend": 1, "blend_backward": 1, "add_slots": 1} if name == "everything" else {"blend": 4, "blend_backward": 3}
    assert {kernel: len(variants) for kernel, variants in found.items()} == expected
    fits(found)
