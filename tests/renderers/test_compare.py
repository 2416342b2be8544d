"""Comparing renderers: workloads, blocks of pixels against the whole reference, numbers, files, the command line."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from camera_occupancy_bench import ROOT
from renderers import compare, machine, registry
from renderers.cases import CASES
from renderers.compare import Conformance, Request
from renderers.interface import Availability, Rendering
from renderers.machine import Machine, inspect
from renderers.measure import PeakMemory, Result, measure
from renderers.rays import measure as rays_measure
from renderers.reference import ReferenceRenderer
from renderers.spotcheck import agreement, choose, coverage
from renderers.summary import number, span
from renderers.workloads import (
    OFFICIAL_LABEL,
    WORKLOADS,
    LabelError,
    RayScene,
    Source,
    UnknownWorkload,
    load_label,
    select,
    street,
)

KEYS = ("forward_ms", "backward_ms", "peak_mb", "max_abs_error", "grad_cosine")
HERE = Machine("Some (R) CPU", 2, 2, 8.0, ("sse2", "avx2"), None, "avx2", 100.0, 50.0, 10.0)


@pytest.fixture(autouse=True)
def no_peaks(monkeypatch) -> None:
    """The machine is not measured, which takes three seconds."""
    monkeypatch.setattr(machine, "inspect", lambda device: HERE)


# ---- workloads


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_valid_and_the_same_each_time(name: str) -> None:
    first, second = (WORKLOADS[name].build(Source(shrink=8)) for _ in range(2))
    if isinstance(first, RayScene):
        assert isinstance(second, RayScene)
        case = first.case
        assert torch.equal(case.rays.origins, second.case.rays.origins) and torch.equal(
            case.grid.density, second.case.grid.density
        )
        out = registry.get("cpu", "rays").render(case.rays, case.grid, case.settings)
        assert float(out.alpha.max()) > 0.1 and float(out.alpha.min()) < 0.05
        return
    for a, b in zip(first.parts, second.parts, strict=True):
        assert torch.equal(a.gaussians.means, b.gaussians.means) and torch.equal(a.gaussians.features, b.gaussians.features)
        out = registry.get("cpu").render(a.gaussians, a.cameras, a.settings, a.visible)
        assert float(out.alpha.max()) > 0.01, "something is in the picture"
        assert all(getattr(a.gaussians, field) is not None for field in WORKLOADS[name].trained)


def test_sizes_are_those_of_the_systems() -> None:
    def shape(name: str) -> tuple[int, int, int, int, int]:
        (case,) = WORKLOADS[name].build(Source()).parts
        c = case.cameras
        return case.gaussians.count, case.gaussians.channels, c.views, c.width, c.height

    assert shape("occ3d-bev") == (640_000, 19, 1, 400, 400)
    assert shape("gaussianflowocc") == (10_000, 16, 42, 704, 256)
    assert shape("channels-64") == (200_000, 64, 1, 800, 450)
    along = WORKLOADS["renderocc"].build(Source()).case
    assert along.rays.count == 38_400 and list(along.grid.features.shape) == [1, 200, 200, 16, 17]
    assert len(along.settings.sampler.distances()) == 417
    camera, above = WORKLOADS["toy"].build(Source()).parts
    assert camera.gaussians.count == above.gaussians.count == 80_000
    assert (camera.cameras.width, camera.cameras.height, above.cameras.width) == (200, 112, 200)


def test_the_made_up_street_is_about_as_full_as_a_real_one() -> None:
    label = street((200, 200, 16))
    assert 0.05 < float((label != 17).float().mean()) < 0.07
    assert torch.equal(label, street((200, 200, 16))) and not torch.equal(label, street((200, 200, 16), seed=1))


def test_names_of_groups_and_members() -> None:
    assert [w.name for w in select(["occ3d-camera"])] == ["occ3d-camera", "occ3d-camera-gt"]
    assert [w.name for w in select(["channels-19", "toy"])] == ["toy", "channels-19"]
    assert len(select([])) == len(WORKLOADS)
    with pytest.raises(UnknownWorkload, match="did you mean 'gaussianocc'"):
        select(["gaussianoc"])


def test_the_official_label_is_used_and_named(real_frames: Path) -> None:
    if not (real_frames / OFFICIAL_LABEL).is_file():
        pytest.skip("the folder has no official label")
    label = load_label(real_frames)
    (case,), what = (scene := WORKLOADS["occ3d-camera-gt"].build(Source(label=label))).parts, scene.label
    assert case.gaussians.count == int((label != 17).sum()) == 39_092 and "official" in what
    assert WORKLOADS["occ3d-camera-gt"].build(Source(shrink=8)).label == "made-up street"


def test_a_folder_without_the_label(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="scene-1077.*No such file"):
        load_label(tmp_path)


# ---- agreement


def _parts(name: str, **settings: object) -> list:
    scene = WORKLOADS[name].build(Source(shrink=8))
    return [replace(case, settings=case.settings.with_(**settings)) for case in scene.parts]


@pytest.mark.parametrize("settings", [{}, {"extent": "tile3sigma", "tile_size": 12}], ids=["iso", "tiles"])
def test_blocks_are_what_the_reference_gives_for_the_whole_scene(settings: dict) -> None:
    (case,) = _parts("gaussianflowocc", **settings)
    c, views = case.cameras, [0, 20, 41]
    assert c.time_index is not None
    few = replace(
        c, intrinsics=c.intrinsics[:, views], world_to_camera=c.world_to_camera[:, views], time_index=c.time_index[views]
    )
    case = replace(case, cameras=few)
    seen = coverage(case)
    generator = torch.Generator().manual_seed(0)
    blocks = choose(case, seen, generator, 5, 1e9)
    assert len(blocks) == 5

    class Exact(ReferenceRenderer):
        def render(self, gaussians, cameras, settings=None, visible=None) -> Rendering:
            whole = replace(case, gaussians=gaussians, cameras=cameras, settings=settings, visible=visible)
            whole = whole.to(dtype=torch.float64)
            return super().render(whole.gaussians, whole.cameras, whole.settings, whole.visible)

    found = agreement(Exact(), [case], [seen], WORKLOADS["gaussianflowocc"].trained)
    assert found.pixels > 1000
    assert max(found.errors[key] for key in ("features", "alpha", "depth")) < 1e-12
    assert min(found.cosines.values()) > 1 - 1e-9


def test_counts_by_block_are_those_of_the_bounds() -> None:
    (case,) = _parts("kitti360-camera")
    (view,) = coverage(case)
    y, x = 1, 4
    left, top, right, bottom = view.bounds.unbind(-1)
    expected = (left < 16 * x + 16) & (right > 16 * x) & (top < 16 * y + 16) & (bottom > 16 * y)
    assert int(view.counts[y, x]) == int(expected.sum()) > 0


class Off(ReferenceRenderer):
    """Features too large by ``by``, gradients of opacities of the wrong sign."""

    by = 0.01

    def _render(self, gaussians, cameras, settings, visible) -> Rendering:
        flipped = replace(gaussians, opacities=2 * gaussians.opacities.detach() - gaussians.opacities)
        out = super()._render(flipped, cameras, settings, visible)
        return replace(out, features=out.features + self.by)


def test_a_wrong_renderer_is_found_out() -> None:
    parts = _parts("toy")
    seen = [coverage(case) for case in parts]
    found = agreement(Off(), parts, seen, ("opacities", "features"))
    assert found.errors["features"] == pytest.approx(0.01, rel=1e-3) and found.errors["alpha"] < 1e-5
    assert found.cosines["opacities"] == pytest.approx(-1, abs=1e-3) and found.cosines["features"] > 0.999
    Off.by = float("nan")
    with pytest.raises(ArithmeticError, match="non-finite values in features"):
        agreement(Off(), parts, seen, ("opacities", "features"))


# ---- measuring


def test_measured_numbers() -> None:
    result = measure("cpu", WORKLOADS["toy"], Source(shrink=4), "cpu", 2)
    assert result.status == "measured" and result.repeats == 2
    assert result.forward_range_ms[0] <= result.forward_ms <= result.forward_range_ms[1] and result.backward_ms > 0
    assert result.max_abs_error < 1e-4 and result.grad_cosine > 0.9999 and result.pixels > 500
    assert result.scene["gaussians"] == 25 * 25 * 2 and result.scene["views"] == 2
    assert {"project", "sort", "bin", "blend"} <= set(result.stages["forward_ms"])
    weights = result.stages["counts"]["weights"]
    assert result.stages["blend_gflop"] == pytest.approx(40e-9 * weights) and weights > 0


def test_rays_are_measured() -> None:
    result = rays_measure.measure("cpu", WORKLOADS["renderocc"], Source(shrink=8), "cpu", 2)
    assert result.status == "measured" and result.repeats == 2 and result.forward_ms > 0 and result.backward_ms > 0
    assert result.max_abs_error < 1e-5 and result.grad_cosine > 1 - 1e-8 and result.pixels > 500 and result.undecided < 0.02
    assert result.scene["rays"] == 600 and result.scene["samples"] == 417 and result.scene["grid"] == "25x25x2"
    stages = result.stages
    assert stages["forward_ms"]["march"] > 0 and stages["backward_ms"]["scatter"] > 0
    counts = stages["counts"]
    assert counts["records"] == 2 * counts["cells"] > 0 and 0 < counts["samples"] <= 600 * 417
    assert stages["blend_gflop"] == pytest.approx(16e-9 * (17 * counts["cells"] + counts["samples"]))


def test_the_reference_is_not_run_where_it_would_take_minutes(monkeypatch) -> None:
    monkeypatch.setattr("renderers.measure.REFERENCE_LIMIT", 1000.0)
    result = measure("reference", WORKLOADS["gaussians-10000"], Source(shrink=8), "cpu", 1)
    assert result.status == "not run" and "(pixel, Gaussian) pairs" in result.reason and result.forward_ms is None


def test_peak_memory_counts_what_is_freed_again() -> None:
    peak = PeakMemory("cpu")
    torch.ones(40 << 18)  # 40 MiB
    found = peak.megabytes()
    assert found is None or 35 < found < 60


# ---- the command


@pytest.fixture(autouse=True)
def no_labels(monkeypatch, request) -> None:
    """No folder of labels is named."""
    if "real_frames" not in request.fixturenames:
        monkeypatch.delenv("OCC_REAL_FRAMES", raising=False)


@pytest.fixture
def small(monkeypatch):
    """Scenes of an eighth of the size."""
    parse = compare.parse
    monkeypatch.setattr(compare, "parse", lambda argv: replace(parse(argv), shrink=8))


def test_json_and_records(tmp_path: Path, small, monkeypatch, capfd) -> None:
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    out = tmp_path / "out.json"
    arguments = ["--renderer", "cpu", "--workload", "toy", "--json", str(out), "--save", "--repeat", "1", "--device", "cpu"]
    assert compare.main(arguments) == 0
    content = json.loads(out.read_text())
    found = content["workloads"]["toy"]["cpu"]
    assert found["status"] == "measured" and all(isinstance(found[key], float) for key in KEYS)
    assert found["stages"]["blend_part_of_peak"] == pytest.approx(found["stages"]["blend_gflops"] / 100.0)
    assert content["machine"]["cores"] == 2 and content["machine"]["fma_gflops"] == 100.0
    assert content["machine"]["bandwidth_gbs"] == 10.0 and content["versions"]["torch"] == version("torch")
    assert content["command"].startswith("python -m renderers.compare --renderer cpu --workload toy")
    record = tmp_path / "results/table_renderers/cpu-some-cpu-2-threads-avx2/toy--cpu.json"
    pytest.importorskip("pydantic", reason="renderers were measured; the suite's records need pydantic")
    from experiments.renderer_records import load_all

    ((path, loaded),) = load_all(tmp_path / "results")
    assert path == record and loaded.forward_ms == found["forward_ms"] and loaded.machine.fma_gflops == 100.0
    assert "toy, cpu: forward" in capfd.readouterr().out


def test_an_unavailable_renderer_is_listed_and_an_error_if_named(tmp_path: Path, small, monkeypatch, capfd) -> None:
    def availability(name: str, kind: str = "splats") -> Availability:
        return Availability(name == "cpu", "no such hardware", "buy some")

    monkeypatch.setattr(registry, "availability", availability)
    monkeypatch.setattr(compare, "_measured", lambda *a: Result("measured", forward_ms=1.0, forward_range_ms=(1.0, 1.0)))
    out = tmp_path / "out.json"
    assert compare.main(["--renderer", "cpu", "gsplat", "--workload", "toy", "--json", str(out), "--device", "cpu"]) == 1
    assert "error: not available here: gsplat" in capfd.readouterr().err
    found = json.loads(out.read_text())["workloads"]["toy"]
    assert found["gsplat"]["status"] == "unavailable" and "buy some" in found["gsplat"]["reason"]
    assert found["gsplat"]["forward_ms"] is None and found["cpu"]["status"] == "measured"
    assert compare.main(["--workload", "toy", "--device", "cpu"]) == 0, "nobody asked for it by name"
    printed = capfd.readouterr()
    assert "gsplat is not available: no such hardware; buy some" in printed.out and printed.err == ""


def test_a_backend_without_the_kind_is_left_out_of_it(tmp_path: Path, small, monkeypatch, capfd) -> None:
    monkeypatch.setattr(compare, "_measured", lambda *a: Result("measured", forward_ms=1.0, forward_range_ms=(1.0, 1.0)))
    monkeypatch.setattr(compare, "_hindrance", lambda name, device: "")
    out = tmp_path / "out.json"
    arguments = ["--renderer", "cpu", "gsplat", "--workload", "renderocc", "toy", "--json", str(out), "--device", "cpu"]
    assert compare.main(arguments) == 0
    found = json.loads(out.read_text())["workloads"]
    assert found["renderocc"]["cpu"]["status"] == found["toy"]["gsplat"]["status"] == "measured"
    assert (
        found["renderocc"]["gsplat"]["status"] == "unavailable"
        and "does not render rays" in found["renderocc"]["gsplat"]["reason"]
    )


def test_what_is_finished_survives_an_interruption(tmp_path: Path, monkeypatch, capfd) -> None:
    def alone(name: str, workload, request) -> Result:
        if workload.name == "channels-8":
            raise KeyboardInterrupt
        return Result("measured", forward_ms=1.0, forward_range_ms=(1.0, 1.0))

    monkeypatch.setattr(compare, "_measured", alone)
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    out = tmp_path / "out.json"
    command = ["--renderer", "cpu", "--workload", "channels", "--json", str(out), "--save", "--device", "cpu"]
    assert compare.main(command) == 130
    assert "interrupted; what was finished is saved" in capfd.readouterr().err
    assert json.loads(out.read_text())["workloads"]["channels-3"]["cpu"]["forward_ms"] == 1.0
    assert [p.name for p in (tmp_path / "results").rglob("*.json")] == ["channels-3--cpu.json"]


def _die(*arguments: object) -> None:
    signal.raise_signal(signal.SIGKILL)


def _refuse(name: str, *arguments: object) -> Result:
    raise RuntimeError(f"{name} cannot\ndo that")


def test_backends_are_held_to_the_contract(monkeypatch) -> None:
    class Bright(ReferenceRenderer):
        def _render(self, *arguments) -> Rendering:
            out = super()._render(*arguments)
            return replace(out, features=1.1 * out.features)

    monkeypatch.setattr(compare, "CASES", {name: CASES[name] for name in ("batch_views_visible", "tie")})
    monkeypatch.setattr(compare, "RAY_CASES", {})
    assert compare._conform("reference", "cpu") == Conformance(2, {})
    monkeypatch.setattr(registry, "get", lambda name, kind="splats": Bright())
    found = compare._conform("reference", "cpu")
    assert list(found.failed) == ["batch_views_visible", "tie"] and "features" in found.failed["tie"]


def test_a_broken_contract_is_an_error(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(compare, "_alone", lambda work, name, device: Conformance(3, {"tie": "features 1 (at most 0.0001)"}))
    out = tmp_path / "out.json"
    assert compare.main(["--renderer", "cpu", "--workload", "conformance", "--json", str(out), "--device", "cpu"]) == 1
    printed = capfd.readouterr()
    assert "conformance, cpu: 2 of 3 cases\n  tie: features 1 (at most 0.0001)" in printed.out
    assert "error: the contract is not kept by: cpu" in printed.err
    content = json.loads(out.read_text())
    assert content["conformance"]["cpu"]["failed"] and content["workloads"] == {}


def test_a_crash_of_a_backend_is_its_result(monkeypatch) -> None:
    # A workload's name may be its group's too.
    assert isinstance(compare._measure("cpu", "occ3d-camera", 16, None, "cpu", 1), Result)
    request = Request(["cpu"], True, [WORKLOADS["toy"]], False, "cpu", shrink=8)
    monkeypatch.setattr(compare, "_child", _die)
    result = compare._measured("cpu", WORKLOADS["toy"], request)
    assert result.status == "failed" and "signal 9 (SIGKILL)" in result.reason and "memory ran out" in result.reason


def test_an_error_of_a_backend_is_its_result_in_one_line(monkeypatch) -> None:
    class Sender:
        def send(self, value: str) -> None:
            self.value = value

    before = signal.getsignal(signal.SIGINT)
    sender = Sender()
    try:
        compare._child(sender, _refuse, ("cpu",))  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
    assert sender.value == "RuntimeError: cpu cannot do that"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--renderer", "cpuu"], "unknown renderer 'cpuu'; did you mean 'cpu'?"),
        (
            ["--renderer", "gsplat", "--workload", "renderocc"],
            "renderer 'gsplat' does not render rays; those that do: reference, cpu",
        ),
        (["--workload", "ocd3d-camera"], "unknown workload 'ocd3d-camera'; did you mean 'occ3d-camera'?"),
        (["--json", "/no/such/folder/out.json"], "--json: cannot write into /no/such/folder: No such file or directory"),
        (["--json", "."], "is a folder; name a file"),
        (["--device", "tpu"], "--device tpu: there is no such device"),
        (["--device", "cuda:99"], "--device cuda:99: torch"),
        (["--device", "meta"], "--device meta: measured are cpu and cuda"),
        (["--repeat", "0"], "--repeat must be at least 1, got 0"),
        (["--repeat", "many"], "invalid int value: 'many'"),
        (["--data", "/no/such/folder"], "is not an Occ3D label (No such file or directory)"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, monkeypatch, capfd) -> None:
    monkeypatch.setattr(compare, "_alone", lambda *a: pytest.fail("work has started"))
    try:
        code = compare.main([*arguments])
    except SystemExit as end:  # what the command line does not have
        code = end.code
    assert code == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_an_unwritable_results_folder(tmp_path: Path, monkeypatch, capfd) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "file"))
    assert compare.main(["--save", "--device", "cpu"]) == 2
    assert "error: --save: cannot write into" in capfd.readouterr().err


def test_numbers_as_they_are_printed() -> None:
    assert [number(v) for v in (None, 0.01234, 12.34, 1234.5)] == ["-", "0.0123", "12.3", "1234"]
    assert span(2.0, (1.0, 3.0)) == "2 (1-3)" and span(None, None) == "-"


def test_tables_without_rich(monkeypatch, capfd) -> None:
    import sys

    from renderers.summary import print_summary

    monkeypatch.setitem(sys.modules, "rich.console", None)
    results = {"toy": {"cpu": Result("measured", forward_ms=1.5, forward_range_ms=(1.0, 2.0), backward_ms=3.0)}}
    results["toy"]["reference"] = Result("measured", forward_ms=300.0, backward_ms=600.0)
    results["toy"]["gsplat"] = Result("unavailable", "no CUDA")
    print_summary(HERE, results, "of memory", "of agreement")
    lines = capfd.readouterr().out.splitlines()
    assert any(line.split() == ["toy", "cpu", "1.5", "(1-2)", "3", "-", "-", "-", "200"] for line in lines)
    assert "gsplat unavailable: no CUDA (toy)" in lines


# ---- the machine


def test_peaks_are_measured(monkeypatch) -> None:
    monkeypatch.setattr(machine, "BANDWIDTH_ELEMENTS", 1 << 20)
    found = inspect("cpu")
    assert found.fma_gflops > 0.5 and found.fma_gflops_one_thread > 0.5 and found.bandwidth_gbs > 0.1
    assert found.cores >= 1 and found.threads == torch.get_num_threads() and found.gpu is None and found.note == ""


def test_names_of_machines() -> None:
    assert HERE.slug("cpu") == "cpu-some-cpu-2-threads-avx2"
    assert replace(HERE, gpu="NVIDIA H200").slug("cuda") == "cuda-nvidia-h200"
    assert replace(HERE, cpu="Intel(R) Xeon(R) Gold @ 2.4GHz", instruction_sets=("avx2", "avx512f")).slug("cpu") == (
        "cpu-intel-xeon-gold-2-threads-avx512f"
    )


def test_only_torch_is_needed() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('mmengine', 'mmdet3d', 'mlflow', 'pydantic', 'typer', 'pandas', 'rich'): sys.modules[name] = None\n"
        "import renderers.compare\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('experiments', 'baselines', 'reports')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
