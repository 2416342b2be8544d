"""Files beside the pages: citation, what changed, the workflow and the hooks say what is true."""

from __future__ import annotations

import subprocess
import sys

import tomllib
import yaml

from camera_occupancy_bench import ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def read(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere() -> None:
    assert read("CITATION.cff")["version"] == VERSION
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1].startswith(VERSION)


def test_the_citation_has_what_its_format_asks_for() -> None:
    content = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "license"} <= set(content)
    assert len(content["references"]) == 4
    for work in content["references"]:
        assert work["title"] and work["authors"] and work["year"] and work["url"].startswith("https://arxiv.org/abs/")


def test_the_workflow_runs_the_gate() -> None:
    steps = read(".github/workflows/gate.yml")["jobs"]["gate"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_the_hooks_are_programs_of_the_environment() -> None:
    for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"]:
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *hook["entry"].split()[1:], "--help"], capture_output=True, text=True
        )
        assert hook["entry"].startswith(".venv/bin/ruff ") and done.returncode == 0, done.stderr
