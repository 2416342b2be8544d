"""What is done inside a cell: data, model, mmengine's Runner, evaluation, figures, record."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_dist_info
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import TestLoop, set_random_seed
from rich.console import Console
from rich.markup import escape
from torch.utils.data import DataLoader, Dataset, Subset

import renderers
from baselines.checkpoints import load_released, load_what_fits
from baselines.gaussrender import GaussRenderConfig
from baselines.interface import OccupancyBatch
from baselines.model import OccupancyModel, TrainingProgress
from baselines.recipe import VIEWS
from camera_occupancy_bench.files import replacing
from experiments import absences, instructions, sources
from experiments.cell import environment, figures, models
from experiments.cell.engine import (
    AveragedWeightsHook,
    CellRunner,
    CurvesHook,
    EndlessSampler,
    FiniteLossHook,
    FirstLossesHook,
    IterationTimesHook,
    SeedIterationHook,
    TrainClockHook,
)
from experiments.cell.evaluation import SHORT, SMOKE, RenderingEvaluator, ShuffledImages, ViewRenderer
from experiments.cell.folder import WEIGHTS, CellFolder, Progress, Stale, iteration_of, now
from experiments.cell.progress import LiveHook, ProgressHook
from experiments.cell.scenes import SceneFrames, SceneLoop, SceneSampler, predicted
from experiments.cell.tracking import Tracker
from experiments.datasets.build import build_dataset
from experiments.datasets.frames import OccupancyFrames, collate
from experiments.datasets.layouts import layout_of
from experiments.datasets.sampling import TrainSampler
from experiments.metrics.evaluator import OccupancyMetric, counted, masks, of_sums
from experiments.metrics.prior import fit_prior
from experiments.metrics.shares import class_bias, class_shares, class_weights
from experiments.plan import Launcher, PlanError, pretrained_path
from experiments.records import Record
from experiments.spec import Cell, HeldSchedule, Schedule, StepSchedule

CURVE_INTERVAL = 10  # iterations between two points of a logged curve
FIRST = 3  # iterations whose losses a record keeps


@dataclass(frozen=True)
class Job:
    """What all cells of a command share.

    data_root   folder in the official layout
    train_fingerprint  of what of the data a training reads
    checkpoint  weights to evaluate instead of training, or None
    force       run a finished cell again, from the start
    command     for the record
    stale       what becomes of a cell whose code has changed since it was finished, or stopped
    allow_other_processes  continue a training with another number of processes than it was started with
    """

    data_root: Path
    data_fingerprint: str
    results: Path
    checkpoint: Path | None
    force: bool
    launcher: Launcher
    command: str
    console: Console
    stale: Stale = "keep"
    allow_other_processes: bool = False
    train_fingerprint: str = ""


@dataclass
class Course:
    """What is kept of a training, earlier, stopped runs included: seconds spent, and losses of the first iterations."""

    train_seconds: float
    first_losses: list[dict[str, float]]


class Bench(NamedTuple):
    """A cell's data and model, in a Runner that can train it (if ``trains``) and evaluate it."""

    runner: CellRunner
    model: OccupancyModel
    train: OccupancyFrames[Any] | None
    val: OccupancyFrames[Any]
    test_set: Dataset[OccupancyBatch]
    metric: OccupancyMetric
    views: ViewRenderer
    shown: ProgressHook
    times: IterationTimesHook
    iterations: int


