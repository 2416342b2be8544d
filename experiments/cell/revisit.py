"""Finished cells looked at again without training them again: confirmed with the code of today, or measured anew.

To confirm a cell, the first iterations of its training are replayed and its kept weights are evaluated. If every loss and
every number comes out to the last bit, the record stands for this code too, which it then says (``Record.confirmed``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.dist import get_dist_info
from rich.markup import escape

from baselines.checkpoints import CheckpointError
from camera_occupancy_bench.checkout import git_state
from experiments import records, sources
from experiments.cell.folder import CellFolder, Progress, now
from experiments.cell.runner import CellFailed, explained, share, tags
from experiments.cell.tracking import Tracker
from experiments.cell.training import Course, Job, set_up, work
from experiments.interruption import was_interrupted
from experiments.records import Confirmation, Hardware, Record
from experiments.spec import Cell

Action = Callable[[Cell, Job], list[str]]
_NO_TRACKING = Tracker(lambda line: None)
_TRAIN_AGAIN = "--force trains it again"


def confirm(cell: Cell, job: Job) -> list[str]:
    """Replay and evaluate a finished cell; note in its record that all came out again, or return what did not.

    Raises CellFailed like ``run_cell``. On many processes all of them call this, and the first one decides and writes.
    """
    return _on_all_processes(cell, job, _obstacles, _confirm)


def re_evaluate(cell: Cell, job: Job) -> list[str]:
    """Measure a finished cell anew from its kept weights and write its record with what is known of the training.

    Returns why it could not be done, then the record is as it was. Raises CellFailed like ``run_cell``.
    """
    return _on_all_processes(cell, job, _obstacles_to_measure, _re_evaluate)


def measure_on_new_data(cell: Cell, job: Job, wait: bool = True) -> Record | None:
    """Measure a finished cell anew where nothing but the data of its evaluation changed since: its weights are what its
    training would give again. None for every other cell. Waits and raises like ``run_cell``, on many processes too.
    """
    folder, leads = CellFolder(cell, job.results), get_dist_info()[0] == 0
    with folder.lock(lambda line: job.console.print(escape(line), soft_wrap=True), wait) if leads else nullcontext():
        record, weights = share(_outdated_by_evaluation(cell, job, folder) if leads else None)
        if record is None:
            return None
        if leads:
            text = "the data of its evaluation changed since it was finished, not that of its training; it is only evaluated"
            job.console.print(f"{escape(cell.name)}: {text}  ({folder.work_dir})", soft_wrap=True)
        try:
            problems = _re_evaluate(cell, job, folder, record, weights)
        except BaseException as error:
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            raise explained(error, cell, folder) from error
        if problems:
            raise CellFailed(f"{cell.name} failed: {'; '.join(problems)}; {_TRAIN_AGAIN}")
        if leads:
            folder.update(fingerprint=cell.fingerprint(job.data_fingerprint))
        measured: Record | None = share(folder.record() if leads else None)
        return measured


def _outdated_by_evaluation(cell: Cell, job: Job, folder: CellFolder) -> tuple[Record | None, Path | None]:
    """Record and weights of a cell for ``measure_on_new_data``, else None twice; what is forced is not measured but trained."""
    record = folder.measurable(cell.training_fingerprint(job.train_fingerprint))
    if record is None or job.force or record.fingerprint == cell.fingerprint(job.data_fingerprint):
        return None, None
    if job.stale == "rerun" and sources.changed_since(record):
        return None, None
    return record, folder.weights(record)


def _on_all_processes(
    cell: Cell,
    job: Job,
    obstacles: Callable[[Record, Path | None], list[str]],
    act: Callable[[Cell, Job, CellFolder, Record, Path | None], list[str]],
) -> list[str]:
    """The first process holds the cell, reads its record and shares it; then all act on it, and hear what the first one says."""
    folder, leads = CellFolder(cell, job.results), get_dist_info()[0] == 0
    with folder.lock(lambda line: job.console.print(escape(line), soft_wrap=True)) if leads else nullcontext():
        record = folder.record() if leads else None
        weights = folder.weights(record) if record is not None else None
        record, weights, problems = share((record, weights, obstacles(record, weights) if record is not None else []))
        if problems:
            return list(problems)
        try:
            problems = act(cell, job, folder, record, weights)
        except BaseException as error:
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            raise explained(error, cell, folder) from error
        return list(share(problems))


def _trained(record: Record) -> bool:
    return record.iterations > 0


def _obstacles(record: Record, weights: Path | None) -> list[str]:
    """Why a record cannot be confirmed at all."""
    if not record.code or (_trained(record) and not record.first_losses):
        again = _TRAIN_AGAIN if _trained(record) else "--re-evaluate measures it anew"
        return [f"{sources.BEFORE_DIGESTS}, and losses of its first iterations, to compare with; {again}"]
    if record.continued:
        mixed = "; ".join(record.continued)
        return [f"its training went on {mixed}: the first iterations cannot vouch for the later ones; {_TRAIN_AGAIN}"]
    return _other_processes(record)


def _other_processes(record: Record) -> list[str]:
    processes = get_dist_info()[1]
    if record.processes in (None, processes):
        return []
    return [f"it was trained by {record.processes} process(es), here are {processes}: start as many (--launcher)"]


def _obstacles_to_measure(record: Record, weights: Path | None) -> list[str]:
    return [_no_weights(record)] if _trained(record) and weights is None else []


def _no_weights(record: Record) -> str:
    return f"the weights that its numbers of {record.started} were measured on are not kept in its work folder; {_TRAIN_AGAIN}"


def _confirm(cell: Cell, job: Job, folder: CellFolder, record: Record, weights: Path | None) -> list[str]:
    differences: list[str] = []
    if _trained(record):
        differences += list(_losses(record.first_losses, _replay(cell, job, len(record.first_losses))))
        if weights is None:
            came_out = "did not come out" if differences else "came out, but they alone do not vouch for its numbers"
            return [f"{_no_weights(record)} (its first losses {came_out})", *differences]
    try:
        again = _measure(cell, job, record, weights)
    except CheckpointError as error:
        return [*differences, f"its weights cannot be loaded any more: {error}"]
    numbers = list(_numbers(record, again))
    differences += numbers
    if not differences:
        if get_dist_info()[0] == 0:
            _note(cell, job, folder, record, again)
        return []
    hints = [f"it is {sources.notice(record) or 'of this very code'}"]
    hints += [f"same bits are not promised here: {reason}" for reason in unlike(record, again)]
    if len(numbers) == len(differences) and _trained(record):
        hints.append("only what is measured differs: --re-evaluate measures it anew from its weights")
    return differences + hints


def _replay(cell: Cell, job: Job, iterations: int) -> list[dict[str, float]]:
    """Named losses of the first iterations of the cell's training, from its start."""
    course = Course(0.0, [])
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        aside = CellFolder(cell, Path(folder))
        aside.prepare("", fresh=False)
        bench = set_up(cell, job, aside, course, None, _NO_TRACKING, trains=True, first=iterations)
        bench.shown.title = f"{cell.name}: replay,"
        try:
            bench.runner.train()
        finally:
            bench.shown.close()
    return course.first_losses


