"""``python -m experiments.score``: somebody's files get the evaluator's numbers, whatever their format; mistakes are named and
counted; a killed scoring goes on."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kitti360_layout
import numpy as np
import occ3d_layout
import pytest
import surroundocc_layout
import torch
from run_tiny import TABLES

import experiments.tables
from camera_occupancy_bench import ROOT
from experiments import plan, predict, predictions, run, score, score_records
from experiments.datasets.build import reader
from experiments.datasets.frames import OccupancyFrames
from experiments.datasets.transforms import ImageTransform
from experiments.metrics.counts import evaluate, sample_counts
from experiments.metrics.evaluator import OccupancyMetric, counted, masks
from experiments.metrics.registry import METRICS
from experiments.score_records import ScoreRecord
from experiments.scoring import frames as scored_frames
from experiments.spec import load_table

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]
Write = Callable[[Path, str, np.ndarray], Path]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Score in this process, results in ``tmp_path`` -> (exit code, stdout, stderr)."""
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OCC_DATA_ROOT", raising=False)

    def call(folder: Path, root: Path, *arguments: str | Path, dataset: str = "occ3d") -> Outcome:
        words = [folder, "--dataset", dataset, "--data-root", root, "--workers", "1", *arguments]
        code = score.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames in Occ3D's layout whose two masks differ."""
    root = occ3d_layout.write_layout(tmp_path_factory.mktemp("occ3d"))
    for number, path in enumerate(sorted(root.glob("gts/*/*/labels.npz"))):
        arrays = dict(np.load(path))
        arrays["semantics"][60:70, 100 : 105 + number, 3:6] = 12  # one of the classes that images do not teach
        arrays["mask_lidar"] = np.zeros_like(arrays["mask_camera"])
        arrays["mask_lidar"][:150, 60:140] = 1
        np.savez_compressed(path, **arrays)
    return root


def guesses(frames: OccupancyFrames[Any], seed: int = 5) -> dict[str, np.ndarray]:
    """Token -> labels with a tenth of the voxels wrong and everything a voxel too far ahead."""
    random = np.random.default_rng(seed)
    made = {}
    for number in range(len(frames)):
        labels = frames.labels(number)[0]
        labels = np.where(labels == frames.grid.ignore, frames.grid.empty, labels)
        wrong = random.random(labels.shape) < 0.1
        made[frames.names(number)[0]] = np.where(
            wrong, random.integers(0, frames.grid.num_classes, labels.shape), np.roll(labels, 1, axis=0)
        ).astype(np.uint8)
    return made


def of_ours(folder: Path, token: str, labels: np.ndarray) -> Path:
    number = int(token[-2:])
    prediction = predictions.SavedPrediction(
        grid=reader("occ3d")._official_grid(None),  # type: ignore[arg-type]
        predicted=labels,
        true=labels,
        camera_mask=np.ones(labels.shape, bool),
        intrinsics=np.ones((1, 3, 3)),
        reference_to_camera=np.ones((1, 4, 4)),
        camera_size=(8, 8),
        projection=np.ones((1, 4, 4)),
        camera_names=("one",),
        image_paths=("one.jpg",),
        token=token,
        scene="scene-0002",
        index=number,
        source="table_x toy row",
    )
    predictions.save(prediction, folder / f"val_{number:05d}.npz")
    return folder / f"val_{number:05d}.npz"


def of_sparseocc(folder: Path, token: str, labels: np.ndarray) -> Path:
    np.savez_compressed(folder / f"{token}.npz", pred=labels)
    return folder / f"{token}.npz"


def of_gaussianocc(folder: Path, token: str, labels: np.ndarray) -> Path:
    np.savez_compressed(folder / f"{token}.npz", pred=labels.astype(np.int64).reshape(-1))
    return folder / f"{token}.npz"


