"""The main job's command on real frames: load, train, evaluate, render, log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_run_training import run_within, store

from experiments import records
from experiments.records import Record

ROWS = ("prior", "tpvformer+gaussrender")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(real_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command ran: the prior, and the toy-size model with rendering for two iterations."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)  # with a GPU the command would mean the paper's model
        out = run_within(folder, "table_occ3d", "--data-root", str(real_frames), "--row", *ROWS, "--iterations", "2")
    assert "the toy-size model runs on the frames in" in out
    return folder


def record_of(folder: Path, row: str) -> Record:
    [path] = (folder / "results" / "table_occ3d" / "toy").glob(f"{row}--cpu--seed0--data=*.json")
    return records.load(path)


@pytest.mark.parametrize("row", ROWS)
def test_every_metric_is_measured(finished: Path, row: str) -> None:
    record = record_of(finished, row)
    measured = {"mIoU", "IoU", "RayIoU", "RayIoU@1", "RayIoU@2", "RayIoU@4"}
    measured |= {"image_mIoU", "image_IoU", "bev_mIoU", "bev_IoU", "depth_l1"}
    assert measured <= set(record.metrics)
    assert record.samples == {"train": 3, "val": 3}
    assert record.iterations == (0 if row == "prior" else 2) and record.overrides["data"]
    # The frames stand in both splits: what was counted in them agrees with them far better than chance.
    if row == "prior":
        assert record.metrics["IoU"] > 20 and record.per_class["mIoU"]["driveable_surface"] > 20
        assert record.metrics["RayIoU"] > 10 and 0 < record.metrics["depth_l1"] < 10


@pytest.mark.parametrize("row", ROWS)
def test_figures_and_curves_are_in_mlflow(finished: Path, row: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store())
    run_id = record_of(finished, row).mlflow_run_id
    assert run_id is not None
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.metrics["RayIoU_at_1"] >= 0
    if row != "prior":
        assert {"train/loss", "train/loss_render_image", "train/loss_render_depth"} <= set(run.data.metrics)
    stored = sorted(Path(entry.path).name for entry in client.list_artifacts(run_id, "figures"))
    assert stored == sorted(f"{kind}_{frame:04d}.png" for kind in ("input", "occupancy", "cameras", "above") for frame in (0, 1))


def test_the_pictures_show_what_they_should(finished: Path) -> None:
    """Road in the true and in the predicted classes of all six cameras, depth below each, the input above them."""
    import cv2
    from mlflow import MlflowClient

    from experiments.cell.figures import COLOURS

    run_id = record_of(finished, "prior").mlflow_run_id
    assert run_id is not None
    client = MlflowClient(tracking_uri=store())
    folder = Path(client.download_artifacts(run_id, "figures", str(finished)))
    pictures = {path.stem: cv2.imread(str(path))[..., ::-1] for path in folder.glob("*_0000.png")}
    assert len(np.unique(pictures["input_0000"].reshape(-1, 3), axis=0)) > 20_000, "photographs"
    hexadecimal = COLOURS["driveable_surface"].removeprefix("#")
    road = np.array([int(hexadecimal[i : i + 2], 16) for i in (0, 2, 4)])

    seen = (pictures["occupancy_0000"].astype(int)[..., 1] < 10) & (pictures["occupancy_0000"][..., 0] > 100)
    panels = np.array_split(seen, 3, axis=1)
    assert all(panel.mean() > 0.02 for panel in panels), "road from above: predicted, true, and true where seen"

    cameras = pictures["cameras_0000"]
    inner = cameras[:, int(0.01 * cameras.shape[1]) : int(0.96 * cameras.shape[1])]  # less the headings and the colour bar
    rows = np.array_split(inner[int(0.04 * len(inner)) : int(0.96 * len(inner))], 5)  # image, classes twice, depth twice
    for place in range(6):
        image, true, predicted, true_depth, predicted_depth = (np.array_split(row, 6, axis=1)[place] for row in rows)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 2000, f"camera {place}: no photograph"
        for name, classes, least in (("true", true, 0.1), ("predicted", predicted, 0.01)):
            assert (classes == road).all(axis=-1).mean() > least, f"camera {place}: no road in the {name} classes"
        for name, classes, depth in (("true", true, true_depth), ("predicted", predicted, predicted_depth)):
            assert len(np.unique(depth.reshape(-1, 3), axis=0)) > 20, f"camera {place}: no {name} depth"  # of one wall 43
            shown = [(panel != 255).any(axis=-1).mean() for panel in (classes, depth)]
            assert abs(shown[0] - shown[1]) < 0.05, f"camera {place}: {name} depth is not where {name} classes are"
