"""Checkpoints and state files that can be read and are wrong: each is set aside by name, and the cell goes on without it."""

from __future__ import annotations

import copy
import json
import operator
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.model import BaseModel
from test_run_kept import Command, command, path_of  # noqa: F401 - the fixture
from torch import nn

from experiments.cell import training
from experiments.cell.engine import AveragedWeightsHook, CellRunner, WrongCheckpoint, check_checkpoint
from experiments.cell.folder import CellFolder, Progress
from experiments.spec import load_table

SEED = 0


class Line(BaseModel):  # type: ignore[misc]
    """A model of one layer and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)

    def forward(self, inputs: torch.Tensor, mode: str = "loss") -> dict[str, torch.Tensor]:
        return {"loss": self.norm(self.layer(inputs)).square().sum()}


def train(folder: Path, iterations: int, start: Path | None = None) -> Line:
    torch.manual_seed(SEED)
    model = Line()
    CellRunner(
        default_scope=None,  # as a cell's: a name would be every later registry's in this process
        model=model,
        work_dir=str(folder),
        train_dataloader=torch.utils.data.DataLoader(
            [{"inputs": torch.ones(4, 3)}, {"inputs": torch.eye(4, 3)}], batch_size=1, collate_fn=operator.itemgetter(0)
        ),
        train_cfg={"type": "IterBasedTrainLoop", "max_iters": iterations},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-2}},
        param_scheduler={"type": "WarmupCosineLR", "lr": 1e-2, "lr_min": 1e-4, "warmup": 2, "iterations": 8},
        default_hooks={
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 2, "max_keep_ckpts": 2},
            **dict.fromkeys(("logger", "timer", "sampler_seed")),
        },
        custom_hooks=[AveragedWeightsHook(momentum=0.1, strict_load=True)],
        visualizer={"type": "Visualizer", "vis_backends": []},
        load_from=None if start is None else str(start),
        resume=start is not None,
        experiment_name=f"line-{random.random()}",
        randomness={"seed": 0},
    ).train()
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, 2)
    return folder / "iter_2.pth"


def leaves(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value and every container of a checkpoint stands."""
    if path:
        yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from leaves(value, (*path, number))


WRONG: list[Callable[[Any], Any]] = [
    lambda value: "text",
    lambda value: None,
    lambda value: [],
    lambda value: {},
    lambda value: float("nan"),
    lambda value: torch.zeros(7, 5),
]


def damaged(content: dict[str, Any], draw: random.Random) -> tuple[dict[str, Any], str]:
    """A checkpoint with one entry gone or of another kind, and which it is."""
    content = copy.deepcopy(content)
    path = draw.choice([p for p in leaves(content) if p[:2] != ("meta", "cfg")])
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    what = draw.randrange(len(WRONG) + 1)
    if what == len(WRONG):
        del inside[path[-1]]
    else:
        inside[path[-1]] = WRONG[what](inside[path[-1]])
    return content, f"{path} {what}"


def test_a_training_goes_on_from_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint, tmp_path)
    check_checkpoint(tmp_path / "iter_2.pth")
    resumed, straight = train(tmp_path, 4, tmp_path / "iter_2.pth"), train(tmp_path / "straight", 4)
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert sorted(p.name for p in tmp_path.glob("*.pth*")) == ["iter_2.pth", "iter_4.pth"], "none was set aside"


def test_no_checkpoint_that_can_be_read_ends_a_cell(checkpoint: Path, tmp_path: Path) -> None:
    """Either the training goes on, or the file is named as wrong; nothing else is raised, now or in a later iteration."""
    content = torch.load(checkpoint, weights_only=False)
    draw, refused = random.Random(SEED), 0
    file = tmp_path / "iter_2.pth"
    for _ in range(60):
        wrong, what = damaged(content, draw)
        torch.save(wrong, file)
        try:
            check_checkpoint(file)
            train(tmp_path, 3, file)
        except WrongCheckpoint as error:
            assert error.path == file and str(file) in str(error), what
            refused += 1
        except Exception as error:  # noqa: BLE001
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert refused > 20


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("state_dict", lambda part: part.pop("layer.weight")),
        ("state_dict", lambda part: part.update({"layer.weight": torch.zeros(1)})),
        ("ema_state_dict", lambda part: part.clear()),
        ("optimizer", lambda part: part["state"][0].update(exp_avg=torch.zeros(1, 1))),
        ("optimizer", lambda part: part["param_groups"][0].update(lr="fast")),
        ("param_schedulers", lambda part: part[0].update(last_step="two")),
        ("meta", lambda part: part.update(iter=1)),
    ],
)
def test_what_training_would_take_without_a_word_is_refused(
    part: str, change: Callable[[Any], object], checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=False)
    change(content[part])
    torch.save(content, tmp_path / "iter_2.pth")
    with pytest.raises(WrongCheckpoint, match="iter_2.pth is no checkpoint that the training can go on from"):
        check_checkpoint(tmp_path / "iter_2.pth")
        train(tmp_path, 3, tmp_path / "iter_2.pth")


def folder_of(tmp_path: Path) -> CellFolder:
    spec = load_table("table_occ3d")
    return CellFolder(spec.cell(spec.row("tpvformer"), "cpu", "toy", 0), tmp_path)


def test_a_state_file_of_another_kind_is_none(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    good = Progress("print", "2026-01-01T00:00:00+0000", 12.5, first_losses=[{"loss": 1.0}], trained=3)
    folder.prepare("print", fresh=False)
    folder.remember(good)
    assert folder.progress() == good
    state = folder.work_dir / "state.json"
    content = json.loads(state.read_text())
    for name in content:
        for value in ("x", {"a": []}, [1], -1, True, 1e999):
            if type(value) is type(content[name]) in (str, bool):
                continue
            if content[name] is None and value == "x":
                continue
            state.write_text(json.dumps(content | {name: value}))
            assert folder.progress() is None, (name, value)
    for text in ("", "[]", "{}", "null", "{" * 100_000, json.dumps(content | {"more": 1})):
        state.write_text(text)
        assert folder.progress() is None
    state.write_bytes(b"\xff\xfe")
    (folder.work_dir / "iter_2.pth").write_bytes(b"weights")
    said: list[str] = []
    assert folder.prepare("print", fresh=False, say=said.append) is None
    assert "state.json is damaged" in said[0] and "starts again" in said[0] and ".stale" in said[1]
    assert (folder.work_dir.with_name(f"{folder.work_dir.name}.stale") / "state.json").read_bytes() == b"\xff\xfe"


def test_a_cell_goes_on_from_the_checkpoint_before_a_wrong_one(
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = path_of(tmp_path).with_suffix("")

    def stop(*_: Any, **__: Any) -> None:
        raise RuntimeError("stopped before the evaluation")

    with monkeypatch.context() as patched:
        patched.setattr(training.CellRunner, "test", stop)
        assert command()[0] == 1
    content = torch.load(work / "iter_2.pth", weights_only=False)
    content["optimizer"]["state"].pop(0)
    content["state_dict"].popitem()
    torch.save(content, work / "iter_2.pth")
    code, out, err = command()
    assert code == 0 and not err
    assert "nothing can go on from iter_2.pth" in out and "kept as iter_2.pth.wrong" in out
    assert out.count("starts  (") == 1
    assert (work / "iter_2.pth.wrong").is_file() and (work / "weights.pth").is_file()