def of_gaussianflowocc(folder: Path, token: str, labels: np.ndarray) -> Path:
    """With what its tool writes into folders beside the predictions."""
    np.savez(folder / f"{token}.npz", labels.astype(np.int64))
    for name, inside in (("render", f"scene-0002-{token}"), ("gaussians", token)):
        (folder / name).mkdir(exist_ok=True)
        np.savez_compressed(folder / name / f"{inside}.npz", means=np.zeros((3, 3), np.float16))
    return folder / f"{token}.npz"


def of_occ3d(folder: Path, token: str, labels: np.ndarray) -> Path:
    path = folder / "scene-0002" / token / "labels.npz"
    path.parent.mkdir(parents=True)
    mask = np.zeros(labels.shape, np.uint8)
    np.savez_compressed(path, semantics=labels, mask_lidar=mask, mask_camera=mask)
    return path


WRITERS: dict[str, Write] = {
    "ours": of_ours,
    "sparseocc": of_sparseocc,
    "gaussianocc": of_gaussianocc,
    "gaussianflowocc": of_gaussianflowocc,
    "occ3d": of_occ3d,
}


def written(folder: Path, write: Write, frames: OccupancyFrames[Any]) -> list[Path]:
    folder.mkdir()
    return [write(folder, token, labels) for token, labels in guesses(frames).items()]


def record_in(tmp_path: Path, pattern: str = "scores/*/*/*.json") -> ScoreRecord:
    (path,) = (tmp_path / "results").glob(pattern)
    return score_records.load(path)


def evaluated(frames: OccupancyFrames[Any]) -> OccupancyMetric:
    """What a cell's evaluation says of the same guesses."""
    both = [name for name in METRICS.names() if METRICS.load(name).mask in frames.other_masks(0)]
    metric = OccupancyMetric(
        frames.grid, rays=frames.has_ray_origins, others=counted(both), masks=masks(both), mask_of=frames.other_masks
    )
    for number, labels in enumerate(guesses(frames).values()):
        metric.process({"batch": frames[number]}, [{"labels": torch.from_numpy(labels)}])
    metric.evaluate(len(frames))
    return metric


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gets_the_evaluators_numbers(command: Command, world: Path, tmp_path: Path, name: str) -> None:
    frames = reader("occ3d")(world, "val")
    written(tmp_path / "made", WRITERS[name], frames)
    code, out, err = command(tmp_path / "made", world)
    assert (code, err) == (0, "")
    found, expected = record_in(tmp_path), evaluated(frames).last
    assert expected is not None and len(expected.metrics) >= 9
    assert {key for key in expected.metrics if key.endswith("_camera_and_lidar_mask")} == {
        "mIoU_occ3d_camera_and_lidar_mask",
        "mIoU_15_classes_all_voxels_camera_and_lidar_mask",
    }
    for key, value in expected.metrics.items():
        assert found.metrics[key] == value, key
    for key, values in expected.per_class.items():
        assert found.per_class[key] == values and len(values) > 1
    assert found.absent == {**expected.absent, **{key: found.absent[key] for key in found.absent if "mask" in key}}
    assert (found.frames, found.of, found.subset) == (3, 3, "")
    assert found.source == ("table_x toy row" if name == "ours" else "")
    for key, value in found.metrics.items():
        assert f"{value:7.2f}  {found.names[key]}\n" in out
    # The same class ids have the same fingerprint, whatever holds them.
    alike = tmp_path / "alike"
    written(alike, of_sparseocc, frames)
    assert command(alike, world)[0] == 0
    assert record_in(tmp_path, "scores/*/*/alike*.json").predictions_fingerprint == found.predictions_fingerprint


