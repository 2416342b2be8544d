"""The wheel, installed where nothing else of the project is: the light core works, and nothing is written beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from camera_occupancy_bench import ROOT

REST = ("mmengine", "mmcv", "mmdet", "mmdet3d", "mlflow", "pandas", "tabulate", "matplotlib", "cv2", "PIL", "pydantic", "rich")
REST += ("typer", "filelock", "gsplat", "triton")
CORE = """
import sys
from pathlib import Path
sys.modules |= dict.fromkeys({rest})
import torch
import baselines.gaussrender, baselines.interface, baselines.losses, renderers, renderers.compare
from experiments.metrics import counts, depth, functions, prior, rayiou, shares, voxel
import camera_occupancy_bench as bench
from camera_occupancy_bench.checkout import git_state
assert Path(renderers.__file__).is_relative_to({prefix!r}), renderers.__file__
names = ("car", "empty")
grid = baselines.interface.OccupancyGrid((0, 0, 0), (4, 4, 4), voxel_size=1.0, class_names=names, empty=1)
labels = torch.ones(grid.shape, dtype=torch.long)
labels[1, 1, 1] = 0
counted = counts.sample_counts(labels, labels, torch.ones(grid.shape, dtype=torch.bool), grid)
assert counts.evaluate([counted], names, 1).metrics["mIoU"] == 100.0
assert not bench.CHECKOUT and bench.HOME == Path.cwd() and git_state() == ("unknown", True)
print("works")
"""
FOLDERS = """
from pathlib import Path
from experiments import plan, records
from experiments.cell import folder, tracking
assert records.LOCAL == folder.results_root() == Path.cwd() / "results/local"
assert records.COMMITTED == Path.cwd() / "results/records"
assert tracking.tracking_uri() == f"sqlite:///{Path.cwd() / 'mlflow.db'}"
assert records.load_quoted("table_occ3d"), "the published numbers come with the wheel"
print("works")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel; packages of the one that the tests run in follow behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("tests/", "results/records/", "reports/figures/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-index", "--no-deps"]
    built = [*pip, "wheel", *offline, "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(built, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    install = [*pip, "--python", str(python), "install", *offline, "--ignore-installed", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # without what that folder's own .pth files add
    return python


def run(python: Path, code: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OCC_RESULTS", "MLFLOW_TRACKING_URI")}
    done = subprocess.run([str(python), "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_light_core_works_without_the_rest(installed: Path, tmp_path: Path) -> None:
    code = CORE.format(rest=REST, prefix=str(installed.parents[1]))
    assert run(installed, code, tmp_path) == "works\n" and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_default_folders_are_those_of_the_working_directory(installed: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(installed.parents[2])], check=True)  # a repository around it is not ours
    assert run(installed, FOLDERS, tmp_path) == "works\n"


def test_the_core_depends_on_three_packages_and_extras_on_what_they_are_for() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {r.split(">")[0].split("=")[0].split("<")[0].strip() for r in requirements}

    assert names(project["dependencies"]) == {"torch", "numpy", "numba"}
    extras = project["optional-dependencies"]
    heavy = {"mmengine", "mmdet", "mmdet3d", "mmcv", "open3d", "mlflow"}
    assert {"mmengine", "mmdet", "mmdet3d", "mlflow", "typer"} <= names(extras["bench"])
    for extra in ("viewer", "triton", "dev"):
        assert not names(extras[extra]) & heavy


def test_pictures_need_what_the_viewer_extra_brings() -> None:
    blocked = tuple(name for name in REST if name not in ("PIL", "matplotlib", "pydantic", "rich", "typer", "filelock"))
    code = (
        f"import sys; sys.modules |= dict.fromkeys({(*blocked, 'scipy')}); from reports import visualise; "
        "print(visualise.main(['nowhere', '--out', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2\n" and done.stderr.startswith("error: ") and "nowhere" in done.stderr, done.stderr
