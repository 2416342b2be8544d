"""Commands in messages work when they are copied, whether the environment is active or not."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command import complain
from experiments.shell import program, runnable


@pytest.fixture
def inactive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkout's folder, with the environment below it, in a shell that has not activated it; returns its bin folder."""
    folder = tmp_path / "a checkout" / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.chdir(tmp_path / "a checkout")
    return folder


COMMANDS = "python -m experiments.run t --list; mlflow ui --port 1; pip install -e '.[viewer]'; torchrun --nproc_per_node 2"


def test_an_active_environment_needs_no_paths() -> None:
    assert runnable(COMMANDS) == COMMANDS


def test_commands_name_an_environment_that_is_not_active(inactive: Path) -> None:
    assert runnable(COMMANDS) == (
        ".venv/bin/python -m experiments.run t --list; .venv/bin/mlflow ui --port 1; "
        ".venv/bin/pip install -e '.[viewer]'; .venv/bin/torchrun --nproc_per_node 2"
    )
    assert subprocess.run([program("python"), "-c", "print(1)"], capture_output=True).stdout == b"1\n"


def test_elsewhere_the_path_is_whole_and_quoted(inactive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    assert shlex.split(runnable("python -m x")) == [str(inactive / "python"), "-m", "x"]


@pytest.mark.parametrize("text", ["Python 3.10 is needed", "/usr/bin/python -m x", "the mlflow server", "ipython -m x"])
def test_other_words_stay(inactive: Path, text: str) -> None:
    assert runnable(text) == text


def test_every_mistake_names_a_command_that_works(inactive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    complain("not finished: run python -m experiments.run t first")
    assert ".venv/bin/python -m experiments.run" in capsys.readouterr().err
