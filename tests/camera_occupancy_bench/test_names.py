"""Another folder or package of our names is told of with both paths, at the first import or command that comes upon it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import camera_occupancy_bench
from camera_occupancy_bench import PACKAGES, ROOT


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python in a user's folder, which comes before ours."""
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def stranger(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("mine = True\n")
    return folder / name


@pytest.mark.parametrize(
    ("hidden", "importing"),
    [
        ("renderers", "baselines.interface"),
        ("renderers", "experiments.spec"),
        ("baselines", "experiments.spec"),
        ("renderers", "reports"),
        ("baselines", "reports"),
        ("experiments", "reports.status"),
    ],
)
def test_the_first_import_names_both_paths(tmp_path: Path, hidden: str, importing: str) -> None:
    theirs = stranger(tmp_path, hidden)
    done = python(tmp_path, "-c", f"import {importing}")
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and said.startswith("ImportError: "), done.stderr
    assert str(theirs) in said and str(ROOT / hidden) in said and "docs/installing.md" in said


@pytest.mark.parametrize(("hidden", "command"), [("renderers", "experiments.run"), ("experiments", "reports.build")])
def test_a_command_says_it_in_a_line(tmp_path: Path, hidden: str, command: str) -> None:
    theirs = stranger(tmp_path, hidden)
    done = python(tmp_path, "-m", command, "--help")
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert str(theirs) in done.stderr and str(ROOT / hidden) in done.stderr


def test_a_module_of_that_name_counts_and_a_folder_of_data_does_not(tmp_path: Path) -> None:
    (tmp_path / "renderers").mkdir()
    (tmp_path / "renderers/picture.png").touch()
    assert python(tmp_path, "-c", "import baselines").returncode == 0
    (tmp_path / "renderers.py").touch()
    done = python(tmp_path, "-c", "import baselines")
    assert done.returncode == 1 and str(tmp_path / "renderers.py") in done.stderr


def test_who_uses_one_package_may_have_the_others_names(tmp_path: Path) -> None:
    for name in ("baselines", "experiments", "reports"):
        stranger(tmp_path, name)
    done = python(tmp_path, "-c", "import renderers, baselines; print(baselines.mine, renderers.names())")
    assert done.returncode == 0 and done.stdout.startswith("True ["), done.stderr


def test_a_command_shows_where_all_names_come_from(tmp_path: Path) -> None:
    clear = python(tmp_path, "-m", "camera_occupancy_bench")
    assert clear.returncode == 0 and all(str(ROOT / name) in clear.stdout for name in PACKAGES)
    theirs = stranger(tmp_path, "reports")
    done = python(tmp_path, "-m", "camera_occupancy_bench")
    assert done.returncode == 1 and f"{theirs}   not ours: that is {ROOT / 'reports'}" in done.stdout
    assert done.stderr == "error: something stands in the way of reports; docs/installing.md says how to live with it\n"


def test_the_page_that_messages_name_is_there() -> None:
    page = (ROOT / "docs/installing.md").read_text(encoding="utf-8")
    assert "docs/installing.md" in camera_occupancy_bench.HELP
    assert "## Names that stand in the way" in page and "PYTHONSAFEPATH" in page
