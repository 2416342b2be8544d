"""What talks to an MLflow store, in a process of its own: see ``experiments.cell.tracking``, which starts it.

Requests come over a pipe as (number, method of ``Store``, arguments); answers go back as (number, whether it failed, result or
error text). The process ends with the one that started it, whatever it waits for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

from filelock import FileLock, Timeout

from experiments.cell.tracking import StoreFailed, sqlite_file

LOCK = 60.0
"""Seconds that another process may keep a file's lock."""


class Store:
    """The calls that a ``Tracker`` makes, on the store at ``uri``."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._made: Any = None

    @property
    def _client(self) -> Any:
        if self._made is None:
            self._made = _client(self._uri)
        return self._made

    def start(self, experiment: str, name: str, run_id: str | None, tags: dict[str, str]) -> str:
        if run_id is not None and self._continue(run_id):
            return run_id
        return str(self._client.create_run(self._experiment(experiment), run_name=name, tags=tags).info.run_id)

    def experiments(self) -> list[str]:
        return [found.name for found in self._client.search_experiments() if found.name != "Default"]

    def find(self, experiment: str) -> str | None:
        found = self._client.get_experiment_by_name(experiment)
        return None if found is None else str(found.experiment_id)

    def params(self, run_id: str, values: dict[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        known = self._client.get_run(run_id).data.params
        self._client.log_batch(
            run_id,
            params=[Param(name, value) for name, value in values.items() if name not in known],
            tags=[RunTag(f"resumed.{name}", value) for name, value in values.items() if known.get(name, value) != value],
        )

    def tags(self, run_id: str, values: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def metrics(self, run_id: str, values: dict[str, float], when: int, step: int) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(run_id, metrics=[Metric(name, value, when, step) for name, value in values.items()])

    def table(self, run_id: str, columns: Mapping[str, list[Any]], file: str) -> None:
        self._client.log_table(run_id, dict(columns), file)

    def artifact(self, run_id: str, path: str, folder: str | None) -> None:
        self._client.log_artifact(run_id, path, folder)

    def finish(self, run_id: str, status: str) -> None:
        self._client.set_terminated(run_id, status=status)

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
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=_artifact_location(self._uri, name)))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:  # not because another cell was quicker
                    raise
        if found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def serve(pipe: int, uri: str, parent: int) -> None:
    """Answer requests until the process that asks, ``parent``, is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    connection = Connection(pipe)
    import mlflow  # noqa: F401 - counts as loading, not as waiting for the store

    connection.send((0, False, None))
    store = Store(uri)
    while True:
        try:
            number, method, arguments = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # threads that MLflow left would be waited for
        try:
            with _alone(uri):
                answer = number, False, getattr(store, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - said by the process that asked
            answer = number, True, str(error).strip() or type(error).__name__
        connection.send(answer)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


@contextlib.contextmanager
def _alone(uri: str) -> Iterator[None]:
    """One writer at a time on a sqlite file: two runs at once would meet "database is locked", and at the very first start
    both would create its tables."""
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(f"{file}.lock", timeout=LOCK)
        lock.acquire()
    except Timeout:
        raise StoreFailed(f"another process keeps {file}.lock for more than {LOCK:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


def _client(uri: str) -> Any:
    # A server that is away must not hold a run up for minutes, as MLflow's seven retries with back-off would.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if sqlite_file(uri) is not None:
        uri += ("&" if "?" in uri else "?") + "timeout=60"  # seconds that sqlite waits for a reader's lock
    return MlflowClient(tracking_uri=uri)


def _artifact_location(uri: str, experiment: str) -> str | None:
    file = sqlite_file(uri)
    return None if file is None else (file.resolve().parent / "mlartifacts" / experiment).as_uri()
