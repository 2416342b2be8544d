"""The life of a cell: skip, continue or start it, alone or on many processes, and keep its record."""

from __future__ import annotations

import os
import shlex
import subprocess
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_dist_info, init_dist
from mmengine.logging import MMLogger
from rich.markup import escape

from baselines.checkpoints import CheckpointError, CheckpointMismatch
from camera_occupancy_bench.checkout import git_state
from camera_occupancy_bench.files import told, write
from experiments import records, sources
from experiments.cell.engine import WrongCheckpoint, check_checkpoint, keep_quiet
from experiments.cell.folder import CellFolder, Progress, iteration_of, now
from experiments.cell.tracking import Tracker
from experiments.cell.training import Job, work
from experiments.datasets.unpickle import DataError
from experiments.interruption import was_interrupted
from experiments.plan import Launcher, PlanError
from experiments.records import Record
from experiments.spec import Cell
from experiments.summary import done_line

__all__ = ["CellFailed", "Job", "end_processes", "run_cell", "start_processes"]


class CellFailed(RuntimeError):
    """A cell could not be finished; the message names it and the cause. Other cells are not touched."""


def start_processes(launcher: Launcher) -> None:
    """Join the process group of ``torchrun`` or slurm; NCCL on CUDA, gloo without. Raises PlanError outside of them.

    ``end_processes`` must follow before the process exits.
    """
    keep_quiet(MMLogger.get_current_instance())
    check_launcher(launcher)
    if launcher == "none":
        return
    if launcher == "slurm":
        _torchrun_variables()
    if torch.cuda.is_available():
        init_dist("pytorch", backend="nccl")  # mmengine also gives the process its device
    else:
        torch.distributed.init_process_group("gloo")


def check_launcher(launcher: Launcher) -> None:
    """Raise PlanError outside of the launcher's processes."""
    if launcher == "none":
        return
    variable = {"pytorch": "RANK", "slurm": "SLURM_PROCID"}[launcher]
    if variable not in os.environ:
        starter = {"pytorch": "torchrun --nproc_per_node N -m experiments.run ...", "slurm": "srun python -m experiments.run ..."}
        raise PlanError(f"--launcher {launcher} needs the processes to be started by it: {starter[launcher]}")


def _torchrun_variables() -> None:
    """Say in torchrun's variables what slurm says in its own; MASTER_ADDR and MASTER_PORT of the environment take precedence.

    mmengine's slurm launcher does the same, but only for processes with a CUDA device.
    """
    variables = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    missing = [name for name in (*variables.values(), "SLURM_NODELIST") if name not in os.environ]
    if missing:
        raise PlanError(f"--launcher slurm: srun did not set {', '.join(missing)}; start the processes with srun")
    os.environ.update({ours: os.environ[theirs] for ours, theirs in variables.items()})
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        try:
            hosts = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError) as error:
            raise PlanError(
                f"--launcher slurm: {shlex.join(command)} failed ({error}); set MASTER_ADDR to the first node"
            ) from error
        os.environ["MASTER_ADDR"] = hosts[0]


def end_processes(finished: bool) -> None:
    """Leave the process group, if one was joined; its threads must not outlive the interpreter, which would abort.

    finished  all went well here, hence on the others too: wait for them, so that nobody leaves in the middle of a talk.
              After a failure they may wait for something else, and are not waited for.
    """
    if torch.distributed.is_initialized():
        if finished:
            torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def run_cell(cell: Cell, job: Job, wait: bool = True) -> Record:
    """Run a cell to its record, or return the record it already has.

    While another run works on it, waits for that, or raises ``folder.Busy``. Continues from the newest readable checkpoint of the
    same fingerprint; a cell that starts from another one's weights runs that first, if it must. Raises CellFailed for what goes
    wrong while running, and lets errors of the user's input (data, checkpoint) through as they are.
    """
    if cell.first_cell is not None and cell.row.trained and job.checkpoint is None:
        run_cell(cell.first_cell, replace(job, force=False))
    folder = CellFolder(cell, job.results)
    if get_dist_info()[0] != 0:
        return _as_follower(cell, job, folder)
    with folder.lock(_say(job), wait):
        fingerprint = cell.fingerprint(job.data_fingerprint)
        settled = folder.settled(fingerprint, job.force, job.stale)
        if settled is not None:
            share(settled)
            job.console.print(escape(done_line(cell, settled)), soft_wrap=True)
            return settled
        progress, start = _beginning(cell, job, folder, fingerprint)
        folder.remember(progress)  # at once: what it supersedes is not to be taken for done
        _say_start(cell, job, folder, progress, start)
        share(start)
        tracker = Tracker(lambda line: job.console.print(f"warning: {escape(line)}", soft_wrap=True))
        run_id = tracker.start(cell.table.name, cell.name, progress.mlflow_run_id, tags(cell, progress.git_commit))
        progress = replace(progress, mlflow_run_id=run_id)
        folder.remember(progress)
        try:
            while True:
                try:
                    record = work(cell, job, folder, progress, start, tracker)
                    break
                except WrongCheckpoint as error:  # on all processes, which wait for what is decided now
                    folder.set_aside(error.path, error.why, _say(job))
                    progress, start = _beginning(cell, job, folder, fingerprint)
                    progress = replace(progress, mlflow_run_id=run_id)
                    folder.remember(progress)
                    _say_start(cell, job, folder, progress, start)
                    share(start)
            records.save(record, folder.record_path)
        except BaseException as error:
            if was_interrupted(error):
                tracker.finish("KILLED")
                raise KeyboardInterrupt from error
            tracker.finish("FAILED")
            raise explained(error, cell, folder) from error
        tracker.finish()
        share(record)
        _tidy(folder)
        return record