def _measure(cell: Cell, job: Job, record: Record, weights: Path | None) -> Record:
    """The cell evaluated by the code of today, in a folder of its own, without figures."""
    progress = _today(cell, record)
    with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
        aside = CellFolder(cell, Path(folder))
        aside.prepare("", fresh=False)
        return work(cell, job, aside, progress, None, _NO_TRACKING, weights, draws=False)


def _today(cell: Cell, record: Record) -> Progress:
    commit, dirty = git_state()
    started = record.started if _trained(record) else now()
    return Progress(record.fingerprint, started, git_commit=commit, git_dirty=dirty, sources=sources.of_cell(cell))


def _look(again: Record) -> Confirmation:
    return Confirmation(
        when=now(),
        git_commit=again.git_commit,
        git_dirty=again.git_dirty,
        code=again.code,
        sources=again.sources,
        versions=again.versions,
        hardware=again.hardware,
    )


def _note(cell: Cell, job: Job, folder: CellFolder, record: Record, again: Record) -> None:
    """Append the confirmation, unless the record says as much already."""
    look = _look(again)
    known = [(record.code, record.versions, record.hardware)]
    known += [(seen.code, seen.versions, seen.hardware) for seen in record.confirmed]
    if (look.code, look.versions, look.hardware) in known:
        text = "comes out to the last bit, which its record says already"
    else:
        records.save(record.model_copy(update={"confirmed": [*record.confirmed, look]}), folder.record_path)
        text = f"comes out to the last bit; its record, made {_made(record)}, stands for this code too"
    job.console.print(f"{escape(cell.name)}: {escape(text)}", soft_wrap=True)