def set_up(
    cell: Cell,
    job: Job,
    folder: CellFolder,
    course: Course,
    start: Path | None,
    tracker: Tracker,
    trains: bool,
    first: int | None = None,
) -> Bench:
    """Everything that a cell runs with, every draw seeded anew. ``first``: train that many iterations of the whole course."""
    if instructions.fixes_threads(cell.preset_name, torch.cuda.is_available()):
        instructions.fix_threads()
    set_random_seed(cell.seed)
    val = _dataset(cell, job, layout_of(cell.table.dataset).evaluated)
    train = _dataset(cell, job, "train") if job.checkpoint is None else None
    counts = "counted" in (cell.preset.class_weights, cell.preset.class_bias)
    shares = class_shares(train) if trains and train is not None and counts else None
    weights = class_weights(shares) if shares is not None and cell.preset.class_weights == "counted" else None
    model = models.build(cell, val.grid, weights)
    if shares is not None and cell.preset.class_bias == "counted":
        model.start_from_bias(class_bias(shares, weights or (1.0,) * len(shares)))
    if trains and (first_weights := cell.first_weights) is not None:
        models.load_first_weights(first_weights, model, pretrained_path(first_weights.file))
    if trains and (first_cell := cell.first_cell) is not None:
        _start_from(first_cell, model, job, cell)
    iterations = _iterations(cell, len(train)) if cell.row.trained and train is not None else 0
    tracker.params(_params(cell, job, iterations))
    # The preset's options, not the row's: all rows are looked at alike, whatever they were trained with.
    views = ViewRenderer(val.grid, renderers.get(cell.renderer), GaussRenderConfig(**cell.preset.gaussrender))
    follows, voxels = cell.row.recipe.follows_scenes, cell.row.recipe.predicts_voxels
    metric = OccupancyMetric(
        val.grid,
        rays=val.has_ray_origins,
        others=counted(cell.metrics),
        of_sums=of_sums(cell.metrics),
        any_order=follows,
        masks=masks(cell.metrics),
        mask_of=val.other_masks,
        voxels=voxels,
    )
    shown = ProgressHook(job.console, f"{cell.name}:")
    smoke = cell.overrides.get("smoke")
    short = cell.preset.short_evaluation or cell.overrides.get("short") or smoke
    test_set = _tested(cell, val, val, min(SMOKE if smoke else SHORT, len(val)) if short else len(val))
    times = IterationTimesHook()
    runner = CellRunner(
        model=model,
        work_dir=str(folder.work_dir),
        test_dataloader=_test_loader(cell, test_set),
        test_cfg={"type": "SceneLoop"} if follows else {},
        # Labels that are unknown everywhere would be rendered as free space.
        test_evaluator=RenderingEvaluator([metric], views) if val.has_labels and voxels else Evaluator([metric]),
        launcher=job.launcher,
        env_cfg={"cudnn_benchmark": True},
        visualizer={"type": "Visualizer", "vis_backends": []},
        randomness={"seed": cell.seed},
        experiment_name=f"{cell.name}-{time_ns()}",
        # A scope outlives the Runner and would hide mmdet's and mmdet3d's registries from the next cell's model.
        default_scope=None,
        **(
            _training(cell, folder, train, iterations, start, course, tracker, [shown, times], first)
            if trains and train is not None
            else {"default_hooks": _HOOKS | {"param_scheduler": None, "checkpoint": None}, "custom_hooks": [shown]}
        ),
    )
    return Bench(runner, model, train, val, test_set, metric, views, shown, times, iterations)


