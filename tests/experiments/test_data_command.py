"""``python -m experiments.data``: what is there, what is missing, which frames can be read; it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kitti360_layout
import numpy as np
import occ3d_layout
import pytest
import surroundocc_layout

from experiments import data
from experiments.datasets import layout_kitti360, layouts, verification
from experiments.datasets.layout import PUBLISHED, info_path
from experiments.datasets.registry import DATASETS
from experiments.datasets.unpickle import load_infos

Outcome = tuple[int, str, str]
Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process with notes in ``tmp_path`` -> (exit code, stdout, stderr)."""
    monkeypatch.setenv("OCC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OCC_DATA_ROOT", raising=False)

    def run(*arguments: str | Path) -> Outcome:
        code = data.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def shrink(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setattr(DATASETS.target(name).replace(":", "."), replace(DATASETS.load(name), **fields))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts whose published sizes are those of the fabricated data sets."""
    size = (occ3d_layout.WIDTH, occ3d_layout.HEIGHT)
    frames = {"occ3d": {"train": 3, "val": 3}, "surroundocc": {"train": 3, "val": 1}}
    for name, counts in frames.items():
        shrink(monkeypatch, name, releases={"published": counts}, image_size=size)
    counts, size = {"train": 3, "val": 1, "test": 3}, (kitti360_layout.WIDTH, kitti360_layout.HEIGHT)
    shrink(monkeypatch, "kitti360", releases={"published": counts}, image_size=size)


@pytest.fixture
def occ3d(tmp_path: Path, tiny: None) -> Path:
    return occ3d_layout.write_layout(tmp_path / "occ3d")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """The (split, frame) pairs that are really read, in order."""
    seen: list[tuple[str, int]] = []
    real = verification.FrameChecks._check

    def spied(checks: verification.FrameChecks, number: int) -> None:
        seen.append((checks.frames.split, number))
        real(checks, number)

    monkeypatch.setattr(verification.FrameChecks, "_check", spied)
    yield seen


def a_label(root: Path, frame: int, split: str = "train") -> Path:
    return list(layouts.layout_of("occ3d").frame_files(root, split))[frame][0]


def an_image(root: Path, frame: int, split: str = "train") -> Path:
    return list(layouts.layout_of("occ3d").frame_files(root, split))[frame][1]


def test_status_of_a_complete_data_set(command: Command, occ3d: Path) -> None:
    code, out, err = command("status", "occ3d", "--data-root", occ3d)
    assert (code, err) == (0, "")
    rows = "".join(line for line in out.splitlines() if line.startswith("│"))
    assert rows.count("3 of 3") == 4 and rows.count("18 of 18") == 2  # pickle and labels, then images, of two splits


def test_status_names_the_download_of_every_missing_part(command: Command, occ3d: Path) -> None:
    a_label(occ3d, 0).unlink()
    an_image(occ3d, 2, "val").unlink()
    code, out, _ = command("status", "occ3d", "--data-root", occ3d)
    assert code == 1
    assert "occ3d train, labels: 1 of 3 files are missing" in out and "gts.tar.gz" in out
    assert "occ3d val, images: 1 of 18 files are missing" in out and "nuscenes.org" in out
    assert PUBLISHED not in out  # the pickles are complete


def test_status_where_nothing_is(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("status", "all", "--data-root", tmp_path)
    assert code == 1
    for source in ("RenderOcc publishes", "gts.tar.gz", "GaussianFormer publishes", "SurroundOcc's labels", "nuscenes.org"):
        assert source in out
    assert "0 of 28130" in out and "0 of 6019" in out
    assert out.count("bevdetv2-nuscenes_infos_train.pkl is missing") == 1


def test_verify_reads_the_sample_and_not_twice(command: Command, occ3d: Path, reads: list[tuple[str, int]]) -> None:
    code, out, err = command("verify", "occ3d", "--data-root", occ3d, "--frames", "2")
    assert (code, err) == (0, "")
    assert [split for split, _ in reads] == ["train", "train", "val", "val"]
    assert "occ3d train: 2 of 2 frames read completely and good (0 of them earlier)" in out
    first = list(reads)
    assert command("verify", "occ3d", "--data-root", occ3d, "--frames", "2")[0] == 0
    assert reads == first
    assert command("verify", "occ3d", "--data-root", occ3d, "--all")[0] == 0
    assert sorted(reads) == [(split, number) for split in ("train", "val") for number in range(3)]


def test_the_seed_draws_the_sample(command: Command, occ3d: Path, reads: list[tuple[str, int]]) -> None:
    drawn = set()
    for seed in range(6):
        reads.clear()
        os.environ["OCC_CACHE"] = str(occ3d / f"cache{seed}")  # nothing is noted yet
        assert command("verify", "occ3d", "--data-root", occ3d, "--frames", "1", "--seed", str(seed))[0] == 0
        drawn.add(reads[0][1])
    assert len(drawn) > 1


def test_interrupted_it_goes_on_where_it_was(
    command: Command, occ3d: Path, reads: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spied = verification.FrameChecks._check

    def interrupted(checks: verification.FrameChecks, number: int) -> None:
        if (checks.frames.split, number) == ("train", 2):
            raise KeyboardInterrupt
        spied(checks, number)

    with monkeypatch.context() as patch:
        patch.setattr(verification.FrameChecks, "_check", interrupted)
        code, _, err = command("verify", "occ3d", "--data-root", occ3d, "--all")
    assert code == 130 and "interrupted" in err
    assert reads == [("train", 0), ("train", 1)]
    code, out, _ = command("verify", "occ3d", "--data-root", occ3d, "--all")
    assert code == 0 and "occ3d train: 3 of 3 frames read completely and good (2 of them earlier)" in out
    assert reads[2:] == [("train", 2), ("val", 0), ("val", 1), ("val", 2)]


def test_a_changed_file_or_pickle_is_read_again(command: Command, occ3d: Path, reads: list[tuple[str, int]]) -> None:
    command("verify", "occ3d", "--data-root", occ3d, "--all")
    reads.clear()
    os.utime(an_image(occ3d, 1), ns=(1, 1))
    assert command("verify", "occ3d", "--data-root", occ3d, "--all")[0] == 0
    assert reads == [("train", 1)]
    reads.clear()
    path = info_path(occ3d, "val")
    path.write_bytes(pickle.dumps(load_infos(path) | {"metadata": {"version": "another"}}))
    assert command("verify", "occ3d", "--data-root", occ3d, "--all")[0] == 0
    assert reads == [("val", 0), ("val", 1), ("val", 2)]


def test_a_line_cut_off_by_a_kill_is_not_taken_for_a_note(
    command: Command, occ3d: Path, reads: list[tuple[str, int]], tmp_path: Path
) -> None:
    command("verify", "occ3d", "--data-root", occ3d, "--all")
    reads.clear()
    (notes,) = (tmp_path / "cache" / "verified").glob("occ3d-train-*.jsonl")
    header, *lines = notes.read_text().splitlines()
    assert json.loads(header) == {"dataset": "occ3d", "split": "train", "data_root": str(occ3d)}
    notes.write_text("\n".join([header, *lines])[:-20])
    assert command("verify", "occ3d", "--data-root", occ3d, "--all")[0] == 0
    assert reads == [("train", 2)]
    reads.clear()
    assert command("verify", "occ3d", "--data-root", occ3d, "--all")[0] == 0
    assert reads == []


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def not_an_image(path: Path) -> None:
    path.write_text("<html>")


def smaller(path: Path) -> None:
    import cv2

    cv2.imwrite(str(path), np.zeros((90, 160, 3), np.uint8))


def bad_class(path: Path) -> None:
    arrays = dict(np.load(path))
    arrays["semantics"][0, 0, 0] = 18
    np.savez_compressed(path, **arrays)


def bad_mask(path: Path) -> None:
    arrays = dict(np.load(path))
    arrays["mask_camera"] = arrays["mask_camera"][:100]
    np.savez_compressed(path, **arrays)


DAMAGE: dict[str, tuple[Callable[[Path, int], Path], Callable[[Path], None], str]] = {
    "image cut off": (an_image, cut_off, "is cut off: copy or download it again"),
    "image that is none": (an_image, not_an_image, "cannot be decoded"),
    "image of another size": (an_image, smaller, "160x90"),
    "class out of range": (a_label, bad_class, "holds class 18"),
    "mask of another shape": (a_label, bad_mask, "mask_camera is uint8 [100, 200, 16]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_read_again_once_mended(
    damage: str, command: Command, occ3d: Path, reads: list[tuple[str, int]]
) -> None:
    which, spoil, said = DAMAGE[damage]
    path = which(occ3d, 1)
    good = path.read_bytes()
    spoil(path)
    code, out, err = command("verify", "occ3d", "--data-root", occ3d, "--all")
    assert code == 1 and "1 problem(s)" in err
    assert said in out and str(path.parent) in out
    assert "occ3d train: 2 of 3 frames read completely and good" in out and "1 damaged" in out
    path.write_bytes(good)
    reads.clear()
    assert command("verify", "occ3d", "--data-root", occ3d, "--all")[0] == 0
    assert reads == [("train", 1)]


def test_calibration_that_is_not_finite(command: Command, occ3d: Path) -> None:
    path = info_path(occ3d, "train")
    content = load_infos(path)
    content["infos"][0]["cams"]["CAM_BACK"]["cam_intrinsic"][0, 0] = np.nan
    path.write_bytes(pickle.dumps(content))
    code, out, _ = command("verify", "occ3d", "--data-root", occ3d, "--all")
    assert code == 1 and "calibration of CAM_BACK in frame scene-0001-00 is unusable" in out


def test_missing_files_are_named_up_to_a_limit_with_their_number(
    command: Command, occ3d: Path, reads: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "NAMED", 2)
    for frame in range(3):
        a_label(occ3d, frame).unlink()
    code, out, err = command("verify", "occ3d", "--data-root", occ3d)
    assert code == 1 and "3 problem(s)" in err
    assert "occ3d train: 3 of 3 files are missing (labels): unpack Occ3D's gts.tar.gz" in out
    assert out.count("labels.npz") == 2 and "and 1 more" in out
    assert {split for split, _ in reads} == {"val"}
    assert "occ3d train: 0 of 3 frames read completely" in out and "3 not complete" in out


def test_a_part_of_the_data_set_is_not_the_data_set(command: Command, tmp_path: Path, tiny: None) -> None:
    root = occ3d_layout.write_layout(tmp_path / "small", frames=2)
    code, out, err = command("verify", "occ3d", "--data-root", root)
    assert code == 1 and "2 problem(s)" in err
    assert "bevdetv2-nuscenes_infos_train.pkl lists 2 frames, the published one 3" in out


def test_surroundocc(command: Command, tmp_path: Path, tiny: None) -> None:
    root = surroundocc_layout.write_layout(tmp_path / "surroundocc")
    assert command("status", "surroundocc", "--data-root", root)[0] == 0
    assert command("verify", "surroundocc", "--data-root", root, "--all")[0] == 0
    label = next((root / "surroundocc/samples").glob("*.npy"))
    rows = np.load(label)
    rows[0, 3] = 40
    np.save(label, rows)
    code, out, _ = command("verify", "surroundocc", "--data-root", root, "--all")
    assert code == 1 and f"label {label} holds classes" in out
    assert command("status", "all", "--data-root", root)[0] == 1  # Occ3D is not there


DRIVE = "2013_05_28_drive_0009_sync"


def test_kitti360_from_downloads_to_verified(command: Command, tmp_path: Path, tiny: None, reads: list[tuple[str, int]]) -> None:
    root = kitti360_layout.write_raw(tmp_path / "kitti360")
    code, out, _ = command("status", "kitti360", "--data-root", root)
    assert code == 1 and "kitti360 test, labels: 3 of 3 files are missing" in out
    assert "python -m experiments.data prepare kitti360" in out and "depth:" not in out
    code, out, err = command("prepare", "kitti360", "--data-root", root)
    assert (code, err) == (0, "") and "kitti360 test: 3 labels made, 0 were there, 0 cannot be made" in out
    first = (root / f"preprocess/labels/{DRIVE}/000250_1_1.npy").stat().st_mtime_ns
    code, out, _ = command("prepare", "kitti360", "--data-root", root)
    assert code == 0 and "kitti360 train: 0 labels made, 3 were there" in out
    assert (root / f"preprocess/labels/{DRIVE}/000250_1_1.npy").stat().st_mtime_ns == first
    assert command("status", "kitti360", "--data-root", root)[0] == 0
    code, out, err = command("verify", "kitti360", "--data-root", root, "--all")
    assert (code, err) == (0, "") and "kitti360 test: 3 of 3 frames read completely and good" in out
    reads.clear()
    np.save(root / f"depth/{DRIVE}/000300.npy", np.full((188, 704), np.nan, np.float32))
    code, out, _ = command("verify", "kitti360", "--data-root", root, "--all")
    assert code == 1 and "000300.npy has NaN, infinite or negative values" in out and reads == [("test", 1)]


def listed(root: Path, **frames: int) -> Path:
    """The names by which KITTI-360's frames are listed, so many a split, and nothing else."""
    for split, count in frames.items():
        folder = layout_kitti360.voxel_folder(root, layout_kitti360.drive_name(layout_kitti360.DRIVES[split][0]))
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{5 * number:06d}.bin").touch()
    return root


@pytest.mark.parametrize(
    ("train", "test", "release"),
    [(8483, 2165, "SSCBench's present release"), (8487, 2566, "the data set as SSCBench's README counts it")],
)
def test_kitti360_is_complete_in_either_release(command: Command, tmp_path: Path, train: int, test: int, release: str) -> None:
    root = listed(tmp_path / "kitti360", train=train, val=1812, test=test)
    code, out, _ = command("status", "kitti360", "--data-root", root)
    assert code == 1 and "voxel files" not in out, "only labels and images are missing"
    assert f"kitti360 train: {train} frames, those of {release}" in out and f"{train} of {train}" in out
    assert f"kitti360 test: {test} frames, those of {release}" in out and f"{test} of {test}" in out
    assert "kitti360 val: 1812 frames" not in out, "the same in both"


def test_kitti360_with_another_number_of_frames_is_told_both(command: Command, tmp_path: Path) -> None:
    root = listed(tmp_path / "kitti360", test=2164, val=1811)
    code, out, _ = command("status", "kitti360", "--data-root", root)
    assert code == 1 and "2164 of 2165" in out and "frames, those of" not in out
    both = "SSCBench's present release 2165, the data set as SSCBench's README counts it 2566"
    assert f"kitti360 test, voxel files: the data set's voxel files lists 2164 frames, {both}" in out
    assert "lists 1811 frames, the published one 1812" in out


def test_kitti360_that_is_whole_in_the_second_release(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kitti360_layout.write_layout(tmp_path / "kitti360")
    counts, size = {"train": 3, "val": 1, "test": 3}, (kitti360_layout.WIDTH, kitti360_layout.HEIGHT)
    releases = {"today's": counts | {"test": 2}, "the first": counts}
    shrink(monkeypatch, "kitti360", releases=releases, image_size=size)
    for action in ("status", "verify"):
        code, out, err = command(action, "kitti360", "--data-root", root)
        assert (code, err) == (0, "") and "kitti360 test: 3 frames, those of the first" in out and "today" not in out


def test_kitti360_without_depth_is_complete_for_most_rows(command: Command, tmp_path: Path, tiny: None) -> None:
    root = kitti360_layout.write_raw(tmp_path / "kitti360", depth=False)
    code, out, _ = command("prepare", "kitti360", "--data-root", root)
    assert code == 0 and "test, depth: 3 of 3 files are missing: estimate it with MobileStereoNet" in out
    code, out, _ = command("status", "kitti360", "--data-root", root)
    assert code == 0 and "kitti360 test, depth: 3 of 3 files are missing" in out and "only read by Symphonies" in out
    code, out, err = command("verify", "kitti360", "--data-root", root, "--frames", "1")
    assert (code, err) == (0, "")


def test_preparing_names_what_cannot_be_made_and_makes_the_rest(command: Command, tmp_path: Path, tiny: None) -> None:
    root = kitti360_layout.write_raw(tmp_path / "kitti360")
    label = root / f"data_2d_raw/{DRIVE}/voxels/000300.label"
    whole = label.read_bytes()
    label.write_bytes(whole[:1000])
    code, out, _ = command("prepare", "kitti360", "--data-root", root)
    assert code == 1 and f"{label} has 1000 bytes, expected 4194304" in out
    assert "kitti360 test: 2 labels made, 0 were there, 1 cannot be made" in out
    label.write_bytes(whole)
    code, out, _ = command("prepare", "kitti360", "--data-root", root)
    assert code == 0 and "kitti360 test: 1 labels made, 2 were there, 0 cannot be made" in out


def test_labels_of_another_class_map_are_found_and_made_anew(command: Command, tmp_path: Path, tiny: None) -> None:
    root = kitti360_layout.write_layout(tmp_path / "kitti360")
    label = root / f"preprocess/labels/{DRIVE}/000300_1_1.npy"
    right = np.load(label)
    np.save(label, np.where(right == 1, 2, right).astype(np.uint8))
    code, out, _ = command("verify", "kitti360", "--data-root", root, "--all")
    assert code == 1 and f"label {label} is not that of its raw voxels" in out and "has class 2 where the raw voxels say 1" in out
    assert command("prepare", "kitti360", "--data-root", root, "--again")[0] == 0
    assert np.array_equal(np.load(label), right)
    assert command("verify", "kitti360", "--data-root", root, "--all")[0] == 0


def test_images_named_by_another_machines_paths(command: Command, occ3d: Path) -> None:
    path = info_path(occ3d, "train")
    content = load_infos(path)
    for info in content["infos"]:
        for camera in info["cams"].values():
            camera["data_path"] = camera["data_path"].replace("./data/nuscenes", "/home/somebody/nuscenes")
    path.write_bytes(pickle.dumps(content))
    assert command("status", "occ3d", "--data-root", occ3d)[0] == 0  # found by the ends of their paths
    an_image(occ3d, 0).unlink()
    code, out, _ = command("status", "occ3d", "--data-root", occ3d)
    assert code == 1 and "1 of 18 files are missing; /home/somebody/nuscenes/samples/" in out
    assert "outside of the data root" in out and "nuscenes/samples" in out


def test_labels_with_another_data_sets_ids_are_known(command: Command, occ3d: Path) -> None:
    path = next((occ3d / "gts").glob("*/*/labels.npz"))
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"semantics": np.zeros_like(arrays["semantics"])})
    code, out, _ = command("verify", "occ3d", "--data-root", occ3d, "--all")
    assert code == 1 and "100 % others (0) and 0 % free (17): it has the class ids of another data set" in out


