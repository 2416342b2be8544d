"""MLflow as a mirror: what it gets, and that nothing which goes wrong with it ends a run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from pathlib import Path

import pytest
from filelock import FileLock

from experiments.cell import tracking
from experiments.cell.tracking import Tracker, public, tracking_uri
from experiments.records import ROOT


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all tests: MLflow takes seconds to create its tables."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call takes seconds of a core, which a busy machine may give it in minutes."""
    for name in tracking.CALL:
        monkeypatch.setitem(tracking.CALL, name, 1200.0)
    monkeypatch.setattr(tracking, "LOADING", 1200.0)
    monkeypatch.setattr(tracking, "CELL", 3600.0)


def table() -> str:
    """An experiment's name that no other test has."""
    return f"table_{uuid.uuid4().hex}"


def test_a_run_holds_parameters_curves_tags_and_files(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    said: list[str] = []
    tracker = Tracker(said.append, uri)
    run_id = tracker.start(name := table(), "cell", None, {"row": "model"})
    assert run_id is not None
    tracker.params({"lr": 0.1, "long": "x" * 2000})
    tracker.metrics({"train/loss": 2.0, "RayIoU@1": 5.0}, step=10)
    tracker.metrics({"train/loss": 1.0}, step=20)
    file = tmp_path / "figure.png"
    file.write_bytes(b"png")
    tracker.artifact(file, "figures")
    tracker.table({"class": ["car", "truck"], "mIoU": [1.5, None]}, "per_class.json")
    tracker.finish()
    assert said == []

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(run_id)
    assert run.info.run_name == "cell" and run.info.status == "FINISHED"
    assert run.data.params["lr"] == "0.1" and len(run.data.params["long"]) == 500
    assert run.data.tags["row"] == "model"
    assert run.data.metrics["RayIoU_at_1"] == 5.0
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")] == [(10, 2.0), (20, 1.0)]
    assert [f.path for f in client.list_artifacts(run_id, "figures")] == ["figures/figure.png"]
    assert (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts" / name).is_dir()
    assert name in tracker.experiments()
    kept = json.loads(Path(client.download_artifacts(run_id, "per_class.json", str(tmp_path))).read_text())
    assert kept == {"columns": ["class", "mIoU"], "data": [["car", 1.5], ["truck", None]]}
    assert tracker.page(name) == f"/#/experiments/{run.info.experiment_id}" and tracker.page("no such table") == ""


def test_a_resumed_cell_continues_its_run_and_a_lost_one_gets_a_new(uri: str) -> None:
    name = table()
    first = Tracker(print, uri).start(name, "cell", None, {})
    assert Tracker(print, uri).start(name, "cell", first, {}) == first
    replaced = Tracker(print, uri).start(name, "cell", "0" * 32, {})
    assert replaced not in (None, first, "0" * 32)


def test_a_resumed_cell_may_differ_from_what_was_begun(uri: str) -> None:
    """Another command line, or a library brought up to date in between, must not cost the run its curves."""
    from mlflow import MlflowClient

    said: list[str] = []
    name = table()
    begun = Tracker(said.append, uri)
    run_id = begun.start(name, "cell", None, {})
    begun.params({"command": "first", "lr": 0.1})
    begun.finish("FAILED")
    resumed = Tracker(said.append, uri)
    resumed.start(name, "cell", run_id, {})
    resumed.params({"command": "second", "lr": 0.1, "new": 1})
    resumed.metrics({"loss": 1.0}, 5)
    assert said == [] and resumed.run_id == run_id
    assert run_id is not None
    run = MlflowClient(tracking_uri=uri).get_run(run_id)
    assert run.data.params == {"command": "first", "lr": "0.1", "new": "1"}
    assert run.data.tags["resumed.command"] == "second" and "resumed.lr" not in run.data.tags
    assert run.data.metrics["loss"] == 1.0


def test_a_server_that_is_away_is_one_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    tracker = Tracker(said.append, "http://name:secret@127.0.0.1:9")
    assert tracker.start("table_x", "cell", None, {}) is None
    tracker.params({"a": 1})
    tracker.metrics({"b": 2.0})
    tracker.artifact(tmp_path, None)
    tracker.finish()
    assert len(said) == 1
    assert "MLflow store http://127.0.0.1:9" in said[0] and "going on without it" in said[0]
    assert "secret" not in said[0]


def test_a_store_that_breaks_in_the_middle_is_one_warning(uri: str, tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker(said.append, uri)
    assert tracker.start("table_x", "cell", None, {}) is not None
    tracker.artifact(tmp_path / "missing.png")
    tracker.metrics({"a": 1.0})
    assert tracker.run_id is None
    assert len(said) == 1 and "store missing.png" in said[0]


@pytest.mark.slow
def test_two_processes_may_create_and_fill_one_sqlite_file_at_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    program = (
        "import sys; from experiments.cell.tracking import Tracker\n"
        "def fail(text): sys.exit(text)\n"
        "t = Tracker(fail, sys.argv[1]); t.start('table_x', sys.argv[2], None, {})\n"
        "for step in range(30): t.metrics({'a': float(step)}, step)\n"
        "t.finish()"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", program, uri, name], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    assert [(run.communicate()[1], run.returncode) for run in runs] == [("", 0), ("", 0)]
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("table_x")
    found = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in found) == ["one", "two"]
    assert [len(client.get_metric_history(run.info.run_id, "a")) for run in found] == [30, 30]


def test_the_default_store_is_a_file_in_the_project_and_the_variable_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri() == f"sqlite:///{ROOT / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri() == "http://tracking:5000"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:s3cret@host:5000/x", "http://host:5000/x"),
        ("postgresql://ann:p@ss/word@db/mlflow?sslpassword=abc&x=1", "postgresql://db/mlflow?sslpassword=***&x=1"),
        ("https://host/?token=abcd;next", "https://host/?token=***;next"),
        ("sqlite:////a/b@c/mlflow.db", "sqlite:////a/b@c/mlflow.db"),
        ("python -m experiments.run table_occ3d --seed 0", "python -m experiments.run table_occ3d --seed 0"),
    ],
)
def test_nothing_that_is_printed_holds_a_password(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert public(text) == shown


def test_a_servers_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the closing hint, and not where an error repeats it without its address."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter%402@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other-secret")
    assert public("refused for hunter%402 and hunter@2, with other-secret") == "refused for *** and ***, with ***"


def trickle(server: socket.socket) -> None:
    """Answer every request with a byte every half second, for ever."""

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.5)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def test_a_server_that_never_ends_its_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.CALL, "server", 2.0)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=trickle, args=(server,), daemon=True).start()
        tracker = Tracker(said.append, f"http://127.0.0.1:{server.getsockname()[1]}")
        assert tracker.start("table_x", "cell", None, {}) is None
        asked: list[str] = []
        monkeypatch.setattr(tracking._Process, "call", lambda process, method, *_: asked.append(method))
        assert tracker.page("table_x") == ""
        tracker.finish()
        assert asked == []
    assert len(said) == 1 and "failed to start a run (no answer within 2 s); going on without it" in said[0]