def work(
    cell: Cell,
    job: Job,
    folder: CellFolder,
    progress: Progress,
    start: Path | None,
    tracker: Tracker,
    weights: Path | None = None,
    draws: bool = True,
) -> Record:
    """Train (from checkpoint ``start`` on, if there is one), evaluate, draw and describe a cell.

    weights  of the cell itself, to be evaluated instead of training
    draws    figures too
    """
    trains = cell.row.trained and job.checkpoint is None and weights is None
    memory = environment.PeakMemory(torch.cuda.is_available())
    course = Course(progress.train_seconds, progress.first_losses)
    train_memory: float | None = None
    seconds: float | None = None
    bench = set_up(cell, job, folder, course, start, tracker, trains)
    runner, model, train, val, test_set, metric, views, shown, times, iterations = bench
    try:
        if trains:
            finished = start is not None and iteration_of(start) >= iterations
            runner.train()  # nothing, from the last checkpoint on
            if finished:
                train_memory, seconds = progress.train_peak_memory_mb, progress.seconds_per_iteration
            else:
                train_memory, seconds = memory.megabytes(), times.median
            if get_dist_info()[0] == 0:
                folder.update(trained=iterations, train_peak_memory_mb=train_memory, seconds_per_iteration=seconds)
        elif train is not None and not cell.row.trained:
            model.fit(fit_prior(train))  # type: ignore[operator]
        elif (given := weights or job.checkpoint) is not None:
            load_released(model, given)
        begin = perf_counter()
        metrics = runner.test()
        eval_seconds = perf_counter() - begin
        per_class, absent = ({}, {}) if metric.last is None else (metric.last.per_class, dict(metric.last.absent))
        checks: dict[str, float] = {}
        if cell.preset.check_shuffled_images and cell.row.trained and cell.row.recipe.predicts_voxels:
            checks, unseen = _shuffled(runner, cell, val, shown, job.console)
            absent |= unseen
        if trains:
            _keep_weights(runner, folder.work_dir / WEIGHTS)
        if draws and runner.rank == 0:
            _draw(_bare(runner), views, val, folder.work_dir / "figures", tracker, cell)
    finally:
        shown.close()
    record = Record(
        table=cell.table.name,
        preset=cell.preset_name,
        row=cell.row.name,
        renderer=cell.renderer,
        seed=cell.seed,
        metrics=metrics,
        per_class=per_class,
        checks=checks,
        overrides=cell.overrides,
        renderer_settings={
            name: used for name, (_, used) in {**views.renderer.departures(views.config.raster), **_departures(model)}.items()
        },
        fingerprint=cell.fingerprint(job.data_fingerprint),
        data_fingerprint=cell.data_read(job.data_fingerprint),
        git_commit=progress.git_commit,
        git_dirty=progress.git_dirty,
        command=job.command,
        versions=environment.versions(),
        hardware=environment.hardware(gpu=torch.cuda.is_available()),
        started=progress.started,
        iterations=iterations,
        train_seconds=course.train_seconds,
        eval_seconds=eval_seconds,
        peak_memory_mb=max(memory.megabytes(), train_memory or 0.0),
        parameters=models.trainable_parameters(model),
        samples={"train": 0 if train is None else len(train), "val": len(test_set)},  # type: ignore[arg-type]
        mlflow_run_id=tracker.run_id,
        seconds_per_iteration=seconds,
        train_peak_memory_mb=train_memory,
        processes=(progress.processes or None) if trains else None,
        batch_size=(progress.batch_size or None) if trains else None,
        continued=progress.continued,
        code=sources.code(progress.sources) if progress.sources else "",
        sources=progress.sources,
        absent=absent,
        first_losses=course.first_losses,
    )
    tracker.metrics(metrics | {f"check/{name}": value for name, value in checks.items()}, step=iterations)
    if per_class:
        classes = list(dict.fromkeys(name for values in per_class.values() for name in values))
        columns = {metric: [values.get(name) for name in classes] for metric, values in per_class.items()}
        tracker.table({"class": classes, **columns, "measured": [now()] * len(classes)}, "per_class.json")
    tracker.tags(absences.tags(record, layout_of(cell.table.dataset).classes))
    return record


# mmengine's hooks that a cell has no use for: progress, curves and the sampler have their own.
_HOOKS: dict[str, Any] = {"logger": None, "sampler_seed": None, "timer": None}


def _dataset(cell: Cell, job: Job, split: str) -> OccupancyFrames[Any]:
    sight = split == "train" and cell.preset.loss_in_sight > 0
    recipe, reads = cell.row.recipe, cell.parts(split == "train")
    size = cell.preset.model_size
    rays = recipe.rays.get(size, 0)
    frames = build_dataset(
        cell.table.dataset, job.data_root, split, cell.data, cell.seed, reads, sight, rays, recipe.even_rays,
        views=recipe.views.get(size, VIEWS), view_size=recipe.view_size.get(size),
        follow=recipe.follows_scenes and split != "train",
    )  # fmt: skip
    if split == "train" and "rays" in reads and cell.preset.class_weights == "counted" and not recipe.even_rays:
        frames.count_rays()
    return frames


