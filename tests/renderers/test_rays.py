"""Rendering grids along rays: every backend against the contract, and what the reference itself rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ray_contract_checks import CHECKS
from torch import Tensor

from renderers.cpu.native import best_target
from renderers.cpu.toolchain import targets
from renderers.interface import Availability, SettingNotSupported
from renderers.rays import Exponential, GridField, Rays, RaySettings, SkipAccumulated, SphereSampler, UniformSampler
from renderers.rays.cameras import joined, pixel_rays
from renderers.rays.cases import EVERY_METRE, RENDEROCC_FEWER, RayCase, random_grid, random_rays, rays_along, small
from renderers.rays.conformance import RAY_CASES, check, differentiated, loss_weights, undecided
from renderers.rays.cpu import CpuRayRenderer
from renderers.rays.interface import DIFFERENTIABLE, RayRenderer, RayRendering, validate
from renderers.rays.published import GAUSSIANOCC_PROB, GAUSSIANOCC_RANGE, RENDEROCC, RENDEROCC_RANGE
from renderers.rays.reference import ReferenceRayRenderer, weights
from renderers.rays.regularisers import binary_entropy, distortion, distortion_flattened, one_sided_entropy, total_variation
from renderers.registry import UnknownRenderer, availability, get, kinds, load, names
from renderers.scenes import one_view, pinhole, random_scene

pytestmark = pytest.mark.usefixtures("one_thread")

CUDA = ("triton",)  # where its kernels are not interpreted
AVAILABLE = [name for name in names("rays") if name not in CUDA and availability(name, "rays")]
FEW = ("one_cell", "border", "renderocc", "gaussianocc_prob", "channels_33", "one_voxel")


def usable_targets() -> list[str]:
    found = targets()
    return found[: found.index(best_target()) + 1] if "cpu" in AVAILABLE else []


# ---- every backend


@pytest.mark.parametrize("case", RAY_CASES)
@pytest.mark.parametrize("backend", AVAILABLE)
def test_conforms(backend: str, case: str) -> None:
    result = check(get(backend, "rays"), RAY_CASES[case]())
    assert result.ok, str(result)


@pytest.mark.parametrize("keeps_to", CHECKS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("backend", AVAILABLE)
def test_contract_beyond_what_is_rendered(backend: str, keeps_to: Callable[[RayRenderer, str], None]) -> None:
    keeps_to(get(backend, "rays"), "cpu")


def on_cuda(backend: str) -> RayRenderer:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return get(backend, "rays")


@pytest.mark.gpu
@pytest.mark.parametrize("case", RAY_CASES)
@pytest.mark.parametrize("backend", ["reference", *CUDA])
def test_conforms_on_cuda(backend: str, case: str) -> None:
    result = check(on_cuda(backend), RAY_CASES[case](), "cuda")
    assert result.ok, str(result)


@pytest.mark.gpu
@pytest.mark.parametrize("keeps_to", CHECKS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("backend", ["reference", *CUDA])
def test_contract_on_cuda(backend: str, keeps_to: Callable[[RayRenderer, str], None]) -> None:
    keeps_to(on_cuda(backend), "cuda")


@pytest.mark.parametrize("backend", AVAILABLE)
@pytest.mark.parametrize("distance", [5.0, 10.0, 20.0, 39.0, 52.0])
def test_a_plane_has_the_published_depth(backend: str, distance: float) -> None:
    """Behind D metres everything is opaque: D / (1 + D / 39), up to half a voxel and a step."""
    size = 2001
    x = torch.linspace(-40, 40, size)
    sampler = RENDEROCC.sampler
    assert isinstance(sampler, SphereSampler)
    at = float(sampler.contract(torch.tensor([[distance, 0.0, 2.2]], dtype=torch.float64))[0][0, 0])
    density = torch.where(x >= at, 40.0, 0.0)[None, :, None, None].expand(1, size, 2, 2).contiguous()
    grid = GridField(density, torch.ones(1, size, 2, 2, 1), *RENDEROCC_RANGE, "corners")
    out = get(backend, "rays").render(rays_along(((0, 0, 2.2), (3, 0, 0))), grid, RENDEROCC)
    inside = distance <= 39
    # Beyond the ball a voxel's 4 cm are metres, and samples are left out by the way in the shell.
    assert float(out.depth) == pytest.approx(distance / (1 + distance / 39), abs=0.2 if inside else 4.5)
    assert float(out.depth) == pytest.approx(39 * _first_behind(distance, sampler), abs=0.15 if inside else 4.5)
    assert float(out.alpha) == pytest.approx(1, abs=1e-3)


def _first_behind(distance: float, sampler: SphereSampler) -> float:
    t = sampler.distances() / 39
    t = t[t * 39 >= distance][0]
    return float(t / (1 + t))


def test_the_sampler_is_the_published_one() -> None:
    t = RENDEROCC.sampler.distances()
    assert len(t) == 417 and torch.equal(t, t.sort().values)
    assert float(t[1] - t[0]) == pytest.approx(0.19949, abs=1e-5) and float(t[390]) == pytest.approx(77.9, abs=0.01)
    assert float(t[391]) == pytest.approx(79.5, abs=0.05) and float(t[-1]) == pytest.approx(3225, abs=1)
    table = {0: 5e-7, 5: 7.4e-5, 8.5: 0.00245, 10: 0.0108, 12: 0.0726, 13.8155: 0.293, 16: 0.682, 20: 0.955}
    from renderers.rays.reference import opacity

    for sigma, alpha in table.items():
        found = opacity(torch.tensor([float(sigma)], dtype=torch.float64), torch.zeros(1), RENDEROCC)[0]
        assert float(found) == pytest.approx(alpha, rel=6e-3)
    axes = GAUSSIANOCC_PROB.sampler.distances()
    assert len(axes) == 424 and float(axes[0]) == pytest.approx(0.1) and float(axes[1] - axes[0]) == pytest.approx(0.40, abs=2e-3)
    assert float(axes[-1]) == pytest.approx(11_388, abs=10)


def test_the_contraction_is_continuous_and_stays_in_its_range() -> None:
    points = torch.tensor([60.0, 60.0, 8.0]) * torch.randn(
        2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for sampler, corners in (
        (RENDEROCC.sampler, ((-40, -40, 2.2 - 40), (40, 40, 2.2 + 40))),
        (GAUSSIANOCC_PROB.sampler, GAUSSIANOCC_RANGE),
    ):
        contracted, inside = sampler.contract(points)
        low, high = (torch.tensor(c, dtype=torch.float64) for c in corners)
        assert ((contracted >= low) & (contracted <= high)).all() and 0 < int(inside.sum()) < 2000
        assert torch.equal(contracted[inside], points[inside])
    border = torch.tensor([[39.0, 0, 2.2]], dtype=torch.float64)
    near, far = (RENDEROCC.sampler.contract(border + e)[0] for e in (-1e-9, 1e-9))
    assert float((near - far).abs().max()) < 1e-8


def test_skipping_is_the_published_recurrence() -> None:
    """Against a loop over one ray's gaps, as the CUDA kernel has it; the mask is shifted by one sample."""
    case = RayCase("", random_rays(3, 9, spread=20.0), random_grid(*RENDEROCC_RANGE, seed=0), RENDEROCC)
    _, samples = weights(case.rays, case.grid, RENDEROCC)
    skip = RENDEROCC.skip
    assert isinstance(skip, SkipAccumulated) and skip.distance == pytest.approx(0.004872 * 39, abs=1e-4)
    for ray in range(3):
        way, kept = 0.0, [bool(samples.inside[ray, 0])]
        for i, gap in enumerate(torch.linalg.vector_norm(samples.points[ray].diff(dim=0), dim=1).tolist()):
            way += gap
            fires = way > skip.distance
            way = 0.0 if fires else way
            kept.append(bool(samples.inside[ray, i + 1]) or fires)
        assert samples.kept[ray].tolist() == kept and 0 < sum(kept) < 417