def _re_evaluate(cell: Cell, job: Job, folder: CellFolder, record: Record, weights: Path | None) -> list[str]:
    leads = get_dist_info()[0] == 0
    tracker = Tracker(lambda line: job.console.print(f"warning: {escape(line)}", soft_wrap=True)) if leads else _NO_TRACKING
    if leads:
        tracker.start(cell.table.name, cell.name, record.mlflow_run_id, tags(cell, record.git_commit))
    try:
        again = work(cell, job, folder, _today(cell, record), None, tracker, weights)
    except BaseException as error:
        tracker.finish("KILLED" if was_interrupted(error) else "FAILED")
        if isinstance(error, CheckpointError):
            return [f"its weights cannot be loaded any more: {error}"]
        raise
    tracker.finish()
    if leads:
        records.save(_with_training_of(record, again) if _trained(record) else again, folder.record_path)
        text = f"measured anew from the weights {_made(record)}" if _trained(record) else "measured anew"
        job.console.print(f"{escape(cell.name)}: {escape(text)}", soft_wrap=True)
    return []


def _with_training_of(record: Record, again: Record) -> Record:
    """The new measurement of a cell that was trained earlier: what was measured is new, what is of the training is old."""
    measured = {
        name: getattr(again, name)
        for name in ("metrics", "per_class", "checks", "absent", "renderer_settings", "eval_seconds", "samples")
    }
    peak = max(again.peak_memory_mb, record.train_peak_memory_mb or record.peak_memory_mb)
    # What earlier confirmations vouch for are the numbers that go.
    measured |= {"peak_memory_mb": peak, "mlflow_run_id": again.mlflow_run_id or record.mlflow_run_id}
    measured |= {"fingerprint": again.fingerprint, "data_fingerprint": again.data_fingerprint}
    return record.model_copy(update={**measured, "confirmed": [], "re_evaluated": _look(again)})


def _losses(before: list[dict[str, float]], now: list[dict[str, float]]) -> Iterator[str]:
    """One line an iteration whose losses differ."""
    for iteration, (old, new) in enumerate(zip(before, now, strict=True), 1):
        if changes := list(_changes(old, new)):
            yield f"iteration {iteration}: {', '.join(changes)}"


def _numbers(before: Record, now: Record) -> Iterator[str]:
    """One line a metric that differs, for all classes together and by class."""
    yield from _changes(before.metrics, now.metrics)
    yield from _changes(before.checks, now.checks)
    for metric in sorted({*before.per_class, *now.per_class}):
        if changes := list(_changes(before.per_class.get(metric, {}), now.per_class.get(metric, {}))):
            yield f"{metric} by class: {', '.join(changes)}"
    if before.samples != now.samples:
        yield f"samples: {before.samples} -> {now.samples}"


def _changes(old: Mapping[str, float], new: Mapping[str, float]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield f"{name} {old.get(name, 'not there')!s} -> {new.get(name, 'not there')!s}"


def _made(record: Record) -> str:
    return f"at {record.git_commit[:7]} on {record.started[:10]}"


def unlike(record: Record, here: Record) -> list[str]:
    """Why the same bits cannot be promised where another record was made: machine, accelerator, packages."""
    return [*_unlike_hardware(record.hardware, here.hardware), *_unlike_versions(record.versions, here.versions)]


def _unlike_hardware(there: Hardware, here: Hardware) -> Iterator[str]:
    if there.gpu != here.gpu:
        yield f"it was made on {there.gpu or 'a CPU'}, this is {here.gpu or 'a CPU'}"
    elif here.gpu is not None:
        yield f"{here.gpu} adds up gradients in no fixed order"
    elif there.instruction_sets and here.instruction_sets:
        if there.instruction_sets != here.instruction_sets:
            yield f"it was made with {_list(there.instruction_sets)}, here {_list(here.instruction_sets)} are used"
    elif there.cpu != here.cpu:
        yield f"it was made on {there.cpu}, this is {here.cpu}"
    if None not in (there.threads, here.threads) and there.threads != here.threads:
        yield f"it was made with {there.threads} thread(s), here are {here.threads}"


def _unlike_versions(there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            yield f"it was made with {name} {there.get(name, 'absent')}, here is {here.get(name, 'none')}"


def _list(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items()))