def _start_from(first: Cell, model: OccupancyModel, job: Job, cell: Cell) -> None:
    """Take over what fits of a finished cell's weights, and say what does not. Raises PlanError if they are not there."""
    folder = CellFolder(first, job.results)
    record = folder.record()
    path = None if record is None else folder.weights(record)
    if path is None:
        raise PlanError(f"{cell.name} starts from {first.name}, whose weights are gone: run that row again with --force")
    left = load_what_fits(model, path)
    rest = f"; {len(left)} of its own start anew, the first one is {left[0]}" if left else ""
    job.console.print(f"{escape(cell.name)}: starts from the weights of {escape(first.name)}{escape(rest)}", soft_wrap=True)


def _iterations(cell: Cell, samples: int) -> int:
    """Length of training: the command's, else the preset's, where an epoch is whole batches over all processes."""
    schedule = cell.schedule
    if "iterations" in cell.overrides:
        return int(cell.overrides["iterations"])
    if schedule.iterations is not None:
        return schedule.iterations
    if schedule.epochs is None:
        raise ValueError(f"preset '{cell.preset_name}' of {cell.table.name} sets neither iterations nor epochs")
    return schedule.epochs * (samples // get_dist_info()[1] // schedule.batch_size)


def _training(
    cell: Cell,
    folder: CellFolder,
    train: OccupancyFrames[Any],
    iterations: int,
    start: Path | None,
    course: Course,
    tracker: Tracker,
    watching: list[Hook],
    first: int | None = None,
) -> dict[str, Any]:
    """The Runner's arguments that make it train; with ``first`` only so many iterations, without checkpoints."""
    schedule = cell.schedule
    interval = schedule.checkpoint_interval
    # Fused: the same update in one pass over the weights instead of a dozen small operations a tensor.
    optimizer = {
        "type": "AdamW",
        "lr": schedule.lr,
        "betas": schedule.betas,
        "weight_decay": schedule.weight_decay,
        "fused": True,
    }
    if isinstance(schedule, StepSchedule):
        optimizer["eps"] = schedule.eps
    done = iteration_of(start) if start else 0

    def remember(**changes: Any) -> None:
        if get_dist_info()[0] == 0:
            folder.update(**changes)

    def keep_time(seconds: float) -> None:
        course.train_seconds = seconds
        remember(train_seconds=seconds)

    losses = FirstLossesHook(FIRST, done, course.first_losses, lambda kept: remember(first_losses=kept))
    course.first_losses = losses.losses
    hooks: list[Hook] = [
        *watching,
        SeedIterationHook(cell.seed),
        TrainingProgress(),
        FiniteLossHook(),
        CurvesHook(lambda values, step: tracker.metrics(values | environment.load(), step), CURVE_INTERVAL),
        losses,
        TrainClockHook(keep_time, interval, course.train_seconds),
        *([LiveHook(folder.live_path)] if first is None else []),
    ]
    if schedule.ema is not None:
        ramp = {} if schedule.ema_from is None else {"ema_type": "RampedAverage", "start": schedule.ema_from}
        hooks.append(AveragedWeightsHook(momentum=schedule.ema, strict_load=True, **ramp))
    rank, world = get_dist_info()
    return {
        "train_dataloader": DataLoader(
            train,
            batch_size=schedule.batch_size,
            sampler=EndlessSampler(TrainSampler(len(train), cell.seed, rank, world), done * schedule.batch_size),
            num_workers=cell.data.workers,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(cell.seed),
            pin_memory=torch.cuda.is_available(),
        ),
        "train_cfg": {"type": "ResumableTrainLoop", "max_iters": iterations if first is None else min(first, iterations)},
        "optim_wrapper": {
            "type": "AmpOptimWrapper" if schedule.amp else "OptimWrapper",
            "optimizer": optimizer,
            "paramwise_cfg": {"custom_keys": {part: {"lr_mult": schedule.backbone_lr} for part in cell.row.recipe.own_rate}},
            "clip_grad": None if schedule.grad_clip is None else {"max_norm": schedule.grad_clip},
        },
        "param_scheduler": _rates(schedule, iterations),
        # Two are kept: mmengine deletes the oldest one before the new one is written.
        "default_hooks": _HOOKS
        | {
            "checkpoint": {"type": "CheckpointHook", "interval": interval, "by_epoch": False, "max_keep_ckpts": 2}
            if first is None
            else None
        },
        "custom_hooks": hooks,
        "load_from": str(start) if start else None,
        "resume": start is not None,
        # As published: batch normalisation over all processes (`valeoai/GaussRender train.py`).
        "cfg": {"sync_bn": "torch"} if torch.cuda.is_available() else {},
    }


def _rates(schedule: Schedule, iterations: int) -> dict[str, Any]:
    """The rates' course over training, as mmengine's configuration."""
    if isinstance(schedule, StepSchedule):
        if schedule.epochs is None:
            raise ValueError("a StepSchedule counts in epochs: set its 'epochs'")
        drop = round(iterations * schedule.drop_epoch / schedule.epochs)
        return {"type": "MultiStepLR", "milestones": [drop], "gamma": schedule.lr_min / schedule.lr, "by_epoch": False}
    if isinstance(schedule, HeldSchedule):
        if schedule.epochs is None or not 0 <= schedule.held_epochs < schedule.epochs:
            raise ValueError("a HeldSchedule counts in epochs: set its 'epochs', and 'held_epochs' to fewer")
        return {
            "type": "HeldCosineLR",
            "floor": schedule.lr_min / schedule.lr,
            "warmup": schedule.warmup_iterations,
            "held": schedule.held_epochs,
            "epochs": schedule.epochs,
            "iterations": iterations,
        }
    return {
        "type": "WarmupCosineLR",
        "lr": schedule.lr,
        "lr_min": schedule.lr_min,
        "warmup": schedule.warmup_iterations,
        "iterations": iterations,
    }


def _tested(cell: Cell, frames: OccupancyFrames[Any], dataset: Dataset[OccupancyBatch], first: int) -> Dataset[OccupancyBatch]:
    """The ``first`` frames of a data set that is addressed as ``frames`` is; of scenes that are followed, with those before."""
    if cell.row.recipe.follows_scenes:
        return SceneFrames(dataset, frames.predecessors(), range(first))
    return dataset if first == len(frames) else Subset(dataset, range(first))


def _departures(model: OccupancyModel) -> dict[str, tuple[object, object]]:
    """What the training's renderer does otherwise than the model asks for: "training NAME" -> (asked for, used)."""
    return {f"training {name}": pair for name, pair in model.departures.items()}


def _test_loader(cell: Cell, dataset: Dataset[OccupancyBatch]) -> DataLoader[Any]:
    from mmengine.dataset import DefaultSampler

    return DataLoader(
        dataset,
        batch_size=1,
        sampler=SceneSampler(dataset) if isinstance(dataset, SceneFrames) else DefaultSampler(dataset, shuffle=False),  # type: ignore[arg-type]
        num_workers=cell.data.workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(cell.seed),
    )


def _shuffled(
    runner: CellRunner, cell: Cell, val: OccupancyFrames[Any], shown: ProgressHook, console: Console
) -> tuple[dict[str, float], dict[str, list[str]]]:
    """mIoU with the images of another scene, in percent, and the classes absent from it, both by the check's name.

    Nothing where the scenes do not allow it, and where no voxel counts.
    """
    try:
        shuffled = ShuffledImages(val, [val[index].meta[0]["scene"] for index in range(val.reachable)])
    except ValueError as error:
        console.print(f"{escape(cell.name)}: check left out: {error}", soft_wrap=True)
        return {}, {}
    dataset = _tested(cell, val, shuffled, min(SMOKE, len(val)) if cell.overrides.get("smoke") else len(val))
    shown.title = f"{cell.name}: shuffled images,"
    metric = OccupancyMetric(val.grid, rays=False, any_order=isinstance(dataset, SceneFrames))
    loop = SceneLoop if isinstance(dataset, SceneFrames) else TestLoop
    metrics = loop(runner, _test_loader(cell, dataset), Evaluator([metric])).run()
    if "mIoU" not in metrics:
        console.print(f"{escape(cell.name)}: check left out: no voxel of the labels counts", soft_wrap=True)
        return {}, {}
    absent = [] if metric.last is None else metric.last.absent.get("mIoU", [])
    return {absences.SHUFFLED: metrics["mIoU"]}, {absences.SHUFFLED: absent} if absent else {}


def _bare(runner: CellRunner) -> OccupancyModel:
    model: OccupancyModel = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return model


def _keep_weights(runner: CellRunner, path: Path) -> None:
    """Leave the evaluated weights in the model and, from the first process, in a file for --eval-only."""
    model = _bare(runner)
    checkpoint: dict[str, Any] = {"state_dict": {name: value.cpu() for name, value in model.state_dict().items()}}
    # Averaged weights (EMA) take the place of the trained ones here.
    runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
    model.load_state_dict(checkpoint["state_dict"])
    if runner.rank == 0:
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save({"state_dict": checkpoint["state_dict"]}, file)


def _draw(
    model: OccupancyModel, views: ViewRenderer, val: OccupancyFrames[Any], folder: Path, tracker: Tracker, cell: Cell
) -> None:
    """Figures of two evaluated frames, to the work folder and to MLflow."""
    model.eval()
    drawn_frames = sorted({0, len(val) // 2})
    for index, sample, prediction in predicted(model, val, drawn_frames, cell.row.recipe.follows_scenes):
        logits = prediction.logits[-1][0]
        seen = {name: value.cpu().numpy() for name, value in views(logits, sample).items()}
        images = figures.normalised_to_rgb(sample.images[0].numpy(), val.image.mean, val.image.std)
        labels, visible = sample.labels[0].numpy(), sample.camera_mask[0].numpy()
        heading = f"{cell.name}\n{sample.meta[0]['scene']}, frame {sample.meta[0]['token']}"
        drawn = {
            "input": figures.input_views(images, val.camera_names, heading),
            "occupancy": figures.occupancy_from_above(logits.argmax(0).cpu().numpy(), labels, visible, val.grid, heading),
            "cameras": figures.rendered_views(images, seen, val.camera_names, val.grid, heading),
            "above": figures.bev_views(seen, val.grid, heading),
        }
        for kind, figure in drawn.items():
            tracker.artifact(figures.save(figure, folder / f"{kind}_{index:04d}.png"), "figures")


def _params(cell: Cell, job: Job, iterations: int) -> dict[str, Any]:
    return {
        "table": cell.table.name,
        "preset": cell.preset_name,
        "row": cell.row.name,
        "renderer": cell.renderer,
        "seed": cell.seed,
        "iterations": iterations,
        "processes": get_dist_info()[1],
        "command": job.command,
        "data_fingerprint": cell.data_read(job.data_fingerprint),
        **{f"data.{name}": value for name, value in asdict(cell.data).items()},
        **{f"schedule.{name}": value for name, value in asdict(cell.schedule).items()},
        **{f"gaussrender.{name}": value for name, value in (cell.gaussrender or {}).items()},
        **{f"option.{name}": value for name, value in cell.options.items()},
        **{f"trait.{name}": value for name, value in cell.row.traits.items()},
        **{f"override.{name}": value for name, value in cell.overrides.items()},
        **{f"version.{name}": value for name, value in environment.versions().items()},
        **{f"machine.{name}": value for name, value in environment.hardware().model_dump().items()},
    }
