"""docs/from-*.md promise nothing that is not there: their commands, options, fields, names and examples are tried."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import experiments.tables
from baselines.gaussianflowocc.losses import Teaching as FlowTeaching
from baselines.gaussianflowocc.voxels import ReadOut
from baselines.gaussianocc.losses import Teaching as GaussianOccTeaching
from baselines.gaussrender import GaussRenderConfig
from baselines.recipe import Recipe
from baselines.renderocc.losses import Teaching
from experiments import run
from experiments.datasets.dataset import DataSet
from experiments.datasets.transforms import ImageTransform
from experiments.records import ROOT
from experiments.spec import (
    DataPreset,
    HeldSchedule,
    Preset,
    Row,
    Schedule,
    SpecError,
    TableSpec,
    load_spec,
    load_table,
    spec_names,
    table_names,
)
from renderers import RasterSettings
from renderers.registry import every_name

OPTIONS: dict[str, Any] = {
    "gaussrender": GaussRenderConfig,
    "renderocc": Teaching,
    "gaussianflowocc": FlowTeaching,
    "gaussianocc": GaussianOccTeaching,
}
PAGES = {name: (ROOT / f"docs/from-{name}.md").read_text(encoding="utf-8") for name in OPTIONS}
_KINDS = (
    DataPreset, DataSet, HeldSchedule, ImageTransform, Preset, RasterSettings, ReadOut, Recipe, Row, Schedule, TableSpec
)  # fmt: skip
CLASSES = {page: {c.__name__: c for c in (*_KINDS, options)} for page, options in OPTIONS.items()}
VARIABLE = re.compile(r"[A-Z]+(_[A-Z]+)+$")


def example(page: str) -> tuple[str, str]:
    """Name and source of the table that a page has as its example."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL)
    (name,) = re.findall(r'name="(table_\w+)"', source)
    return name, source


