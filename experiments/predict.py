"""Save predictions: ``python -m experiments.predict table_occ3d --row tpvformer --index 0 1 2 --out predictions``.

One npz a frame (see ``experiments/predictions.py``), from a finished cell's final weights or from ``--checkpoint``.
Exit codes as of ``experiments.run``: 0 done; 2 the command asks for something impossible; every mistake is one line.
"""

from __future__ import annotations

from camera_occupancy_bench.commandline import READING, TRAINING, explain, finish, missing, require

require(__name__, READING)

from experiments import instructions

instructions.hold()  # before anything below loads numpy or torch

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from experiments import plan as planning
from experiments.bars import Bar
from experiments.cell.folder import WEIGHTS, CellFolder, results_root
from experiments.command import guarded
from experiments.datasets.layouts import layout_of
from experiments.plan import Plan, PlanError, Request, toy_data
from experiments.run import spread_lists
from experiments.shell import runnable
from experiments.spec import Cell, TableSpec, load_table

if TYPE_CHECKING:
    from baselines.interface import OccupancyBatch, OccupancyGrid, OccupancyPrediction

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    table: Annotated[str, typer.Argument(help="Table of the cell, for example table_occ3d.")],
    row: Annotated[str, typer.Option(help="The row.")],
    index: Annotated[list[int], typer.Option(help="Frames, counted from 0 in the split.")],
    out: Annotated[Path, typer.Option(help="Folder for the npz files, made if need be.")],
    preset: Annotated[str | None, typer.Option(help="toy, mini or paper. Default: toy without a data root, else paper.")] = None,
    renderer: Annotated[str | None, typer.Option(help="The cell's renderer. Default: that of experiments.run.")] = None,
    seed: Annotated[int | None, typer.Option(help="The cell's seed. Default: the table's first.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Released or own weights instead of a finished cell's.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the real data set. Default: OCC_DATA_ROOT.")] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder. Default: OCC_RESULTS, else results/local.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test. Default: the one that is evaluated.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Of the cell, if it was run with --iterations.")] = None,
    short: Annotated[bool, typer.Option("--short", help="If the cell was run with --short.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Of the cell, if it was run with --set.")] = None,
) -> int:
    """Write predicted and true occupancy of some frames, with their cameras, as npz files."""
    spec = load_table(table)
    plan = planning.make(
        Request(
            table=spec,
            preset=preset,
            renderers=(renderer,) if renderer else (),
            rows=(row,),
            seeds=(spec.default_seeds[0] if seed is None else seed,),
            data_root=data_root,
            eval_only=checkpoint is not None,
            checkpoint=checkpoint,
            short=short,
            iterations=iterations,
            settings=tuple(set_ or ()),
            all_files=False,
        ),
        _cuda,
    )
    if len(plan.cells) != 1:
        raise PlanError(f"--row {row} means {', '.join(cell.row.name for cell in plan.cells)}: name one")
    console = Console(highlight=False)
    for line in plan.said:
        console.print(escape(line), soft_wrap=True)
    if lacking := missing(TRAINING):
        raise PlanError(explain(lacking))
    cell = plan.cells[0]
    if not cell.row.recipe.predicts_voxels:
        able = ", ".join(row.name for row in spec.rows if row.runs and row.recipe.predicts_voxels)
        raise PlanError(f"row '{cell.row.name}' predicts no voxels that could be saved; rows that do: {able or 'none here'}")
    split = split or layout_of(cell.table.dataset).evaluated
    paths = {number: out / f"{split}_{number:05d}.npz" for number in index}
    _check_folder(out, list(paths.values()), _source(cell))
    weights = checkpoint or _weights(cell, plan, results_root(results), console)
    _predict(spec, plan, cell, weights, split, paths, console)
    said = f"{len(paths)} frames of {split} in {out}; look at them: python -m reports.visualise {out} --out pictures"
    console.print(escape(runnable(said)), soft_wrap=True)
    return 0


def _weights(cell: Cell, plan: Plan, root: Path, console: Console) -> Path | None:
    """The finished cell's final weights; None for a row that is counted, not trained."""
    if not cell.row.trained:
        return None
    folder = CellFolder(cell, root)
    path = folder.work_dir / WEIGHTS
    if not path.is_file():
        raise PlanError(
            f"cell {cell.name} has no finished weights at {path}: run it (python -m experiments.run {cell.table.name} "
            f"--preset {cell.preset_name} --row {cell.row.name} --renderer {cell.renderer} --seed {cell.seed}{_variant(cell)}), "
            "name the --iterations, --set and --short that it was run with, or name weights with --checkpoint"
        )
    if not folder.finished(cell.fingerprint(plan.data_fingerprint)):
        console.print(escape(f"{cell.name}: its weights are of an earlier version of the spec or the data"), soft_wrap=True)
    return path


