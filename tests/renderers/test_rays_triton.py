"""The Triton renderer of rays: in Triton's interpreter against the contract, and compiled for a GPU that need not be there.

The interpreter takes some 20 ms a sample of all rays at once, so most cases are held to with few samples here; test_rays holds a
GPU, where there is one, to whole ones.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hopper import Absent, Compiled, Found, compiled_apart, fits, interpreter
from ray_contract_checks import CHECKS, bad_input

from renderers.conformance import Comparison
from renderers.interface import SettingNotSupported
from renderers.rays import RayRenderer, Rays, SkipAccumulated, SphereSampler
from renderers.rays.cases import RayCase, random_rays
from renderers.rays.conformance import RAY_CASES, check
from renderers.rays.triton import TritonRayRenderer
from renderers.triton import INTERPRETER

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="the package triton is not installed")

KNOWN = ("empty", "one_cell", "opaque_cell", "five_samples", "thresholds", "probability", "centres", "no_rays")
"""Cases of at most seven samples."""
SPARSE = (
    *("renderocc", "gaussianocc_prob", "gaussianocc_density", "axes_accumulated", "uniform_z", "one_voxel", "channels_70"),
    *("interval", "border", "prob_open"),
)
"""Cases that have all kinds of settings among them."""


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Callable[..., Any]]:
    """Calls a function of this module in a process whose Triton interprets kernels."""
    with interpreter() as call:
        yield call


def sparse(name: str) -> RayCase:
    """A case with some twenty samples."""
    case = RAY_CASES[name]()
    sampler, skip = case.settings.sampler, case.settings.skip
    if isinstance(sampler, SphereSampler):
        sampler = replace(sampler, inner=14, outer=4)
    else:
        sampler = replace(sampler, count=20)
    if isinstance(skip, SkipAccumulated):
        skip = SkipAccumulated(3.0)
    return replace(case, settings=case.settings.with_(sampler=sampler, skip=skip))


def conforms(case: RayCase | str) -> Comparison:
    return check(TritonRayRenderer(), RAY_CASES[case]() if isinstance(case, str) else case)


@pytest.mark.parametrize("name", KNOWN)
def test_conforms(name: str, interpreted: Callable[..., Any]) -> None:
    result = interpreted(conforms, name)
    assert result.ok, str(result)


@pytest.mark.parametrize("name", SPARSE)
def test_conforms_with_few_samples(name: str, interpreted: Callable[..., Any]) -> None:
    result = interpreted(conforms, sparse(name))
    assert result.ok, str(result)


def keeps(check_: Callable[[RayRenderer, str], None]) -> None:
    check_(TritonRayRenderer(), "cpu")


@pytest.mark.parametrize(
    "keeps_to",
    [c if c is bad_input else pytest.param(c, marks=pytest.mark.slow) for c in CHECKS],
    ids=lambda function: function.__name__,
)
def test_contract_beyond_what_is_rendered(keeps_to: Callable[[RayRenderer, str], None], interpreted: Callable[..., Any]) -> None:
    interpreted(keeps, keeps_to)


def in_chunks() -> None:
    """Rays that do not fit at once: the same picture and gradients."""
    from renderers.rays.triton import op

    assert op._at_once(38_400, 417) == 38_400, "what RenderOcc draws is marched at once"
    case = sparse("renderocc")
    op.ROOM = op.RECORD * 18 * 25  # 25 of the 60 rays
    assert op._at_once(60, 18) == 20
    result = conforms(case)
    assert result.ok, str(result)


def strided() -> None:
    case = RAY_CASES["one_cell"]()
    turned = replace(case.grid, features=case.grid.features.movedim(-1, 1).contiguous().movedim(1, -1))
    a, b = (TritonRayRenderer().render(case.rays, grid, case.settings) for grid in (case.grid, turned))
    assert torch.equal(a.features, b.features) and not turned.features.is_contiguous()


def order_has_every_ray_once() -> None:
    from renderers.rays.triton.op import order_of

    rays = random_rays(500, 3, batch=3)
    upright = Rays(rays.origins[:3], torch.tensor([[0.0, 0, 1], [0, 0, -1], [-1, 0, 0]]), rays.scene[:3])
    for some in (rays, upright):
        order = order_of(some)
        assert order.sort().values.equal(torch.arange(some.count)) and (some.scene[order].diff() >= 0).all()


def refusals() -> None:
    case = RAY_CASES["one_cell"]().to(dtype=torch.float64)
    with pytest.raises(SettingNotSupported, match=r"'triton' cannot honour dtype=torch.float64.*\.float\(\)"):
        TritonRayRenderer().render(case.rays, case.grid, case.settings)
    from renderers.rays import triton as backend

    backend.MOST_VOXELS = 100
    case = RAY_CASES["one_cell"]()
    with pytest.raises(SettingNotSupported, match=r"cannot honour density=\[1, 5, 5, 5\].*100 voxels"):
        TritonRayRenderer().render(case.rays, case.grid, case.settings)
    backend.MOST_VOXELS = 2**31 - 1


@pytest.mark.parametrize(
    "function", [strided, order_has_every_ray_once, refusals, pytest.param(in_chunks, marks=pytest.mark.slow)]
)
def test_in_the_interpreter(function: Callable[[], None], interpreted: Callable[..., Any]) -> None:
    interpreted(function)


@pytest.mark.skipif(os.environ.get(INTERPRETER) == "1", reason="this process interprets kernels")
def test_cpu_tensors_are_refused_by_compiled_kernels() -> None:
    case = RAY_CASES["one_cell"]()
    with pytest.raises(SettingNotSupported, match="'triton' cannot honour device='cpu'.*runs on cuda"):
        TritonRayRenderer().render(case.rays, case.grid, case.settings)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    state = TritonRayRenderer.availability()
    assert not state and "triton is not installed" in state.reason and "pip install" in state.remedy


def test_hidden_by_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    here = importlib.util.find_spec("renderers.rays.triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: here)
    state = TritonRayRenderer.availability()
    assert not state and "the folder renderers/rays/ is on Python's path" in state.reason and "python -m" in state.remedy


# ---- compiled for a GPU


def compile_without_a_gpu(name: str) -> Found:
    """Each kernel that rendering and differentiating a case launches."""
    import triton

    from renderers.rays.triton import marching, op, showing

    found: Found = {}
    triton.runtime.driver.set_active(Absent())
    for module, kernels in ((marching, ("march", "differentiate")), (showing, ("show", "give_back"))):
        for kernel in kernels:
            setattr(module, kernel, Compiled(getattr(module, kernel), found))
    if name == "one":  # Triton compiles arguments that are 1 in
        case = RAY_CASES["one_voxel"]().part(torch.tensor([0]))
        sampler = SphereSampler((0.0, 0.0, 2.2), 39.0, 1.0, 1, 0)
        case = replace(
            case, grid=replace(case.grid, features=case.grid.features[..., :1]), settings=case.settings.with_(sampler=sampler)
        )
    else:
        case = RAY_CASES[name]()
    leaves = [t.clone().requires_grad_() for t in (case.grid.density, case.grid.features)]
    outputs = op.March.apply(op.Job(case.rays, case.grid, case.settings), *leaves)
    sum(out.sum() for out in outputs[:-1]).backward()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["renderocc", "gaussianocc_prob", "gaussianocc_density", "uniform_z", "channels_70", "one"])
def test_compiles_for_a_gpu(name: str) -> None:
    """Types, shapes, launches and resources are right for an H100 or H200; that the kernels run there, this cannot tell."""
    found = compiled_apart(compile_without_a_gpu, name)
    assert {kernel: len(variants) for kernel, variants in found.items()} == {
        "march": 2, "show": 1, "give_back": 1, "differentiate": 1,
    }  # fmt: skip
    fits(found)
