"""mmengine's Runner fitted to a cell: schedule, resumable data order, checkpoints that load safely, hooks.

Nothing here trains: the loop, the optimizer wrapper, AMP, EMA and the distributed launchers are mmengine's.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import master_only
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage, MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import _ParamScheduler
from mmengine.registry import LOOPS, MODELS, PARAM_SCHEDULERS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model
from torch import nn
from torch.utils.data import Sampler

from baselines.checkpoint_files import CheckpointError, read_checkpoint
from camera_occupancy_bench.files import replacing
from experiments.cell.folder import iteration_of
from experiments.datasets.sampling import TrainSampler


class TrainingDiverged(RuntimeError):
    """A loss became NaN or infinite; the message names it and the iteration."""


class WrongCheckpoint(CheckpointError):
    """A training cannot go on from one of its checkpoints; the message names the file and says why.

    path  of the file
    """

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is no checkpoint that the training can go on from: {why}")
        self.path, self.why = path, why


def check_checkpoint(path: Path) -> None:
    """Raise WrongCheckpoint for a file that is none of mmengine's, or not of its name; ``CellRunner.resume`` finds the rest."""
    try:
        meta = _training_state(path)["meta"]
    except CheckpointError as error:
        raise WrongCheckpoint(path, str(error)) from error
    if meta["iter"] != iteration_of(path):
        raise WrongCheckpoint(path, f"it was written at iteration {meta['iter']}")