def test_one_data_sets_fault_does_not_end_the_others(command: Command, occ3d: Path) -> None:
    path = info_path(occ3d, "train")
    content = load_infos(path)
    del content["infos"][0]["scene_name"]
    path.write_bytes(pickle.dumps(content))
    code, out, err = command("verify", "all", "--data-root", occ3d, "--all")
    assert code == 1 and "occ3d train: " in out and "has no 'scene_name'" in out
    assert "occ3d val: 3 of 3 frames read completely and good" in out and "surroundocc val" in out and "kitti360 test" in out


def test_a_name_stands_for_all_that_is_made_of_a_data_set(command: Command, occ3d: Path) -> None:
    code, out, _ = command("prepare", "ddad", "--data-root", occ3d)
    assert code == 0 and "ddad: nothing to prepare, but if it is named: prepare gaussianocc" in out
    code, out, _ = command("prepare", "surroundocc", "--data-root", occ3d)
    assert code == 1 and "renderocc train: no data set pickle " in out and "GaussianFormer" in out
    code, out, _ = command("prepare", "occ3d", "--data-root", occ3d)
    assert code == 1 and "renderocc train: " in out and "lidar" in out, "this one has no lidar"
    code, everything, _ = command("prepare", "all", "--data-root", occ3d)
    assert code == 1 and f"kitti360: not below {occ3d}" in everything and "renderocc train: " in everything
    code, out, _ = command("prepare", "kitti360", "--data-root", occ3d)
    assert code == 1 and "kitti360 test" in out and "SSCBench publishes KITTI-360's voxels" in out


