"""The doctor reports whatever is missing and never fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import doctor, spec
from experiments.doctor import Finding, examine, main
from experiments.install import compiled_sources
from experiments.records import ROOT
from renderers import registry
from renderers.interface import Availability


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody answers: no store is created here
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("OCC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OCC_DATA_ROOT", raising=False)


def findings(data_root: Path | None = None) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine(data_root)}


def test_everything_a_run_depends_on_is_looked_at() -> None:
    found = findings()
    expected = {
        "Python",
        "compiler",
        "disk",
        "environment",
        "machine",
        "checkout",
        "torch",
        "CUDA",
        "mmengine",
        "mmcv",
        "mmdet",
        "mmdet3d",
        "data root",
        "results",
        "MLflow",
    }
    assert expected | {f"renderer {name}" for name in registry.names()} <= set(found)
    assert found["torch"].ok and found["mmcv"].detail.endswith("ops present")
    assert not found["data root"].ok and "OCC_DATA_ROOT" in found["data root"].remedy
    assert not found["MLflow"].ok and "127.0.0.1" in found["MLflow"].detail
    assert "not generated yet" in found["toy world of table_occ3d"].detail


def test_what_python_compiled_is_no_source_of_the_renderer(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/build.cpython-311.pyc").write_bytes(b"\xa7\r\r\n")
    for name in ("op.cpp", "simd.h", "build.py"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in compiled_sources(tmp_path)] == ["op.cpp", "simd.h"]
    assert all(path.suffix in (".cpp", ".h") for path in compiled_sources(ROOT / "renderers/cpu"))


def test_a_missing_package_is_a_line_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdet3d", None)
    found = findings()
    assert not found["mmdet3d"].ok
    assert found["mmdet3d"].remedy == "make setup"
    assert found["mmdet"].ok


def test_an_unavailable_renderer_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def availability(name: str) -> Availability:
        if name == "cpu":
            raise ImportError("libgomp.so.1: cannot open shared object file")
        return Availability(False, "no CUDA device", "get one")

    monkeypatch.setattr(registry, "availability", availability)
    found = findings()
    assert found["renderer gsplat"] == Finding("renderer gsplat", False, "no CUDA device", "get one")
    assert "libgomp" in found["renderer cpu"].detail


def test_a_world_that_cannot_be_is_a_line_of_its_table_and_the_others_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    table = spec.load_table("table_occ3d")
    toy = table.preset("toy")
    presets = {**table.presets, "toy": replace(toy, data=replace(toy.data, toyworld={"image_width": 100}))}
    tables = {"table_occ3d": replace(table, presets=presets), "table_kitti360": spec.load_table("table_kitti360")}
    monkeypatch.setattr(spec, "table_names", lambda: sorted(tables))
    monkeypatch.setattr(spec, "load_table", tables.__getitem__)
    found = findings()
    wrong, right = found["toy world of table_occ3d"], found["toy world of table_kitti360"]
    assert not wrong.ok and "image_width" in wrong.detail and "toyworld" in wrong.remedy
    assert right.ok and "not generated yet" in right.detail and "toy world" not in found


def test_data_below_the_root_are_counted(real_frames: Path) -> None:
    found = findings(real_frames)
    assert "3 of 3 frames usable" in found["Occ3D-nuScenes val"].detail


def test_the_command_ends_well_even_if_a_whole_part_breaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("everything is wrong")

    monkeypatch.setattr(doctor, "_torch", broken)
    monkeypatch.setattr(doctor, "_mm_stack", broken)
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "everything is wrong" in " ".join(out.split()) or "wrong" in out
    assert "Traceback" not in out


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout as far as the doctor needs it before the set-up."""
    (tmp_path / "experiments").mkdir()
    for name in ("__init__", "doctor", "install", "shell"):
        shutil.copy(ROOT / "experiments" / f"{name}.py", tmp_path / "experiments")
    shutil.copytree(ROOT / "camera_occupancy_bench", tmp_path / "camera_occupancy_bench")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("renderers", "baselines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    return tmp_path


def before_setup(checkout: Path, *words: str) -> str:
    """What the doctor prints under a Python without any package."""
    command = [sys.executable, "-S", "-m", "experiments.doctor", *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_before_the_set_up_it_says_what_is_missing(bare: Path) -> None:
    said = before_setup(bare)
    assert f"environment: NO, {bare / '.venv'} does not exist; this Python lacks typer" in said
    assert "make setup" in said and "compiler:" in said and "disk:" in said


def test_under_another_python_it_goes_on_in_the_environment(bare: Path) -> None:
    python = bare / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "went on: $*"\n')
    python.chmod(0o755)
    assert before_setup(bare, "--data-root", "x") == "went on: -m experiments.doctor --data-root x\n"
    python.write_text("#!/bin/sh\nexit 1\n")
    assert ".venv is incomplete" in before_setup(bare)
