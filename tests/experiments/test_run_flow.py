"""GaussianFlowOcc's row at the command line: what bad files of its labels make of a run, and what it takes as it is."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_run_training import Command, command_in

from experiments import data, records, toyworld
from experiments.datasets.layout_pseudo_labels import DEPTH, SEMANTIC, STORED
from experiments.metrics.registry import LIDAR_WAYS, lidar
from experiments.records import Record


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The row, with results below ``tmp_path``."""
    command = command_in(tmp_path, monkeypatch, capsys, "table_tiny_flow")
    return lambda *words: command("--row", "flow", "--preset", "toy", "--renderer", "cpu", *words)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames to learn from and one to be evaluated, with all that is made of them."""
    root = tmp_path_factory.mktemp("world") / "data"
    sizes = toyworld.ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=2, val_frames=1, image_width=192)
    toyworld.ensure_at(sizes, root)
    for name in ("renderocc", "pseudo-toy"):
        assert data.main(["prepare", name, "--data-root", str(root)]) == 0
    return root


def copied(world: Path, folder: Path) -> Path:
    root = folder / "data"
    shutil.copytree(world, root, copy_function=os.link)
    return root


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()  # a link
    path.write_bytes(content)


def as_published(path: Path, change: Callable[[np.ndarray], np.ndarray], kind: str) -> None:
    """The published file in place of a compact one, changed."""
    with np.load(path) as compact:
        shape = compact["classes" if kind == SEMANTIC else "planes"].shape[-2:]
    array = np.ones((6, *shape), np.int8 if kind == SEMANTIC else np.float16)
    path.unlink()
    np.save(path.with_suffix(".npy"), change(array))


def compact(path: Path, **changes: Any) -> None:
    with np.load(path) as file:
        arrays = dict(file) | changes
    path.unlink()
    np.savez_compressed(path, **arrays)


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[2, 5, 7] = value
        return array

    return change


def other_cameras(path: Path) -> None:
    compact(path, cameras=np.array(["CAM_FRONT", "CAM_ABOVE", *STORED[SEMANTIC][2:]]))


Damage = Callable[[Path], object]
DAMAGE: dict[str, tuple[str, Damage, str]] = {
    "classes missing": (SEMANTIC, Path.unlink, "train, views: 2 of 4 files are missing or empty"),
    "depth missing": (DEPTH, Path.unlink, "train, views: 2 of 4 files are missing or empty"),
    "classes truncated": (SEMANTIC, lambda p: rewrite(p, p.read_bytes()[:-200]), "cannot be read"),
    "depth truncated": (DEPTH, lambda p: rewrite(p, p.read_bytes()[:-200]), "cannot be read"),
    "published classes truncated": (
        SEMANTIC,
        lambda p: (as_published(p, lambda a: a, SEMANTIC), os.truncate(p.with_suffix(".npy"), 500)),
        "cannot be read",
    ),
    "classes of five cameras": (SEMANTIC, lambda p: as_published(p, lambda a: a[:5], SEMANTIC), "is of 5 cameras, expected 6"),
    "depth of seven cameras": (DEPTH, lambda p: as_published(p, lambda a: np.concatenate([a, a[:1]]), DEPTH), "is of 7 cameras"),
    "another rig's cameras": (SEMANTIC, other_cameras, "lacks CAM_FRONT_LEFT"),
    "classes at half the size": (
        SEMANTIC,
        lambda p: as_published(p, lambda a: a[:, ::2, ::2], SEMANTIC),
        "is 96x54, its images are",
    ),
    "depth at half the size": (
        DEPTH,
        lambda p: as_published(p, lambda a: a[:, ::2, ::2], DEPTH),
        "is 96x54, its images are 192x108",
    ),
    "classes of another set": (SEMANTIC, lambda p: as_published(p, with_one(17), SEMANTIC), "holds class 17, known: 1..16"),
    "NaN depth": (DEPTH, lambda p: as_published(p, with_one(np.nan), DEPTH), "has NaN or infinite values"),
    "infinite depth": (DEPTH, lambda p: as_published(p, with_one(np.inf), DEPTH), "has NaN or infinite values"),
    "depth behind the camera": (DEPTH, lambda p: as_published(p, with_one(-2), DEPTH), "has a depth of -2 m"),
    "depth in whole numbers": (DEPTH, lambda p: as_published(p, lambda a: a.astype(np.int16), DEPTH), "expected floating point"),
    "lidar missing": ("nuscenes/depth_gt", Path.unlink, "val, lidar: 6 of 6 files are missing"),
    "lidar truncated": ("nuscenes/depth_gt", lambda p: rewrite(p, p.read_bytes()[:-5]), "bytes, expected rows of 12"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named_in_one_line(run: Command, world: Path, tmp_path: Path, case: str) -> None:
    folder, damage, said = DAMAGE[case]
    root = copied(world, tmp_path)
    for path in sorted(path for path in (root / folder).rglob("*") if path.is_file()):
        damage(path)
    code, _, err = run("--data-root", str(root))
    assert code in (1, 2) and "Traceback" not in err
    (line, *_) = [line for line in err.splitlines() if said in line] or pytest.fail(err)
    assert line.startswith("error: ") and str(root / folder) in line
    assert not list((tmp_path / "results/table_tiny_flow/toy").glob("*.json"))


def record_of(tmp_path: Path) -> Record:
    (path,) = (tmp_path / "results/table_tiny_flow/toy").glob("flow--cpu--seed0*.json")
    return records.load(path)


@pytest.mark.slow
def test_cameras_in_another_order_are_found_by_name(run: Command, world: Path, tmp_path: Path) -> None:
    """The same losses to the last bit, from files in another order; and a record has all numbers of rendered depth."""
    order = [3, 0, 5, 1, 2, 4]
    found = []
    for name in ("as it is", "in another order"):
        folder = tmp_path / name
        root = copied(world, folder)
        if name != "as it is":
            for path in sorted((root / SEMANTIC).rglob("*.npz")):
                with np.load(path) as file:
                    arrays = dict(file)
                compact(path, cameras=arrays["cameras"][order], classes=arrays["classes"][order])
        code, _, err = run("--data-root", str(root), "--results", str(folder / "results"))
        assert code == 0, err
        found.append(record_of(folder))
    assert found[0].first_losses == found[1].first_losses and found[0].metrics == found[1].metrics
    assert {name for way in LIDAR_WAYS for name in lidar(way)} <= set(found[0].metrics)


@pytest.mark.slow
def test_a_scene_of_one_frame_teaches_by_its_own_moment(run: Command, world: Path, tmp_path: Path) -> None:
    """There is nobody before or after it: moments that there are not teach nothing, and its history is itself."""
    root = copied(world, tmp_path)
    infos = root / "bevdetv2-nuscenes_infos_train.pkl"
    content = pickle.loads(infos.read_bytes())
    content["infos"] = content["infos"][:1]
    rewrite(infos, pickle.dumps(content))
    code, _, err = run("--data-root", str(root))
    assert code == 0, err
    assert all(np.isfinite(value) for losses in record_of(tmp_path).first_losses for value in losses.values())


@pytest.mark.slow
@pytest.mark.parametrize("largest", ["1e-30", "1e-45"])
def test_gaussians_whose_scale_underflows_are_points(run: Command, world: Path, tmp_path: Path, largest: str) -> None:
    """Squares of such scales are 0, and scales themselves may be: they are rendered by the low-pass filter alone, and count in
    voxels as 1e-6 m thin. Losses stay finite, the second one behind a step of the optimizer."""
    code, _, err = run("--data-root", str(world), "--set", f"options.largest_scale={largest}")
    assert code == 0, err
    losses = record_of(tmp_path).first_losses
    assert len(losses) == 2 and all(np.isfinite(value) for one in losses for value in one.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["options.largest_scale=0"], "largest_scale positive, got"),
        (["options.operations=['rect','cross_att']"], "operations must be some of temporal_att"),
        (["options.attributes=['colour']"], "attributes must be some of opacity, scale, rotation"),
        (["options.teaching={'semantic_weight': 0, 'depth_weight': 0}"], "nothing teaches"),
        (["options.moving=['cart']"], "moving: the grid has no class 'cart'"),
    ],
)
def test_options_that_cannot_be_are_refused_beforehand(run: Command, world: Path, words: list[str], said: str) -> None:
    code, _, err = run("--data-root", str(world), "--set", *words, "--dry-run")
    assert code == 2 and "Traceback" not in err
    assert err.startswith("error: --set does not fit row flow: ") and said in err and err.count("\n") == 1, err
