"""Sweeps up to the scheduler, and on one machine: what is submitted, skipped, said and stopped; never a cell twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_tiny import TABLES

import experiments.tables
from experiments.cell import lock
from experiments.cell.folder import Busy, CellFolder
from experiments.spec import Cell, load_table
from experiments.sweep import __main__ as door
from experiments.sweep import slurm, status, task, workstation
from experiments.sweep.manifest import Entry, Sweep, SweepError, new
from experiments.sweep.task import CellTask

submitit = pytest.importorskip("submitit")
Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]
CELLS = 1000
"""Times are the processor's: other processes of the machine do not count."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, results and tracking in ``tmp_path`` -> (exit code, stdout, stderr)."""
    monkeypatch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, TABLES])
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("COLUMNS", "250")
    for name in ("OCC_DATA_ROOT", "OCC_CKPTS", "RANK", "SLURM_PROCID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(door, "toy_data", lambda *_: tmp_path)
    monkeypatch.setattr(door, "_devices", lambda: [])

    def run(*arguments: str) -> Outcome:
        code = door.main(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho {name} >> {folder}/calls\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's programs, as far as a submission goes: one node, partitions low (the default) and high; jobs stay in the queue."""
    folder = tmp_path / "bin"
    program(folder, "sinfo", "echo vm low*; echo vm high")
    told = f"echo Submitted batch job $(wc -l < {folder}/jobs)"
    program(folder, "sbatch", f"cat $1 >> {folder}/scripts; echo x >> {folder}/jobs; {told}")
    each = f"for i in $(seq $(wc -l < {folder}/jobs)); do for j in $(seq 0 {CELLS}); do echo ${{i}}_$j PENDING"
    program(folder, "squeue", f"[ ! -f {folder}/jobs ] || {each}; done; echo $i PENDING; done")
    program(folder, "scancel", f"echo $@ >> {folder}/cancelled")
    for name in ("srun", "scontrol"):
        program(folder, name, "true")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


SLURM = ("--on", "slurm", "--gpus-per-cell", "0")
MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "no place": (["table_tiny"], ["--on"]),
    "unknown place": (["table_tiny", "--on", "mars"], ["--on must be slurm or local, got 'mars'"]),
    "no cells at a time": (["table_tiny", "--on", "local", "--parallel", "0"], ["--parallel must be 1 at least, got 0"]),
    "too many at a time": (["table_tiny", "--on", "local", "--parallel", "5000"], ["--parallel 5000", "cores"]),
    "GPUs that are not there": (["table_tiny", "--on", "local", "--gpus-per-cell", "2"], ["--gpus-per-cell 2", "0 GPUs"]),
    "a partition of one machine": (["table_tiny", "--on", "local", "--partition", "low"], ["--partition is Slurm's"]),
    "unknown partition": (["table_tiny", *SLURM, "--partition", "lwo"], ["no partition 'lwo'", "known: high, low"]),
    "unknown table": (["table_tyni", *SLURM], ["unknown table 'table_tyni'", "did you mean 'table_tiny'?"]),
    "unknown row": (["table_tiny", *SLURM, "--row", "smal"], ["unknown row 'smal'"]),
    "a time that is none": (["table_tiny", *SLURM, "--time", "soon"], ["--time must be minutes", "got 'soon'"]),
    "no time": (["table_tiny", *SLURM, "--time", "0"], ["--time must be more than nothing"]),
    "a folder that is none": (["table_tiny", *SLURM, "--results", "/dev/null/x"], ["/dev/null/x cannot be written"]),
    "status of nothing": (["status", "table_tiny"], ["there is no sweep of table_tiny", "--results"]),
    "nothing to cancel": (["cancel", "table_tiny"], ["there is no sweep of table_tiny"]),
}


@pytest.mark.parametrize("arguments, parts", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line(command: Command, cluster: Path, arguments: list[str], parts: list[str]) -> None:
    code, _, err = command(*arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert all(part in err for part in parts), err
    assert not (cluster / "jobs").exists()


def test_without_slurm_and_with_a_refusal_there_is_one_line(
    command: Command, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(cluster, "sbatch", "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1")
    code, _, err = command("table_tiny", *SLURM, "--row", "prior", "--seed", "0", "1")
    assert code == 2 and err.count("\n") == 1 and "sbatch refused the tasks" in err and "Invalid account" in err
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = command("table_tiny", *SLURM)
    assert code == 2 and err.count("\n") == 1 and "--on slurm needs sbatch" in err and "--on local" in err


def test_a_store_that_is_a_file_is_refused_on_several_machines(
    command: Command, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(cluster, "sinfo", "echo a low*; echo b low*; echo c high")
    code, _, err = command("table_tiny", *SLURM, "--row", "prior")
    assert code == 2 and "2 machines must not write" in err and "mlflow server" in err
    assert command("table_tiny", *SLURM, "--row", "prior", "--seed", "0", "--partition", "high")[0] == 0
    monkeypatch.setattr(door, "viewing", lambda name: "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert command("table_tiny", *SLURM, "--row", "prior", "--seed", "1")[0] == 0


def test_one_array_has_a_task_a_cell_and_a_second_submission_none(command: Command, cluster: Path, tmp_path: Path) -> None:
    words = (
        "table_tiny",
        "--row",
        "prior",
        "small",
        "--seed",
        "0",
        "1",
        *SLURM,
        "--renderer",
        "cpu",
        "--set",
        "schedule.lr=1e-4",
    )
    more = ("--partition", "high", "--time", "1-02:00:00", "--setup", "#SBATCH --account=me", "module load x", "--parallel", "3")
    code, out, err = command(*words, *more)
    assert (code, err) == (0, "") and "4 cells are submitted: job 1" in out
    for line in ("logs: ", f"records: {tmp_path / 'results' / 'table_tiny'}", "curves and figures: ", "experiments.sweep status"):
        assert line in out
    script = (cluster / "scripts").read_text()
    for part in ("--array=0-3%3", "--partition=high", "--time=1560", "--requeue", "--signal=USR2@90"):
        assert part in script
    assert script.index("#SBATCH --account=me") < script.index("module load x") < script.index("srun")
    folder = next((tmp_path / "results/.sweeps/table_tiny").iterdir()) / "jobs"
    tasks = [submitit.core.utils.DelayedSubmission.load(folder / f"1_{n}_submitted.pkl").function for n in range(4)]
    chosen = {task.words[task.words.index("--row") + 1 :][:5] for task in tasks}
    assert {(row, seed) for row, _, _, _, seed in chosen} == {(row, seed) for row in ("prior", "small") for seed in "01"}
    assert all(task.seconds == 1560 * 60 and task.words[-2:] == ("--set", "schedule.lr=1e-4") for task in tasks)
    code, out, err = command(*words)
    assert (code, err) == (0, "") and "4 of 4 cells: queued or running already" in out and "nothing is to be run" in out
    code, out, _ = command("status", "table_tiny")
    assert code == 0 and "4 queued" in out
    assert command("cancel", "table_tiny")[0] == 0
    assert (cluster / "cancelled").read_text().split() == ["1_0", "1_1", "1_2", "1_3"]


def test_a_cell_that_starts_from_another_one_waits_for_it(
    command: Command, cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = load_table("table_tiny")
    second = replace(table.row("small"), name="second", starts_from="small")
    chained = replace(table, rows=(*table.rows, second))
    monkeypatch.setattr(door, "load_spec", lambda name: chained)
    code, out, _ = command("table_tiny", "--row", "second", "--seed", "0", "1", "--renderer", "cpu", *SLURM)
    assert code == 0 and "4 cells are submitted: jobs 1, 2, 3" in out
    script = (cluster / "scripts").read_text()
    assert script.count("--kill-on-invalid-dep=yes") == 2
    assert script.index("--array=0-1") < script.index("--dependency=afterok:1_0") < script.index("--dependency=afterok:1_1")


def test_a_task_runs_its_cell_through_submitits_debug_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CellTask, "command", lambda self: [sys.executable, "-c", f"open('{tmp_path}/{self.words[0]}', 'x')"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        jobs = submitit.DebugExecutor(tmp_path / "jobs").submit_array([CellTask((name,), tmp_path) for name in "ab"])
        assert [job.result() for job in jobs] == [None, None]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "a").is_file() and (tmp_path / "b").is_file()


def test_a_tasks_command_is_that_of_the_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    one = CellTask(("table_tiny", "--seed", "3"), tmp_path, force=True)
    assert one.command()[1:] == ["-m", "experiments.run", "table_tiny", "--seed", "3", "--force"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # its machine died: it goes on, and does not start again
    assert "--force" not in one.command()
    four = replace(one, processes=4).command()
    assert four[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    assert four[-2:] == ["--launcher", "pytorch"]


def test_a_task_stops_its_cell_as_ctrl_c_and_goes_on_unless_nothing_comes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        "import sys, time\ntry:\n    open(sys.argv[1] + '/up', 'x'); time.sleep(600)\n"
        "except KeyboardInterrupt:\n    open(sys.argv[1] + '/stopped', 'x')"
    )
    monkeypatch.setattr(CellTask, "command", lambda self: [sys.executable, "-c", program, str(tmp_path)])
    one = CellTask((), tmp_path, force=True, seconds=3600.0)

    def interrupt() -> None:
        while not (tmp_path / "up").exists():
            time.sleep(0.02)
        one._stop()

    before = signal.getsignal(signal.SIGTERM)
    try:
        other = threading.Thread(target=interrupt)
        other.start()
        one()
        other.join()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "stopped").is_file()
    again = one.checkpoint().function
    assert isinstance(again, CellTask) and not again.force and again.words == one.words
    one.seconds = 1.0
    assert one.checkpoint() is None and "--time" in capsys.readouterr().err
    (tmp_path / "iter_2.pth").touch()
    assert one.checkpoint() is not None


def test_a_task_that_is_told_to_end_while_its_cell_is_being_started_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def told_meanwhile(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        os.kill(os.getpid(), signal.SIGTERM)
        started.append(subprocess.Popen(*words, **options))
        os.kill(os.getpid(), signal.SIGTERM)
        return started[0]

    monkeypatch.setattr(CellTask, "command", lambda self: ["sleep", "120"])
    monkeypatch.setattr(task, "subprocess", SimpleNamespace(Popen=told_meanwhile))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            CellTask((), tmp_path)()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [process.wait(10) for process in started] == [-signal.SIGINT], "as Ctrl-C does"


# Locks


def folder_of(root: Path) -> CellFolder:
    table = load_table(str(Path(TABLES) / "table_tiny.py"))
    return CellFolder(Cell(table, table.row("small"), "cpu", "toy", 0), root)


def foreign(folder: CellFolder, age: float, **changes: Any) -> Path:
    lease = folder.record_path.with_name(f".{folder.cell.name}.lease")
    lease.parent.mkdir(parents=True, exist_ok=True)
    lease.write_text(json.dumps({"machine": "other", "host": "node7", "process": 5, "token": "t", **changes}))
    then = time.time() - age
    os.utime(lease, (then, then))
    return lease


def test_a_cell_of_another_machine_is_left_alone_until_its_lease_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE", 100 * lock.STALE)  # a tenth of it is longer than any pause of a busy machine
    folder = folder_of(tmp_path)
    lease = foreign(folder, 0.9 * lock.STALE)
    with pytest.raises(Busy), folder.lock(print, wait=False):
        pass
    assert str(folder.holder()) == "process 5 on node7"
    foreign(folder, 1.1 * lock.STALE)
    assert folder.holder() is None
    with folder.lock(print, wait=False):
        holder = folder.holder()
        assert holder is not None and holder.process == os.getpid()
    assert not lease.exists() and sorted(p.suffix for p in lease.parent.iterdir()) == [".lock"]


def test_a_lease_of_this_machine_whose_process_is_gone_is_taken_at_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    foreign(folder, 0, machine=lock.machine(), process=gone.pid)
    assert folder.holder() is None
    with folder.lock(print, wait=False):
        pass


def test_a_holder_renews_its_lease_and_stops_where_another_machine_took_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    folder, begin = folder_of(tmp_path), time.time()
    with pytest.raises(KeyboardInterrupt), folder.lock(print):
        lease = folder.record_path.with_name(f".{folder.cell.name}.lease")
        os.utime(lease, (0, 0))
        end = time.monotonic() + 60
        while lease.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert lease.stat().st_mtime > begin - 1  # the clock that gives files their times is a coarse one
        foreign(folder, 0)
        time.sleep(60)
    assert "node7" in lease.read_text(), "the lease is another machine's"


def test_machines_without_a_common_kernel_lock_never_hold_a_cell_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight contenders, each as on a machine of its own: only the lease is between them."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom experiments.cell import lock\n"
        "folder, me = Path(sys.argv[1]), sys.argv[2]\n"
        "lock.machine = lambda: me\nlock.POLL = 0.01\nreal = lock.FileLock\n"
        "lock.FileLock = lambda path: real(f'{path}{me}')\n"
        "for _ in range(5):\n"
        "    with lock.hold(folder / 'cell.lock', wait=True):\n"
        "        (folder / 'inside').touch(exist_ok=False)\n        time.sleep(0.005)\n        (folder / 'inside').unlink()\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), f"m{n}"], stderr=subprocess.PIPE) for n in range(8)]
    assert [(one.communicate()[1], one.returncode) for one in both] == [(b"", 0)] * 8


# One machine


class Threads:
    """An executor like submitit's whose jobs are threads."""

    def __init__(self, act: Callable[[CellTask], None], workers: int) -> None:
        self._pool, self._act, self._count = ThreadPoolExecutor(workers), act, 0

    def submit(self, one: CellTask) -> Any:
        future: Future[None] = self._pool.submit(self._act, one)
        self._count += 1
        return type("Job", (), {"job_id": f"t{self._count}", "done": staticmethod(future.done)})


def sweep_of(results: Path, count: int) -> tuple[Sweep, list[tuple[Entry, CellTask]]]:
    sweep = new(results, "table_x", "local", "")
    sweep.entries = [Entry("table_x", "toy", f"row--cpu--seed{number}", str(number)) for number in range(count)]
    sweep.save()
    return sweep, [(entry, CellTask((entry.cell, entry.fingerprint), entry.work_dir(results))) for entry in sweep.entries]


def test_a_thousand_cells_on_eight_workers_are_each_run_once(tmp_path: Path) -> None:
    sweep, tasks = sweep_of(tmp_path, CELLS)
    ran: list[str] = []
    places: set[tuple[int, ...]] = set()

    def act(one: CellTask) -> None:
        assert one.cores is not None
        places.add(one.cores)
        ran.append(one.words[0])
        record = tmp_path / f"table_x/toy/{one.words[0]}.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"fingerprint": one.words[1], "started": "now"}))

    workstation.work_off(
        sweep, tasks, workstation.slots(8, 0, [], range(16)), Threads(act, 8), lambda e, _: status.finished(e, tmp_path), 0.0
    )
    assert sorted(ran) == sorted(entry.cell for entry in sweep.entries) and len(places) == 8
    known = status.cells(door.load_all(tmp_path, "table_x"))
    assert status.counts([status.state(one, tmp_path, {}) for one in known]) == f"{CELLS} finished"


def test_a_thousand_cells_are_one_job_and_slurm_is_asked_a_few_times(command: Command, cluster: Path) -> None:
    words = ("table_tiny", "--row", "prior", "--renderer", "cpu", *SLURM, "--seed", *map(str, range(CELLS)))
    code, out, _ = command(*words)
    assert code == 0 and f"{CELLS} cells are submitted: job 1" in out
    code, out, _ = command("status", "table_tiny")
    assert code == 0 and f"{CELLS} queued" in out
    code, out, _ = command(*words)
    assert f"{CELLS} of {CELLS} cells: queued or running already" in out
    calls = (cluster / "calls").read_text().split()
    assert calls.count("sbatch") == 1 and len(calls) <= 12, Counter(calls)


def test_a_cell_whose_first_one_failed_is_not_begun(tmp_path: Path) -> None:
    sweep, tasks = sweep_of(tmp_path, 3)
    tasks[1][0].first = tasks[0][0].key
    tasks[2][0].first = tasks[1][0].key
    ran, told = [], []

    def ended(entry: Entry, begun: bool) -> bool:
        told.append((entry.cell[-1], begun))
        return False

    workstation.work_off(sweep, tasks, workstation.slots(2, 0, [], [0, 1]), Threads(ran.append, 2), ended, 0.0)
    assert len(ran) == 1 and told == [("0", True), ("1", False), ("2", False)]


def test_places_share_gpus_and_cores() -> None:
    found = workstation.slots(None, 2, ["3", "4", "5", "7"], [0, 1, 2, 3, 4])
    assert [(place.devices, place.cores) for place in found] == [("3,4", (0, 1)), ("5,7", (2, 3))]
    with pytest.raises(SweepError, match="--parallel 3 cells of 2 GPUs each need 6, this machine has 4"):
        workstation.slots(3, 2, ["3", "4", "5", "7"], list(range(9)))


def test_a_cell_that_fails_says_so_through_submitit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, tasks = sweep_of(tmp_path, 1)
    monkeypatch.setenv("PYTHONPATH", str(task.ROOT))
    entry = tasks[0][0]
    failing = [(entry, CellTask(("table_nowhere",), tmp_path))]
    workstation.work_off(
        sweep, failing, workstation.slots(1, 0, [], [0]), workstation.executor(sweep.jobs), lambda *_: False, 0.05
    )
    state = status.state(status.Known(entry, sweep), tmp_path, {})
    assert state.kind == "failed" and "unknown table 'table_nowhere'" in state.text


@pytest.mark.parametrize("moment", ["at once", "as the task's process starts", "within the cell"])
def test_ctrl_c_ends_all_cells_in_order(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through submitit's local executor: its processes, the task's, and the cell's."""
    sweep, tasks = sweep_of(tmp_path, 1)
    monkeypatch.setenv("PYTHONPATH", str(task.ROOT))
    made, assigned = workstation.executor(sweep.jobs), sweep.folder / "jobs.tsv"
    jobs: list[Any] = []

    class Sleeps(CellTask):
        def command(self) -> list[str]:
            return ["sleep", "120"]  # longer than anything waits for its end

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_cell" and value is not None:
                (tmp_path / "begun").touch()

    def ready() -> bool:
        if moment == "at once":
            return True
        if moment == "within the cell":
            return (tmp_path / "begun").is_file()
        log = Path(jobs[0].paths.stdout)
        return log.is_file() and "Starting with" in log.read_text()

    def interrupt() -> None:
        end = time.monotonic() + 300
        while not (assigned.is_file() and ready()) and time.monotonic() < end:  # the submission does not hear it
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    class Endless:
        def submit(self, one: CellTask) -> Any:
            jobs.append(made.submit(Sleeps(one.words, one.work_dir)))
            threading.Thread(target=interrupt).start()
            return jobs[0]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            workstation.work_off(sweep, tasks, workstation.slots(1, 0, [], [0]), Endless(), lambda *_: False, 0.05)
    finally:
        signal.signal(signal.SIGINT, before)
    assert jobs[0].done()


def test_the_time_limit_is_written_as_slurm_does() -> None:
    words = {"90": 90, "1:30": 2, "02:00:00": 120, "1-0": 1440, "2-03:00": 3060, "1-02:00:01": 1561}
    assert {word: slurm.minutes(word) for word in words} == words
