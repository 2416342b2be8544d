"""docs/from-gaussrender.md promises nothing that is not there: its commands, options, fields, names and example are tried."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import experiments.tables
from baselines.gaussrender import GaussRenderConfig
from baselines.recipe import Recipe
from experiments import run
from experiments.datasets.dataset import DataSet
from experiments.datasets.transforms import ImageTransform
from experiments.records import ROOT
from experiments.spec import DataPreset, Preset, Row, Schedule, SpecError, TableSpec, load_table, spec_names, table_names

PAGE = (ROOT / "docs/from-gaussrender.md").read_text(encoding="utf-8")
_KINDS = (DataPreset, DataSet, GaussRenderConfig, ImageTransform, Preset, Recipe, Row, Schedule, TableSpec)
CLASSES = {c.__name__: c for c in _KINDS}
VARIABLE = re.compile(r"[A-Z]+(_[A-Z]+)+$")


def ours() -> list[str]:
    """All code spans of the page except those in the tables' first column, which is GaussRender's; and all commands."""
    text = re.sub(r"```(\w+)\n(.*?)```", "", PAGE, flags=re.DOTALL)
    lines = [line.split("|", 2)[2] if line.startswith("|") else line for line in text.splitlines()]
    spans = re.findall(r"`([^`]+)`", "\n".join(lines))
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL):
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


def check_command(words: list[str], tables: set[str]) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), "no such target"
        return
    assert words[0] in ("python", "torchrun")
    module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
    assert importlib.util.find_spec(module) is not None, f"no module {module}"
    given = [word for word in rest if word.startswith("--")]
    if rest and rest[0].startswith("table_"):
        assert rest[0] in tables, f"no table {rest[0]}"
        if "--row" in rest:
            values = rest[rest.index("--row") + 1 :]
            rows = values[: next((i for i, v in enumerate(values) if v.startswith("--")), None)]
            assert load_table(rest[0] if rest[0] in table_names() else "table_occ3d").select(rows)
    if given:
        text = options_of(module, rest)
        for option in given:
            assert re.search(rf"{option}\b", text), f"{module} has no {option}"


def check_name(span: str, tables: set[str]) -> None:
    """A name that is not a command: an option, a field, a variable, an attribute, a file, a table, a row or a preset."""
    owner, _, name = span.rpartition(".")
    if span.startswith("--"):
        assert re.search(rf"{span.split()[0]}\b", options_of("experiments.run", [])), "no such option of experiments.run"
    elif owner in CLASSES:
        assert name in {f.name for f in dataclasses.fields(CLASSES[owner])}, f"{owner} has no such field"
    elif VARIABLE.fullmatch(span):
        sources = subprocess.run(["git", "grep", "-lw", span, "--", "experiments"], cwd=ROOT, capture_output=True, check=False)
        assert sources.stdout, "no source reads it"
    elif owner and (owner.split(".")[0] in ("baselines", "renderers", "experiments", "reports")):
        assert hasattr(importlib.import_module(owner), name), f"{owner} has no such name"
    elif "/" in span:
        assert (ROOT / span).exists(), "no such file or folder"
    elif span not in tables:
        from baselines.tpvformer import config

        known = {*config.PAPER, *inspect.signature(config.tpvformer_config).parameters}
        rows = {row.name for table in table_names() for row in load_table(table).rows}
        presets = {preset for table in table_names() for preset in load_table(table).presets}
        assert span in known | rows | presets, "nothing is called that"


@pytest.mark.parametrize("span", ours())
def test_everything_that_the_page_names_here_exists(span: str) -> None:
    tables = {*spec_names(), "table_elevated"}  # the latter is the page's own example, tried below
    words = shlex.split(span)
    if words[0] in ("python", "torchrun", "make"):
        check_command(words, tables)
    else:
        check_name(span, tables)


def test_the_page_names_enough_to_be_checked() -> None:
    spans = ours()
    assert len(spans) > 80
    assert sum(span.startswith(("python -m", "torchrun")) for span in spans) > 12
    assert not any("train.py" in span or "eval.py" in span for span in spans)  # the first columns are left out


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(GaussRenderConfig)])
def test_every_option_of_the_rendering_is_on_the_page(name: str) -> None:
    assert f"`GaussRenderConfig.{name}`" in PAGE


@pytest.mark.parametrize(
    "invented",
    [
        "--no-such-option",
        "GaussRenderConfig.no_such_field",
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
def test_the_check_finds_what_is_not_there(invented: str) -> None:
    with pytest.raises((AssertionError, SpecError)):
        test_everything_that_the_page_names_here_exists(invented)


def test_tables_have_three_columns() -> None:
    for line in PAGE.splitlines():
        if line.startswith("|"):
            assert line.count("|") == 4, line


def test_links_within_the_page_have_their_heading() -> None:
    headings = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", PAGE, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings


def test_the_example_is_a_table_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (command,) = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "table_elevated.py").write_text(source)
    monkeypatch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, str(tmp_path)])
    monkeypatch.setenv("OCC_CKPTS", str(tmp_path))
    (tmp_path / "r101_dcn_fcos3d_pretrain.pth").touch()
    table = load_table("table_elevated")
    assert table.name == "table_elevated"
    assert GaussRenderConfig(**table.preset("mini").gaussrender).camera_strategy == "elevated"
    root = tmp_path / "data"
    root.mkdir()
    words = [str(root) if word == "DATA" else word for word in shlex.split(command)[3:]]
    assert run.main([*words, "--renderer", "cpu", "--dry-run"]) == 2  # all is in order but the data
    assert "no data set pickle" in capsys.readouterr().err
