"""Pictures of saved predictions: geometry of the voxel view by hand, files, one-line errors."""

from __future__ import annotations

import builtins
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grids import occ3d_grid, surroundocc_grid
from PIL import Image

from baselines.interface import OccupancyGrid
from experiments.cell.figures import palette
from experiments.predictions import SavedPrediction, save
from reports import visualise, voxel_view
from reports.voxel_view import Viewpoint

GRID = occ3d_grid(4)
CAR, TREE = GRID.class_names.index("car"), GRID.class_names.index("vegetation")
# A camera at the ego frame's origin that looks forward, 90 degrees wide.
FRONT = Viewpoint(
    np.array([[20.0, 0, 20], [0, 20, 12], [0, 0, 1]]),
    np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]),
    40,
    24,
)


def nothing(grid: OccupancyGrid = GRID) -> np.ndarray:
    return np.full(grid.shape, grid.empty, dtype=np.uint8)


def voxel(grid: OccupancyGrid, *point: float) -> tuple[int, ...]:
    return tuple(int((p - low) // grid.voxel_size) for p, low in zip(point, grid.lower, strict=True))


def is_class(pixel: np.ndarray, index: int) -> bool:
    """Whether a pixel has the hue of a class, however bright."""
    colour = palette(GRID)[index].astype(float)
    return bool(np.allclose(pixel / pixel.max(), colour / colour.max(), atol=0.05))


def frame(index: int = 0, scene: str = "scene-1", images: tuple[str, str] = ("gone/a.jpg", "gone/b.jpg")) -> SavedPrediction:
    generator = np.random.default_rng(index)
    true = nothing()
    true[:, :, 0] = GRID.class_names.index("driveable_surface")
    predicted = true.copy()
    predicted[30:33, 20:24, 1:3] = CAR
    true[31:34, 20:24, 1:3] = CAR
    true[0, 0, 0] = GRID.ignore
    return SavedPrediction(
        grid=GRID,
        predicted=predicted,
        true=true,
        camera_mask=generator.random(GRID.shape) > 0.5,
        intrinsics=np.stack([FRONT.intrinsics] * 2),
        reference_to_camera=np.stack([FRONT.pose] * 2),
        camera_size=(FRONT.width, FRONT.height),
        projection=np.stack([np.eye(4)] * 2),
        camera_names=("CAM_FRONT", "CAM_BACK"),
        image_paths=images,
        token=f"token{index}",
        scene=scene,
        index=index,
        source="table toy small",
    )


def test_a_voxel_is_drawn_where_the_camera_sees_it_and_hides_what_is_behind() -> None:
    labels = nothing()
    labels[voxel(GRID, 10.0, 0.5, 1.0)] = CAR
    labels[voxel(GRID, 20.0, 0.5, 1.0)] = TREE
    picture = voxel_view.draw(labels, GRID, FRONT)
    assert picture.shape == (24, 40, 3)
    # The face towards the camera: x = 9.6, y and z in 0..1.6 and 0.6..2.2 -> left of and above the principal point.
    [column, row] = FRONT.project(np.array([[9.6, 0.8, 1.4]]))[0]
    assert column < 20 and row < 12
    assert is_class(picture[int(row), int(column)], CAR)
    coloured = (picture != 255).any(axis=-1)
    assert coloured[:, :22].any() and not coloured[:, 22:].any(), "nothing stands to the right"
    assert not any(is_class(p, TREE) for p in picture[coloured]), "the tree is behind the car"


def test_unknown_voxels_and_the_one_around_the_camera_are_not_drawn() -> None:
    labels = nothing()
    labels[voxel(GRID, 10.0, 0.5, 0.5)] = GRID.ignore
    labels[voxel(GRID, 0.1, 0.1, 0.1)] = CAR
    assert (voxel_view.draw(labels, GRID, FRONT) == 255).all()


@pytest.mark.parametrize(
    "grid, point", [(GRID, (35.0, 30.0, 0.0)), (surroundocc_grid(4), (-40.0, 45.0, 0.0))], ids=["ego", "lidar"]
)
def test_from_above_forward_is_up_and_left_is_left(grid: OccupancyGrid, point: tuple[float, ...]) -> None:
    labels = nothing(grid)
    labels[voxel(grid, *point)] = 4
    for view in (voxel_view.from_above(grid, 100), voxel_view.from_behind(grid, 150, 100)):
        rows, columns = (voxel_view.draw(labels, grid, view) != 255).any(axis=-1).nonzero()
        assert len(rows) and rows.max() < 50 and columns.max() < view.width / 2
    [pixel] = voxel_view.from_above(grid, 100).project(np.array([point]))
    assert abs(pixel[0] - columns.mean()) < 60 and pixel[1] < 20


def test_stills_and_an_animation_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (80, 48), (10, 200, 30)).save(tmp_path / "input.png")
    for index in (1, 0):
        there = (str(tmp_path / "input.png"), "gone/b.jpg")
        save(frame(index, images=there), tmp_path / "in" / f"val_{index}.npz")
    save(frame(7, scene="scene/2"), tmp_path / "in" / "val_7.npz")
    out = tmp_path / "out"
    code = visualise.main([str(tmp_path / "in"), "--out", str(out), "--animate", "--fps", "4", "--width", "600"])
    said, err = capsys.readouterr()
    assert code == 0, err
    assert "4 input images are not where they were" in said
    stills = sorted(path.name for path in out.glob("*.png"))
    assert stills == ["val_0.png", "val_1.png", "val_7.png"]
    picture = np.asarray(Image.open(out / "val_0.png"))
    assert picture.shape[1] == 600
    assert (picture == (10, 200, 30)).all(axis=-1).sum() > 1000, "the input image is in it"
    road = palette(GRID)[GRID.class_names.index("driveable_surface")]
    assert (np.abs(picture.astype(int) - road) < 30).all(axis=-1).sum() > 1000, "and the road"
    [first, second] = sorted(out.glob("*.gif"))
    assert Image.open(first).info["duration"] == 250
    assert Image.open(first).n_frames == 2 and not getattr(Image.open(second), "is_animated", False)
    assert "/" not in second.name.replace(str(out), "")


def test_an_animation_has_one_palette(tmp_path: Path) -> None:
    """A class that one frame alone shows changes no colour of the others."""
    strange = frame(1)
    strange.predicted[5:20, 5:40, 0:3] = TREE
    visualise._animation([(frame(0), None), (strange, None)], 2.0)(path := tmp_path / "a.gif")
    with Image.open(path) as gif:
        pictures = []
        for number in range(2):
            gif.seek(number)
            pictures.append(np.asarray(gif.convert("RGB")))
    seen = [{tuple(c) for c in picture.reshape(-1, 3)} for picture in pictures]
    assert len(seen[0] | seen[1]) <= 256


def test_two_rows_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = replace(
        frame(), source="table toy other--cpu--seed0", predicted=np.where(frame().predicted == CAR, TREE, frame().predicted)
    )
    save(frame(), tmp_path / "a" / "val_0.npz")
    save(other, tmp_path / "b" / "val_0.npz")
    out = tmp_path / "out"
    assert visualise.main([*map(str, (tmp_path / "a", tmp_path / "b")), "--against", "other", "--out", str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["val_0.png"]
    assert "drawing 1/1" in capsys.readouterr().out, "progress in lines where there is no terminal"
    headings = [heading for heading, _ in visualise._rows(frame(), 1000, other)]
    assert headings[:4] == ["Input", "Predicted, small", "Predicted, other", "True"]
    views = list(visualise._rows(frame(), 1000, other))[-1][1]
    assert len(views) == 6 and sum(v.width for v in views) + 5 * 6 <= 1003
    tree = palette(GRID)[TREE].astype(float)
    hues = [(np.abs(np.asarray(v) / 255.0 - tree / 255) < 0.1).all(axis=-1).any() for v in views[0::2]]
    assert hues == [False, True, False]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "good.npz"
    save(frame(), good)
    (tmp_path / "bad.npz").write_bytes(b"not an archive")
    (tmp_path / "empty").mkdir()
    save(replace(frame(), predicted=nothing()[:3]), tmp_path / "short.npz")
    (tmp_path / "twin").mkdir()
    save(frame(), tmp_path / "twin" / "good.npz")
    lonely = tmp_path / "lonely.npz"
    save(replace(frame(3), source="table toy other--cpu--seed0"), lonely)
    cases: list[tuple[list[Any], list[str]]] = [
        ([tmp_path / "gone.npz"], ["gone.npz does not exist", "experiments.predict"]),
        ([tmp_path / "bad.npz"], ["bad.npz is not a readable npz file"]),
        ([tmp_path / "short.npz"], ["short.npz: predicted is [3, 50, 4], expected [50, 50, 4]"]),
        ([tmp_path / "empty"], ["empty holds no npz file"]),
        ([good, tmp_path / "twin"], ["would give the same picture"]),
        ([good, "--against", "other"], ["--against other needs files of that row and of one other", "small"]),
        ([good, lonely, "--against", "other"], ["good.npz has no counterpart of other", "predict frame 0"]),
        ([good, "--out", good], ["cannot be written", "--out"]),
        ([good, "--width", "10"], ["--width", "600"]),
        ([good, "--rerun"], ["--rerun needs the rerun viewer", "pip install -e '.[viewer]'"]),
    ]
    real = builtins.__import__

    def without_rerun(name: str, *rest: Any, **named: Any) -> Any:
        if name == "rerun":
            raise ImportError("No module named 'rerun'")
        return real(name, *rest, **named)

    monkeypatch.delitem(sys.modules, "rerun", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_rerun)
    for arguments, parts in cases:
        words = [str(a) for a in arguments]
        code = visualise.main(words if "--out" in words else [*words, "--out", str(tmp_path / "out")])
        err = capsys.readouterr().err
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
        assert all(part in err for part in parts), err
    assert not (tmp_path / "out").exists()


def test_a_recording_holds_every_frame_s_known_voxels_and_its_cameras(tmp_path: Path) -> None:
    logged: list[tuple[int, str, Any]] = []
    now = [-1]
    stream = SimpleNamespace(
        save=lambda path: None,
        log=lambda path, what, static=False: logged.append((-1 if static else now[0], path, what)),
        set_time=lambda name, sequence: now.__setitem__(0, sequence),
        disconnect=lambda: None,
    )
    kinds = ("Clear", "Boxes3D", "Transform3D", "Pinhole", "Image")
    viewer = SimpleNamespace(
        RecordingStream=lambda *a, **k: stream,
        ViewCoordinates=SimpleNamespace(RIGHT_HAND_Z_UP="up"),
        set_strict_mode=lambda strict: None,
    )
    for kind in kinds:
        setattr(viewer, kind, lambda *a, _kind=kind, **named: (_kind, named))
    visualise.record(viewer, [frame(3), frame(4)], "x", tmp_path / "x.rrd")
    for index in (3, 4):
        boxes = {path: what[1] for at, path, what in logged if at == index and what[0] == "Boxes3D"}
        assert set(boxes) == {f"world/{who}/{name}" for who in ("predicted", "true") for name in ("car", "driveable_surface")}
        road = boxes["world/true/driveable_surface"]
        assert len(road["centers"]) == 50 * 50 - 1, "all but the unknown voxel"
        assert road["centers"].min(axis=0) == pytest.approx(np.array(GRID.lower) + 0.8)
        car = boxes["world/predicted/car"]
        assert car["colors"].tolist() == [palette(GRID)[CAR].tolist()] * 24
        lenses = {path for at, path, what in logged if at == index and what[0] == "Pinhole"}
        assert lenses == {"world/CAM_FRONT", "world/CAM_BACK"}


def test_real_recordings_are_written_where_rerun_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the optional viewer is not installed")
    save(frame(), tmp_path / "a.npz")
    assert visualise.main([str(tmp_path / "a.npz"), "--out", str(tmp_path / "out"), "--rerun"]) == 0
    [recording] = (tmp_path / "out").glob("*.rrd")
    assert recording.stat().st_size > 10_000