def _say(job: Job) -> Callable[[str], None]:
    return lambda line: job.console.print(escape(line), soft_wrap=True)


def _as_follower(cell: Cell, job: Job, folder: CellFolder) -> Record:
    """What the other processes of a distributed run do: follow the first one's decision, write nothing."""
    decision = share(None)
    if isinstance(decision, Record):
        return decision
    while True:
        try:
            work(cell, job, folder, Progress("", now()), decision, Tracker(lambda line: None))
            break
        except WrongCheckpoint:
            decision = share(None)
    record: Record = share(None)
    return record


def share(decision: Any) -> Any:
    """The first process's decision, on every process."""
    box = [decision]
    broadcast_object_list(box)
    return box[0]


def _beginning(cell: Cell, job: Job, folder: CellFolder, fingerprint: str) -> tuple[Progress, Path | None]:
    """What a cell goes on from: progress and newest checkpoint, or new progress and None.

    Raises PlanError, and changes nothing, where a training would go on with another number of processes unasked.
    """
    code, processes = sources.of_cell(cell), get_dist_info()[1]
    batch_size = processes * cell.schedule.batch_size
    before, training = folder.progress(), cell.training_fingerprint(job.train_fingerprint)
    fresh = job.force or (job.stale == "rerun" and before is not None and before.sources != code)
    progress = folder.prepare(fingerprint, fresh, training, _say(job))
    if progress is not None:
        progress = replace(progress, fingerprint=fingerprint, training=progress.training or training)
    start = _newest(folder, _say(job))
    if progress is None or start is None:  # without a checkpoint the training begins here, whatever was trained before
        commit, dirty = git_state()
        begun = {"git_commit": commit, "git_dirty": dirty, "sources": code, "processes": processes, "batch_size": batch_size}
        record = folder.record()
        old = record.started if fresh and record is not None and record.fingerprint == fingerprint else ""
        new = Progress(fingerprint, now(), training=training, supersedes=old)
        return replace(progress or new, continued=[], **begun), None
    iteration, continued = iteration_of(start), list(progress.continued)
    if progress.processes not in (0, processes):
        if not job.allow_other_processes:
            raise PlanError(
                f"{cell.name} was started with {progress.processes} process(es), {progress.batch_size} samples an iteration, "
                f"and stopped at iteration {iteration}; with {processes} process(es), {batch_size} samples an iteration, it "
                f"would go on as another training. Continue it with {progress.processes}, start it again with --force, or mix "
                "them with --allow-other-processes, which its record will say"
            )
        continued.append(f"from iteration {iteration} with {processes} processes, not {progress.processes}")
    if progress.sources and progress.sources != code:
        files = ", ".join(sources.changed(progress.sources, code))
        continued.append(f"from iteration {iteration} with other code: {files}")
        job.console.print(
            f"{escape(cell.name)}: its code changed since it was started ({escape(files)}); it goes on all the same, and its "
            "record will say so; --stale rerun starts it again",
            soft_wrap=True,
        )
    return replace(progress, continued=continued), start


def _newest(folder: CellFolder, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is one; those that are none are set aside."""
    for path in folder.checkpoints():
        try:
            check_checkpoint(path)
        except WrongCheckpoint as error:
            folder.set_aside(path, error.why, say)
        else:
            return path
    return None


def _say_start(cell: Cell, job: Job, folder: CellFolder, progress: Progress, start: Path | None) -> None:
    text = f"continues at iteration {iteration_of(start)}" if start else "starts"
    if start is not None and progress.trained == iteration_of(start):
        text = f"is trained already, {progress.trained} iterations; it is only evaluated"
    job.console.print(f"{escape(cell.name)}: {text}  ({folder.work_dir})", soft_wrap=True)


def tags(cell: Cell, commit: str) -> dict[str, str]:
    """Of a cell's MLflow run; the page shows those of MLflow's own names as the run's source and version."""
    own = {"row": cell.row.name, "renderer": cell.renderer, "preset": cell.preset_name, "seed": str(cell.seed)}
    source = {"mlflow.source.name": "experiments.run", "mlflow.source.type": "LOCAL"}
    return own | source | ({} if commit == "unknown" else {"mlflow.source.git.commit": commit})


def explained(error: BaseException, cell: Cell, folder: CellFolder) -> BaseException:
    """User's mistakes as they are; anything else as CellFailed, with the traceback in the work folder.

    All names of a checkpoint that does not fit go to a file, where the message names the first ones.
    """
    if isinstance(error, CheckpointMismatch):
        file = folder.work_dir / "checkpoint_mismatch.txt"
        lines = [f"{what}: {name}\n" for what, names in error.names.items() for name in names]
        kept = _kept(file, "".join(lines))
        return CheckpointError(f"{error} All {len(lines)}, one a line: {kept}")
    if not isinstance(error, Exception) or isinstance(error, (DataError, CheckpointError, PlanError, records.RecordError)):
        return error
    file = folder.work_dir / "error.txt"
    return CellFailed(f"{cell.name} failed: {told(error)} (traceback: {_kept(file, ''.join(traceback.format_exception(error)))})")


def _kept(file: Path, text: str) -> str:
    """The name of the file with the text, or why there is none: what went wrong before must be told all the same."""
    try:
        write(file, text)
    except OSError as error:
        return str(error)
    return str(file)


def _tidy(folder: CellFolder) -> None:
    """A finished cell keeps its weights, log and figures; optimizer states and mmengine's empty folders go."""
    for path in folder.checkpoints():
        path.unlink(missing_ok=True)
    for path in (folder.work_dir / "last_checkpoint", folder.live_path):
        path.unlink(missing_ok=True)
    for path in folder.work_dir.iterdir():
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