def _training_state(path: str | Path) -> dict[str, Any]:
    """mmengine's checkpoint as plain data, read as weights are (mmengine itself would run what a file names).

    Its "config" is left out: mmengine takes it for a program, and the project's cells have none. Raises CheckpointError.
    """
    content = read_checkpoint(path, sealed=False)
    if isinstance(content, dict) and not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"checkpoint '{path}' is none that training can go on from: its entries have no names")
    meta = content.get("meta") if isinstance(content, dict) else None
    parts = {"state_dict": dict, "message_hub": dict, "optimizer": dict, "param_schedulers": (dict, list)}
    if not isinstance(meta, dict) or not all(type(meta.get(count)) is int for count in ("epoch", "iter")):
        raise CheckpointError(
            f"checkpoint '{path}' is none that training can go on from: it has no 'meta' with 'epoch' and 'iter'"
        )
    for name, kinds in parts.items():
        absent = name not in content and name == "param_schedulers"  # of a constant rate
        if not absent and not isinstance(content.get(name), kinds):  # type: ignore[arg-type]
            raise CheckpointError(f"checkpoint '{path}' is none that training can go on from: it has no '{name}'")
    meta.pop("config", None)
    return content  # type: ignore[no-any-return]


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_ParamScheduler):
    """timm's CosineLRScheduler as GaussRender uses it, per iteration.

    Warm-up runs linearly from lr/3 to each group's rate and takes nothing off the cosine, whose phase is t / iterations
    from the start. Start and floor are absolute: groups with a smaller rate share them, so that the backbone's warm-up
    comes from above (`valeoai/GaussRender train.py:95-102`).
    """

    def __init__(self, optimizer: Any, lr: float, lr_min: float, warmup: int, iterations: int, **kwargs: Any) -> None:
        self.start, self.lr_min, self.warmup, self.iterations = lr / 3, lr_min, warmup, iterations
        super().__init__(optimizer, param_name="lr", by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        return [self.value(base, self.last_step) for base in self.base_values]

    def value(self, base: float, t: int) -> float:
        """Rate of a group with rate ``base`` at iteration ``t``."""
        if t < self.warmup:
            return self.start + t * (base - self.start) / self.warmup
        phase = min(t / self.iterations, 1.0)
        return self.lr_min + 0.5 * (base - self.lr_min) * (1 + math.cos(math.pi * phase))


@PARAM_SCHEDULERS.register_module()
class HeldCosineLR(_ParamScheduler):
    """The rate of boschresearch/GaussianFlowOcc (mmdet3d/models/gaussianflowocc_modules/hooks.py): linear warm-up from a
    thousandth of each group's rate, then that rate for ``held`` of the epochs, then a cosine that takes a step at the beginning
    of an epoch and would reach the share ``floor`` of it behind the last one."""

    def __init__(self, optimizer: Any, floor: float, warmup: int, held: int, epochs: int, iterations: int, **kwargs: Any) -> None:
        self.floor, self.warmup, self.held, self.epochs, self.iterations = floor, warmup, held, epochs, iterations
        super().__init__(optimizer, param_name="lr", by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        return [base * self.share(self.last_step) for base in self.base_values]

    def share(self, t: int) -> float:
        """Of a group's rate at iteration ``t``."""
        epoch = min(t * self.epochs // self.iterations, self.epochs)
        phase = max(epoch - self.held, 0) / (self.epochs - self.held)
        share = self.floor + 0.5 * (1 - self.floor) * (1 + math.cos(math.pi * phase))
        return share * (1 - (1 - t / self.warmup) * (1 - 1e-3)) if t < self.warmup else share


class EndlessSampler(Sampler[tuple[int, int]]):
    """Epoch after epoch of a TrainSampler, from sample ``start`` (of this rank) on."""

    def __init__(self, epochs: TrainSampler, start: int = 0) -> None:
        self._epochs, self._start = epochs, start

    def __len__(self) -> int:
        """Samples of one epoch, from which mmengine's hooks count epochs; the iteration itself never ends."""
        return len(self._epochs)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, skip = divmod(self._start, len(self._epochs))
        while True:
            self._epochs.set_epoch(epoch)
            yield from itertools.islice(self._epochs, skip, None)
            epoch, skip = epoch + 1, 0


class _Positioned(Iterator[Any]):
    """A data iterator that already stands behind the first ``seen`` batches: asked for those, it loads nothing."""

    def __init__(self, iterator: Iterator[Any], seen: int) -> None:
        self._iterator, self._seen = iterator, seen

    def __next__(self) -> Any:
        if self._seen > 0:
            self._seen -= 1
            return None
        return next(self._iterator)


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """IterBasedTrainLoop without its "advance the dataloader" on resume, which would load everything again.

    The dataloader's EndlessSampler already starts where the run stopped.
    """

    dataloader_iterator: Any

    def run(self) -> Any:
        self.dataloader_iterator = _Positioned(self.dataloader_iterator, self._iter)
        return super().run()


def scalars(outputs: Mapping[str, Any] | None) -> dict[str, float]:
    """A training step's log values as numbers."""
    return {name: float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items()}


def keep_quiet(logger: MMLogger) -> None:
    """Only errors of this logger reach the terminal; its file gets everything."""
    for handler in logger.handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)


class CellRunner(Runner):
    """mmengine's Runner that writes its log to ``train.log`` in the work folder and keeps the terminal quiet."""

    def dump_config(self) -> None:
        """Nothing: a cell's settings are in its record."""

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        logger = super().build_logger(log_level, log_file or str(Path(self.work_dir) / "train.log"), **kwargs)
        keep_quiet(logger)
        return logger

    @master_only
    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine does it, beside the file's place."""
        with replacing(Path(out_dir) / filename) as temporary:
            super().save_checkpoint(str(temporary.parent), temporary.name, *args, **kwargs)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As mmengine does it; raises WrongCheckpoint where the file does not fit model, optimizer or rates."""
        try:
            schedulers = [] if self.param_schedulers is None else _flat(self.param_schedulers)
            rates = [scheduler.state_dict() for scheduler in schedulers]
            groups = self.optim_wrapper.optimizer.state_dict()["param_groups"]
            super().resume(filename, *args, **kwargs)
            _check_optimizer(self.optim_wrapper.optimizer, groups)
            after = [scheduler.state_dict() for scheduler in _flat(self.param_schedulers or [])]
            if _kinds(after) != _kinds(rates):
                raise CheckpointError("its rates are not those of the training")
        except (MemoryError, torch.cuda.OutOfMemoryError):
            raise  # not the file's fault
        except Exception as error:
            raise WrongCheckpoint(Path(filename), f"{type(error).__name__}: {error}".splitlines()[0]) from error

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = True, revise_keys: Any = ((r"^module\.", ""),)
    ) -> dict[str, Any]:
        """As mmengine does it, with the file read by ``_training_state``; tensors come on the CPU and are copied from there."""
        checkpoint = _training_state(filename)
        # Of the hub, which holds curves and counters, a training goes on from nothing but the list of what is kept.
        hub, kept = self.message_hub.state_dict(), _kept_checkpoints(checkpoint)
        hub["runtime_info"]["keep_ckpt_ids"], hub["resumed_keys"]["keep_ckpt_ids"] = kept, True
        checkpoint["message_hub"] = hub
        if any(isinstance(hook, EMAHook) for hook in self.hooks) and not isinstance(checkpoint.get("ema_state_dict"), dict):
            raise CheckpointError(f"checkpoint '{filename}' has no averaged weights")
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        loaded: dict[str, Any] = _load_checkpoint_to_model(model, checkpoint, strict, revise_keys=list(revise_keys))
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return loaded

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        if not self.distributed or torch.cuda.is_available():
            return super().wrap_model(model_wrapper_cfg, model)
        # mmengine names a device id, which DistributedDataParallel refuses for a model on the CPU.
        return MMDistributedDataParallel(module=model, broadcast_buffers=False)


def _kept_checkpoints(checkpoint: dict[str, Any]) -> list[int]:
    """Iterations of the checkpoints that were kept when this one was written. Raises CheckpointError."""
    known = checkpoint["message_hub"].get("runtime_info")
    kept = known.get("keep_ckpt_ids", []) if isinstance(known, dict) else None
    if not isinstance(kept, list) or any(type(iteration) is not int for iteration in kept):
        raise CheckpointError("its 'message_hub' does not tell which checkpoints are kept")
    return kept


def _flat(schedulers: Any) -> list[_ParamScheduler]:
    """mmengine keeps them in a list, or in lists by the optimizer's name."""
    found = [one for many in schedulers.values() for one in many] if isinstance(schedulers, dict) else schedulers
    return [one for one in found if isinstance(one, _ParamScheduler)]


def _kinds(content: Any) -> Any:
    """What a state is made of, without its numbers."""
    if isinstance(content, dict):
        return {key: _kinds(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_kinds(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return content
    return "number" if type(content) in (int, float) else type(content)


_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


def _check_optimizer(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Raise CheckpointError where the loaded state is not of this optimizer, whose groups were ``groups``: torch itself looks at
    the number of parameters only."""
    if _kinds(optimizer.state_dict()["param_groups"]) != _kinds(groups):
        raise CheckpointError("its optimizer's settings are not those of the training")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if state is not None and isinstance(optimizer, torch.optim.AdamW) and set(state) != _MOMENTS:
                raise CheckpointError("its optimizer's state is not that of AdamW")
            for name, value in (state or {}).items():
                shape = torch.Size() if name == "step" else parameter.shape
                if not isinstance(value, torch.Tensor) or value.shape != shape or not value.is_floating_point():
                    raise CheckpointError(f"its optimizer's '{name}' is not that of the model")


@MODELS.register_module()
class RampedAverage(ExponentialMovingAverage):
    """mmengine's average with a momentum that falls to the given one, see ``Schedule.ema``."""

    def __init__(self, model: nn.Module, start: int, **kwargs: Any) -> None:
        super().__init__(model, **kwargs)
        self.start = start

    def avg_func(self, averaged_param: torch.Tensor, source_param: torch.Tensor, steps: int) -> None:
        momentum = 1 - (1 - self.momentum) * (1 - math.exp(-(self.start + int(steps)) / 2000))
        averaged_param.lerp_(source_param, momentum)


class AveragedWeightsHook(EMAHook):
    """mmengine's EMAHook, whose averages survive the evaluation behind the training.

    A Runner calls ``before_run`` for its training and again for its test, where EMAHook begins a new average from the
    trained weights: those would be evaluated and kept.
    """

    def before_run(self, runner: Runner) -> None:
        if not hasattr(self, "ema_model"):
            super().before_run(runner)


class SeedIterationHook(Hook):
    """Seeds PyTorch from (seed, rank, iteration) before every iteration: dropout is the same with and without a resume."""

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        state = np.random.SeedSequence([self._seed, runner.rank, runner.iter]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]) >> 1)


class FiniteLossHook(Hook):
    """Ends training with TrainingDiverged at the first NaN or infinite loss, before a checkpoint could keep it."""

    priority = "ABOVE_NORMAL"

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        losses = scalars(outputs)
        # The total is named only if no part of it is to blame.
        for name in sorted(losses, key=lambda n: n == "loss"):
            if not math.isfinite(losses[name]):
                raise TrainingDiverged(
                    f"{name} became {losses[name]} at iteration {runner.iter + 1}; "
                    "lower the learning rate or check the data, then run the cell again"
                )


class FirstLossesHook(Hook):
    """Keeps the named losses of a training's first ``count`` iterations, and hands all there are to ``save`` at each of them.

    Exact numbers, of this process's own samples. ``before`` are those of earlier, stopped runs of the same training, which
    continues at iteration ``start``; if one of them is missing, none is kept, for they would not be the first.
    """

    def __init__(
        self, count: int, start: int, before: Sequence[dict[str, float]], save: Callable[[list[dict[str, float]]], None]
    ) -> None:
        self._count = count if len(before) >= min(start, count) else 0
        self._save = save
        self.losses = list(before[: min(start, self._count)])

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter < self._count:
            self.losses.append(scalars(outputs))
            self._save(self.losses)


class CurvesHook(Hook):
    """Hands the losses and the learning rate to ``log(values, iteration)`` every ``interval`` iterations, averaged in between."""

    priority = "BELOW_NORMAL"

    def __init__(self, log: Callable[[dict[str, float], int], None], interval: int) -> None:
        self._log, self._interval = log, interval
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for name, value in scalars(outputs).items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        done = runner.iter + 1
        if done % self._interval and done != runner.max_iters:
            return
        seconds = (time.perf_counter() - self._since) / self._count
        values = {f"train/{name}": total / self._count for name, total in self._sums.items()}
        rates = runner.optim_wrapper.get_lr()["lr"]
        self._log(values | {"train/lr": max(rates), "train/seconds_per_iteration": seconds}, done)
        self._sums, self._count, self._since = {}, 0, time.perf_counter()


class TrainClockHook(Hook):
    """Adds up training seconds and hands them to ``save`` whenever a checkpoint was written (``interval`` and the last)."""

    priority = "LOWEST"

    def __init__(self, save: Callable[[float], None], interval: int, before: float = 0.0) -> None:
        self._save, self._interval, self.seconds = save, interval, before

    def before_train(self, runner: Runner) -> None:
        self._since = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        done = runner.iter + 1
        if done % self._interval == 0 or done == runner.max_iters:
            now = time.perf_counter()
            self.seconds, self._since = self.seconds + now - self._since, now
            self._save(self.seconds)


class IterationTimesHook(Hook):
    """Times every training step from the batch at hand to the updated weights: forward, backward, optimizer; no reading of data.

    The first ``warm_up`` iterations of a start are left out: they compile kernels, fill caches and allocate memory.
    """

    priority = "HIGH"  # its end comes before the work of the other hooks

    def __init__(self, warm_up: int = 5) -> None:
        self._warm_up = warm_up
        self._seen = 0
        self._begin = 0.0
        self.seconds: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._begin = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seen += 1
        if self._seen > self._warm_up:
            self.seconds.append(time.perf_counter() - self._begin)

    @property
    def median(self) -> float | None:
        """Median seconds of an iteration; None if none was timed."""
        return statistics.median(self.seconds) if self.seconds else None
