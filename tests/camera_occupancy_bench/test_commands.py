"""Every command has the same look: help, mistakes in one line, and a word on packages that are missing."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest

from camera_occupancy_bench import ROOT
from camera_occupancy_bench.commandline import explain
from experiments.__main__ import commands

MODULES = [module for module, _ in commands()]
DOORS = [module for module in MODULES if module.startswith("experiments.") or module.startswith("reports.")]
BEFORE_THE_SETUP = {"experiments.doctor", "experiments.install"}


def call(module: str, *words: str) -> int:
    name = f"{module}.__main__" if (ROOT.joinpath(*module.split(".")) / "__main__.py").is_file() else module
    try:
        return importlib.import_module(name).main(list(words))
    except SystemExit as end:  # of commands without typer
        return int(end.code or 0)


@pytest.mark.parametrize("module", MODULES)
def test_help(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(module, "--help") == 0
    shown = capsys.readouterr()
    assert re.match(rf"Usage: python3? -m {re.escape(module)} \[OPTIONS\]", shown.out) and not shown.err
    assert "\nOptions:\n" in shown.out and "Show this message and exit." in shown.out


@pytest.mark.parametrize("module", MODULES)
def test_an_option_that_is_not_there(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(module, "--no-such-option") == 2
    shown = capsys.readouterr()
    assert re.fullmatch(r"error: .* \(see --help\)\n", shown.err) and not shown.out


def test_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"experiments.run", "experiments.data", "reports.build", "renderers.compare"} <= set(MODULES)
    assert call("experiments") == 0
    lines = capsys.readouterr().out.splitlines()
    for module, what in commands():
        assert f"python -m {module:28} {what}" in lines
        assert 10 < len(what) < 90 and "\n" not in what and "`" not in what, "a docstring begins with what it does and a colon"


def test_make_lists_its_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS")}
    shown = subprocess.run(["make", "help"], cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in shown.splitlines()] == phony.split()
    assert all(len(line.split()) > 2 for line in shown.splitlines())


@pytest.mark.parametrize("module", DOORS)
def test_without_packages_a_command_names_them_and_the_way_to_get_them(module: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-S", "-m", module, "--help"], env=environment, capture_output=True, text=True)
    if module in BEFORE_THE_SETUP:
        assert done.returncode == 0 and done.stdout.startswith("Usage: ")
    else:
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert re.match(r"error: typer, rich, .*not installed: .*make setup .*pip install '\.\[bench(,site)?\]'", done.stderr)


def test_without_the_mm_stack_a_run_says_so_and_lists_are_still_shown() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('mmengine', 'mmcv', 'mmdet', 'mmdet3d')); from experiments.run import main;"
        "sys.exit(main(sys.argv[1:]))"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "table_occ3d", "--renderer", "cpu", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    done = run("--row", "tpvformer", "--smoke")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "mmengine, mmcv, mmdet, mmdet3d are not" in done.stderr
    assert "make setup" in done.stderr and "python -m experiments.install mmcv" in done.stderr
    assert run("--list").returncode == 0


def test_what_is_said_of_mmcv_alone() -> None:
    assert explain(["mmcv"]) == (
        "mmcv is not installed: in the project's folder, make setup brings it all, or python -m experiments.install mmcv"
    )
