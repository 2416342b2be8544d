"""The doctor reports whatever is missing and never fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from experiments import doctor
from experiments.doctor import Finding, examine, main
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
