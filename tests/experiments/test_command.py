"""What all command lines share: exit codes and one line on stderr."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from experiments.command import Interrupted, guarded, told_on_interruption
from experiments.plan import PlanError


def outcome(raised: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that raises this."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def command() -> int:
        if raised is not None:
            raise raised
        return 0

    code = guarded(app, [], "program", "interrupted; all is kept", (OSError,))
    return code, capsys.readouterr().err


def test_success_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(None, capsys) == (0, "")


@pytest.mark.parametrize(
    ("raised", "said"),
    [(KeyboardInterrupt(), "interrupted; all is kept"), (Interrupted("stopped at frame 3"), "stopped at frame 3")],
)
def test_an_interruption_is_said_once(raised: BaseException, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(raised, capsys) == (130, f"error: {said}\n")


def test_an_interruption_that_compiled_code_turned_into_an_error_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (SystemError("returned a result with an exception set"), OSError("half written")):
        error.__cause__ = ValueError()
        error.__cause__.__context__ = KeyboardInterrupt()
        assert outcome(error, capsys) == (130, "error: interrupted; all is kept\n")


@pytest.mark.parametrize("converted", [False, True])
def test_an_interruption_within_a_step_is_told_with_the_steps_words(converted: bool) -> None:
    with pytest.raises(Interrupted, match="^stopped at frame 3$"), told_on_interruption("stopped at frame 3"):
        if converted:
            raise SystemError("returned a result with an exception set") from KeyboardInterrupt()
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="disk full"), told_on_interruption("stopped at frame 3"):
        raise OSError("disk full")


def test_a_mistake_raised_from_itself_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    mistake = PlanError("no such row")
    mistake.__cause__ = mistake
    assert outcome(mistake, capsys) == (2, "error: no such row\n")


@pytest.mark.parametrize("mistake", [PlanError("no such\nrow"), OSError("no such\nrow")])
def test_a_mistake_is_one_line(mistake: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(mistake, capsys) == (2, "error: no such row\n")


def test_an_unknown_option_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer(add_completion=False)
    app.command()(lambda: None)
    assert guarded(app, ["--colour"], "program", "") == 2
    assert "--colour" in (said := capsys.readouterr().err) and "see --help" in said and said.count("\n") == 1


def test_a_fault_of_ours_leaves_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, said = outcome(ZeroDivisionError("oops"), capsys)
    [log] = tmp_path.glob("occupancy-run-*.log")
    assert code == 1 and said.count("\n") == 1 and str(log) in said and "fault of this program" in said
    assert "ZeroDivisionError" in log.read_text()


def test_the_process_is_named_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "2")
    assert outcome(PlanError("no row"), capsys) == (2, "error (process 2): no row\n")