def test_gradients_of_the_reference() -> None:
    for name in ("renderocc", "gaussianocc_prob", "gaussianocc_density"):
        case = RAY_CASES[name]().to(dtype=torch.float64)
        grid = random_grid(
            *RENDEROCC_RANGE, seed=1, size=(4, 4, 3), channels=2, density=(-0.4, 9.0 if name == "renderocc" else 0.3)
        )
        rays = replace(case.rays, scene=torch.zeros_like(case.rays.scene))
        few = RayCase(name, rays, replace(grid, density=grid.density.double(), features=grid.features.double()), case.settings)
        few = few.part(torch.arange(4))

        def sums(density: Tensor, features: Tensor, few: RayCase = few) -> tuple[Tensor, ...]:
            out = ReferenceRayRenderer().render(few.rays, replace(few.grid, density=density, features=features), few.settings)
            return tuple(getattr(out, n) * (1e-3 if n in ("spread", "spaced_squares", "depth") else 1) for n in DIFFERENTIABLE)

        leaves = [t.clone().requires_grad_() for t in (few.grid.density, few.grid.features)]
        assert torch.autograd.gradcheck(sums, leaves, fast_mode=True)


def test_the_stop_has_the_gradient_of_the_published_kernel() -> None:
    """Five samples of alpha 1/2 (three count): the kernel's formula, d alpha_i = g_i T_i - back / (1 - alpha_i)."""
    case = RAY_CASES["five_samples"]().part(torch.tensor([0]))
    density = case.grid.density.clone().requires_grad_()
    for backend in AVAILABLE:
        out = get(backend, "rays").render(case.rays, replace(case.grid, density=density), case.settings)
        (found,) = torch.autograd.grad(out.depth.sum() + 3 * out.transmittance.sum(), density)
        alpha, t, gradient = 0.5, [1, 0.5, 0.25], [0.0, 1.0, 2.0]
        back, expected = 3 * 0.125, [0.0, 0.0, 0.0]
        for i in (2, 1, 0):
            expected[i] = (gradient[i] * t[i] - back / (1 - alpha)) * (1 - alpha)  # d alpha / d density = 1 - alpha
            back += gradient[i] * t[i] * alpha
        assert found[0, :3, 2, 2].tolist() == pytest.approx(expected, abs=1e-6)
        assert int(found.count_nonzero()) == 3


