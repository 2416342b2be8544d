"""MLflow as a mirror of the records: one experiment a table, one run a cell.

Records are the source of truth. Whatever goes wrong with the tracking store is said once, and the cell goes on
without it. The store is ``sqlite:///mlflow.db`` in the project's folder unless MLFLOW_TRACKING_URI names another.

MLflow is loaded and asked in a process of its own (``experiments.cell.store``): whatever it waits for, a server that sends a
byte now and then or a lock that another process keeps, that process can be ended.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from camera_occupancy_bench import HOME, ROOT

LOADING = 120.0
"""Seconds that loading MLflow may take: the machine's own work, however busy it is."""
CALL = {"server": 30.0, "file": 90.0}
"""Seconds that a call may take; the first one on a file makes its tables."""
CELL = 120.0
"""Seconds that all calls of a cell may take, and ``SHARE`` of the time that the cell takes."""
SHARE = 0.05
_MAX_PARAM = 500  # characters of a parameter that servers of any age accept


def tracking_uri() -> str:
    """Where runs are logged: MLFLOW_TRACKING_URI, else a sqlite file in the checkout or, without one, here."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{HOME / 'mlflow.db'}"


class StoreFailed(RuntimeError):
    """A call on the store did not do what it should, or took too long."""


class _Process:
    """The process that talks to one store, shared by all cells of a command; started at the first call and after each failure.

    hanging  whether the last call was given up
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._owner = 0
        self._calls = 0
        self.hanging = False

    def call(self, method: str, arguments: tuple[Any, ...], seconds: float) -> Any:
        """What the method of ``store.Store`` returns; raises StoreFailed, after ``seconds`` at the latest."""
        if self._process is None or self._owner != os.getpid():  # not one that a parent of this process started
            self._start()
        try:
            self._calls += 1
            assert self._connection is not None
            self._connection.send((self._calls, method, arguments))
            return self._answer(self._calls, seconds)
        except (OSError, EOFError) as error:
            self._end()
            raise StoreFailed(f"the process that talks to it ended: {error or type(error).__name__}") from error

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._connection, self._owner, self._calls = Connection(ours.detach()), os.getpid(), 0
        program = "import sys; from experiments.cell.store import serve; serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
        # A session of its own: Ctrl-C is the cell's, which then closes its run.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, str(theirs.fileno()), self._uri, str(os.getpid())],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        try:
            self._answer(0, LOADING)
        except (OSError, EOFError) as error:
            self._end()
            raise StoreFailed("MLflow cannot be loaded: python -c 'import mlflow' says why") from error

    def _answer(self, call: int, seconds: float) -> Any:
        assert self._connection is not None
        end = time.monotonic() + seconds
        while self._connection.poll(max(0.0, end - time.monotonic())):
            number, failed, content = self._connection.recv()
            if number == call:  # not of an earlier one, whose answer was not waited for because of Ctrl-C
                self.hanging = False
                if failed:
                    raise StoreFailed(content)
                return content
        self.hanging = True
        self._end()
        raise StoreFailed(f"no answer within {seconds:.0f} s")

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None


_process = functools.cache(_Process)


