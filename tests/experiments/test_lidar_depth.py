"""Rendered depth against lidar: the published ways to measure it, the part of a batch that it takes, models that render it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import occ3d_layout
import pytest
import torch
from mmdet3d.registry import MODELS
from torch.nn import functional as F
from two_ranks import outputs_of_two_ranks

from baselines.gaussianflowocc import gaussianflowocc_config
from baselines.interface import LidarDepth, OccupancyBatch, OccupancyGrid, RenderedDepth
from baselines.published import Published
from baselines.recipe import OWN
from experiments import plan
from experiments.datasets.frames import collate
from experiments.datasets.layout import CAMERAS, read_infos
from experiments.datasets.layout_lidar_pixels import DEPTH
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError
from experiments.metrics.evaluator import OccupancyMetric, of_sums
from experiments.metrics.lidar import NUMBERS, SINGLE_DEPTHS, best_constant, by_camera, by_frame, by_point, depth_sums
from experiments.metrics.registry import LIDAR_WAYS, METRICS, lidar
from experiments.spec import load_spec, load_table

GRID = OccupancyGrid((0.0, 0.0, 0.0), (2.0, 2.0, 2.0), 1.0, ("a", "free"), empty=1, published=Published(lidar_limit=80.0))
ALL = [name for way in LIDAR_WAYS for name in lidar(way)]
SIZE = 160, 90  # of the label cameras
NO_POINTS: dict[str, Any] = dict(
    places=torch.zeros(0, 2), cells=torch.zeros(0, 2, dtype=torch.int64), depth=torch.zeros(0),
    camera=torch.zeros(0, dtype=torch.int64), scene=torch.zeros(0, dtype=torch.int64),
)  # fmt: skip


def views(scale_x: float, scale_y: float, cut: float, cameras: int = 2) -> torch.Tensor:
    matrix = torch.tensor([[scale_x, 0.0, 0.0], [0.0, scale_y, -cut], [0.0, 0.0, 1.0]])
    return matrix.expand(1, cameras, 3, 3)


def measured(
    seed: int, width: int = 40, height: int = 16, to_view: torch.Tensor | None = None
) -> tuple[RenderedDepth, LidarDepth]:
    """Random depth of two cameras, cut at the top unless ``to_view`` says otherwise, and points in their images."""
    g = np.random.default_rng(seed)
    to_view = views(0.25, 0.25, 6.5) if to_view is None else to_view
    places = g.uniform((0, 0), SIZE, (300, 2))
    places[150:200] = places[100:150] + 0.1  # several in a pixel
    points = LidarDepth(
        places=torch.from_numpy(places.astype(np.float32)),
        cells=torch.from_numpy(np.minimum(np.rint(places), (SIZE[0] - 1, SIZE[1] - 1)).astype(np.int64)),
        depth=torch.from_numpy(g.choice([0.05, 5.0, 30.0, 39.0, 60.0, 79.0, 90.0], 300).astype(np.float32) * g.uniform(0.9, 1.0)),
        camera=torch.from_numpy(g.integers(0, 2, 300)),
        scene=torch.zeros(300, dtype=torch.int64),
        to_view=to_view,
        size=(width, height),
    )
    return RenderedDepth(torch.from_numpy(g.uniform(0, 95, (1, 2, height, width)).astype(np.float32)), to_view), points


def numbers(rendered: np.ndarray, true: np.ndarray, nearest: float, farthest: float) -> list[float]:
    """Of all points, written down once more."""
    p = rendered.clip(nearest, farthest)
    ratio = np.maximum(p / true, true / p)
    roots = [((p - true) ** 2).mean() ** 0.5, ((np.log(p) - np.log(true)) ** 2).mean() ** 0.5]
    within = [(ratio < 1.25).mean(), (ratio < 1.5625).mean(), (ratio < 1.953125).mean()]
    return [(abs(p - true) / true).mean(), ((p - true) ** 2 / true).mean(), *roots, *within]


def sampled(depth: torch.Tensor, points: LidarDepth, align: bool) -> tuple[np.ndarray, np.ndarray]:
    """GaussianFlowOcc's pairs, by PyTorch's own sampling."""
    rendered, true = [], []
    width, height = points.size
    for view in range(2):
        own = (points.camera == view) & (points.depth <= 40)
        place = points.places[own] * 0.25 - torch.tensor([0.0, 6.5])
        kept = (place > 0).all(-1) & (place[:, 0] < width) & (place[:, 1] < height)
        at = place[kept] / torch.tensor([width, height]) * 2 - 1
        image = depth[0, view][None, None].double()
        found = F.grid_sample(image, at[None, None].double(), mode="bilinear", align_corners=align)
        rendered.append(found.flatten().numpy())
        true.append(points.depth[own][kept].double().numpy())
    return np.concatenate(rendered), np.concatenate(true)


def scores(sums: dict[str, np.ndarray], way: Any) -> list[float]:
    return [way(sums, GRID, number) for number in NUMBERS]


def total(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: sum(part[key] for part in parts) for key in parts[0]}  # type: ignore[misc]


def test_gaussianflowoccs_two_ways_are_its_own() -> None:
    """All points in one mean with the middles of pixels at +0.5; and frame by frame with stretched places."""
    samples = [measured(seed) for seed in range(3)]
    sums = total([depth_sums(*sample, GRID) for sample in samples])
    plain = [sampled(rendered.depth, points, align=False) for rendered, points in samples]
    pooled = [np.concatenate(column) for column in zip(*plain, strict=True)]
    assert scores(sums, by_point) == pytest.approx(numbers(*pooled, 1e-3, 80.0), rel=1e-6)
    frames = [numbers(*sampled(rendered.depth, points, align=True), 1e-3, 80.0) for rendered, points in samples]
    assert scores(sums, by_frame) == pytest.approx(np.mean(frames, axis=0), rel=1e-6)


def test_gaussianoccs_way_is_its_own() -> None:
    """The map resized by OpenCV to a dense map of lidar, image by image, then by camera; a camera may have no point."""
    by_view: list[list[list[float]]] = [[], []]
    parts = []
    for seed in range(3):
        rendered, points = measured(seed, 40, 18, views(0.25, 0.2, 0.0))
        if seed == 1:
            own = points.camera == 0
            points = replace(points, **{name: getattr(points, name)[own] for name in NO_POINTS})
        parts.append(depth_sums(rendered, points, GRID))
        for view in range(2):
            dense = np.zeros(SIZE[::-1], np.float32)
            own = points.camera == view
            for (u, v), depth in zip(points.cells[own].tolist(), points.depth[own].tolist(), strict=True):
                dense[v, u] = depth
            shown = cv2.resize(rendered.depth[0, view].numpy(), SIZE, interpolation=cv2.INTER_LINEAR)
            counted = (dense > 0.1) & (dense < 80)
            if counted.any():
                by_view[view].append(numbers(shown[counted].astype(float), dense[counted].astype(float), 0.1, 80.0))
    assert [len(found) for found in by_view] == [3, 2]
    expected = np.mean([np.mean(found, axis=0) for found in by_view], axis=0)
    assert scores(total(parts), by_camera) == pytest.approx(expected, rel=1e-4)  # OpenCV interpolates in float32


def test_the_best_single_depth_is_that_of_a_model_which_says_it_everywhere() -> None:
    sums = [depth_sums(*measured(seed), GRID) for seed in range(3)]
    best = best_constant(total(sums), GRID)
    said = {}
    for metres in SINGLE_DEPTHS.tolist():
        parts = []
        for seed in range(3):
            rendered, points = measured(seed)
            parts.append(depth_sums(replace(rendered, depth=torch.full_like(rendered.depth, float(metres))), points, GRID))
        said[metres] = by_camera(total(parts), GRID, "abs_rel")
    least = min(said, key=said.__getitem__)
    assert best == pytest.approx(said[least], rel=1e-6) and SINGLE_DEPTHS[0] < least < SINGLE_DEPTHS[-1]
    assert np.isnan(best_constant({}, GRID))


def test_the_limit_is_the_data_sets() -> None:
    rendered, points = measured(0)
    far = replace(GRID, published=Published(lidar_limit=200.0))
    near, all_of_it = (depth_sums(rendered, points, grid) for grid in (GRID, far))
    assert scores(near, by_point) == scores(all_of_it, by_point)
    assert by_camera(near, GRID, "rmse") != by_camera(all_of_it, far, "rmse")
    unlimited = depth_sums(rendered, points, replace(GRID, published=Published()))
    assert scores(unlimited, by_camera) == scores(all_of_it, by_camera)


def test_exact_depth_has_no_error_and_nothing_has_no_number() -> None:
    rendered, points = measured(0)
    flat, wall = replace(rendered, depth=torch.full((1, 2, 16, 40), 12.0)), replace(points, depth=torch.full((300,), 12.0))
    (u, v) = points.places.T
    well_inside = (u > 4) & (u < 156) & (v > 30) & (v < 86)
    inside = replace(wall, **{name: getattr(wall, name)[well_inside] for name in NO_POINTS})
    for way in (by_camera, by_frame, by_point):
        assert scores(depth_sums(flat, inside, GRID), way) == pytest.approx([0, 0, 0, 0, 1, 1, 1], abs=1e-9)
    empty = depth_sums(rendered, replace(points, **NO_POINTS), GRID)
    half = total([empty, depth_sums(rendered, points, GRID)])
    for way in (by_camera, by_frame, by_point):
        assert np.isnan(scores(empty, way)).all() and np.isnan(scores({}, way)).all()
        assert scores(half, way) == scores(depth_sums(rendered, points, GRID), way)  # frames without points are left out


# What a batch has.


def rows(view: int, frame: int) -> np.ndarray:
    """Points in an image of the tiny frames: pixels of the image, and a depth that tells camera and frame."""
    return np.array([[10.25, 20.75, 1 + view + 10 * frame], [40.5, 30.5, 50 + view], [79.4, 44.2, 7.0]], "<f4")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = occ3d_layout.write_layout(tmp_path_factory.mktemp("lidar"), frames=2)
    (root / "nuscenes" / DEPTH).mkdir(parents=True)
    for split in ("train", "val"):
        for number, info in enumerate(read_infos(root, split)):
            for view, name in enumerate(CAMERAS):
                rows(view, number).tofile(root / "nuscenes" / DEPTH / f"{Path(info['cams'][name]['data_path']).name}.bin")
    return root


def frames(root: Path, **options: Any) -> Occ3DNuScenes:
    image = ImageTransform(width=40, height=16, distort=False)
    return Occ3DNuScenes(root, "val", **{"image": image, "coarsen": 4, "lidar": True, "chain": True, **options})


def test_points_lie_in_the_label_cameras_and_in_the_views(root: Path) -> None:
    for width in (None, 40):
        batch = frames(root, view_size=(20, 9), label_camera_width=width)[1]
        points = batch.lidar
        assert points is not None and points.size == (20, 9) and len(points.depth) == 6 * 3
        scale = batch.camera_size[0] / occ3d_layout.WIDTH
        assert points.places[:3].tolist() == pytest.approx(rows(0, 1)[:, :2] * scale)
        assert points.cells[:3].equal(points.places[:3].round().long()) and points.camera.tolist() == sum(
            ([v] * 3 for v in range(6)), []
        )
        assert points.depth[::3].tolist() == [11, 12, 13, 14, 15, 16] and not points.scene.any()
        seen = points.to_view[0, 0] @ torch.tensor([*rows(0, 1)[0, :2] * scale, 1.0])
        assert seen.tolist() == pytest.approx(
            [10.25 / 4, 20.75 / 4.090909 - 2, 1.0], rel=1e-5
        )  # 45 rows become 11, of which 2 are cut


def test_batches_join_and_part(root: Path) -> None:
    own = frames(root)
    both = collate([own[0], own[1]])["batch"].lidar
    assert both is not None and both.scene.tolist() == [0] * 18 + [1] * 18 and both.to_view.shape == (2, 6, 3, 3)
    second, alone = both.one(1), own[1].lidar
    assert alone is not None and second.size == alone.size
    for name, value in alone._tensors().items():
        assert getattr(second, name).equal(value), name


def test_what_is_no_lidar_is_refused(root: Path) -> None:
    batch = frames(root)[0]
    points = batch.lidar
    assert points is not None
    wrong = {
        "depth must be positive": {"depth": -points.depth},
        "camera must be within 0..5": {"camera": points.camera + 1},
        "places must be finite": {"places": points.places / 0},
        r"cells must be \[18, 2\]": {"cells": points.cells[:3]},
        "scene must be int64": {"scene": points.scene.float()},
    }
    for message, change in wrong.items():
        with pytest.raises(ValueError, match=f"LidarDepth: {message}"):
            replace(batch, lidar=replace(points, **change))


# Models and evaluations.


SMALL: dict[str, Any] = dict(gaussians=60, dim=16, heads=2, blocks=1, points=2, inducing=4, dropout=0.0, neighbourhood=1)


@pytest.fixture(scope="module")
def model(root: Path) -> Any:
    torch.manual_seed(0)
    config = gaussianflowocc_config("toy", frames(root).grid, renderer="reference")
    neck = {**config["neck"], "out_channels": 16}
    return MODELS.build({**config, **SMALL, "neck": neck}).eval()


def followed(model: Any, batches: list[OccupancyBatch]) -> RenderedDepth:
    depths, states = [], {}
    for batch in batches:
        prediction, states = model.follow(batch, states)
        depths.append(prediction.depth)
    return RenderedDepth.joined(depths, [1] * len(depths))


def test_gaussianflowocc_renders_depth_where_it_is_measured(root: Path, model: Any) -> None:
    """In the views of the batch, of what it answers with; two frames in one batch, and the first one by ``predict`` too."""
    own = frames(root, follow=True)
    plain = frames(root, follow=True, lidar=False)[0]
    assert model.predict(plain).depth is None
    first, second = own[0], own[1]
    found = model.predict(first)
    assert found.depth.depth.shape == (1, 6, 16, 40) and found.depth.to_view.equal(first.lidar.to_view)
    assert found.logits[-1].equal(model.predict(plain).logits[-1]), "what is answered else does not depend on it"
    assert (found.depth.depth >= 0).all() and (found.depth.depth > 1).any()
    one_by_one, together = followed(model, [first, second]), followed(model, [collate([first, second])["batch"]])
    assert one_by_one.depth.equal(together.depth) and one_by_one.depth[:1].equal(found.depth.depth)


def test_depth_is_where_the_gaussians_are(root: Path, model: Any) -> None:
    """A wall of opaque Gaussians 12 m in front of the first camera is rendered 12 m away."""
    batch = frames(root)[0]
    camera = torch.linalg.inv(batch.reference_to_camera[0, 0])
    x, y = torch.meshgrid(torch.linspace(-12, 12, 61), torch.linspace(-8, 8, 41), indexing="ij")
    wall = torch.stack([x, y, torch.full_like(x, 12.0), torch.ones_like(x)], -1).flatten(0, 1) @ camera.T
    attributes = model.attributes(model._first(model._own(batch)))
    count = len(wall)
    solid = replace(
        attributes,
        means=wall[None, :, :3],
        quaternions=torch.tensor([1.0, 0, 0, 0]).expand(1, count, 4),
        scales=torch.full((1, count, 3), 0.3),
        opacities=torch.ones(1, count),
        logits=torch.zeros(1, count, 16),
    )
    depth = model.rendered_depth(solid, batch).depth[0, 0]
    assert depth[4:12, 10:30].sub(12).abs().max() < 0.3


def batches() -> list[tuple[OccupancyBatch, dict[str, Any]]]:
    found = []
    for seed in range(5):
        rendered, points = measured(seed)
        g = torch.Generator().manual_seed(seed)
        batch = OccupancyBatch(
            images=torch.zeros(1, 2, 3, 8, 8),
            projection=torch.eye(4).expand(1, 2, 4, 4),
            intrinsics=torch.eye(3).expand(1, 2, 3, 3),
            reference_to_camera=torch.eye(4).expand(1, 2, 4, 4),
            camera_size=SIZE,
            labels=torch.randint(0, 2, (1, 2, 2, 2), generator=g),
            camera_mask=torch.ones(1, 2, 2, 2, dtype=torch.bool),
            reference_to_lidar=torch.eye(4)[None],
            meta=[{"index": seed}],
            lidar=points,
        )
        found.append((batch, {"labels": batch.labels[0], "depth": rendered}))
    return found


def evaluated(order: list[int], batch_size: int, **options: Any) -> dict[str, float]:
    metric = OccupancyMetric(GRID, rays=False, of_sums=of_sums(ALL), **options)
    chosen = [batches()[index] for index in order]
    for start in range(0, len(chosen), batch_size):
        some = chosen[start : start + batch_size]
        metric.process(collate([batch for batch, _ in some]), [sample for _, sample in some])
    return metric.evaluate(5)


def test_no_number_depends_on_batches_and_order() -> None:
    alone = evaluated([0, 1, 2, 3, 4], 1)
    assert set(ALL) <= set(alone) and all(np.isfinite(alone[name]) for name in ALL)
    assert evaluated([0, 1, 2, 3, 4], 3) == alone
    assert evaluated([4, 2, 0, 1, 3], 2, any_order=True) == alone


_TWO_PROCESSES = """
from experiments import instructions
instructions.hold()  # as every command does: logarithms have other last bits in wider registers
import sys, torch.distributed as dist
sys.path.insert(0, {tests!r})
from test_lidar_depth import ALL, GRID, batches
from experiments.metrics.evaluator import OccupancyMetric, of_sums

rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
try:
    metric = OccupancyMetric(GRID, rays=False, of_sums=of_sums(ALL))
    for batch, sample in [batches()[index] for index in (rank, rank + 2, (rank + 4) % 5)]:
        metric.process({{"batch": batch}}, [sample])
    values = metric.evaluate(5)
    with open(f"{{out}}{{rank}}", "w") as file:
        file.write(repr(sorted(values.items())))
    dist.barrier()
finally:
    dist.destroy_process_group()
"""


def test_no_number_depends_on_the_processes(tmp_path: Path) -> None:
    alone = repr(sorted(evaluated([0, 1, 2, 3, 4], 1).items()))
    assert outputs_of_two_ranks(_TWO_PROCESSES, tmp_path) == [alone, alone]


def test_a_model_that_renders_none_is_told_of() -> None:
    metric = OccupancyMetric(GRID, rays=False)
    batch, sample = batches()[0]
    with pytest.raises(ValueError, match="the model renders none"):
        metric.process({"batch": batch}, [{"labels": sample["labels"]}])


# Cells.


def test_cells_read_lidar_where_a_metric_takes_it_and_the_model_renders() -> None:
    table = load_table("table_gaussianflowocc")
    cell = table.cell(table.row("gaussianflowocc"), "cpu", "toy", 0)
    assert set(ALL) <= set(cell.metrics) <= set(METRICS.names())
    assert cell.parts(training=False) == {"chain": OWN, "lidar": OWN} and "lidar" not in cell.parts(training=True)
    main = load_table("table_occ3d")
    other = replace(main.row("tpvformer"), metrics=("lidar_abs_rel_cameras",))
    assert main.cell(other, "cpu", "toy", 0).parts(training=False) == {}
    shown = {column.metric for name in ("table_depth", "table_depth_40m") for column in load_spec(name).columns}
    assert shown == set(ALL)


def test_only_the_evaluations_data_changes_with_it() -> None:
    """A finished cell without these numbers is measured anew from its weights, not trained again."""
    table = load_table("table_gaussianflowocc")
    made = plan.make(plan.Request(table=table, preset="toy", renderers=("cpu",), rows=("gaussianflowocc",)), lambda: False)
    bare = replace(table, rows=(replace(table.row("gaussianflowocc"), metrics=()),))
    before = plan.make(plan.Request(table=bare, preset="toy", renderers=("cpu",), rows=("gaussianflowocc",)), lambda: False)
    assert made.train_fingerprint == before.train_fingerprint == before.data_fingerprint != made.data_fingerprint
    assert "lidar" in made.reads and "lidar" not in before.reads


def test_lacking_points_are_told(tmp_path: Path) -> None:
    bare = occ3d_layout.write_layout(tmp_path / "bare", frames=2)
    with pytest.raises(DataError, match=r"lidar points .*depth_gt.* are missing: python -m experiments.data prepare renderocc"):
        frames(bare)[0]
