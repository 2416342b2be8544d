"""What ``--dry-run`` finds out without building or reading much: what would stop a run, and how long it would take."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from experiments import records
from experiments.cell import environment
from experiments.cell.folder import CellFolder, Stale
from experiments.datasets.layouts import describe, layout_of
from experiments.plan import Launcher, Plan
from experiments.records import Record
from experiments.spec import Cell

_SPACE_GB = {"toy": 3, "mini": 20, "paper": 20}  # generated world, two checkpoints with optimizer states, weights, figures


def problems(plans: Sequence[Plan], results: Path, launcher: Launcher) -> list[str]:
    """What would stop a run of these plans, a line each; that rows, data root, renderers and first weights exist is their own."""
    from experiments.cell import models
    from experiments.cell.runner import check_launcher
    from experiments.plan import PlanError

    found: list[str] = []
    try:
        check_launcher(launcher)
    except PlanError as error:
        found.append(str(error))
    place = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        found.append(f"the results folder {results} cannot be written: name another one with --results or OCC_RESULTS")
    else:
        needed, free = max(_SPACE_GB[plan.preset] for plan in plans), shutil.disk_usage(place).free / 1e9
        if free < needed:
            found.append(f"{free:.1f} GB are free at {place}, preset {plans[0].preset} may need {needed}: make room")
    for plan in plans:
        for cell in {cell.row.name: cell for cell in plan.cells}.values():
            try:
                models.check(cell)
            except (ValueError, TypeError) as error:
                found.append(f"row {cell.row.name} of {cell.table.name}: {error}")
        if plan.data_root is not None:
            layout = layout_of(plan.table.dataset)
            for split in describe(plan.data_root):
                wanted = split.dataset == layout.title and split.split in ("train", layout.evaluated)
                if wanted and split.usable < split.frames:
                    found.append(f"{split.dataset} {split.split} in {plan.data_root}: {split.problem}")
    return found


def estimate(plans: Sequence[Plan], results: Path, force: bool, stale: Stale) -> str:
    """One line: how long the cells that a run would run take, by earlier records of the same rows."""
    tables = list(dict.fromkeys(cell.table.name for plan in plans for cell in plan.cells))
    here = environment.hardware()
    local = [record for table in tables for _, record in records.load_all(results, table)]
    local = [record for record in local if (record.hardware.cpu, record.hardware.gpu) == (here.cpu, here.gpu)]
    committed = [record for table in tables for _, record in records.load_all(records.COMMITTED, table)]
    sources = dict.fromkeys(("earlier runs on this machine", "committed records of other machines"), 0)
    seconds = 0.0
    unknown: list[str] = []
    for plan in plans:
        for cell in plan.cells:
            if CellFolder(cell, results).settled(cell.fingerprint(plan.data_fingerprint), force, stale) is not None:
                continue
            for source, known in zip(sources, (local, committed), strict=True):
                if (time := _time(cell, known)) is not None:
                    seconds += time
                    sources[source] += 1
                    break
            else:
                unknown.append(cell.name)
    parts = [f"{count} by {source}" for source, count in sources.items() if count]
    known_text = f"about {duration(seconds)} ({', '.join(parts)})" if parts else ""
    if unknown:
        rest = f"unknown for {len(unknown)} cells without a record of the same row, preset and renderer"
        return f"time: {known_text + '; ' if known_text else ''}{rest}"
    return f"time: {known_text or 'nothing is to be run'}"


def _time(cell: Cell, known: Sequence[Record]) -> float | None:
    """Seconds that the cell takes, as long as the newest record of another seed or variant did, scaled by its iterations."""
    same = (cell.table.name, cell.preset_name, cell.row.name, cell.renderer)
    alike = [record for record in known if (record.table, record.preset, record.row, record.renderer) == same]
    alike = [r for r in alike if r.overrides.keys() <= {"iterations"}]
    if not alike:
        return None
    record = max(alike, key=lambda record: record.started)
    iterations = cell.overrides.get("iterations") or cell.schedule.iterations or record.iterations
    part = iterations / record.iterations if record.iterations else 1.0
    return record.train_seconds * part + record.eval_seconds


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
