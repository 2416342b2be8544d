"""The build command up to the compiler: checks, fetching, channel count, error texts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import renderers.build as build
from renderers.build import BuildError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with the layout of the rasterizer's source."""
    root = tmp_path / "repository"
    rasterizer = root / "extensions" / "rasterizer"
    (rasterizer / "cuda_rasterizer").mkdir(parents=True)
    (rasterizer / "cuda_rasterizer/config.h").write_text("#define NUM_CHANNELS 19 // colours\n#define BLOCK_X 12\n")
    (rasterizer / "setup.py").write_text("raise SystemExit('ptxas error: too much shared data')\n")
    (rasterizer / "third_party/glm/glm").mkdir(parents=True)
    (rasterizer / "third_party/glm/glm/glm.hpp").touch()
    return root


def test_finds_the_rasterizer_and_leaves_the_source_alone(source: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    found = build.fetch(str(source), None, work)
    assert found == work / "extensions/rasterizer"
    assert build.set_channels(found, None) == 19
    assert build.set_channels(found, 32) == 32
    assert (found / "cuda_rasterizer/config.h").read_text().startswith("#define NUM_CHANNELS 32 // colours\n")
    assert "NUM_CHANNELS 19" in (source / "extensions/rasterizer/cuda_rasterizer/config.h").read_text()


def test_fetches_a_commit_from_git(source: Path, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "uploadpack.allowAnySHA1InWant=true"]
        done = subprocess.run(["git", *identity, *arguments], cwd=source, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    first = git("rev-parse", "HEAD")
    (source / "extensions/rasterizer/cuda_rasterizer/config.h").write_text("#define NUM_CHANNELS 3\n")
    git("commit", "-qam", "two")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    work = tmp_path / "work"
    work.mkdir()
    assert build.set_channels(build.fetch(f"file://{source}", first, work), None) == 19
    with pytest.raises(BuildError, match="git fetch of file://"):
        (tmp_path / "other").mkdir()
        build.fetch(f"file://{source}/nowhere", None, tmp_path / "other")


def test_a_missing_submodule_is_named(source: Path, tmp_path: Path) -> None:
    (source / "extensions/rasterizer/third_party/glm/glm/glm.hpp").unlink()
    (tmp_path / "work").mkdir()
    with pytest.raises(BuildError, match="third_party/glm.*git submodule update"):
        build.fetch(str(source), None, tmp_path / "work")


def test_a_folder_without_a_rasterizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "work").mkdir()
    with pytest.raises(BuildError, match="empty is not one rasterizer"):
        build.fetch(str(tmp_path / "empty"), None, tmp_path / "work")


def test_a_failed_build_shows_the_first_error_and_the_log(source: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(BuildError, match="the build failed: .*error.*whole log: .*/log"):
        build.install(source / "extensions/rasterizer", "9.0", log)
    assert "too much shared data" in log.read_text()


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_machine_without_cuda_gets_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["diff_gauss"]) == 1
    captured = capsys.readouterr()
    assert "cannot build diff_gauss: this machine lacks" in captured.err and "a CUDA torch" in captured.err
    assert "Traceback" not in captured.err


def test_nvcc_of_another_cuda_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(build, "nvcc", lambda: compiler)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    (lack,) = build.missing(build.SOURCE)
    assert "a CUDA 12 toolkit" in lack and "is CUDA 11.8" in lack and "CUDA_HOME" in lack


def test_a_source_is_no_option_of_git(tmp_path: Path) -> None:
    """Git would run the command that such a name gives it."""
    work, mark, repository = tmp_path / "work", tmp_path / "mark", tmp_path / "repository"
    work.mkdir()
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    with pytest.raises(BuildError):
        build.fetch(f"--upload-pack=touch {mark};", str(repository), work)
    assert not mark.exists()