class Tracker:
    """The MLflow run of one cell.

    run_id  the run, or None where the store could not be reached (then every method does nothing)
    """

    def __init__(self, warn: Callable[[str], None], uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        self.run_id: str | None = None
        self._warn = warn
        self._born = time.monotonic()
        self._waited = 0.0

    def start(self, experiment: str, name: str, run_id: str | None, tags: Mapping[str, str]) -> str | None:
        """Open a run called ``name``, or continue ``run_id`` if the store still has it; returns its id or None."""
        with self._guard("start a run"):
            self.run_id = self._ask("start", experiment, name, run_id, dict(tags))
        return self.run_id

    def experiments(self) -> list[str]:
        """Names of the experiments in the store; empty, with the warning given, if it cannot be reached."""
        names: list[str] = []
        with self._guard("list experiments"):
            names = self._ask("experiments")
        return names

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; long values are cut.

        MLflow refuses to change one. A continued run keeps what it began with, and what is different now (the command,
        a version) becomes the tag ``resumed.<name>``.
        """
        self._log("log parameters", "params", {name: str(value)[:_MAX_PARAM] for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        self._log("set tags", "tags", dict(values))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log one point of every curve in ``values``."""
        now = int(time.time() * 1000)
        self._log("log metrics", "metrics", {_metric_name(k): float(v) for k, v in values.items()}, now, step)

    def table(self, columns: Mapping[str, list[Any]], file: str) -> None:
        """Log columns of equal length as a table; what a continued run logged to the same file before stays above."""
        self._log(f"store {file}", "table", dict(columns), file)

    def page(self, experiment: str) -> str:
        """Path of an experiment's page below a server's address; "" where the store has none of that name or is away."""
        if (file := sqlite_file(self.uri)) is not None and not file.exists():
            return ""  # asking would create it
        if _process(self.uri).hanging:
            return ""  # it was waited for once
        with self._guard("find an experiment"):
            found: str | None = self._ask("find", experiment)
            return "" if found is None else f"/#/experiments/{found}"
        return ""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file."""
        self._log(f"store {path.name}", "artifact", str(path.absolute()), folder)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._log("close the run", "finish", status)

    def _log(self, what: str, method: str, *content: Any) -> None:
        if self.run_id is not None:
            with self._guard(what):
                self._ask(method, self.run_id, *content)

    def _ask(self, method: str, *arguments: Any) -> Any:
        begin = time.monotonic()
        left = CELL + SHARE * (begin - self._born) - self._waited
        if left <= 0:
            raise StoreFailed(f"its answers took {self._waited:.0f} s of this cell")
        try:
            own = CALL["server" if sqlite_file(self.uri) is None else "file"]
            return _process(self.uri).call(method, arguments, min(own, left))
        finally:
            self._waited += time.monotonic() - begin

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Run a call on the store; a failure is said once and switches tracking off for this cell."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - no failure of the mirror may end a cell
            self.run_id = None
            first = public((str(error).strip() or type(error).__name__).splitlines()[0])[:200]  # before it is cut
            self._warn(public(f"MLflow store {self.uri} failed to {what} ({first}); going on without it, the record is complete"))


def sqlite_file(uri: str) -> Path | None:
    """The file of a store that is one."""
    return Path(uri.removeprefix("sqlite:///").split("?")[0]) if uri.startswith("sqlite:///") else None


def public(text: str) -> str:
    """The text without the users and passwords of addresses, and without the tracking server's password wherever it stands."""
    for secret in _secrets():
        text = text.replace(secret, "***")
    # Up to the last @ of a word: passwords have any character. A sqlite file's path has none.
    text = re.sub(r"([A-Za-z][\w+.-]*://)(?!/)\S*@", r"\1", text)
    return re.sub(r"(?i)([?&;](?:ssl)?(?:password|passwd|pwd|token|secret|key)=)[^&;\s]+", r"\1***", text)


def _secrets() -> list[str]:
    """Passwords of the tracking server as they may turn up in messages, the longest first; none of less than four characters."""
    found = [os.environ.get(name, "") for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")]
    address = re.search(r"://(?!/)(\S*)@", tracking_uri())
    if address is not None:
        user, _, password = address.group(1).partition(":")
        found += [password or user, unquote(password or user)]
    return sorted({secret for secret in found if len(secret) >= 4}, key=len, reverse=True)


def viewing(experiment: str) -> str:
    """What shows an experiment's runs: its page on the server, or a command and a page for a store without one. No password is
    in it."""
    uri = tracking_uri()
    page = Tracker(lambda line: None, uri).page(experiment)
    if uri.startswith(("http://", "https://")):
        return public(uri).rstrip("/") + page
    command = f"mlflow ui --backend-store-uri {uri if public(uri) == uri else '$MLFLOW_TRACKING_URI'}"
    return f"{command}, then http://127.0.0.1:5000{page}"


def _metric_name(name: str) -> str:
    return name.replace("@", "_at_")
