"""table_kitti360: sizes as published, Symphonies' own schedule, cells on a tiny tree, predictions and pictures of one camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import kitti360_grid
from kitti360_layout import write_layout
from mmengine.registry import PARAM_SCHEDULERS
from test_run_training import run_within

import experiments.tables
from baselines.checkpoints import CheckpointError
from baselines.symphonies import RECIPE
from experiments import doctor, plan, predict, predictions, records
from experiments.cell import figures, models, training
from experiments.datasets.build import build_dataset
from experiments.datasets.unpickle import DataError
from experiments.plan import PlanError, Request, pretrained_path
from experiments.spec import Cell, StepSchedule, load_table
from reports import visualise

TABLE = load_table("table_kitti360")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_layout(tmp_path_factory.mktemp("kitti360") / "data")


def cell(row: str, preset: str = "toy", **changes: object) -> Cell:
    return Cell(TABLE, replace(TABLE.row(row), **changes), "cpu", preset, 0)  # type: ignore[arg-type]


def test_sizes_are_the_published_ones() -> None:
    assert TABLE.dataset == "kitti360"
    for name in ("mini", "paper"):
        preset = TABLE.preset(name)
        assert (preset.data.image_size, preset.data.coarsen, preset.data.source) == ((1408, 376), 1, "real")
        assert preset.model_size == "paper" and preset.gaussrender == {}
    toy = TABLE.preset("toy")
    assert (toy.data.image_size, toy.data.coarsen, toy.gaussrender) == ((352, 94), 4, {"bev_reduction": 4})
    assert [c.metric for c in TABLE.columns] == ["IoU", "mIoU"]


def test_other_rows_train_as_on_the_other_data_sets() -> None:
    occ3d = load_table("table_occ3d")
    assert all(TABLE.preset(name).schedule == occ3d.preset(name).schedule for name in ("mini", "paper"))
    toy = replace(occ3d.preset("toy").schedule, lr=4e-3, iterations=1200, warmup_iterations=50, grad_clip=35.0)
    assert TABLE.preset("toy").schedule == toy
    assert all(cell(row.name).schedule == toy for row in TABLE.rows if row.model in ("tpvformer", "surroundocc"))
    assert cell("tpvformer", "paper").schedule == occ3d.preset("paper").schedule


@pytest.mark.parametrize("row, count", [("tpvformer", 64_746_257), ("tpvformer+gaussrender", 64_885_551)])
def test_tpvformer_on_this_grid_has_the_published_parameters(row: str, count: int) -> None:
    with torch.device("meta"):
        model = models.build(cell(row, "paper"), kitti360_grid())
    assert models.trainable_parameters(model) == count


def test_symphonies_has_its_own_schedule() -> None:
    paper = cell("symphonies+gaussrender", "paper").schedule
    assert isinstance(paper, StepSchedule) and paper.epochs == 30 and paper.lr == 2e-4 and paper.eps == 1e-3
    rates = training._rates(paper, 3000)
    assert rates["type"] == "MultiStepLR" and rates["milestones"] == [2500] and rates["gamma"] == pytest.approx(0.1)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (2e-4, 2e-5)]
    optimizer = torch.optim.AdamW(groups)
    scheduler = PARAM_SCHEDULERS.build(training._rates(paper, 60) | {"optimizer": optimizer})
    seen = []
    for _ in range(60):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen[:50] == [[2e-4, 2e-5]] * 50 and np.allclose(seen[50:], [2e-5, 2e-6])
    others = TABLE.preset("toy").schedule
    assert cell("symphonies").schedule == replace(others, lr=8e-3, betas=(0.9, 0.999), iterations=400)
    assert cell("symphonies").first_weights is None  # the toy network starts from nothing
    symphonies, tpvformer = (cell(row, "paper").first_weights for row in ("symphonies", "tpvformer"))
    assert symphonies is not None and symphonies.file == "maskdino_r50_50e_300q_panoptic_pq53.0.pth"
    assert tpvformer is not None and tpvformer.file == "r101_dcn_fcos3d_pretrain.pth"


def test_symphonies_mirrors_and_does_not_distort_as_its_authors_do() -> None:
    for preset in ("mini", "paper"):
        data = [cell(row, preset).data for row in ("tpvformer", "symphonies", "symphonies+gaussrender")]
        assert [(d.distort, d.mirror) for d in data] == [(True, False), (False, True), (False, True)]
    toy = cell("symphonies", "toy")  # no augmentation at this size
    assert (toy.data.distort, toy.data.mirror) == (False, False)


def test_symphonies_rate_does_not_fall_in_a_single_epoch() -> None:
    mini = cell("symphonies", "mini").schedule
    assert isinstance(mini, StepSchedule) and mini.epochs == 1
    assert training._rates(mini, 1000)["milestones"] == [1000]


def test_monoscene_trains_as_its_authors_and_sscbench_do() -> None:
    paper, mini = (cell("monoscene+gaussrender", preset).schedule for preset in ("paper", "mini"))
    assert isinstance(paper, StepSchedule) and isinstance(mini, StepSchedule) and mini.epochs == 1
    assert (paper.epochs, paper.drop_epoch, paper.lr, paper.lr_min, paper.weight_decay) == (30, 20, 1e-4, 1e-5, 1e-4)
    assert (paper.eps, paper.backbone_lr, cell("monoscene").row.recipe.own_rate) == (1e-8, 1.0, ())
    assert training._rates(paper, 3000)["milestones"] == [2000] and training._rates(mini, 1000)["milestones"] == [1000]
    first = cell("monoscene", "paper").first_weights
    assert first is not None and first.file == "tf_efficientnet_b7_ns-1dbc32de.pth" and cell("monoscene").first_weights is None
    data = cell("monoscene", "paper").data
    assert (data.image_size, data.distort, data.mirror) == ((1408, 376), False, True)
    for row in ("monoscene", "monoscene+gaussrender"):
        assert not cell(row).row.reads and cell(row).row.parts(training=True) == {}, "an image is all it takes"
        for preset in ("toy", "mini", "paper"):
            models.check(cell(row, preset))
    assert TABLE.row("monoscene+gaussrender").base == "monoscene"


def test_a_rows_own_schedule_is_in_the_fingerprint_of_its_preset_alone() -> None:
    occ3d = load_table("table_occ3d")
    row = occ3d.row("surroundocc")
    assert row.schedules.keys() == {"toy"}
    for preset, counts in (("toy", True), ("paper", False)):
        plain, own = (Cell(occ3d, one, "cpu", preset, 0) for one in (replace(row, schedules={}), row))  # type: ignore[arg-type]
        assert (plain.fingerprint("x") != own.fingerprint("x")) == counts


@pytest.mark.parametrize(
    "table, row, preset, known",
    [
        ("table_occ3d", "tpvformer", "toy", "c2b2366de88eaa02"),
        ("table_occ3d", "tpvformer+gaussrender", "paper", "7cb235dc39917897"),
        ("table_surroundocc", "tpvformer+gaussrender", "toy", "227b7f3c2e92dae5"),
    ],
)
def test_cells_of_other_tables_keep_their_fingerprints(table: str, row: str, preset: str, known: str) -> None:
    spec = load_table(table)
    assert Cell(spec, spec.row(row), "cpu", preset, 0).fingerprint("x") == known  # type: ignore[arg-type]


def test_who_takes_depth(data: Path) -> None:
    for row in ("prior", "tpvformer", "surroundocc+gaussrender"):
        assert "depth" not in cell(row).row.reads
    assert all("depth" in cell(row).row.reads for row in ("symphonies", "symphonies+gaussrender"))
    sizes = TABLE.preset("toy").data
    assert build_dataset("kitti360", data, "test", sizes, 0)[0].depth is None
    depth = build_dataset("kitti360", data, "test", sizes, 0, ("depth",))[0].depth
    assert depth is not None and depth.shape == (1, 1, 94, 352)


def test_the_test_split_is_what_the_data_fingerprint_covers(tmp_path: Path) -> None:
    root = write_layout(tmp_path, depth=False)
    request = Request(table=TABLE, preset="toy", renderers=("cpu",), rows=("prior",), data_root=root)
    before = plan.make(request, lambda: False).data_fingerprint
    next((root / "data_2d_raw/2013_05_28_drive_0006_sync").rglob("*.png")).unlink()
    assert plan.make(request, lambda: False).data_fingerprint == before  # validation frames count for nothing
    image = next((root / "data_2d_raw/2013_05_28_drive_0009_sync").rglob("*.png"))
    image.write_bytes(image.read_bytes() + b"x")
    changed = plan.make(request, lambda: False)
    assert changed.data_fingerprint != before

    label = next((root / "preprocess/labels/2013_05_28_drive_0004_sync").glob("*.npy"))
    label.write_bytes(label.read_bytes() + b"x")
    assert plan.make(request, lambda: False).train_fingerprint != changed.train_fingerprint


@pytest.mark.parametrize("split, drive", [("train", "0004"), ("test", "0009")])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_files_that_are_not_there_are_refused_before_anything_runs(tmp_path: Path, split: str, drive: str, damage: str) -> None:
    root = write_layout(tmp_path, depth=False)
    request = Request(table=TABLE, preset="toy", renderers=("cpu",), rows=("tpvformer",), data_root=root)
    plan.make(request, lambda: False)
    with pytest.raises(DataError, match="train, depth: 3 of 3 files.*0004.*--row names rows that take no depth"):
        plan.make(replace(request, rows=("symphonies",)), lambda: False)
    image = next((root / f"data_2d_raw/2013_05_28_drive_{drive}_sync").rglob("*.png"))
    if damage == "missing":
        image.unlink()
    else:
        image.write_bytes(b"")
    with pytest.raises(DataError, match=f"kitti360 {split}: 1 of 6 files.*{image}.*experiments.data verify kitti360 --data-root"):
        plan.make(request, lambda: False)
    plan.make(replace(request, all_files=False), lambda: False)
    if split == "train":  # which neither a model that is only evaluated reads, nor one that counts labels
        plan.make(replace(request, rows=("prior",)), lambda: False)
        weights = tmp_path / "weights.pth"
        weights.touch()
        plan.make(replace(request, eval_only=True, checkpoint=weights), lambda: False)


def test_missing_first_weights_are_named_by_row(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_CKPTS", str(tmp_path))
    request = Request(table=TABLE, preset="paper", renderers=("cpu",), rows=("symphonies",), data_root=data)
    with pytest.raises(PlanError, match="symphonies at preset paper starts from maskdino.*hustvl/Symphonies.*OCC_CKPTS"):
        plan.make(request, lambda: False)
    with pytest.raises(PlanError, match="tpvformer at preset paper starts from r101_dcn_fcos3d.*FCOS3D"):
        plan.make(replace(request, rows=("tpvformer",)), lambda: False)
    pretrained_path("maskdino_r50_50e_300q_panoptic_pq53.0.pth").touch()
    assert len(plan.make(request, lambda: False).cells) == 1


@pytest.mark.parametrize("row", ["tpvformer+gaussrender", "surroundocc+gaussrender", "monoscene+gaussrender"])
def test_a_toy_network_trains_on_one_camera(data: Path, row: str) -> None:
    frames = build_dataset("kitti360", data, "train", TABLE.preset("toy").data, 0, sight=True)
    torch.manual_seed(0)
    model = models.build(cell(row), frames.grid)
    model.train()
    losses = model(frames[0], mode="loss")
    total = sum(value for name, value in losses.items() if "loss" in name)
    assert torch.isfinite(total) and any("render" in name or "bev" in name for name in losses)
    total.backward()
    touched = [p.grad.abs().sum() > 0 for p in model.parameters() if p.grad is not None]
    assert any(touched) and sum(map(bool, touched)) > 0.5 * len(touched)


def test_symphonies_starts_from_maskdino_and_takes_depth(data: Path, tmp_path: Path) -> None:
    frames = build_dataset("kitti360", data, "train", TABLE.preset("toy").data, 0, ("depth",))
    model, other = (models.build(cell("symphonies"), frames.grid) for _ in range(2))
    inside = {n.removeprefix("encoder.model."): v for n, v in other.state_dict().items() if n.startswith("encoder.model.")}
    path = tmp_path / "maskdino.pth"
    torch.save({"state_dict": inside | {"panoptic_head.predictor.x.weight": torch.zeros(1)}}, path)
    models.load_first_weights(RECIPE.first_weights["paper"], model, path)
    for name, value in model.state_dict().items():
        if name.startswith("encoder.model."):
            assert torch.equal(value, other.state_dict()[name]), name
    torch.save({"state_dict": {n: v for n, v in inside.items() if "pixel_decoder" not in n}}, path)
    with pytest.raises(CheckpointError, match="pixel_decoder"):
        models.load_first_weights(RECIPE.first_weights["paper"], model, path)
    losses = model(frames[0], mode="loss")
    assert losses and all(torch.isfinite(value).all() for value in losses.values())
    # Both its image network and nothing else of it has the smaller rate.
    slow = [n for n, _ in model.named_parameters() if any(part in n for part in RECIPE.own_rate)]
    assert slow and all(n.startswith("encoder.model.") for n in slow)
    assert len(slow) == sum(n.startswith("encoder.model.") for n, _ in model.named_parameters())


@pytest.mark.slow
def test_cells_run_from_command_to_record(data: Path, tmp_path: Path) -> None:
    words = ["table_kitti360", "--preset", "toy", "--renderer", "cpu", "--data-root", str(data), "--iterations", "2"]
    run_within(tmp_path, *words, "--row", "prior", "symphonies+gaussrender")
    found = [records.load(path) for path in sorted((tmp_path / "results/table_kitti360/toy").glob("*.json"))]
    assert {record.row for record in found} == {"prior", "symphonies+gaussrender"}
    for record in found:
        assert {"IoU", "mIoU", "image_mIoU", "bev_mIoU", "depth_l1"} <= set(record.metrics)
        assert "car" in record.per_class["mIoU"]
        for metric in ("mIoU", "image_mIoU", "bev_mIoU"):
            found, absent = list(record.per_class[metric]), record.absent.get(metric, [])
            assert sorted(found + absent) == sorted(kitti360_grid().class_names[1:])
        assert record.samples["val"] == 3  # the frames of the test split
        folder = tmp_path / "results/table_kitti360/toy"
        assert len(list(folder.glob(f"{record.row}--*/figures/*.png"))) == 8


@pytest.fixture
def predicted(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Predictions of the prior for two frames of the test split, which is the default."""
    monkeypatch.setenv("OCC_RESULTS", str(tmp_path / "results"))
    out = tmp_path / "predictions"
    arguments = ["table_kitti360", "--row", "prior", "--preset", "toy", "--renderer", "cpu", "--data-root", str(data)]
    code = predict.main([*arguments, "--index", "0", "1", "--out", str(out)])
    said, err = capsys.readouterr()
    assert code == 0, err
    assert "2 frames of test" in said
    return out


