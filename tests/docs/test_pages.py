"""README, docs and the tables' pages promise nothing that is not there: links, headings, commands, options."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from camera_occupancy_bench import ROOT
from experiments.__main__ import commands
from experiments.spec import load_table, spec_names, table_names

TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
WRITTEN = [*TOP, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "renderers").glob("*/README.md"))]
PAGES = [*WRITTEN, *sorted((ROOT / "reports/pages").glob("*.md")), ROOT / "reports/claims.md"]
MODULES = {module for module, _ in commands()}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


def lines(page: Path) -> list[str]:
    """Commands of a page: in blocks for the shell, and in the text."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"`((?:python3? -m|make|torchrun) [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for block in re.findall(r"```(?:bash|yaml)\n(.*?)```", text, re.DOTALL):
        whole = block.replace("\\\n", " ").splitlines()
        found += [part.strip().removeprefix(".venv/bin/") for line in whole for part in line.partition(" #")[0].split("&&")]
    return [line for line in found if re.match(r"python3? -m|make|torchrun", line)]


def help_of(module: str, words: list[str]) -> str:
    """The help of a command line."""
    name = f"{module}.__main__" if (ROOT.joinpath(*module.split(".")) / "__main__.py").is_file() else module
    loaded = importlib.import_module(name)
    app: typer.Typer | None = getattr(loaded, "app", None)
    if app is None:
        with pytest.raises(SystemExit) as end:
            loaded.main(["--help"])
        assert not end.value.code
        return ""
    subcommand = words[:1] if len(app.registered_commands) > 1 else []
    shown = CliRunner().invoke(app, [*subcommand, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_commands_are_there_with_their_options(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in lines(page):
        words = shlex.split(line)
        if words[0] == "make":
            assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), f"{line}: no such target"
            continue
        module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        if module.split(".")[0] not in ("experiments", "reports", "renderers", "baselines", "camera_occupancy_bench"):
            continue
        if not module.endswith("<name>"):
            assert module in MODULES, f"{line}: no such command"
            given = [word.partition("=")[0] for word in rest if word.startswith("--")]
            shown = help_of(module, rest) + capsys.readouterr().out if given else ""
            for option in given:
                assert re.search(rf"{option}\b", shown), f"{line}: no option {option}"
        for word in rest:
            if re.fullmatch(r"table_\w+", word) and word not in (
                "table_renderers",
                "table_elevated",
                "table_near",
                "table_far",
                "table_few",
                "table_yard",
            ):
                assert word in spec_names(), f"{line}: no such table"
        if "--row" in rest and rest[0] in table_names():
            values = rest[rest.index("--row") + 1 :]
            rows = values[: next((i for i, v in enumerate(values) if v.startswith("--")), None)]
            assert rows == ["ROW"] or load_table(rest[0]).select(rows)


def test_what_the_light_core_is_said_to_have_can_be_imported() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/installing.md").read_text(encoding="utf-8"), re.DOTALL)
    scope: dict[str, object] = {}
    exec(code, scope)  # noqa: S102
    assert {"GaussRender", "OccupancyGrid", "evaluate", "Cameras"} <= set(scope)


def test_rays_are_rendered_as_their_page_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "renderers/rays/README.md").read_text(encoding="utf-8"), re.DOTALL)
    draw = torch.Generator().manual_seed(0)
    scope: dict[str, Any] = {
        "origins": torch.zeros(2, 3),
        "directions": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.1]]),
        "scene": torch.zeros(2, dtype=torch.int64),
        "density": torch.rand(1, 8, 8, 4, generator=draw),
        "features": torch.rand(1, 8, 8, 4, 3, generator=draw),
    }
    exec(code, scope)  # noqa: S102
    assert scope["out"].features.shape == (2, 3) and (scope["out"].depth > 0).all()


def test_a_cloud_machines_file_is_one() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/clusters.md").read_text(encoding="utf-8"), re.DOTALL)
    assert {"setup", "run", "resources", "file_mounts"} <= set(yaml.safe_load(text))
    assert "python -m experiments.sweep" in text and [
        line for line in lines(ROOT / "docs/clusters.md") if "--results /results" in line
    ]


def test_every_block_of_code_is_of_a_kind_that_is_checked() -> None:
    """Shell commands, files and code of this project; ``sh`` are commands of published code, which the tests of its page read."""
    for page in WRITTEN:
        kinds = re.findall(r"^```(\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(kinds) <= {"bash", "python", "toml", "yaml", "sh"}, name(page)


def test_the_pages_have_commands_to_check() -> None:
    assert sum(len(lines(page)) for page in WRITTEN) > 60