def test_a_lock_that_another_process_keeps_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(tracking.CALL, "file", 2.0)
    said: list[str] = []
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with FileLock(tmp_path / "mlflow.db.lock"):
        assert Tracker(said.append, uri).start("table_x", "cell", None, {}) is None
    assert len(said) == 1 and "no answer within 2 s" in said[0]


def test_a_cells_calls_have_a_deadline_together(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tracker = Tracker(said.append, uri)
    assert tracker.start(table(), "cell", None, {}) is not None
    monkeypatch.setattr(tracking, "CELL", 0.0)
    monkeypatch.setattr(tracking, "SHARE", 0.0)
    tracker.metrics({"a": 1.0})
    assert tracker.run_id is None and len(said) == 1 and "its answers took" in said[0]


def test_a_store_that_was_given_up_is_asked_again_by_the_next_cell(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    first = Tracker(said.append, uri)
    assert first.start(name := table(), "cell", None, {}) is not None
    assert (store := tracking._process(uri)._process) is not None
    store.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setitem(tracking.CALL, "file", 0.0)
        first.metrics({"a": 1.0})
    assert first.run_id is None and len(said) == 1
    second = Tracker(said.append, uri)
    assert second.start(name, "next", None, {}) is not None and second.page(name) != ""
    assert len(said) == 1


@pytest.mark.slow
def test_sixteen_cells_at_once_on_a_new_server_lose_no_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}", "--artifacts-destination", str(tmp_path / "artifacts")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2", *words]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path)
    try:
        uri, end = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5):
                break
            time.sleep(0.5)
        program = (
            "import sys; from experiments.cell.tracking import Tracker\n"
            "t = Tracker(sys.exit, sys.argv[1]); t.experiments(); print('ready', flush=True); sys.stdin.readline()\n"
            "t.start('table_x', sys.argv[2], None, {}); t.metrics({'a': 1.0}); t.finish()"
        )
        cells = [
            subprocess.Popen(
                [sys.executable, "-c", program, uri, f"cell{number}"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(16)
        ]
        for cell in cells:
            assert cell.stdout is not None and cell.stdout.readline() == "ready\n"
        for cell in cells:
            assert cell.stdin is not None
            cell.stdin.write("\n")
            cell.stdin.flush()
        assert [(cell.communicate()[1], cell.returncode) for cell in cells] == [("", 0)] * 16
        client = MlflowClient(tracking_uri=uri)
        found = client.search_runs([client.get_experiment_by_name("table_x").experiment_id])
        assert sorted(run.info.run_name for run in found) == sorted(f"cell{number}" for number in range(16))
        assert all(run.info.status == "FINISHED" and run.data.metrics == {"a": 1.0} for run in found)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