def test_a_cut_off_png_is_found(command: Command, tmp_path: Path, tiny: None) -> None:
    root = kitti360_layout.write_layout(tmp_path / "kitti360")
    image = root / f"data_2d_raw/{DRIVE}/image_00/data_rect/000250.png"
    image.write_bytes(image.read_bytes()[:-6])
    code, out, _ = command("verify", "kitti360", "--data-root", root, "--all")
    assert code == 1 and "000250.png" in out and ("cut off" in out or "cannot be decoded" in out)


def test_many_frames_are_read_by_several_processes(command: Command, occ3d: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_FEW", 1)
    cut_off(an_image(occ3d, 0))
    code, out, _ = command("verify", "occ3d", "--data-root", occ3d, "--all")
    assert code == 1 and "is cut off" in out
    assert "occ3d train: 2 of 3 frames read completely and good" in out
    assert "occ3d val: 3 of 3 frames read completely and good" in out


MISTAKES: dict[str, tuple[list[str], list[str]]] = {
    "unknown data set": (["status", "occ4d", "--data-root", "."], ["unknown data set 'occ4d'", "occ3d, surroundocc"]),
    "no data root": (["verify", "occ3d"], ["no data root", "--data-root or OCC_DATA_ROOT"]),
    "data root that is not there": (["status", "all", "--data-root", "/nowhere"], ["data root /nowhere is not a folder"]),
    "no name": (["verify"], ["Missing argument", "--help"]),
    "unknown option": (["verify", "occ3d", "--frame", "3"], ["--frame"]),
    "no frames": (["verify", "occ3d", "--frames", "0", "--data-root", "."], ["--frames"]),
    "unknown command": (["download", "occ3d"], ["download"]),
    "nothing to prepare from": (
        ["prepare", "renderoc", "--data-root", "."],
        ["'renderoc'; did you mean 'renderocc'?", "kitti360"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake: str, command: Command) -> None:
    arguments, said = MISTAKES[mistake]
    code, _, err = command(*arguments)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    for part in said:
        assert part in err


def test_the_data_root_of_the_environment(command: Command, occ3d: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_DATA_ROOT", str(occ3d))
    assert command("status", "occ3d")[0] == 0


def test_real_frames(command: Command, real_frames: Path) -> None:
    """Real images and labels read completely; three frames are not the published split."""
    code, out, err = command("verify", "all", "--data-root", real_frames, "--all")
    assert code == 1 and "9 problem(s)" in err  # the counts of six splits, the three of KITTI-360, and nothing else
    for split in ("occ3d train", "occ3d val", "surroundocc train", "surroundocc val"):
        assert f"{split}: 3 of 3 frames read completely and good" in out
