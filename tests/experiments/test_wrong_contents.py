"""Files that are whole and say what cannot be: refused, with the file and the field, by everything that reads them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import occ3d_layout
import pytest
import surroundocc_layout
from test_records import make_record

from baselines.interface import OccupancyGrid
from experiments import predictions
from experiments.cell.folder import CellFolder
from experiments.datasets.layout import OUTSIDE
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.surroundocc import SurroundOccNuScenes
from experiments.datasets.transforms import ImageTransform, read_depth, read_image
from experiments.datasets.unpickle import DataError
from experiments.predictions import PredictionFileError
from experiments.records import RecordError
from experiments.spec import load_table
from reports import publish, summary

IMAGE = ImageTransform(width=80, height=32, distort=False)
RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "a mean below 0": ({"metrics": {"mIoU": -5.0}}, "metrics.mIoU"),
    "a mean beyond all": ({"metrics": {"mIoU": 1e300}}, "metrics.mIoU"),
    "a mean beyond 100 %": ({"metrics": {"mIoU": 101.0}}, "metrics.mIoU"),
    "a truth value": ({"metrics": {"mIoU": True}}, "metrics.mIoU"),
    "a text": ({"metrics": {"mIoU": "12.5"}}, "metrics.mIoU"),
    "no metrics": ({"metrics": {}}, "metrics"),
    "a seed below 0": ({"seed": -1}, "seed"),
    "a seed of 70 bits": ({"seed": 1 << 70}, "seed"),
    "an unknown class": ({"per_class": {"mIoU": {"spaceship": 3.0}}}, "per_class.mIoU"),
    "an unknown absent class": ({"absent": {"mIoU": ["spaceship"]}}, "absent.mIoU"),
    "another table's": ({"table": "table_surroundocc"}, "table_surroundocc"),
    "another row's": ({"row": "surroundocc"}, "surroundocc--cpu--seed0"),
    "a path for a renderer": ({"renderer": "../../x"}, "renderer"),
    "a marker": ({"command": "x <!-- table:end -->"}, "command"),
    "HTML": ({"started": "<script>alert(1)</script>"}, "started"),
    "HTML in a list": ({"continued": ["from <b>here</b>"]}, "continued"),
    "HTML in a key": ({"versions": {"<img src=x>": "1"}}, "<img"),
    "an escape sequence": ({"git_commit": "\x1b[2J"}, "git_commit"),
    "an open quote": ({"command": "python 'x"}, "command"),
    "an unknown field": ({"colour": "red"}, "colour"),
}


def record_text(**changes: Any) -> str:
    made = json.loads(make_record(table="table_occ3d", row="tpvformer").model_dump_json())
    return json.dumps(made | changes)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_no_cell_leaves_is_refused_by_all(name: str, tmp_path: Path) -> None:
    changes, field = RECORDS[name]
    spec = load_table("table_occ3d")
    cell = CellFolder(spec.cell(spec.row("tpvformer"), "cpu", "toy", 0), tmp_path)
    cell.record_path.parent.mkdir(parents=True)
    cell.record_path.write_text(record_text())
    assert len(list(publish.candidates(spec, tmp_path, tmp_path / "none", "table_occ3d"))) == 1 and cell.record() is not None
    cell.record_path.write_text(record_text(**changes))
    reading: dict[str, Callable[[], object]] = {
        "publish": lambda: list(publish.candidates(spec, tmp_path, tmp_path / "none", "table_occ3d")),
        "build": lambda: list(summary.behind(spec, tmp_path)),
        "--list": cell.record,
    }
    if name == "no metrics":
        del reading["--list"]  # a run in which nothing counts leaves such a record, which no table takes
    if name == "an open quote":
        del reading["build"], reading["--list"]  # which show no command
    for read in reading.values():
        with pytest.raises(RecordError) as caught:
            read()
        assert str(cell.record_path) in str(caught.value) and field in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (record_text().replace('"seed": 0', '"seed": 0, "seed": 1').encode(), "seed: stands twice"),
        (record_text().encode().replace(b"test", b"te\xffst"), "utf-8"),
        (record_text().replace("12.5", "NaN").encode(), "valid"),
    ],
)
def test_a_record_that_readers_would_not_agree_on_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "table_occ3d/toy/tpvformer--cpu--seed0.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(RecordError, match=said) as caught:
        list(summary.behind(load_table("table_occ3d"), tmp_path))
    assert str(path) in str(caught.value)


WRONG_MATRICES = {
    "no numbers": np.full((3, 3), "x"),
    "zeros": np.zeros((3, 3)),
    "a negative focal length": np.diag([-60.0, 60.0, 1.0]),
    "skew": np.array([[60.0, 8, 40], [0, 60, 22], [0, 0, 1]]),
    "a transposed one": np.array([[60.0, 0, 0], [0, 60, 0], [40, 22, 1]]),
    "another scale": np.diag([60.0, 60, 2]),
    "1e30": np.diag([1e30, 60, 1]),
}
WRONG_ROTATIONS = {
    "zeros": np.zeros((3, 3)),
    "a scale": np.eye(3) * 2,
    "a mirror": np.diag([1.0, 1, -1]),
    "infinite": np.full(4, np.inf),
    "nothing": np.zeros(4),
    "NaN": np.full((3, 3), np.nan),
}
WRONG_TRANSLATIONS = {
    "1e30": [1e30, 0, 0],
    "1000 km": [1e6, 0, 0],
    "NaN": [np.nan, 0, 0],
    "two numbers": [0.0, 0.0],
}
OCC3D = [("cam_intrinsic", n, v) for n, v in WRONG_MATRICES.items()]
OCC3D += [(key, n, v) for key in ("sensor2ego_rotation", "sensor2lidar_rotation") for n, v in WRONG_ROTATIONS.items()]
OCC3D += [(key, n, v) for key in ("sensor2ego_translation", "sensor2lidar_translation") for n, v in WRONG_TRANSLATIONS.items()]


@pytest.fixture(scope="module")
def occ3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return occ3d_layout.write_layout(tmp_path_factory.mktemp("occ3d"), 2)


@pytest.fixture(scope="module")
def surroundocc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return surroundocc_layout.write_layout(tmp_path_factory.mktemp("surroundocc"))


def rewritten(path: Path, change: Callable[[Any], None], honest: bytes) -> None:
    content = pickle.loads(honest)
    change(content)
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize(("key", "name", "value"), OCC3D)
def test_calibrations_that_are_none_are_refused(key: str, name: str, value: Any, occ3d: Path) -> None:
    path = occ3d / "bevdetv2-nuscenes_infos_val.pkl"
    honest = path.read_bytes()
    try:
        rewritten(path, lambda content: content["infos"][0]["cams"]["CAM_BACK"].update({key: value}), honest)
        with pytest.raises(DataError, match="bevdetv2-nuscenes_infos_val.pkl"):
            Occ3DNuScenes(occ3d, "val", image=IMAGE, static_projection="ego" in key)[0]
    finally:
        path.write_bytes(honest)


@pytest.mark.parametrize("part", ["calib", "pose"])
def test_poses_that_are_none_are_refused(part: str, surroundocc: Path) -> None:
    path = surroundocc / "nuscenes_infos_val_sweeps_occ.pkl"
    honest = path.read_bytes()
    wrong = {"rotation": WRONG_ROTATIONS, "translation": {"1e30": [1e30, 0, 0], "NaN": [np.nan, 0, 0], "two": [0.0, 0.0]}}
    try:
        for key, values in wrong.items():
            for value in values.values():

                def change(content: Any, key: str = key, value: Any = value) -> None:
                    next(iter(content["infos"].values()))[0]["data"]["CAM_BACK"][part][key] = value

                rewritten(path, change, honest)
                with pytest.raises(DataError, match="nuscenes_infos_val_sweeps_occ.pkl"):
                    SurroundOccNuScenes(surroundocc, "val", image=IMAGE)[0]
    finally:
        path.write_bytes(honest)


def test_paths_that_leave_the_data_root_need_leave(occ3d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = occ3d / "bevdetv2-nuscenes_infos_val.pkl"
    honest = path.read_bytes()
    camera = pickle.loads(honest)["infos"][0]["cams"]["CAM_FRONT"]["data_path"]
    outside = tmp_path / "other.jpg"
    outside.write_bytes((occ3d / camera.removeprefix("./data/")).read_bytes())
    climbing = "./data/" + "../" * 40 + str(outside).lstrip("/")
    try:
        for stored in (str(outside), climbing):
            rewritten(path, lambda c, s=stored: c["infos"][0]["cams"]["CAM_FRONT"].update(data_path=s), honest)  # type: ignore[misc]
            monkeypatch.delenv(OUTSIDE, raising=False)
            with pytest.raises(DataError, match=f"outside of the data root .*{OUTSIDE}=1"):
                Occ3DNuScenes(occ3d, "val", image=IMAGE)[0]
            monkeypatch.setenv(OUTSIDE, "1")
            assert Occ3DNuScenes(occ3d, "val", image=IMAGE)[0].images.shape[1] == 6
        rewritten(path, lambda c: c["infos"][0].update(occ_path="gts/../.."), honest)
        with pytest.raises(DataError, match="occ_path"):
            Occ3DNuScenes(occ3d, "val", image=IMAGE)[0]
    finally:
        path.write_bytes(honest)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 1e30])
def test_depth_beyond_its_range_is_refused(value: float, tmp_path: Path) -> None:
    depth = np.full((8, 8), 3.0, np.float32)
    np.save(tmp_path / "depth.npy", depth)
    assert np.array_equal(read_depth(tmp_path / "depth.npy", 8, 8, ""), depth)
    depth[2, 3] = value
    np.save(tmp_path / "depth.npy", depth)
    with pytest.raises(DataError, match="depth.npy"):
        read_depth(tmp_path / "depth.npy", 8, 8, "")


def test_a_cut_off_jpeg_with_its_end_put_back_is_refused(tmp_path: Path) -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (180, 320, 3)).astype(np.uint8), (5, 5), 0)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(whole)
    assert read_image(path).shape == (180, 320, 3)
    for share in (0.3, 0.7, 0.95):
        path.write_bytes(whole[: int(share * len(whole))] + b"\xff\xd9")
        with pytest.raises(DataError, match=r"a\.jpg is cut off"):
            read_image(path)


def test_an_image_of_an_enormous_declared_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("voxel_size", 0.0),
        ("voxel_size", np.nan),
        ("voxel_size", 1e-9),
        ("predicted", 99),
        ("camera_size", [0, 5]),
        ("intrinsics", np.inf),
    ],
)
def test_predictions_of_no_grid_are_refused(name: str, value: Any, tmp_path: Path) -> None:
    grid = OccupancyGrid((0.0, 0.0, 0.0), (4.0, 4.0, 2.0), 1.0, ("car", "free"), 1)
    labels, cameras = np.zeros(grid.shape, np.uint8), np.eye(4)[None]
    saved = predictions.SavedPrediction(
        grid, labels, labels, labels > 0, cameras[:, :3, :3], cameras, (8, 6), cameras, ("front",), ("a.jpg",), "t", "s", 0, "x"
    )
    path = tmp_path / "f.npz"
    predictions.save(saved, path)
    assert predictions.load(path).grid == grid
    arrays = dict(np.load(path))
    arrays[name] = np.full_like(arrays[name], value) if np.ndim(value) == 0 else np.array(value)
    np.savez(path, **arrays)
    with pytest.raises(PredictionFileError, match=r"f\.npz"):
        predictions.load(path)
