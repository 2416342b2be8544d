"""What the project's command lines share: one line on stderr for every mistake, and the exit code that belongs to it. Light."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from typer.exceptions import TyperException

from camera_occupancy_bench.commandline import explain, missing
from camera_occupancy_bench.files import told
from experiments.interruption import was_interrupted
from experiments.shell import runnable

INTERRUPTED = 130


class Interrupted(Exception):
    """Ctrl-C; the message says what is kept and how to go on."""


def guarded(
    application: typer.Typer, argv: Sequence[str], name: str, interrupted: str, mistakes: tuple[type[Exception], ...] = ()
) -> int:
    """Run a command line so that every mistake is one line on stderr; returns the exit code.

    name         of the program, for its help
    interrupted  what is said after Ctrl-C, where the command raises no ``Interrupted`` of its own
    mistakes     further errors whose message was written for the user
    """
    try:
        code = int(application(args=list(argv), prog_name=name, standalone_mode=False) or 0)
    except Interrupted as error:
        complain(str(error))
        return INTERRUPTED
    except KeyboardInterrupt:
        code = INTERRUPTED
    except TyperException as error:  # an option or argument that the command line does not have
        complain(f"{error.format_message() if hasattr(error, 'format_message') else error} (see --help)")
        return 2
    except Exception as error:  # noqa: BLE001 - what is not the user's mistake is a fault of ours
        if was_interrupted(error):
            code = INTERRUPTED
        elif isinstance(error, ModuleNotFoundError) and missing([package := (error.name or "").partition(".")[0]]):
            complain(explain([package]))
            return 2
        elif isinstance(error, (OSError, *mistakes, *_user_errors())):
            complain(told(error))
            return 2
        else:
            print(f"error: {type(error).__name__}: {error} (a fault of this program; {_kept_traceback()})", file=sys.stderr)
            return 1
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code without a word
        complain(interrupted)
    return code


@contextmanager
def told_on_interruption(message: str) -> Iterator[None]:
    """Ctrl-C within, however it shows, becomes ``Interrupted`` with this message."""
    try:
        yield
    except BaseException as error:
        if was_interrupted(error):
            raise Interrupted(message) from None
        raise


def _kept_traceback() -> str:
    try:
        handle, file = tempfile.mkstemp(prefix="occupancy-run-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8") as log:
            log.write(traceback.format_exc())
    except OSError:  # where no file can be written, the terminal has to do
        return f"traceback:\n{traceback.format_exc()})"
    return f"traceback: {file}"


def complain(message: str) -> None:
    """One line on stderr."""
    # Every process speaks: the first to fail may be the only one that knows why, and the launcher ends the others.
    who = f" (process {rank()})" if rank() else ""
    print(f"error{who}: {runnable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def rank() -> int:
    """Number of this process among those that a launcher started, 0 without one, and where it is none (``check_ranks``)."""
    value = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    return int(value) if _is_number(value) else 0


def check_ranks() -> None:
    """Raise PlanError for a launcher's variable that is no number."""
    from experiments.plan import PlanError

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    for name in names:
        if (value := os.environ.get(name)) and not _is_number(value):
            raise PlanError(f"{name} must be a process's number as torchrun and srun set it, got '{value[:80]}': unset it")


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) < 10


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors whose message was written for the user, by whoever found the mistake."""
    if "baselines.checkpoints" in sys.modules:  # it needs the mm stack, which commands that only read do without
        from baselines.checkpoints import CheckpointError

        weights: tuple[type[Exception], ...] = (CheckpointError,)
    else:
        weights = ()
    from experiments.cell.folder import ResultsError
    from experiments.datasets.unpickle import DataError
    from experiments.plan import PlanError
    from experiments.predictions import PredictionFileError
    from experiments.records import RecordError
    from experiments.settings import SettingError
    from experiments.spec import SpecError
    from renderers.registry import RendererUnavailable, UnknownName

    configuration = PlanError, SpecError, SettingError, RendererUnavailable, UnknownName
    return *configuration, *weights, RecordError, ResultsError, DataError, PredictionFileError