# ---- the compiled one


@pytest.mark.skipif("cpu" not in AVAILABLE, reason="the op does not build here")
class TestCpu:
    @pytest.mark.parametrize("target", usable_targets())
    @pytest.mark.parametrize("name", FEW)
    def test_instruction_sets(self, name: str, target: str) -> None:
        result = check(CpuRayRenderer(target), RAY_CASES[name]())
        assert result.ok, str(result)

    def test_errors_are_small(self) -> None:
        case = RayCase("", random_rays(300, 3), random_grid(*RENDEROCC_RANGE, seed=3, channels=17, size=(60, 60, 12)), RENDEROCC)
        close = undecided(case)
        weights_ = loss_weights(case, ~close)
        ours, gradients = differentiated(CpuRayRenderer(), case, weights_)
        right, expected = differentiated(ReferenceRayRenderer(), case.to(dtype=torch.float64), weights_)
        for name in ("features", "depth", "alpha", "transmittance"):
            error = (getattr(ours, name) - getattr(right, name))[~close].abs().max()
            assert float(error) < 1e-5, name
        for name, gradient in expected.items():
            assert 1 - float(torch.nn.functional.cosine_similarity(gradients[name].flatten(), gradient.flatten(), dim=0)) < 1e-8

    @pytest.mark.parametrize("name", ["renderocc", "gaussianocc_prob"])
    def test_same_bits_for_any_number_of_threads(self, name: str) -> None:
        case = RAY_CASES[name]()
        case = replace(case, rays=random_rays(400, 11, batch=2))
        results = []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            results.append(differentiated(CpuRayRenderer(), case, loss_weights(case, torch.ones(400))))
        torch.set_num_threads(1)
        first, first_gradients = results[0]
        assert first.alpha.max() > 0.5
        for out, gradients in results[1:]:
            assert all(torch.equal(getattr(out, n), getattr(first, n)) for n in (*DIFFERENTIABLE, "samples"))
            assert all(torch.equal(gradients[n], first_gradients[n]) and gradients[n].any() for n in gradients)

    def test_many_chunks_have_the_same_bits(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        from renderers.cpu import toolchain

        case = replace(RAY_CASES["renderocc"](), rays=random_rays(200, 11, batch=2))
        weights_ = loss_weights(case, torch.ones(200))
        _, whole = differentiated(CpuRayRenderer("portable"), case, weights_)
        monkeypatch.setattr(toolchain, "_cache", lambda: tmp_path)
        monkeypatch.setitem(toolchain.TARGETS, "small", ["-O1", "-DOCC_CHUNK_BYTES=300000"])
        _, parts = differentiated(CpuRayRenderer("small"), case, weights_)
        assert all(torch.equal(parts[name], whole[name]) for name in whole)

    def test_what_it_cannot_do_is_refused_by_name(self) -> None:
        case = RAY_CASES["one_cell"]().to(dtype=torch.float64)
        with pytest.raises(SettingNotSupported, match=r"'cpu' cannot honour dtype=torch.float64.*\.float\(\)"):
            CpuRayRenderer().render(case.rays, case.grid, case.settings)

    def test_grids_that_are_not_contiguous(self) -> None:
        case = RAY_CASES["renderocc"]()
        strided = replace(case.grid, features=case.grid.features.movedim(-1, 1).contiguous().movedim(1, -1))
        a, b = (CpuRayRenderer().render(case.rays, grid, case.settings) for grid in (case.grid, strided))
        assert torch.equal(a.features, b.features) and not strided.features.is_contiguous()


# ---- the registry, settings, helpers


def test_a_backend_has_one_kind_or_both() -> None:
    assert kinds("cpu") == kinds("reference") == kinds("triton") == ("splats", "rays") and kinds("gsplat") == ("splats",)
    assert get("reference", "rays").name == "reference" and get("reference").kind == "splats"
    with pytest.raises(UnknownRenderer, match="renderer 'gsplat' does not render rays; those that do: reference, cpu, triton"):
        get("gsplat", "rays")
    with pytest.raises(UnknownRenderer, match="unknown renderer 'referense'; did you mean 'reference'"):
        load("referense", "rays")
    with pytest.raises(UnknownRenderer, match="does not render rays"):
        load("renderers.reference:ReferenceRenderer", "rays")
    assert load("renderers.rays.reference:ReferenceRayRenderer", "rays") is ReferenceRayRenderer


@pytest.mark.parametrize("name", names("rays"))
def test_every_ray_backend_answers_whether_it_can_run(name: str) -> None:
    state = availability(name, "rays")
    assert isinstance(state, Availability) and (state or (state.reason and state.remedy))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RaySettings(None), "sampler must be one of UniformSampler, SphereSampler, AxisSampler, got None"),  # type: ignore[arg-type]
        (lambda: RENDEROCC.with_(activation="relu"), "activation must be one of ShiftedSoftplus, Exponential, Probability"),
        (lambda: RENDEROCC.with_(skip=0.2), "skip must be one of SkipAccumulated, SkipPerAxis, None, got 0.2"),
        (lambda: RENDEROCC.with_(depth="median"), "depth must be one of along, contracted, z, got 'median'"),
        (lambda: RaySettings(EVERY_METRE, depth="contracted"), "depth 'contracted' needs the radius of a SphereSampler"),
        (lambda: RENDEROCC.with_(unit_directions=False), "unit_directions=True"),
        (lambda: RENDEROCC.with_(unit_directions=1), "unit_directions must be True or False"),
        (lambda: RENDEROCC.with_(transmittance_min=1.0), r"transmittance_min must lie in \[0, 1\)"),
        (lambda: RENDEROCC.with_(alpha_min=-1e-3), "alpha_min must lie"),
        (lambda: RENDEROCC.with_(weight_min=math.nan), "weight_min must lie"),
        (lambda: UniformSampler(1.0, 1.0, 4), "far must be a number in"),
        (lambda: UniformSampler(0.0, 1.0, 0), "count must be in 1.."),
        (lambda: UniformSampler(0.0, 1.0, 1 << 17), "count must be in 1.."),
        (lambda: SphereSampler((0.0, 0.0, math.inf), 39.0, 1.0, 4, 4), "centre must have corners of three finite numbers"),
        (lambda: SphereSampler((0.0, 0.0, 0.0), -39.0, 1.0, 4, 4), "radius must be a number in"),
        (lambda: replace(GAUSSIANOCC_PROB.sampler, ratio=1.0), "ratio must be a number in"),
        (lambda: replace(GAUSSIANOCC_PROB.sampler, lower=(50.0, 0.0, 0.0)), "must have lower < upper"),
        (lambda: SkipAccumulated(0.0), "distance must be a number in"),
        (lambda: Exponential(last=0.0), "last must be positive"),
        (
            lambda: small(torch.zeros(5, 5, 5)).__class__(*[torch.zeros(1)] * 2, (0.0,) * 3, (0.0,) * 3, "corners"),
            "range must have",
        ),
        (lambda: replace(small(torch.zeros(5, 5, 5)), alignment="voxels"), "alignment must be one of corners, centres"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_rays_of_pixels_are_those_that_cameras_draw_by() -> None:
    """A point seen in the middle of a pixel lies on that pixel's ray, at its depth."""
    _, cameras = random_scene(count=1, views=2, width=40, height=30)
    k, pose = cameras.intrinsics[0, 1].double(), cameras.world_to_camera[0, 1].double()
    pixels = torch.tensor([[0, 0], [39, 29], [17, 8]])
    rays = pixel_rays(cameras, 0, 1, pixels)
    points = (rays.origins + 7.0 * rays.directions).double()
    local = points @ pose[:3, :3].T + pose[:3, 3]
    image = local @ k.T
    torch.testing.assert_close(local[:, 2], torch.full((3,), 7.0, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image[:, :2] / image[:, 2:], pixels.double() + 0.5, rtol=1e-4, atol=1e-4)
    assert rays.cosines is not None
    torch.testing.assert_close(rays.cosines, 1 / torch.linalg.vector_norm(rays.directions, dim=1))
    both = joined([rays, rays])
    assert both.count == 6 and both.cosines is not None and both.offsets is None
    camera = one_view(pinhole(8, 8, 4.0), 8, 8)
    with pytest.raises(ValueError, match="focal length"):
        pixel_rays(replace(camera, intrinsics=-camera.intrinsics), 0, 0, pixels)


def test_regularisers_against_their_definition() -> None:
    """Sums over all pairs of samples, from weights that only the reference gives out."""
    case = RAY_CASES["renderocc"]().part(torch.arange(8)).to(dtype=torch.float64)
    w, samples = weights(case.rays, case.grid, case.settings)
    out = ReferenceRayRenderer().render(case.rays, case.grid, case.settings)
    pairs = (w[:, :, None] * w[:, None] * (samples.depth[:, :, None] - samples.depth[:, None]).abs()).sum((1, 2))
    torch.testing.assert_close(out.spread, pairs)
    interval = 1 / int((w > 0).sum())
    expected = (interval * w.square().sum(1) / 3 + pairs / 39).mean()
    torch.testing.assert_close(distortion_flattened(out, 39.0), expected)
    torch.testing.assert_close(distortion(out), ((w.square() * samples.spacing).sum(1) / 3 + pairs).mean())
    p = torch.tensor([0.0, 0.5, 1.0])
    assert float(binary_entropy(p)) == pytest.approx((math.log(2) + 2 * 1.4816e-5) / 3, rel=1e-4)
    assert float(one_sided_entropy(p)) == pytest.approx(0.5 * math.log(2) / 3, rel=1e-5)
    ramp = torch.arange(4.0)[None, :, None, None].expand(1, 4, 2, 2)
    assert float(total_variation(ramp)) == pytest.approx(12 / (12 + 8 + 8))


class _Wrong(ReferenceRayRenderer):
    """A renderer with one mistake."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def _render(self, rays: Rays, grid: GridField, settings: RaySettings) -> RayRendering:
        if self.mistake == "half a voxel":
            grid = replace(grid, alignment="centres" if grid.alignment == "corners" else "corners")
        if self.mistake == "no stop":
            settings = settings.with_(transmittance_min=0.0)
        if self.mistake == "no gradient to density":
            grid = replace(grid, density=grid.density.detach() + 0 * grid.density)
        out = super()._render(rays, grid, settings)
        if self.mistake == "depth over alpha":
            out = replace(out, depth=out.depth / out.alpha.clamp_min(1e-10))
        return out


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        ("half a voxel", "features"),
        ("no stop", "transmittance"),
        ("no gradient to density", "gradient of density"),
        ("depth over alpha", "depth"),
    ],
)
def test_the_check_finds_mistakes(mistake: str, found: str) -> None:
    result = check(_Wrong(mistake), RAY_CASES["renderocc_opaque"]())
    assert not result.ok and found in {d.what for d in result.differences if not d.ok}, str(result)


def test_cases_exercise_their_subject() -> None:
    """Rays see something, stops and skips happen, and thresholds change what is counted."""
    for name, build in RAY_CASES.items():
        case = build()
        out = ReferenceRayRenderer().render(case.rays, case.grid, case.settings)
        assert name in ("empty", "no_rays") or float(out.alpha.max()) > 0.05, name
    stopped = RAY_CASES["renderocc_opaque"]()
    out = ReferenceRayRenderer().render(stopped.rays, stopped.grid, stopped.settings)
    assert float((out.transmittance < 1e-3).float().mean()) > 0.2
    whole = ReferenceRayRenderer().render(stopped.rays, stopped.grid, RENDEROCC_FEWER.with_(skip=None, weight_min=0.0))
    assert (whole.samples > out.samples).any()


def test_finite_values_whose_sum_overflows_are_accepted() -> None:
    case = RAY_CASES["one_cell"]()
    validate(case.rays, replace(case.grid, features=torch.full_like(case.grid.features, 3e38)), case.settings)