def _variant(cell: Cell) -> str:
    iterations = f" --iterations {cell.overrides['iterations']}" if "iterations" in cell.overrides else ""
    changes = " ".join(f"{name}={value}" for name, value in cell.overrides.items() if "." in name)
    return iterations + f" --set {changes}" * bool(changes) + " --short" * ("short" in cell.overrides)


def _source(cell: Cell) -> str:
    """What a saved frame says of its origin."""
    return f"{cell.table.name} {cell.preset_name} {cell.name}"


def _check_folder(out: Path, paths: Sequence[Path], source: str) -> None:
    """Raise PredictionFileError if frames of another cell would be written over, or come to lie beside this one's.

    A folder holds one cell's, so that of the files that stay one is looked at. The cell's own are written again.
    """
    from experiments.predictions import PredictionFileError, load

    others = sorted(out.glob("*_[0-9][0-9][0-9][0-9][0-9].npz"))[:1] if out.is_dir() else []
    for path in dict.fromkeys((*others, *(path for path in paths if path.is_file()))):
        try:
            found = load(path).source
        except PredictionFileError:
            found = "damaged, or of another program"
        if found != source:
            raise PredictionFileError(
                f"{path} is not of {source} ({found}): name another folder with --out, or move or delete what is in this one"
            )


def _predict(
    spec: TableSpec, plan: Plan, cell: Cell, weights: Path | None, split: str, paths: Mapping[int, Path], console: Console
) -> None:
    import torch

    from baselines.checkpoints import load_released
    from experiments.cell import models
    from experiments.cell.scenes import predicted
    from experiments.datasets.build import build_dataset
    from experiments.metrics.prior import fit_prior
    from experiments.predictions import save

    if instructions.fixes_threads(cell.preset_name, torch.cuda.is_available()):
        instructions.fix_threads()
    data_root = plan.data_root or toy_data(spec, plan.preset, plan.overrides, plan.reads)
    data = replace(cell.data, distort=False, mirror=False, bevdet=False)  # the training split too is shown as it is
    follows, reads = cell.row.recipe.follows_scenes, cell.row.parts(training=False, size=cell.preset.model_size)
    frames = build_dataset(spec.dataset, data_root, split, data, cell.seed, reads, follow=follows)
    for index in paths:
        if not 0 <= index < len(frames):
            raise PlanError(f"--index {index} is not in {split}, whose frames are 0 to {len(frames) - 1}")
    model = models.build(cell, frames.grid)
    if not cell.row.trained:
        model.fit(fit_prior(build_dataset(spec.dataset, data_root, "train", data, cell.seed)))
    elif weights is not None:
        load_released(model, weights)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval()
    bar = Bar(console, f"{cell.name}: predict", len(paths))
    try:
        for index, sample, prediction in predicted(model, frames, list(paths), follows):
            save(_answer(prediction, sample, cell, index, model.grid, frames.camera_names), paths[index])
            bar.advance()
    finally:
        bar.close()


def _answer(  # type: ignore[no-untyped-def]
    prediction: OccupancyPrediction,
    sample: OccupancyBatch,
    cell: Cell,
    index: int,
    grid: OccupancyGrid,
    camera_names: tuple[str, ...],
):
    import numpy as np

    from experiments.predictions import SavedPrediction

    meta = sample.meta[0]
    paths = tuple(os.path.realpath(path) for path in meta["image_paths"])
    return SavedPrediction(
        grid=grid,
        predicted=prediction.labels[0].cpu().numpy().astype(np.uint8),
        true=sample.labels[0].numpy().astype(np.uint8),
        camera_mask=sample.camera_mask[0].numpy(),
        intrinsics=sample.intrinsics[0].double().numpy(),
        reference_to_camera=sample.reference_to_camera[0].double().numpy(),
        camera_size=sample.camera_size,
        projection=sample.projection[0].double().numpy(),
        camera_names=camera_names,
        image_paths=paths,
        token=str(meta["token"]),
        scene=str(meta["scene"]),
        index=index,
        source=_source(cell),
    )


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = spread_lists(sys.argv[1:] if argv is None else argv, ("--index", "--set"))
    return guarded(app, words, "python -m experiments.predict", "interrupted; the frames written so far are complete")


if __name__ == "__main__":
    sys.exit(finish(main))