def test_predictions_and_pictures_of_one_camera(predicted: Path, tmp_path: Path, data: Path) -> None:
    saved = predictions.load(predicted / "test_00000.npz")
    assert saved.camera_names == ("image_00",) and saved.camera_size == (352, 94) and saved.grid == kitti360_grid(4)
    assert Path(saved.image_paths[0]) == data / "data_2d_raw/2013_05_28_drive_0009_sync/image_00/data_rect/000250.png"
    assert saved.token == "2013_05_28_drive_0009_sync/000250" and (saved.true == 1).any()
    assert visualise.main([str(predicted), "--out", str(tmp_path / "pictures"), "--animate", "--width", "800"]) == 0
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert [name for name in pictures if name.endswith(".png")] == ["test_00000.png", "test_00001.png"]
    assert len([name for name in pictures if name.endswith(".gif")]) == 1  # both frames are of one scene


def test_figures_of_one_camera() -> None:
    grid = kitti360_grid(4)
    labels = np.zeros(grid.shape, np.uint8)
    labels[10:20, 30:34, 1:4] = 1
    image = np.zeros((1, 94, 352, 3), np.uint8)
    sheet = figures.input_views(image, ("image_00",), "title")
    assert len(sheet.corners) == 1 and sheet.panel == (352, 94)
    seen = {"gt_semantics": np.ones((1, 94, 352), np.int64), "gt_depth": np.full((1, 94, 352), 9.0)}
    drawn = figures.rendered_views(image, seen, ("image_00",), grid, "title")
    width, height = drawn.get_size_inches()
    assert width >= 8 and height < width
    above = figures.from_above(labels, grid)
    assert above.shape == (64, 64, 3) and (above[64 - 20 : 64 - 10, 30:34] != 255).any()  # forward is up
    assert (above[:40] == 255).all()


def test_every_class_has_a_colour_of_its_own() -> None:
    grid = kitti360_grid()
    colours = [tuple(c) for c in figures.palette(grid)[: grid.num_classes].tolist()]
    assert len(set(colours)) == grid.num_classes and colours[0] == (255, 255, 255)
    assert (0, 0, 0) not in colours  # that is for what has no class


def test_the_doctor_lists_the_splits(data: Path) -> None:
    found = {finding.what: finding for finding in doctor._data(data)}
    for split in ("train", "val", "test"):
        assert found[f"SSCBench-KITTI-360 {split}"].ok


def test_the_table_is_listed() -> None:
    assert "table_kitti360" in experiments.spec.table_names()
