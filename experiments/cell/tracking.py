"""MLflow as a mirror of the records: one experiment a table, one run a cell.

Records are the source of truth. Whatever goes wrong with the tracking store is said once, and the cell goes on
without it. The store is ``sqlite:///mlflow.db`` in the project's folder unless MLFLOW_TRACKING_URI names another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from filelock import FileLock

from camera_occupancy_bench import HOME

_MAX_PARAM = 500  # characters of a parameter that servers of any age accept


def tracking_uri() -> str:
    """Where runs are logged: MLFLOW_TRACKING_URI, else a sqlite file in the checkout or, without one, here."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{HOME / 'mlflow.db'}"


class Tracker:
    """The MLflow run of one cell.

    run_id  the run, or None where the store could not be reached (then every method does nothing)
    """

    def __init__(self, warn: Callable[[str], None], uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        self.run_id: str | None = None
        self._warn = warn
        self._client: Any = None
        self._lock = contextlib.nullcontext() if (file := _sqlite_file(self.uri)) is None else FileLock(f"{file}.lock")

    def start(self, experiment: str, name: str, run_id: str | None, tags: Mapping[str, str]) -> str | None:
        """Open a run called ``name``, or continue ``run_id`` if the store still has it; returns its id or None."""
        with self._guard("start a run"):
            self._client = _client(self.uri)
            if run_id is not None and self._continue(run_id):
                self.run_id = run_id
            else:
                self.run_id = self._client.create_run(self._experiment(experiment), run_name=name, tags=dict(tags)).info.run_id
        return self.run_id

    def experiments(self) -> list[str]:
        """Names of the experiments in the store; empty, with the warning given, if it cannot be reached."""
        names: list[str] = []
        with self._guard("list experiments"):
            names = [found.name for found in _client(self.uri).search_experiments() if found.name != "Default"]
        return names

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; long values are cut.

        MLflow refuses to change one. A continued run keeps what it began with, and what is different now (the command,
        a version) becomes the tag ``resumed.<name>``.
        """
        if self.run_id is None:
            return
        from mlflow.entities import Param, RunTag

        cut = {name: str(value)[:_MAX_PARAM] for name, value in values.items()}
        with self._guard("log parameters"):
            known = self._client.get_run(self.run_id).data.params
            self._client.log_batch(
                self.run_id,
                params=[Param(name, value) for name, value in cut.items() if name not in known],
                tags=[RunTag(f"resumed.{name}", value) for name, value in cut.items() if known.get(name, value) != value],
            )

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags."""
        from mlflow.entities import RunTag

        self._batch("set tags", tags=[RunTag(key, value) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log one point of every curve in ``values``."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._batch("log metrics", metrics=[Metric(_metric_name(k), float(v), now, step) for k, v in values.items()])

    def table(self, columns: Mapping[str, list[Any]], file: str) -> None:
        """Log columns of equal length as a table; what a continued run logged to the same file before stays above."""
        if self.run_id is not None:
            with self._guard(f"store {file}"):
                self._client.log_table(self.run_id, dict(columns), file)

    def page(self, experiment: str) -> str:
        """Path of an experiment's page below a server's address; "" where the store has none of that name or is away."""
        if (file := _sqlite_file(self.uri)) is not None and not file.exists():
            return ""  # asking would create it
        with self._guard("find an experiment"):
            found = _client(self.uri).get_experiment_by_name(experiment)
            return "" if found is None else f"/#/experiments/{found.experiment_id}"
        return ""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload a file."""
        if self.run_id is not None:
            with self._guard(f"store {path.name}"):
                self._client.log_artifact(self.run_id, str(path), folder)

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        if self.run_id is not None:
            with self._guard("close the run"):
                self._client.set_terminated(self.run_id, status=status)

    def _batch(self, what: str, **content: list[Any]) -> None:
        if self.run_id is not None:
            with self._guard(what):
                self._client.log_batch(self.run_id, **content)

    def _continue(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            if self._client.get_run(run_id).info.lifecycle_stage != "active":
                return False
        except MlflowException:
            return False  # deleted since, or another store: a new run takes its place
        self._client.update_run(run_id, status="RUNNING")
        return True

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return str(self._client.create_experiment(name, artifact_location=_artifact_location(self.uri, name)))
        if found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        """Run a call on the store; a failure is said once and switches tracking off for this cell."""
        try:
            # One writer at a time on a sqlite file: two runs at once would meet "database is locked", and at the very
            # first start both would create its tables.
            with self._lock:
                yield
        except Exception as error:  # noqa: BLE001 - no failure of the mirror may end a cell
            self.run_id = None
            first = public((str(error).strip() or type(error).__name__).splitlines()[0])[:200]  # before it is cut
            self._warn(public(f"MLflow store {self.uri} failed to {what} ({first}); going on without it, the record is complete"))


def _client(uri: str) -> Any:
    # A server that is away must not hold a run up for minutes, as MLflow's seven retries with back-off would.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    file = _sqlite_file(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        uri += ("&" if "?" in uri else "?") + "timeout=60"  # seconds that sqlite waits for a reader's lock
    return MlflowClient(tracking_uri=uri)


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///").split("?")[0]) if uri.startswith("sqlite:///") else None


def _artifact_location(uri: str, experiment: str) -> str | None:
    file = _sqlite_file(uri)
    return None if file is None else (file.resolve().parent / "mlartifacts" / experiment).as_uri()


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
