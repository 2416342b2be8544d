"""A package outside of the project adds a baseline, a renderer, a data set, a metric and tables, and every command takes them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments import predict, records, run
from experiments.plan import toy_data
from experiments.records import ROOT, Record
from experiments.sources import of_record
from experiments.spec import load_table
from reports import build, own, publish, visualise

OUTSIDE = Path(__file__).with_name("outside")
PACKAGE = "camera_occupancy_extra"
KINDS = {"baseline": 2, "renderer": 1, "data set": 2, "metric": 1, "tables": 1}

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package with the metadata that its installation would leave, in a folder where Python looks for packages."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(OUTSIDE, site, dirs_exist_ok=True)
    code = "from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel('.')"
    subprocess.run([sys.executable, "-c", code], cwd=site, capture_output=True, check=True)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(site)
    yield site
    patch.undo()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def command(installed: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setenv("OCC_RESULTS", str(place / "results"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    monkeypatch.delenv("OCC_DATA_ROOT", raising=False)
    monkeypatch.chdir(place)

    def call(main: Callable[[list[str]], int], *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def record(place: Path, table: str, cell: str) -> Record:
    return records.load(records.path_of(table, "toy", cell, place / "results"))


def test_the_package_is_small() -> None:
    lines = sum(len(file.read_text().splitlines()) for file in OUTSIDE.rglob("*") if file.suffix in (".py", ".toml"))
    assert lines <= 250


def test_rows_of_a_table_of_its_own_are_listed_and_run(command: Command, place: Path) -> None:
    code, out, err = command(run.main, "table_yard", "--list", "--renderer", "double")
    assert (code, err) == (0, "") and "Columns in the yard" in out and "second--double--seed0" in out
    # The second stage first: it runs the first one, whose weights it starts from.
    code, out, err = command(run.main, "table_yard", "--renderer", "double", "--row", "second")
    assert (code, err) == (0, ""), err
    assert "second--double--seed0: starts from the weights of columns--double--seed0" in out
    code, out, err = command(run.main, "table_yard", "--renderer", "double", "--row", "columns*", "second")
    assert (code, err) == (0, ""), err
    assert out.count("done already") == 2
    made = record(place, "table_yard", "columns+gaussrender--double--seed0")
    assert 0 <= made.metrics["precision"] <= 100 and made.parameters > 0 and "image_mIoU" in made.metrics
    assert {f"{PACKAGE}/{name}.py" for name in ("recipe", "model", "renderer", "yard", "reader", "metric")} <= made.sources.keys()
    assert of_record(made) == made.sources
    first, second = (record(place, "table_yard", f"{row}--double--seed0") for row in ("columns", "second"))
    assert second.first_losses[0] != first.first_losses[0]


def test_the_baseline_runs_on_the_projects_own_data(command: Command, place: Path) -> None:
    toy_data(load_table("table_columns"), "toy")  # generating it tells of itself
    code, _, err = command(run.main, "table_columns", "--renderer", "cpu", "--short")
    assert (code, err) == (0, ""), err
    made = record(place, "table_columns", "columns--cpu--seed0--short")
    assert made.data_fingerprint.startswith("toyworld-") and "precision" in made.metrics


def test_data_of_its_own_lies_in_a_folder(command: Command, installed: Path, place: Path) -> None:
    from camera_occupancy_extra.yard import write  # type: ignore[import-not-found]

    (place / "yard").mkdir()
    write(place / "yard")
    words = ("table_yard", "--renderer", "cpu", "--row", "columns", "--data-root", str(place / "yard"))
    code, _, err = command(run.main, *words)
    assert (code, err) == (0, ""), err
    (place / "yard/val/1.png").unlink()
    code, _, err = command(run.main, *words)
    assert code == 2 and "yard val: 1 of 6 files are missing or empty" in err and err.count("\n") == 1


def test_predictions_are_saved_and_drawn(command: Command, place: Path) -> None:
    words = ("table_yard", "--renderer", "double", "--row", "columns", "--index", "0", "--out", str(place / "predictions"))
    code, _, err = command(predict.main, *words)
    assert (code, err) == (0, ""), err
    code, _, err = command(visualise.main, str(place / "predictions"), "--out", str(place / "pictures"))
    assert (code, err) == (0, "") and len(list((place / "pictures").glob("*.png"))) == 1


def test_a_setting_makes_a_variant_with_a_report_of_ones_own(command: Command, place: Path) -> None:
    change = ("--set", "schedule.lr=0.002", "gaussrender.camera_strategy=elevated", "--renderer", "double")
    name = "columns+gaussrender--double--seed0--gaussrender.camera_strategy=elevated--schedule.lr=0.002"
    code, out, err = command(run.main, "table_yard", "--row", "columns*", *change)
    assert (code, err) == (0, ""), err
    made = record(place, "table_yard", name)
    assert made.overrides == {"schedule.lr": 0.002, "gaussrender.camera_strategy": "elevated"}
    plain = record(place, "table_yard", "columns+gaussrender--double--seed0")
    assert made.first_losses != plain.first_losses and made.fingerprint != plain.fingerprint
    assert record(place, "table_yard", "columns--double--seed0--schedule.lr=0.002").overrides == {"schedule.lr": 0.002}
    code, out, _ = command(run.main, "table_yard", "--row", "columns*", *change, "--list")
    assert code == 0 and f"{name}" in out.replace("\n", "") and out.count(" done ") >= 2
    code, _, err = command(own.main, "table_yard", "--out", str(place / "report"))
    assert (code, err) == (0, ""), err
    text = (place / "report/table_yard.md").read_text()
    assert "gaussrender.camera_strategy=elevated, schedule.lr=0.002" in text and "precision" in text
    assert (place / "report/records/table_yard/toy" / f"{name}.json").is_file()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("schedule.l=1", "unknown setting 'schedule.l'; did you mean 'schedule.lr'"),
        ("schedule.lr=fast", "--set schedule.lr must be float, got 'fast'"),
        ("data.coarsen=1.5", "--set data.coarsen must be int, got 1.5"),
        ("scedule.lr=1", "there is no such section"),
        ("lr=1", "takes section.field=value"),
        ("gaussrender.camera_strategy=high", "camera_strategy must be one of"),
        ("options.widht=3", "'columns' has no option widht"),
    ],
)
def test_a_wrong_setting_is_named(command: Command, setting: str, said: str) -> None:
    code, _, err = command(run.main, "table_yard", "--renderer", "cpu", "--row", "columns+gaussrender", "--set", setting)
    assert code == 2 and said in err and err.count("\n") == 1


def test_publish_takes_its_table_and_build_leaves_it_alone(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "COMMITTED", place / "project/results/records")
    assert publish.main(["table_yard", "--renderer", "double"]) == 0
    kept = list((place / "project/results/records/table_yard/toy").glob("*.json"))
    assert len(kept) == 3, "no variant"
    shutil.copytree(ROOT / "results/quoted", place / "project/results/quoted")
    shutil.copy(ROOT / "README.md", place / "project/README.md")
    made = build.build(place / "project")
    assert not [path for path in made.texts if "yard" in path.name] and made.texts and "yard" not in "".join(made.texts.values())


def test_a_table_may_be_a_file_and_a_thing_its_place(command: Command, place: Path) -> None:
    (place / "table_mine.py").write_text(
        "from dataclasses import replace\n"
        "from camera_occupancy_extra.tables import YARD\n"
        "ROW = replace(YARD.row('columns'), model='camera_occupancy_extra.recipe:RECIPE')\n"
        "TABLE = replace(YARD, name='table_mine', dataset='camera_occupancy_extra.yard:DATASET', rows=(ROW,))\n"
    )
    renderer = "camera_occupancy_extra.renderer:DoubleRenderer"
    code, _, err = command(run.main, str(place / "table_mine.py"), "--renderer", renderer)
    assert (code, err) == (0, ""), err
    made = record(place, "table_mine", "columns--camera_occupancy_extra.renderer_DoubleRenderer--seed0")
    named = record(place, "table_yard", "columns--double--seed0")
    assert made.metrics["mIoU"] == named.metrics["mIoU"], "the same thing by another name"
    (place / "table_broken.py").write_text("TABLE = 1 / 0\n")
    for word, said in (
        (str(place / "table_broken.py"), "is no table: ZeroDivisionError"),
        (str(place / "table_gone.py"), "there is no file"),
        ("table_yrd", "did you mean 'table_yard'"),
        ("camera_occupancy_extra.tables:GONE", "cannot be imported"),
        ("camera_occupancy_extra.yard:TOY", "holds no table"),
    ):
        code, _, err = command(run.main, word)
        assert code == 2 and said in err and err.count("\n") == 1, err


def test_names_that_are_not_there_are_told_with_the_nearest(command: Command) -> None:
    code, _, err = command(run.main, "table_yard", "--renderer", "duble")
    assert code == 2 and "unknown renderer 'duble'; did you mean 'double'?" in err


def test_the_page_shows_the_package_as_it_is() -> None:
    page = (ROOT / "docs/extending.md").read_text()
    for file in sorted((OUTSIDE / PACKAGE).glob("*.py")):
        if file.name != "__init__.py":
            assert f"tests/outside/{PACKAGE}/{file.name}" in page


def test_code_on_the_pages_is_the_packages() -> None:
    files = [*sorted((OUTSIDE / PACKAGE).glob("*.py")), OUTSIDE / "pyproject.toml"]
    blocks = {
        (page.name, block)
        for page in (ROOT / "docs").glob("add-*.md")
        for block in re.findall(r"```(?:python|toml)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    }
    assert len({name for name, _ in blocks}) == 5 and len(blocks) >= 12
    known = [file.read_text(encoding="utf-8") for file in files]
    for name, block in sorted(blocks):
        assert any(block in text for text in known), f"{name}: not in the package:\n{block}"