@pytest.fixture(autouse=True, scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The examples are tables beside the given ones, as the pages say."""
    folder = tmp_path_factory.mktemp("examples")
    for name, source in map(example, PAGES):
        (folder / f"{name}.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, str(folder)])
        yield


def ours(page: str) -> list[str]:
    """All code spans of a page except those in the tables' first column, which is the other project's; and all commands."""
    text = re.sub(r"```(\w+)\n(.*?)```", "", PAGES[page], flags=re.DOTALL)
    lines = [line.split("|", 2)[2] if line.startswith("|") else line for line in text.splitlines()]
    spans = re.findall(r"`([^`]+)`", "\n".join(lines))
    for block in re.findall(r"```bash\n(.*?)```", PAGES[page], flags=re.DOTALL):
        spans += block.strip().splitlines()
    return sorted(set(spans))


def options_of(module: str, words: list[str]) -> str:
    """The help text of a command line."""
    loaded = importlib.import_module(module)
    app = getattr(loaded, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(loaded.main)
    subcommand = words[:1] if len(app.registered_commands) > 1 else []
    shown = CliRunner().invoke(app, [*subcommand, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0, shown.output
    return shown.output


def check_command(words: list[str]) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), "no such target"
        return
    assert words[0] in ("python", "torchrun")
    module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    assert importlib.util.find_spec(module) is not None, f"no module {module}"
    given = [word for word in rest if word.startswith("--")]
    if rest and rest[0].startswith("table_"):
        assert rest[0] in spec_names(), f"no table {rest[0]}"
        if "--row" in rest:
            values = rest[rest.index("--row") + 1 :]
            rows = values[: next((i for i, v in enumerate(values) if v.startswith("--")), None)]
            assert load_spec(rest[0]).select(rows)
    if given:
        text = options_of(module, rest)
        for option in given:
            assert re.search(rf"{option}\b", text), f"{module} has no {option}"


def known(page: str) -> set[str]:
    """What the networks' arguments are called."""
    from baselines.gaussianflowocc import GaussianFlowOcc
    from baselines.gaussianocc import GaussianOcc
    from baselines.renderocc import RenderOcc
    from baselines.tpvformer import TPVFormer

    models = {"gaussrender": TPVFormer, "renderocc": RenderOcc, "gaussianflowocc": GaussianFlowOcc, "gaussianocc": GaussianOcc}
    return set(inspect.signature(models[page]).parameters)


def check_name(page: str, span: str) -> None:
    """A name that is not a command: an option, a field, a variable, an attribute, a file, a table, a row, a preset, a renderer
    or an argument."""
    owner, _, name = span.rpartition(".")
    if span.startswith("--"):
        assert re.search(rf"{span.split()[0]}\b", options_of("experiments.run", [])), "no such option of experiments.run"
    elif owner in CLASSES[page]:
        assert name in {f.name for f in dataclasses.fields(CLASSES[page][owner])}, f"{owner} has no such field"
    elif VARIABLE.fullmatch(span):
        sources = subprocess.run(["git", "grep", "-lw", span, "--", "experiments"], cwd=ROOT, capture_output=True, check=False)
        assert sources.stdout, "no source reads it"
    elif owner and (owner.split(".")[0] in ("baselines", "renderers", "experiments", "reports")):
        assert hasattr(importlib.import_module(owner), name), f"{owner} has no such name"
    elif "/" in span:
        assert (ROOT / span).exists(), "no such file or folder"
    elif span not in spec_names():
        rows = {row.name for table in table_names() for row in load_table(table).rows}
        presets = {preset for table in table_names() for preset in load_table(table).presets}
        assert span in {*known(page), *rows, *presets, *every_name()}, "nothing is called that"


@pytest.mark.parametrize(("page", "span"), [(page, span) for page in PAGES for span in ours(page)])
def test_everything_that_a_page_names_here_exists(page: str, span: str) -> None:
    words = shlex.split(span)
    if words[0] in ("python", "torchrun", "make"):
        check_command(words)
    else:
        check_name(page, span)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_enough_to_be_checked(page: str) -> None:
    spans = ours(page)
    assert len(spans) > 80
    assert sum(span.startswith(("python -m", "torchrun")) for span in spans) > 12
    others = ("train.py", "eval.py", "test.py", "dist_train", "mmdet3d/")
    assert not any(name in span for span in spans for name in others)  # the first columns are left out


@pytest.mark.parametrize(("page", "name"), [(page, f.name) for page in PAGES for f in dataclasses.fields(OPTIONS[page])])
def test_every_option_of_the_rendering_is_on_its_page(page: str, name: str) -> None:
    assert f"`{OPTIONS[page].__name__}.{name}`" in PAGES[page]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    "invented",
    [
        "--no-such-option",
        "GaussRenderConfig.no_such_field",
        "Teaching.no_such_field",
        "OCC_NO_SUCH_VARIABLE",
        "baselines.losses.NO_SUCH_NAME",
        "experiments/no_such_file.py",
        "no_such_row",
        "make no_such_target",
        "python -m experiments.no_such_module",
        "python -m experiments.run table_occ3d --no-such-option",
        "python -m experiments.run table_nowhere",
        "python -m experiments.run table_occ3d --row no_such_row",
        "python -m experiments.data verify all --no-such-option",
    ],
)
def test_the_check_finds_what_is_not_there(page: str, invented: str) -> None:
    with pytest.raises((AssertionError, SpecError)):
        test_everything_that_a_page_names_here_exists(page, invented)


@pytest.mark.parametrize("page", PAGES)
def test_tables_have_three_columns(page: str) -> None:
    for line in PAGES[page].splitlines():
        if line.startswith("|"):
            assert line.count("|") == 4, line


@pytest.mark.parametrize("page", PAGES)
def test_the_example_is_a_table_that_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = re.findall(r"```bash\n(.*?)```", PAGES[page], flags=re.DOTALL)
    words = shlex.split(command)[3:]
    table = load_table(words[0])
    assert table.name == example(page)[0]
    (row,) = table.select([words[words.index("--row") + 1]])
    cell = table.cell(row, "cpu", "mini", 0)
    if page == "gaussrender":
        assert GaussRenderConfig(**cell.gaussrender).camera_strategy == "elevated"
    elif page == "gaussianocc":
        assert GaussianOccTeaching(**cell.options["teaching"]).farthest == 120.0 and cell.first_cell is None
    elif page == "gaussianflowocc":
        assert FlowTeaching(**cell.options["teaching"]).normalise_depth
        assert row.parts(training=True)["views"] == (-2, -1, 1, 2, 0) and row.recipe.views["paper"] == 4
    else:
        assert Teaching(**cell.options["teaching"]).farthest == 30.0 and row.parts(training=True)["rays"] == (0, -1, 1)
    monkeypatch.setenv("OCC_CKPTS", str(tmp_path))
    assert cell.first_weights is not None
    (tmp_path / cell.first_weights.file).touch()
    root = tmp_path / "data"
    root.mkdir()
    words = [str(root) if word == "DATA" else word for word in words]
    assert run.main([*words, "--renderer", "cpu", "--dry-run"]) == 2  # all is in order but the data
    assert "no data set pickle" in capsys.readouterr().err