def test_every_protocol_by_hand(command: Command, world: Path, tmp_path: Path) -> None:
    frames = reader("occ3d")(world, "val")
    written(tmp_path / "made", of_sparseocc, frames)
    assert command(tmp_path / "made", world)[0] == 0
    metrics = record_in(tmp_path).metrics
    true, guess, camera, lidar = [], [], [], []
    for number, labels in enumerate(guesses(frames).values()):
        arrays = np.load(world / "gts" / "scene-0002" / frames.names(number)[0] / "labels.npz")
        true.append(arrays["semantics"].ravel())
        guess.append(labels.ravel())
        camera.append(arrays["mask_camera"].ravel() > 0)
        lidar.append(arrays["mask_lidar"].ravel() > 0)
    t, g, c, both = (np.concatenate(part) for part in (true, guess, camera, lidar))
    both = both & c
    masks = {"": c, "_camera_and_lidar_mask": both, "_no_mask": np.ones_like(c)}
    assert len({int(mask.sum()) for mask in masks.values()}) == 3
    for suffix, mask in masks.items():

        def iou(ids: list[int], counted: np.ndarray) -> list[float]:
            pairs = [((t == i)[counted], (g == i)[counted]) for i in ids]
            return [100 * (a & b).sum() / (a | b).sum() for a, b in pairs if a.any()]

        fifteen = [i for i in range(17) if i not in (0, 12)]
        taught = mask & ~np.isin(t, (0, 12))
        every = iou(list(range(17)), mask)
        assert len(every) == 3
        assert metrics[f"mIoU_occ3d{suffix}"] == pytest.approx(np.mean(every))
        assert metrics[f"mIoU{suffix}"] == pytest.approx((sum(every) + 100 * (17 - len(every))) / 17)
        assert metrics[f"mIoU_15_classes{suffix}"] == pytest.approx(np.mean(iou(fifteen, taught)))
        assert metrics[f"mIoU_15_classes_all_voxels{suffix}"] == pytest.approx(np.mean(iou(fifteen, mask)))
        for key, scored in (("IoU", mask), ("IoU_15_classes", taught)):
            a, b = (t != 17)[scored], (g != 17)[scored]
            assert metrics[f"{key}{suffix}"] == pytest.approx(100 * (a & b).sum() / (a | b).sum())
    names = record_in(tmp_path).names
    assert len(set(names.values())) == len(names) == len(metrics) == 3 * 6 + 5, "every number has a name of its own"
    assert "RayIoU over 15 classes, mean of 1, 2 and 4 m" in names.values()


def test_surroundoccs_own_files(command: Command, tmp_path: Path) -> None:
    root = surroundocc_layout.write_layout(tmp_path / "data")
    frames = reader("surroundocc")(root, "val")
    ((_, labels),) = guesses(frames).items()
    at = np.argwhere(labels != frames.grid.empty)
    metres = (at + 0.5).astype(np.float32) * np.float32(0.5) + np.array([-50, -50, -5], np.float32)
    folder = tmp_path / "visual_dir" / f"{frames.names(0)[1]}."  # as its code cuts the label's name
    folder.mkdir(parents=True)
    np.save(folder / "pred.npy", np.concatenate([metres, labels[tuple(at.T)][:, None]], axis=1))
    (folder / "CAM_FRONT.jpg").touch()
    code, out, err = command(tmp_path / "visual_dir", root, dataset="surroundocc")
    assert (code, err) == (0, "")
    found, expected = record_in(tmp_path), evaluated(frames).last
    assert expected is not None
    assert found.metrics == expected.metrics and "RayIoU" not in found.metrics
    assert "mIoU over 16 classes, voxels with a known label" in out


