"""table_renderers: records to publish, page, plots; and what a renderer changes in a trained table."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built import page, run_with
from PIL import Image

from experiments import records, renderer_records
from experiments.records import RecordError
from experiments.spec import SpecError, load_table
from reports import build, publish, renderers
from reports.renderer_figures import figures
from reports.summary import ReportError, summarise

MACHINE = "cpu-test-2-threads-avx2"
Make = Callable[..., Path]


@pytest.fixture
def measured() -> Make:
    """Writes one invented record of table_renderers below a folder."""

    def make(root: Path, workload: str, renderer: str, forward: float = 2.0, machine: str = MACHINE, **changes: Any) -> Path:
        group = workload.split("-")[0] if workload.split("-")[0] in renderers.SWEPT else workload.removesuffix("-gt")
        scene = {"gaussians": 1000, "channels": 19, "views": 1, "images": "1 x 8x8", "drawn": 900, "tile_pairs": 50, "label": ""}
        if group in renderers.SWEPT:
            scene[group] = int(workload.split("-")[1])
        content: dict[str, Any] = {
            "schema_version": 1,
            "table": "table_renderers",
            "workload": workload,
            "group": group,
            "title": "invented",
            "renderer": renderer,
            "status": "measured",
            "forward_ms": forward,
            "forward_range_ms": [forward * 0.9, forward * 1.2],
            "backward_ms": 2 * forward,
            "backward_range_ms": [1.8 * forward, 2.5 * forward],
            "repeats": 5,
            "peak_mb": 123.4,
            "max_abs_error": 1.5e-6,
            "grad_cosine": 0.9999,
            "pixels": 3000,
            "undecided": 0.01,
            "scene": scene,
            "command": "python -m renderers.compare --json /home/someone/out.json",
            "device": "cpu",
            "machine": {
                "cpu": "Test CPU",
                "cores": 2,
                "threads": 2,
                "memory_gb": 8.0,
                "instruction_sets": ["avx2"],
                "gpu": None,
                "fma_target": "avx2",
                "fma_gflops": 198.0,
                "fma_gflops_one_thread": 99.0,
                "bandwidth_gbs": 20.0,
            },
            "memory_definition": "what memory means",
            "agreement_definition": "what agreement means",
            "versions": {"torch": "2"},
            "git_commit": "0123456789abcdef",
            "git_dirty": False,
            "started": "2025-01-01T00:00:00+0000",
            "unavailable": {"gsplat": "no CUDA"},
        }
        path = root / "table_renderers" / machine / f"{workload}--{renderer}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content | changes))
        return path

    return make


@pytest.fixture
def filled(project: Path, measured: Make) -> Path:
    root = project / "results/records"
    stages = {"forward_ms": {"blend": 1.5}, "backward_ms": {"blend": 3.0}, "blend_gflops": 60.0, "blend_part_of_peak": 0.303}
    measured(root, "toy", "cpu", 2.0, stages=stages)
    measured(root, "toy", "reference", 240.0)
    measured(root, "occ3d-camera", "reference", status="not run", reason="too many pairs")
    for count in (100, 20, 3):
        measured(root, f"channels-{count}", "cpu", count / 10)
    return project


def test_the_page_says_what_was_measured_and_how(filled: Path) -> None:
    text = page(filled, "table_renderers")
    line = next(line for line in text.splitlines() if line.startswith("| toy") and "cpu" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:6] == ["toy", "cpu", "2 (1.8 to 2.4)", "4 (3.6 to 5)", "120x", "123"]
    assert cells[6:] == ["1.5e-06", "0.0001"]
    assert "`reference` not run: too many pairs (occ3d-camera)" in text
    assert "`gsplat` not available: no CUDA" in text
    assert "30 %" in text and "multiply-adds 198 GFLOP/s" in text and "20 GB/s" in text
    assert "what memory means" in text and "what agreement means" in text and "0123456789ab" in text
    assert "](../figures/table_renderers--channels.png)" in text
    assert text.index("| channels-3 ") < text.index("| channels-20 ") < text.index("| channels-100 ")


def test_without_records_the_command_stands_there(project: Path) -> None:
    assert "Not measured yet: `python -m renderers.compare --save`" in page(project, "table_renderers")
    outputs = build.build(project)
    assert project / "reports/tables/table_renderers.csv" not in outputs.texts
    assert not any(path.name.startswith("table_renderers") for path in outputs.figures)


def test_machines_stand_apart(filled: Path, measured: Make) -> None:
    gpu = {"cpu": "Host", "cores": 16, "threads": 16, "memory_gb": 128.0, "instruction_sets": [], "gpu": "Test GPU"}
    peaks = {"fma_target": None, "fma_gflops": None, "fma_gflops_one_thread": None, "bandwidth_gbs": None, "note": "no compiler"}
    root = filled / "results/records"
    for count in (3, 100):
        path = measured(root, f"channels-{count}", "gsplat", 0.1, "cuda-test-gpu", device="cuda", unavailable={})
        path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": gpu | peaks}))
    text = page(filled, "table_renderers")
    assert "## Test CPU, 2 threads, avx2\n" in text and "## Test GPU\n" in text and "no compiler" in text
    (figure,) = figures(renderers.read(root))
    assert list(figure.forward) == ["cpu, Test CPU, 2 threads, avx2", "gsplat, Test GPU"]
    assert figure.forward["cpu, Test CPU, 2 threads, avx2"][0] == (3.0, 0.3, pytest.approx(0.27), pytest.approx(0.36))


def test_the_build_is_byte_identical_and_the_plots_are_images(filled: Path) -> None:
    build.build(filled).write()
    plot = filled / "reports/figures/table_renderers--channels.png"
    first = plot.read_bytes()
    with Image.open(io.BytesIO(first)) as image:
        assert image.size[0] > 800
    assert build.build(filled).write() == []
    plot.unlink()
    assert build.build(filled).write() == [plot] and plot.read_bytes() == first
    lines = (filled / "reports/tables/table_renderers.csv").read_text().splitlines()
    assert lines[0].startswith("machine,device,workload,renderer,status,forward_ms,forward_min")
    assert f"{MACHINE},cpu,toy,cpu,measured,2,1.8,2.4,4,3.6,5,5,123.4" in lines[1]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch):
    """The publish command on folders of its own."""
    local, committed = tmp_path / "local", tmp_path / "committed"
    monkeypatch.setenv("OCC_RESULTS", str(local))
    monkeypatch.setattr(records, "COMMITTED", committed)
    return local, committed, run_with(publish.main)


def test_publish(cli, measured: Make) -> None:
    local, committed, run = cli
    measured(local, "toy", "cpu")
    measured(local, "occ3d-bev", "cpu", git_dirty=True)
    measured(local, "occ3d-bev", "gsplat", status="failed", reason="out of memory")
    assert f"new       {MACHINE}/toy--cpu" in run("table_renderers", "--list").output and not committed.exists()
    done = run("table_renderers")
    assert done.exit_code == 0 and f"wrote    {MACHINE}/toy--cpu" in done.output
    wrote = f"wrote    {MACHINE}/occ3d-bev--cpu: commit 0123456789ab of 2025-01-01 (warning: run with uncommitted changes)"
    assert wrote in done.output
    assert f"refused  {MACHINE}/occ3d-bev--gsplat: the measurement failed (out of memory)" in done.output
    published = dict(renderer_records.load_all(committed))
    assert [p.name for p in published] == ["occ3d-bev--cpu.json", "toy--cpu.json"]
    assert all(r.command == "python -m renderers.compare --json .../out.json" for r in published.values())
    assert f"same     {MACHINE}/toy--cpu" in run("table_renderers", "--row", "toy").output
    measured(local, "toy", "cpu", 3.0)
    chosen = ("table_renderers", "--row", "toy", "--renderer", "c*")
    for output in (run(*chosen).output, run(*chosen, "--list").output):
        assert f"{MACHINE}/toy--cpu" in output and "forward_ms: 2 -> 3" in output and "peak_mb: 123.4, the same" in output
    assert run(*chosen).exit_code == 2 and published == dict(renderer_records.load_all(committed)), "nothing is overwritten"
    assert f"replaced {MACHINE}/toy--cpu: commit 0123456789ab" in run(*chosen, "--replace").output
    assert next(r for p, r in renderer_records.load_all(committed) if p.stem == "toy--cpu").forward_ms == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table_renderers", "--row", "tiy"], "no record of table_renderers fits (measured: toy--cpu)"),
        (["table_renderers", "--preset", "toy"], "table_renderers has no presets"),
        (["table_renderer"], "unknown table 'table_renderer'"),
    ],
)
def test_publishing_mistakes_are_one_line(cli, measured: Make, arguments: list[str], message: str) -> None:
    measured(cli[0], "toy", "cpu")
    result = cli[2](*arguments)
    assert result.exit_code == 2 and message in result.output and "Traceback" not in result.output


def test_damaged_and_misplaced_records(tmp_path: Path, measured: Make) -> None:
    path = measured(tmp_path, "toy", "cpu")
    moved = path.rename(path.with_name("toy--gsplat.json"))
    with pytest.raises(RecordError, match="holds toy--cpu"):
        list(renderer_records.load_all(tmp_path))
    moved.write_text(moved.read_text().replace('"forward_ms": 2.0', '"forward_ms": NaN'))
    with pytest.raises(RecordError, match="not a valid record.*renderers.compare --save"):
        list(renderer_records.load_all(tmp_path))
    moved.unlink()
    measured(tmp_path, "toy", "cpu")
    measured(tmp_path, "toy", "reference", device="cuda")
    with pytest.raises(ReportError, match="several devices"):
        renderers.read(tmp_path)


def test_it_is_not_a_table_to_train() -> None:
    with pytest.raises(SpecError, match="measured, not trained: run `python -m renderers.compare --save`"):
        load_table("table_renderers")


# ---- what the choice of renderer changes in a trained table


def test_difference_between_renderers_is_paired_by_seed(project: Path, make_record) -> None:
    root = project / "results/records"
    for seed, (cpu, gsplat) in enumerate(((10.0, 10.5), (11.0, 11.1), (12.0, 12.9))):
        make_record(root, "tpvformer+gaussrender", seed, cpu)
        make_record(root, "tpvformer+gaussrender", seed, gsplat, renderer="gsplat")
    make_record(root, "tpvformer+gaussrender", 7, 50.0, renderer="gsplat")  # a seed without a partner
    make_record(root, "prior", 0, 5.0)
    make_record(root, "prior", 0, 5.0, renderer="gsplat")
    text = page(project, "table_occ3d")
    block = text.split("**Renderers: paired difference.**")[1].split("Does the network use")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("|")]
    assert lines[0] == ["Method", "Metric", "gsplat - cpu"]
    assert ["TPVFormer + GaussRender", "mIoU", "+0.50 (-0.49 to +1.49), 3 seeds"] in lines
    assert not any("prior" in line[0].lower() for line in lines)


def test_no_block_for_one_renderer(project: Path, make_record) -> None:
    make_record(project / "results/records", "tpvformer", 0, 10.0)
    assert "paired difference" not in page(project, "table_occ3d")


def test_records_of_different_data_are_not_compared(project: Path, make_record) -> None:
    root = project / "results/records"
    make_record(root, "tpvformer", 0, 10.0)
    make_record(root, "tpvformer", 0, 11.0, renderer="gsplat", data_fingerprint="another")
    summary = summarise(load_table("table_occ3d"), root, project / "results/quoted")
    assert summary.renderer_differences == {}
    assert any("No difference of gsplat to cpu for TPVFormer (toy)" in note for note in summary.notes)
