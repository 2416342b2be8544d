"""Score predictions that anybody saved: ``python -m experiments.score PREDICTIONS --dataset occ3d --data-root DATA``.

All published protocols of the data set at once, on the CPU, from the files of its labels and those of the predictions; images
are not read. Which files are understood says ``experiments/scoring/formats.py``. Exit codes: 0 scored; 2 the predictions
or the data cannot be scored as they are; 130 interrupted. Every mistake is one line on stderr.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, finish, require

require(__name__, (*READING, "torch", "numba", "cv2", "PIL"))

from experiments import instructions

instructions.hold()  # before anything below loads numpy or torch

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from camera_occupancy_bench.checkout import git_state
from experiments import records
from experiments.bars import Bar
from experiments.cell import environment
from experiments.cell.folder import now, results_root
from experiments.cell.tracking import public
from experiments.command import guarded
from experiments.plan import DATA_ROOT_VARIABLE
from experiments.score_records import ScoreRecord
from experiments.scoring.scoring import Score, ScoreError, score

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    predictions: Annotated[Path, typer.Argument(help="Folder with a file a frame.")],
    dataset: Annotated[str, typer.Option(help="occ3d, surroundocc, kitti360, or one of another package.")],
    data_root: Annotated[Path | None, typer.Option(help=f"Folder of the data set. Default: {DATA_ROOT_VARIABLE}.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test. Default: the one of published numbers.")] = None,
    subset: Annotated[
        Path | None, typer.Option(help="File with the tokens of the frames to score, one a line. Default: all.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that count. Default: one a core for many frames.")] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder. Default: OCC_RESULTS, else results/local.")] = None,
) -> int:
    """Score saved predictions by all published protocols, and keep the numbers as a record."""
    configured = os.environ.get(DATA_ROOT_VARIABLE)
    root = data_root or (Path(configured) if configured else None)
    if root is None:
        raise ScoreError(f"no data root: name the folder that holds the labels with --data-root or {DATA_ROOT_VARIABLE}")
    console = Console(highlight=False)
    started, begin = now(), time.perf_counter()
    bar: Bar | None = None

    def told(total: int, earlier: int) -> None:
        nonlocal bar
        if earlier:
            console.print(f"{earlier} of {total} frames were scored earlier", soft_wrap=True)
        bar = Bar(console, f"{dataset} {split or ''}".strip(), total, earlier)

    try:
        scored = score(
            predictions,
            dataset,
            root,
            results_root(results),
            split=split,
            subset=subset,
            workers=workers,
            begin=told,
            done=lambda: bar.advance() if bar else None,
        )
    finally:
        if bar is not None:
            bar.close()
    record = _record(scored, predictions, started, time.perf_counter() - begin)
    records.save(record, scored.path)
    _show(scored, console)
    console.print(escape(f"record: {scored.path}"), soft_wrap=True)
    return 0


def _record(scored: Score, predictions: Path, started: str, seconds: float) -> ScoreRecord:
    state = git_state()
    return ScoreRecord(
        dataset=scored.dataset,
        split=scored.split,
        format=scored.format,
        source=scored.source,
        predictions=predictions.resolve().name,
        predictions_fingerprint=scored.predictions_fingerprint,
        labels_fingerprint=scored.labels_fingerprint,
        frames=scored.frames,
        of=scored.of,
        subset=scored.subset,
        voxel_size=scored.grid.voxel_size,
        class_names=list(scored.grid.class_names),
        metrics=scored.numbers.metrics,
        names=scored.numbers.names,
        per_class=scored.numbers.per_class,
        absent=scored.numbers.absent,
        counts={name: value.tolist() for name, value in scored.sums.items()},
        remarks=list(scored.remarks),
        git_commit=state.commit,
        git_dirty=state.dirty,
        command=public(shlex.join(["python", "-m", "experiments.score", *_argv])),
        versions=environment.versions(),
        hardware=environment.hardware(gpu=False),
        started=started,
        seconds=seconds,
    )


def _show(scored: Score, console: Console) -> None:
    """Every number with its protocol, then the classes, then what must be known of them."""

    def say(line: str) -> None:
        console.print(escape(line), soft_wrap=True)

    say(f"{scored.dataset} {scored.split}, {scored.frames} frames, {scored.format}")
    for key, name in scored.numbers.names.items():
        value = scored.numbers.metrics.get(key)
        say(f"{'-' if value is None else f'{value:.2f}':>7}  {name}")
    columns = {key: values for key, values in scored.numbers.per_class.items() if key in ("mIoU", "RayIoU")}
    say("".join(f"{key.removeprefix('m'):>8}" for key in columns) + "  class")
    for number, name in enumerate(scored.grid.class_names):
        if number != scored.grid.empty:
            say("".join(f"{values[name]:8.2f}" if name in values else f"{'-':>8}" for values in columns.values()) + f"  {name}")
    for key, classes in scored.numbers.absent.items():
        say(f"{key}: {', '.join(classes)} do not occur and count 100 %")
    for remark in scored.remarks:
        say(remark)


_argv: list[str] = []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    _argv[:] = sys.argv[1:] if argv is None else argv
    interrupted = "interrupted; frames that were scored are kept, the same command goes on from there"
    return guarded(app, _argv, "python -m experiments.score", interrupted, (ScoreError,))


if __name__ == "__main__":
    sys.exit(finish(main))