def test_kittis_pickles(command: Command, tmp_path: Path) -> None:
    root = kitti360_layout.write_layout(tmp_path / "data", depth=False)
    frames = reader("kitti360")(root, "val", image=ImageTransform(kitti360_layout.WIDTH, kitti360_layout.HEIGHT))
    ((token, labels),) = guesses(frames).items()
    drive, _, name = token.rpartition("/")
    for system, key, folder in (("symphonies", "pred", ""), ("monoscene", "y_pred", drive)):
        place = tmp_path / system / folder
        place.mkdir(parents=True)
        content = {key: labels.astype(np.uint16), "target": labels.astype(np.uint16), "cam_K": np.eye(3)}
        (place / f"{name}.pkl").write_bytes(pickle.dumps(content))
        code, _, err = command(tmp_path / system, root, "--split", "val", dataset="kitti360")
        assert (code, err) == (0, "")
        expected = evaluated(frames).last
        assert expected is not None and record_in(tmp_path, f"scores/*/*/{system}*.json").metrics == expected.metrics
        (place / f"{name}.pkl").write_bytes(pickle.dumps({key: os.getcwd}))  # names something that could run
        code, _, err = command(tmp_path / system, root, "--split", "val", dataset="kitti360")
        assert code == 2 and "1 unreadable" in err and "refused" in err


