"""Options of training that no preset of the toy size uses: mixed precision, averaged weights, launchers, synchronised norms."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from test_run_training import ROW, Command, command_in, environment, record_of
from torch import Tensor, nn

from baselines.model import OccupancyModel
from experiments import records
from experiments.cell import engine
from experiments.spec import load_table

WATCHED = "aggregator.classifier.bias"


def schedule(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """The tiny table with other options of its schedule."""
    table = load_table("table_tiny")
    toy = table.presets["toy"]
    changed = replace(toy, schedule=replace(toy.schedule, **changes), check_shuffled_images=False)
    monkeypatch.setattr("experiments.run.load_spec", lambda _: replace(table, presets={**table.presets, "toy": changed}))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return command_in(tmp_path, monkeypatch, capsys)


def watched(model: nn.Module) -> Tensor:
    return dict(model.named_parameters())[WATCHED].detach().clone()


def weights(folder: Path, cell: str) -> dict[str, Tensor]:
    path = folder / "results" / "table_tiny" / "toy" / cell / "weights.pth"
    return torch.load(path, weights_only=True)["state_dict"]


def test_averaged_weights_are_evaluated_kept_and_resumed(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the new weights enter the average at every iteration but the first, which starts it."""
    schedule(monkeypatch, ema=0.5)
    trained: list[Tensor] = []
    evaluated: list[Tensor] = []
    real = OccupancyModel.forward

    def spied(model: OccupancyModel, batch: Any, mode: str = "tensor") -> Any:
        if mode == "predict":
            evaluated.append(watched(model))
        return real(model, batch, mode)

    real_hook = engine.FiniteLossHook.after_train_iter

    def after(hook: Any, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        trained.append(watched(runner.model))
        real_hook(hook, runner, batch_idx, data_batch, outputs)
        if stop_at == runner.iter + 1:
            raise engine.TrainingDiverged("stopped by the test")

    monkeypatch.setattr(OccupancyModel, "forward", spied)
    monkeypatch.setattr(engine.FiniteLossHook, "after_train_iter", after)
    stop_at = 0
    assert run("--row", "small", "--iterations", "4")[0] == 0
    average = trained[0]
    for weight in trained[1:]:
        average = 0.5 * average + 0.5 * weight
    assert len(trained) == 4 and not torch.allclose(average, trained[-1], atol=1e-5)
    assert len(evaluated) == 2
    for weight in evaluated:
        torch.testing.assert_close(weight, average)
    whole = weights(tmp_path, "small--cpu--seed0--iterations=4")
    torch.testing.assert_close(whole[WATCHED], average)

    uninterrupted = torch.stack(trained)
    trained.clear()
    stop_at = 3  # one iteration behind the checkpoint of iteration 2
    assert run("--row", "small", "--iterations", "4", "--force")[0] == 1
    records.path_of("table_tiny", "toy", "small--cpu--seed0--iterations=4", tmp_path / "results").unlink()
    trained.clear()
    stop_at = 0
    code, out, _ = run("--row", "small", "--iterations", "4")
    assert code == 0 and "continues at iteration 2" in out
    torch.testing.assert_close(torch.stack(trained), uninterrupted[2:])
    resumed = weights(tmp_path, "small--cpu--seed0--iterations=4")
    for name, value in whole.items():
        torch.testing.assert_close(resumed[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_ctrl_c_within_compiled_code_stops_the_command(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numba, asked to stop while it loads a function, raises an error of its own."""

    def work(*_: Any) -> None:
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setattr("experiments.cell.runner.work", work)
    code, _, err = run("--row", "small")
    assert code == 130, err
    assert "interrupted" in err and "Traceback" not in err
    assert not list(tmp_path.rglob("error.txt")), "it is no fault of the cell's"


def test_mixed_precision_trains(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole cell under autocast. mmengine's wrapper wants a GPU; on the CPU its autocast is bfloat16, unscaled."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper

    schedule(monkeypatch, amp=True)
    monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
    types: list[tuple[torch.dtype, torch.dtype]] = []
    real = OccupancyModel.loss

    def spied(model: Any, batch: Any) -> dict[str, Tensor]:
        seen: list[torch.dtype] = []
        handle = model.img_backbone.register_forward_hook(lambda _module, _inputs, levels: seen.append(levels[0].dtype))
        losses = real(model, batch)
        handle.remove()
        types.append((seen[0], losses["loss_render_image"].dtype))
        return losses

    monkeypatch.setattr(OccupancyModel, "loss", spied)
    code, _, err = run("--row", ROW, "--iterations", "2")
    assert code == 0, err
    assert types == [(torch.bfloat16, torch.float32)] * 2, "images in half precision, rendering in single"
    kept = weights(tmp_path, f"{ROW}--cpu--seed0--iterations=2")
    assert all(
        value.dtype == torch.float32 and torch.isfinite(value).all() for value in kept.values() if value.is_floating_point()
    )
    assert record_of(tmp_path, f"{ROW}--cpu--seed0--iterations=2").metrics["mIoU"] >= 0


def test_slurm_starts_a_group_trains_and_leaves_it(tmp_path: Path) -> None:
    """The variables that srun sets, and a scontrol that names the first node."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-2]" ] && echo 127.0.0.1 && echo node2\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NODELIST": "node[1-2]"}
    variables = {
        **{name: value for name, value in environment(tmp_path).items() if name not in ("RANK", "MASTER_ADDR")},
        **slurm,
        "MASTER_PORT": str(free_port()),
        "PATH": f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}",
    }
    script = str(Path(__file__).with_name("run_tiny.py"))
    command = [sys.executable, script, "table_tiny", "--row", "small", "--iterations", "2", "--launcher", "slurm"]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert record_of(tmp_path, "small--cpu--seed0--iterations=2").iterations == 2
    log = (tmp_path / "results" / "table_tiny" / "toy" / "small--cpu--seed0--iterations=2" / "train.log").read_text()
    assert "Distributed training: True" in log


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("missing", ["SLURM_NTASKS", "SLURM_NODELIST"])
def test_slurm_without_its_variables_is_named(run: Command, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODELIST"):
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv(missing)
    code, _, err = run("--row", "prior", "--launcher", "slurm")
    assert code == 2
    assert err.count("\n") == 1 and missing in err and "srun" in err


def test_norms_are_synchronised_over_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the Runner wraps on CUDA; only the wrapper itself needs the device."""
    from mmengine.runner import runner as mmengine_runner

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(mmengine_runner, "MMDistributedDataParallel", lambda module, **_: module)
    runner = engine.CellRunner.__new__(engine.CellRunner)
    runner._distributed = True
    runner.cfg = Config({"sync_bn": "torch"})
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    wrapped = runner.wrap_model(None, model)
    assert isinstance(wrapped[1], nn.SyncBatchNorm)