def test_a_cells_predictions_get_the_cells_numbers(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiments.tables, "__path__", [*experiments.tables.__path__, TABLES])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    cell = ["table_tiny", "--row", "prior", "--renderer", "cpu", "--preset", "toy", "--seed", "0"]
    assert run.main(cell) == 0
    assert predict.main([*cell, "--index", "0", "1", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    code, out, err = command(tmp_path / "out", plan.toy_data(load_table("table_tiny"), "toy"))
    assert (code, err) == (0, "")
    of_cell = json.loads((tmp_path / "results/table_tiny/toy/prior--cpu--seed0.json").read_text())
    found = record_in(tmp_path)
    shared = found.metrics.keys() & of_cell["metrics"].keys()
    assert {"mIoU", "IoU", "mIoU_occ3d", "RayIoU", "RayIoU@1", "RayIoU@2", "RayIoU@4"} <= shared
    assert {key: found.metrics[key] for key in shared} == {key: of_cell["metrics"][key] for key in shared}
    assert found.source == "table_tiny toy prior--cpu--seed0"
    assert found.voxel_size == 1.6 and "voxels of 1.6 m, the data set's have 0.4 m: comparable with no published number" in out


Spoil = Callable[[list[Path]], None]


def spoil_grid(paths: list[Path]) -> None:
    for path in paths[:2]:
        np.savez(path, pred=np.zeros((16, 200, 200), np.uint8))


def spoil_format(paths: list[Path]) -> None:
    np.savez(paths[1], np.full((200, 200, 16), 17))


MISTAKES: dict[str, tuple[Spoil, list[str]]] = {
    "missing": (lambda paths: [p.unlink() for p in paths[:2]], ["2 missing: scene-0002-00, scene-0002-01;", "--subset FILE"]),
    "of an unknown frame": (
        lambda paths: shutil.copy(paths[0], paths[0].with_name("nobody.npz")),
        ["1 of no frame of val: nobody.npz"],
    ),
    "of another split": (
        lambda paths: paths[0].rename(paths[0].with_name("scene-0001-00.npz")),
        ["1 of no frame of val: scene-0001-00.npz", "1 missing: scene-0002-00"],
    ),
    "of another grid": (spoil_grid, ["2 of another grid: made/scene-0002-00.npz (it is [16, 200, 200], the data set's grid is"]),
    "unreadable": (
        lambda paths: paths[2].write_bytes(b"PK\x03\x04"),
        ["1 unreadable: made/scene-0002-02.npz", "1 frames", "2 of 3"],
    ),
    "empty": (lambda paths: paths[2].write_bytes(b""), ["1 unreadable: made/scene-0002-02.npz"]),
    "objects": (
        lambda paths: np.savez(paths[2], pred=np.array([{}], object)),
        ["1 unreadable", "objects and pickles are not read"],
    ),
    "too high": (
        lambda paths: np.savez(paths[2], pred=np.full((200, 200, 16), 18)),
        ["1 with other class ids: made/scene-0002-02.npz (it holds 18, the classes are 0..17)"],
    ),
    "negative": (lambda paths: np.savez(paths[2], pred=np.full((200, 200, 16), -1)), ["it holds -1, the classes are"]),
    "not whole": (lambda paths: np.savez(paths[2], pred=np.full((200, 200, 16), 0.5)), ["it holds 0.5, the classes are"]),
    "logits": (lambda paths: np.savez(paths[2], pred=np.zeros((200, 200, 16, 18), np.float16)), ["1 of another grid", "16, 18]"]),
    "of no format": (
        lambda paths: np.savez(paths[2], occ=np.zeros(3)),
        ["1 of another format", "none of 'pred', 'arr_0'", "'occ'"],
    ),
    "of two formats": (
        spoil_format,
        ["1 of another format: made/scene-0002-01.npz (it is npz with 'arr_0'", "others are npz with"],
    ),
    "with two arrays": (
        lambda paths: np.savez(paths[2], pred=np.zeros(3), arr_0=np.zeros(3)),
        ["1 of another format", "both 'pred' and 'arr_0'"],
    ),
}


@pytest.mark.parametrize(("spoil", "parts"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_is_wrong_with_files_is_one_line(
    command: Command, world: Path, tmp_path: Path, spoil: Spoil, parts: list[str]
) -> None:
    spoil(written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val")))
    code, _, err = command(tmp_path / "made", world)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        if part != "1 frames":
            assert part in err, err
    assert not list((tmp_path / "results").rglob("*.json"))


def test_what_is_wrong_with_our_files_is_one_line(command: Command, world: Path, tmp_path: Path) -> None:
    frames = reader("occ3d")(world, "val")
    paths = written(tmp_path / "made", of_ours, frames)
    shutil.copy(paths[0], tmp_path / "made" / "again.npz")
    paths[2].write_bytes(b"cut off")
    code, _, err = command(tmp_path / "made", world)
    assert code == 2 and err.count("\n") == 1
    for part in (
        "1 doubled: scene-0002-00 (again.npz and val_00000.npz)",
        "1 unreadable: made/val_00002.npz",
        "1 missing: scene-0002-02",
    ):
        assert part in err, err
    code, _, err = command(tmp_path / "made", world, dataset="surroundocc")
    assert code == 2 and "which is none of surroundocc" in err and "--dataset" in err


def test_many_mistakes_are_counted_and_the_first_named(command: Command, world: Path, tmp_path: Path) -> None:
    paths = written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val"))
    for number in range(9):
        shutil.copy(paths[0], tmp_path / "made" / f"other{number}.npz")
    code, _, err = command(tmp_path / "made", world)
    assert code == 2 and "9 of no frame of val: other0.npz, other1.npz, other2.npz, other3.npz, other4.npz and 4 more" in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--split", "vall"], ["unknown split 'vall'", "train, val"]),
        (["--split", "test"], ["unknown split 'test'"]),
        (["--subset", "gone.txt"], ["--subset gone.txt cannot be read (No such file"]),
        (["--workers", "0"], ["--workers", "--help"]),
        (["--dataset", "occ3"], ["unknown data set 'occ3'", "did you mean 'occ3d'"]),
        (["--data-root", "nowhere"], ["data root nowhere is not a folder"]),
    ],
)
def test_a_mistake_of_the_command_is_one_line(
    command: Command, world: Path, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val"))
    code, _, err = command(tmp_path / "made", world, *arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err, err


def test_folders_without_predictions(command: Command, world: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for folder, part in ((tmp_path / "gone", "is not a folder"), (tmp_path / "none", "holds no predictions")):
        code, _, err = command(folder, world)
        assert code == 2 and part in err and str(folder) in err
    written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val"))
    assert score.main([str(tmp_path / "made"), "--dataset", "occ3d"]) == 2


def test_a_label_that_cannot_be_read_is_named(command: Command, world: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(world, root)
    written(tmp_path / "made", of_sparseocc, reader("occ3d")(root, "val"))
    labels = sorted(root.glob("gts/scene-0002/*/labels.npz"))
    labels[0].unlink()
    arrays = dict(np.load(labels[1]))
    del arrays["mask_lidar"]
    np.savez(labels[1], **arrays)
    code, _, err = command(tmp_path / "made", root)
    assert code == 2 and err.count("\n") == 1 and "2 without a readable label" in err
    assert f"label {labels[0]} is missing" in err and "mask_lidar" in err and "1 of 3 frames are scored and kept" in err


def test_a_subset_is_scored_by_naming_it(command: Command, world: Path, tmp_path: Path) -> None:
    frames = reader("occ3d")(world, "val")
    paths = written(tmp_path / "made", of_sparseocc, frames)
    paths[1].unlink()
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("scene-0002-02\n\n")
    code, out, err = command(tmp_path / "made", world, "--subset", chosen)
    assert (code, err) == (0, "")
    assert "1 of the 3 frames of val, those that chosen.txt names" in out and "1 files of other frames are left out" in out
    found = record_in(tmp_path)
    labels, mask = frames.labels(2)
    guess = guesses(frames)["scene-0002-02"]
    counts = sample_counts(guess, labels, mask, frames.grid, ray_origins=frames.meta(2)["ray_origins"])
    expected = evaluate([counts], frames.grid.class_names, frames.grid.empty)
    assert {key: found.metrics[key] for key in expected.metrics} == expected.metrics
    assert (found.frames, found.of, found.subset) == (1, 3, "chosen.txt")
    for text, part in (
        ("scene-0002-09\nscene-0002-02", "1 no frame of val: scene-0002-09"),
        ("scene-0002-02\nscene-0002-02", "1 doubled: scene-0002-02"),
        ("scene-0002-01", "1 missing: scene-0002-01"),
        ("\n", "names no frame"),
    ):
        chosen.write_text(text)
        code, _, err = command(tmp_path / "made", world, "--subset", chosen)
        assert code == 2 and part in err, err


def test_class_ids_of_another_data_set_are_told(command: Command, world: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    for token, labels in guesses(reader("occ3d")(world, "val")).items():
        of_sparseocc(tmp_path / "made", token, np.where(labels == 17, 16, labels))
    code, out, _ = command(tmp_path / "made", world)
    assert code == 0 and "in 3 of 3 frames most voxels are predicted to be vegetation (16), not free (17)" in out
    assert any("class ids of another data set" in remark for remark in record_in(tmp_path).remarks)


def plain(record: ScoreRecord) -> dict[str, Any]:
    """Without what differs between any two calls."""
    return record.model_dump(exclude={"command", "started", "seconds", "hardware"})


def started(folder: Path, root: Path, results: Path, *words: str) -> subprocess.Popen[str]:
    """The command in a process of its own, without the mm stack and any GPU."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(('mmengine', 'mmcv', 'mmdet', 'mmdet3d', 'mlflow'));"
        "from experiments.score import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, str(folder), "--dataset", "occ3d", "--data-root", str(root), "--results", str(results)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *words], env=environment, stdout=pipe, stderr=pipe, text=True)


def test_two_workers_give_the_bytes_of_one(command: Command, world: Path, tmp_path: Path) -> None:
    written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val"))
    assert command(tmp_path / "made", world)[0] == 0
    process = started(tmp_path / "made", world, tmp_path / "two", "--workers", "2")
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    (one,), (two,) = ((tmp_path / where / "scores").rglob("*.jsonl") for where in ("results", "two"))
    assert one.read_bytes() == two.read_bytes() and one.name == two.name
    alone, together = (score_records.load(path.with_suffix(".json")) for path in (one, two))
    assert plain(alone) == plain(together)


def test_a_killed_scoring_goes_on(command: Command, world: Path, tmp_path: Path) -> None:
    paths = written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val"))
    assert command(tmp_path / "made", world)[0] == 0
    (notes,) = (tmp_path / "results").rglob("*.jsonl")
    whole, undisturbed = notes.read_bytes(), record_in(tmp_path)
    shutil.rmtree(tmp_path / "results")
    aside = paths[2].rename(tmp_path / "aside.npz")
    os.mkfifo(paths[2])  # what reads it waits for somebody who writes: there the process is killed
    process = started(tmp_path / "made", world, tmp_path / "results", "--workers", "1")
    for _ in range(60_000):
        if notes.is_file() and notes.read_bytes().count(b"\n") == 3:  # the heading and two frames
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "results").rglob("*.json")), "no record of half a scoring"
    with notes.open("ab") as file:
        file.write(b'{"frame": 2, "fingerpr')  # what a kill in the middle of a line leaves
    paths[2].unlink()
    aside.rename(paths[2])
    code, out, err = command(tmp_path / "made", world)
    assert (code, err) == (0, "") and "2 of 3 frames were scored earlier" in out
    assert plain(record_in(tmp_path)) == plain(undisturbed)
    assert [line for line in notes.read_bytes().splitlines() if line.endswith(b"}")] == whole.splitlines()


def test_interrupted_it_keeps_what_was_scored(
    command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val"))
    real = scored_frames.ScoredFrames.__getitem__

    def interrupted(frames: scored_frames.ScoredFrames, number: int) -> scored_frames.Outcome:
        if number == 1:
            raise KeyboardInterrupt
        return real(frames, number)

    monkeypatch.setattr(scored_frames.ScoredFrames, "__getitem__", interrupted)
    code, _, err = command(tmp_path / "made", world)
    assert code == 130 and "the same command goes on from there" in err and err.count("\n") == 1
    monkeypatch.setattr(scored_frames.ScoredFrames, "__getitem__", real)
    code, out, _ = command(tmp_path / "made", world)
    assert code == 0 and "1 of 3 frames were scored earlier" in out


def test_only_what_changed_is_scored_again(command: Command, world: Path, tmp_path: Path) -> None:
    paths = written(tmp_path / "made", of_sparseocc, reader("occ3d")(world, "val"))
    assert command(tmp_path / "made", world)[0] == 0
    before = record_in(tmp_path)
    assert "3 of 3 frames were scored earlier" in command(tmp_path / "made", world)[1]
    assert plain(record_in(tmp_path)) == plain(before)
    os.utime(paths[0], ns=(1, 1))
    (notes,) = (tmp_path / "results").rglob("*.jsonl")
    lines = notes.read_text().splitlines()
    damaged = json.loads(lines[2])
    damaged["found"]["counts"]["rays"] = damaged["found"]["counts"]["rays"][:4]
    notes.write_text("\n".join((*lines[:2], json.dumps(damaged), lines[3])) + "\n")
    code, out, _ = command(tmp_path / "made", world)
    assert code == 0 and "1 of 3 frames were scored earlier" in out
    assert plain(record_in(tmp_path)) == plain(before)
    np.savez(paths[1], pred=np.full((200, 200, 16), 17))
    assert command(tmp_path / "made", world)[0] == 0
    after = record_in(tmp_path)
    assert after.metrics["IoU"] < before.metrics["IoU"] and after.predictions_fingerprint != before.predictions_fingerprint


def test_real_labels_score_everything_against_themselves(command: Command, real_frames: Path, tmp_path: Path) -> None:
    frames = reader("occ3d")(real_frames, "val")
    (tmp_path / "made").mkdir()
    for number in range(len(frames)):
        of_occ3d(tmp_path / "made", frames.names(number)[0], frames.labels(number)[0])
    code, _, err = command(tmp_path / "made", real_frames)
    assert (code, err) == (0, "")
    found = record_in(tmp_path)
    assert set(found.metrics.values()) == {100.0} and len(found.metrics) == 3 * 6 + 5
    for name in ("voxels", "voxels camera and lidar mask", "voxels no mask"):
        matrix = np.array(found.counts[name])
        assert matrix.sum() == np.trace(matrix) > 1000
    assert np.array(found.counts["voxels no mask"]).sum() == len(frames) * 640000
    assert found.remarks == []
