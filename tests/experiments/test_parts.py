"""Parts of a batch beyond images and cameras: where a point is found in each of them, the ends of scenes, rays."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kitti360_layout
import numpy as np
import occ3d_layout
import pytest
import surroundocc_layout
import torch
from torch import Tensor

from baselines.interface import BatchPart, Neighbours, OccupancyBatch, RaySupervision
from baselines.registry import BASELINES
from baselines.tpvformer.recipe import RECIPE as TPVFORMER
from experiments import data, plan, toyworld
from experiments.cell.evaluation import ShuffledImages
from experiments.datasets import prepare_renderocc, verification
from experiments.datasets.dataset_occ3d import DATASET
from experiments.datasets.frames import OccupancyFrames, collate
from experiments.datasets.geometry import rigid
from experiments.datasets.kitti360 import SSCBenchKITTI360
from experiments.datasets.layout import CAMERAS, info_path
from experiments.datasets.layout_lidar_pixels import CLASSES, DEPTH, path_of
from experiments.datasets.layouts import look
from experiments.datasets.lidar_pixels import DYNAMIC, draw, draw_weights
from experiments.datasets.moments import Moment, Timeline
from experiments.datasets.occ3d import Occ3DNuScenes
from experiments.datasets.prepare_renderocc import in_image
from experiments.datasets.sampling import TrainSampler
from experiments.datasets.surroundocc import SurroundOccNuScenes
from experiments.datasets.transforms import ImageTransform
from experiments.datasets.unpickle import DataError, load_infos
from experiments.plan import Request
from experiments.spec import Cell, load_table, table_names

IMAGE = ImageTransform(width=40, height=16)
ALL: dict[str, Any] = dict(
    image=IMAGE, depth=True, chain=True, history=(-1, -2), neighbours=(-1, 1), rays=(0, -1, 1), augment=True
)
POINTS = {  # in front of the front, left and back camera, in the global frame
    0: (120.0, 51.0, 0.9),
    2: (115.0, 72.0, 1.1),
    3: (85.0, 49.0, 1.4),
}
"""View -> a point that it sees at every moment of the tiny scene."""
CLASS = 11


def write_points(root: Path, infos: list[dict[str, Any]]) -> None:
    """RenderOcc's files of the tiny frames: the points as the cameras see them, in the full floating point precision of files."""
    for info in infos:
        for view, name in enumerate(CAMERAS):
            camera = info["cams"][name]
            to_global = np.eye(4)
            to_global[:3, :3] = occ3d_layout.camera_to_ego(occ3d_layout.HEADINGS[view])
            to_global[:3, 3] = np.add(camera["ego2global_translation"], camera["sensor2ego_translation"])
            points = np.array([POINTS[view]] if view in POINTS else []).reshape(-1, 3)
            size = (occ3d_layout.WIDTH, occ3d_layout.HEIGHT)
            rows, _ = in_image(points, np.linalg.inv(to_global), camera["cam_intrinsic"], size)
            image = root / camera["data_path"].removeprefix("./data/")
            for folder, values in ((DEPTH, rows), (CLASSES, np.column_stack([rows[:, :2], np.full(len(rows), CLASS)]))):
                path = path_of(root, image, folder)
                path.parent.mkdir(parents=True, exist_ok=True)
                values.astype("<f4").tofile(path)


@pytest.fixture(scope="module")
def occ3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = occ3d_layout.write_layout(tmp_path_factory.mktemp("occ3d"))
    write_points(root, [occ3d_layout.frame_info(scene, f, f) for scene in ("scene-0001", "scene-0002") for f in range(3)])
    occ3d_layout.list_key_frames(root, "train")
    return root


@pytest.fixture(scope="module")
def surroundocc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = surroundocc_layout.write_layout(tmp_path_factory.mktemp("surroundocc"))
    scenes = [scene for scenes in surroundocc_layout.SCENES.values() for scene in scenes]
    write_points(root, [occ3d_layout.frame_info(scene, f, f) for scene in scenes for f in range(2)])
    return root


def through(matrix: Tensor, point: Tensor) -> Tensor:
    """(u, v, z) of a point [3] through a [4, 4] matrix to (u*z, v*z, z, 1)."""
    u, v, z, _ = matrix.double() @ torch.cat([point.double(), torch.ones(1, dtype=torch.float64)])
    return torch.stack([u / z, v / z, z])


def lift(intrinsics: Tensor, pixel: Tensor) -> Tensor:
    """The point of a camera that is at (u, v, z)."""
    u, v, z = pixel
    return z * torch.linalg.solve(intrinsics.double(), torch.stack([u, v, torch.ones_like(u)]))


READERS: list[tuple[str, Callable[..., OccupancyFrames[Any]], int]] = [
    ("occ3d", lambda root, **o: Occ3DNuScenes(root, "train", static_projection=False, **o), 1),
    ("surroundocc", lambda root, **o: SurroundOccNuScenes(root, "train", **o), 0),
]


@pytest.mark.parametrize(("name", "reader", "index"), READERS, ids=[name for name, *_ in READERS])
def test_a_point_is_found_again_in_every_part(
    request: pytest.FixtureRequest, name: str, reader: Callable[..., OccupancyFrames[Any]], index: int
) -> None:
    """Through the batch's projection, the chain of cameras, depth, history, neighbours and rays, scaled and cropped."""
    beside = ALL["neighbours"] if name == "occ3d" else ()
    frames = reader(request.getfixturevalue(name), **ALL | {"neighbours": beside})
    batch = frames[index]
    chain, earlier, around, rays = batch.chain, batch.history, batch.neighbours, batch.rays
    assert chain is not None and earlier is not None and rays is not None and batch.depth is not None
    from_global = np.linalg.inv(frames._to_global(frames._all_frames[index]))
    seen = 0
    for view, place in POINTS.items():
        point = torch.from_numpy(from_global @ [*place, 1.0])[:3]
        pixel = through(batch.projection[0, view], point)
        assert torch.allclose(through(chain.projection()[0, view], point), pixel, atol=1e-3)
        inside = bool((pixel[:2] > 0).all() and pixel[0] < IMAGE.width and pixel[1] < IMAGE.height)
        assert inside
        column, row = int(pixel[0]), int(pixel[1])
        assert batch.depth[0, view, row, column] == pytest.approx(float(pixel[2]), abs=1e-3)
        assert (batch.depth[0, view] > 0).sum() == 1
        for number in range(len(beside)):
            assert around is not None
            in_camera = lift(around.intrinsics[0, view], pixel)
            if not around.valid[0, number, view]:
                continue
            moved = around.camera_motion[0, number, view].double() @ torch.cat([in_camera, in_camera.new_ones(1)])
            there = around.intrinsics[0, view].double() @ moved[:3]
            other = frames[frames._timeline.at(index, (-1, 1)[number])]  # type: ignore[index, union-attr]
            depth, (u, v) = other.depth[0, view], (there[:2] / there[2]).floor().long().tolist()  # type: ignore[index]
            if not (0 <= u < IMAGE.width and 0 <= v < IMAGE.height):
                continue
            assert depth[v, u] == pytest.approx(float(there[2]), abs=1e-3)  # the other frame's own depth image has it there
            seen += 1
            if number == 0:  # the same moment is the newest of the history
                pixel_then = torch.cat([there[:2] / there[2], there[2:]])
                assert torch.allclose(through(earlier.projection[0, 0, view], point), pixel_then, atol=1e-3)
        ends = rays.origins + rays.depth[:, None] * rays.directions
        assert ((ends.double() - point).norm(dim=1) < 1e-3).sum() >= 1
    assert seen >= len(beside) * 3 / 2
    assert (
        len(rays.depth) == 3 * len(frames._timeline.shown("rays", index, (0, -1, 1)))  # type: ignore[union-attr]
        and (rays.semantic == CLASS).all()
        and (rays.weight == 1).all()
    )


def test_mirrored_frames_have_one_geometry(tmp_path: Path) -> None:
    """KITTI-360's: the chain brings a point of the mirrored labels to the mirrored pixel, exactly also off the middle."""
    root = kitti360_layout.write_layout(tmp_path)
    options: dict[str, Any] = dict(image=ImageTransform(width=352, height=64, distort=False), coarsen=4, depth=True, chain=True)
    plain = SSCBenchKITTI360(root, "train", **options)[0]
    frames = SSCBenchKITTI360(root, "train", **options, augment=True, mirror=True)
    samples = [frames[0, draw] for draw in range(8)]
    mirrored = next(sample for sample in samples if not sample.images.equal(plain.images))
    assert mirrored.chain is not None and plain.chain is not None
    point = torch.tensor([20.0, 3.0, 0.5])
    u, v, z = through(plain.chain.projection()[0, 0], point)
    assert torch.allclose(torch.stack([u, v, z]), through(plain.projection[0, 0], point), atol=1e-3)
    found = through(mirrored.chain.projection()[0, 0], point * torch.tensor([1.0, -1.0, 1.0]))
    assert torch.allclose(found, torch.stack([352 - u, v, z]), atol=1e-3)
    row, column = int(v), int(u)
    assert mirrored.depth is not None and plain.depth is not None
    assert mirrored.images[0, 0, :, row, 351 - column].equal(plain.images[0, 0, :, row, column])
    assert mirrored.depth[0, 0, row, 351 - column] == plain.depth[0, 0, row, column]
    assert mirrored.labels.equal(plain.labels.flip(2)) and mirrored.chain.reference[0, 1, 1] == -1


def test_ends_of_a_scene(occ3d: Path) -> None:
    frames = Occ3DNuScenes(occ3d, "train", **ALL | {"augment": False})
    first, middle, last = (frames[index] for index in range(3))
    assert first.history is not None and first.chain is not None and first.neighbours is not None
    for earlier in range(2):  # nothing is before it: it is repeated
        assert first.history.images[:, earlier].equal(first.images)
        assert torch.allclose(first.history.projection[:, earlier], first.chain.projection(), rtol=1e-4, atol=1e-2)
    assert first.neighbours.valid.tolist() == [[[False] * 6, [True] * 6]] and first.neighbours.images[:, 0].equal(
        first.neighbours.current
    )
    assert first.neighbours.camera_motion[0, 0].equal(torch.eye(4).expand(6, 4, 4))
    assert middle.neighbours is not None and middle.history is not None and last.history is not None
    assert middle.neighbours.valid.all()
    assert middle.history.images[:, 0].equal(first.images) and middle.history.images[:, 1].equal(first.images)
    assert last.history.images[:, 0].equal(middle.images) and last.history.images[:, 1].equal(first.images)
    assert torch.allclose(
        first.neighbours.current.flip(2) * 255 - first.images, first.images.new_tensor(IMAGE.mean)[:, None, None], atol=1e-3
    )


def test_scenes_are_in_order_of_time_whatever_the_list() -> None:
    timeline = Timeline([Moment("a", 30), Moment("b", 5), Moment("a", 10), Moment("a", 20)])
    assert [timeline.at(0, -1), timeline.at(0, -2), timeline.at(0, -3), timeline.at(0, 1)] == [3, 2, None, None]
    assert [timeline.back(0, -5), timeline.back(1, -1)] == [2, 1] and timeline.at(1, 1) is None
    assert timeline.seconds(0, 3) == pytest.approx(-1e-5)
    assert timeline.shown("history", 3, (-1, -2)) == [2, 2] and timeline.shown("rays", 3, (0, -1, -2, 1)) == [3, 2, 0]


def tensors(batch: OccupancyBatch) -> Iterator[tuple[str, Tensor]]:
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            yield field.name, value
        elif isinstance(value, BatchPart):
            yield from ((f"{field.name}.{name}", tensor) for name, tensor in value._tensors().items())


def test_parts_leave_the_rest_alone_and_are_joined_and_moved(occ3d: Path) -> None:
    frames = Occ3DNuScenes(occ3d, "train", **ALL)
    plain = Occ3DNuScenes(occ3d, "train", image=IMAGE, augment=True)
    samples = [frames[index, 4] for index in range(3)]
    for sample, bare in zip(samples, (plain[index, 4] for index in range(3)), strict=True):
        for name, value in tensors(bare):
            assert dict(tensors(sample))[name].equal(value), name
    batch = collate(samples)["batch"].to("cpu")
    assert batch.rays is not None and batch.rays.scene.unique().tolist() == [0, 1, 2]
    for index, sample in enumerate(samples):
        assert {name for name, _ in tensors(sample)} >= {"history.images", "neighbours.valid", "rays.depth", "chain.image"}
        own = dict(tensors(batch.one(index)))
        assert all(own[name].equal(value) for name, value in tensors(sample))
    moved = batch.to("meta")
    assert all(value.device.type == "meta" for _, value in tensors(moved))


def test_another_scenes_images_come_with_what_was_before(surroundocc: Path) -> None:
    frames = SurroundOccNuScenes(surroundocc, "train", image=IMAGE, history=(-1,))
    shuffled = ShuffledImages(frames, ["a", "b", "c"])
    partner = shuffled._partner[0]
    shown, own = shuffled[0], frames[0]
    assert shown.history is not None and frames[partner].history is not None
    assert shown.history.images.equal(frames[partner].history.images) and shown.labels.equal(own.labels)  # type: ignore[union-attr]


def test_wrong_parts_are_named(occ3d: Path) -> None:
    part = Occ3DNuScenes(occ3d, "train", **ALL)[1].neighbours
    assert isinstance(part, Neighbours)
    images = torch.zeros(1, 6, 3, 16, 40)
    part.check(images)
    with pytest.raises(ValueError, match=r"Neighbours: camera_motion must be \[1, 2, 6, 4, 4\], got \[1, 2, 4, 4\]"):
        replace(part, camera_motion=torch.zeros(1, 2, 4, 4)).check(images)
    with pytest.raises(ValueError, match=r"Neighbours: images must be \[B, T, V, 3, H, W\]"):
        replace(part, images=part.images[:, 0]).check(images)
    with pytest.raises(ValueError, match="Neighbours: valid must be bool"):
        replace(part, valid=part.valid.float()).check(images)
    masked = replace(part, mask=torch.ones(1, 6, 16, 40, dtype=torch.bool))
    masked.check(images)
    both = Neighbours.joined([masked, masked], [1, 1]).to("cpu")
    assert both.mask is not None and both.mask.shape == (2, 6, 16, 40) and both.one(1).mask is not None
    assert Neighbours.joined([part, part], [1, 1]).mask is None
    with pytest.raises(ValueError, match=r"Neighbours: mask must be \[1, 6, 16, 40\]"):
        replace(part, mask=masked.valid).check(images)
    with pytest.raises(ValueError, match="history must be of earlier key frames"):
        Occ3DNuScenes(occ3d, "train", history=(-1, 0))
    with pytest.raises(ValueError, match="neighbours must be the camera frames right before"):
        Occ3DNuScenes(occ3d, "train", neighbours=(0, 1))
    with pytest.raises(ValueError, match="rays must be of the batch's own key frame, 0, first"):
        Occ3DNuScenes(occ3d, "train", rays=(-1,))


@pytest.mark.parametrize("asked", [{"history": (-1,)}, {"neighbours": (1,)}, {"rays": (0,)}])
def test_a_data_set_without_a_part_says_so(tmp_path: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"SSCBenchKITTI360 has no {next(iter(asked))}: take another data set"):
        SSCBenchKITTI360(kitti360_layout.write_layout(tmp_path), "train", **asked)


def test_frames_without_time_or_pose_are_named(tmp_path: Path) -> None:
    root = occ3d_layout.write_layout(tmp_path)
    path = info_path(root, "train")
    content = load_infos(path)
    content["infos"][1]["timestamp"] = None
    path.write_bytes(pickle.dumps(content))
    Occ3DNuScenes(root, "train", image=IMAGE)[1]  # whoever looks at one moment takes no time stamp
    with pytest.raises(DataError, match=f"{path}: 'timestamp' of scene-0001-01 must be whole microseconds, got None"):
        Occ3DNuScenes(root, "train", image=IMAGE, history=(-1,))
    content["infos"][1]["timestamp"] = 1
    content["infos"][0]["ego2global_rotation"] = [0.0, 0.0, 0.0, 0.0]
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=f"{path}: the pose of frame scene-0001-00 is unusable"):
        Occ3DNuScenes(root, "train", image=IMAGE, history=(-1,))[1]


def test_an_earlier_image_that_is_missing_is_named(tmp_path: Path) -> None:
    root = occ3d_layout.write_layout(tmp_path)
    image = root / "nuscenes/samples/CAM_BACK/scene-0001-00__CAM_BACK.jpg"
    image.unlink()
    frames = Occ3DNuScenes(root, "train", image=IMAGE, history=(-1,))
    frames[2]
    with pytest.raises(DataError, match=f"image {image} is missing"):
        frames[1]


# ---- rays ----


def test_weights_of_rays_are_the_published_ones() -> None:
    classes = np.arange(17)
    own, other = draw_weights(classes, np.ones(17, bool)), draw_weights(classes, np.zeros(17, bool))
    assert own[[0, 2, 6, 15]] == pytest.approx([1.397, 933.3, 14.22, 1.0], rel=1e-3)
    assert (other[list(DYNAMIC)] == 0).all() and other[11] == pytest.approx(0.3 * own[11])


def test_a_draw_follows_the_weights_and_takes_nothing_twice() -> None:
    weights = np.array([0.0, 1.0, 3.0, 1.0, 0.0])
    hits = np.zeros(5)
    for seed in range(2000):
        chosen = draw(weights, 1, np.random.default_rng(seed))
        hits[chosen] += 1
    assert hits[[0, 4]].sum() == 0 and hits[2] / 2000 == pytest.approx(0.6, abs=0.04)
    both = draw(weights, 2, np.random.default_rng(0))
    assert len(set(both.tolist())) == 2 and draw(weights, 0, np.random.default_rng(0)).tolist() == [1, 2, 3]
    assert draw(weights, 9, np.random.default_rng(0)).tolist() == [1, 2, 3]  # there are no more


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose frames all have the same 2400 points in their images."""
    root = occ3d_layout.write_layout(tmp_path_factory.mktemp("crowded"), frames=4)
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.uniform(2, 78, 400), rng.uniform(2, 43, 400), rng.uniform(1, 50, 400)])
    for image in (root / "nuscenes/samples").rglob("*.jpg"):
        for folder, values in ((DEPTH, rows), (CLASSES, np.column_stack([rows[:, :2], np.full(400, 15)]))):
            path = path_of(root, image, folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            values.astype("<f4").tofile(path)
    return root


def rays_of(root: Path, keys: list[tuple[int, int]], seed: int = 0) -> list[RaySupervision]:
    frames = Occ3DNuScenes(root, "train", image=IMAGE, rays=(0, -1), ray_count=300, augment=True, seed=seed)
    found = [frames[key].rays for key in keys]
    assert all(rays is not None for rays in found)
    return found  # type: ignore[return-value]


def test_a_rerun_draws_the_same_rays_and_everything_else_others(crowded: Path) -> None:
    """By seed, epoch, sample, and so by process: two processes never take the same sample in an epoch."""
    order = [list(TrainSampler(4, seed=0, rank=rank, world_size=2)) for rank in range(2)]
    assert not set(order[0]) & set(order[1])
    keys = [*order[0], *order[1], (order[0][0][0], 1)]
    first, again, other = rays_of(crowded, keys), rays_of(crowded, keys), rays_of(crowded, keys, seed=1)
    for rays, same in zip(first, again, strict=True):
        assert len(rays.depth) == 300 and rays.depth.equal(same.depth) and rays.origins.equal(same.origins)
    # All frames have the same points, so that rays would be alike if their draws were.
    drawn = [tuple(rays.depth.tolist()) for rays in (*first, *other)]
    assert len(set(drawn)) == len(drawn)


def test_rays_are_drawn_by_what_another_world_holds(crowded: Path, tmp_path: Path) -> None:
    """Where every other point is a bicycle, the published weights draw hardly anything else; weights counted there draw alike."""
    root = tmp_path / "data"
    shutil.copytree(crowded, root)
    for path in (root / "nuscenes" / CLASSES).iterdir():
        rows = np.fromfile(path, "<f4").reshape(-1, 3)
        rows[::2, 2] = 2
        rows.tofile(path)
    frames = Occ3DNuScenes(root, "train", image=IMAGE, rays=(0,), ray_count=300)
    shares = []
    for count in (False, True):
        if count:
            frames.count_rays()
        rays = frames[0].rays
        assert rays is not None
        shares.append(float((rays.semantic == 2).float().mean()))
    assert shares[0] > 0.99 and abs(shares[1] - 0.5) < 0.1


def test_damaged_points_are_named(tmp_path: Path) -> None:
    root = occ3d_layout.write_layout(tmp_path)
    write_points(root, [occ3d_layout.frame_info("scene-0001", frame, frame) for frame in range(3)])
    frames = Occ3DNuScenes(root, "train", image=IMAGE, rays=(0,), depth=True)
    image = root / "nuscenes/samples/CAM_FRONT/scene-0001-00__CAM_FRONT.jpg"
    depth, classes = path_of(root, image, DEPTH), path_of(root, image, CLASSES)
    whole = {path: path.read_bytes() for path in (depth, classes)}

    def said(path: Path, content: bytes | None, message: str) -> None:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            frames[0]
        path.write_bytes(whole[path])

    def row(*values: float) -> bytes:
        return np.array(values, "<f4").tobytes()

    u, v, _ = np.frombuffer(whole[depth], "<f4")
    said(depth, None, f"lidar points {depth} are missing: .*prepare renderocc")
    said(classes, None, f"lidar points {classes} are missing: .*prepare renderocc")
    said(depth, whole[depth][:-1], f"{depth} have 11 bytes, expected rows of 12")
    said(depth, row(u, v, float("nan")), f"{depth} have NaN or infinite values")
    said(depth, row(u, v, -1), f"{depth} have a depth of -1 m")
    said(classes, row(u, v, 17), f"{classes} hold class 17, known: 0..16")
    said(classes, row(u, v, 1.5), f"{classes} hold class 1.5, known: 0..16")
    said(classes, row(u + 1, v, 3), f"{classes} are others than those of depth_gt")
    frames[0]


def test_files_of_upstreams_own_place_are_found(tmp_path: Path) -> None:
    root = occ3d_layout.write_layout(tmp_path)
    write_points(root, [occ3d_layout.frame_info("scene-0001", frame, frame) for frame in range(3)])
    for folder in (DEPTH, CLASSES):
        (root / "nuscenes" / folder).rename(root / folder)
    assert Occ3DNuScenes(root, "train", image=IMAGE, rays=(0,))[0].rays is not None


# ---- what a run looks at ----


def test_files_that_a_part_needs_are_looked_at_besides(occ3d: Path) -> None:
    nothing = look("occ3d", occ3d, "train", mini=True)
    assert nothing.parts == {} and nothing.extra("occ3d") == ""
    chosen = nothing.frames[0]
    found = look(
        "occ3d", occ3d, "train", mini=True, reads={"chain": (0,), "history": (-1, -2), "neighbours": (-1, 1), "rays": (0,)}
    )
    assert found.fingerprint == nothing.fingerprint and found.read == nothing.read and set(found.parts) == {
        "history", "neighbours", "rays"
    }  # fmt: skip
    assert all(not set(files) & set(chosen) for files in found.parts.values())
    assert len(found.parts["rays"]) == 12 and len(found.parts["history"]) % 6 == 0
    beside = [path for path in found.parts["neighbours"] if path.suffix == ".jpg"]
    assert len(beside) in (6, 12) and len(found.parts["neighbours"]) == len(beside) + 1  # and their list
    assert look("occ3d", occ3d, "train", reads={"history": (-1,)}).extra("occ3d") == ""  # the split's own images
    whole = look("occ3d", occ3d, "train", reads={"rays": (0, -1, 1)})
    assert len(whole.parts["rays"]) == 36 and whole.extra("occ3d")


RAYS = replace(TPVFORMER, reads=("chain", "history"), taught_by=("rays", "depth"), frames={"history": (-1, -2)}, rays={"toy": 50})


def test_a_row_with_files_of_its_own_has_a_fingerprint_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = occ3d_layout.write_layout(tmp_path)
    monkeypatch.setitem(BASELINES.own, "rays", "test_parts:RAYS")
    table = load_table("table_occ3d")
    table = replace(table, rows=(*table.rows, replace(table.row("tpvformer"), name="rays", model="rays")))
    assert RAYS.parts(False) == {"chain": (0,), "history": (-1, -2)}
    assert RAYS.parts(True) == {"chain": (0,), "history": (-1, -2), "rays": (0,), "depth": (0,)}
    request = Request(table=table, preset="toy", renderers=("cpu",), rows=("tpvformer", "rays"), data_root=root)
    with pytest.raises(DataError, match="occ3d train, rays: 36 of 36 files.*--row names rows that take no rays"):
        plan.make(request, lambda: False)
    before = plan.make(replace(request, rows=("tpvformer",)), lambda: False)
    write_points(root, [occ3d_layout.frame_info(s, f, f) for s in ("scene-0001", "scene-0002") for f in range(3)])
    for path in (root / "nuscenes").glob("*_gt*/*.bin"):
        if not path.stat().st_size:
            np.array([5, 5, 5] if path.parent.name == DEPTH else [5, 5, 15], "<f4").tofile(path)
    both = plan.make(request, lambda: False)
    assert both.reads == {"chain", "history", "rays", "depth"}

    def cells(made: plan.Plan) -> dict[str, str]:
        return {cell.row.name: cell.fingerprint(made.data_fingerprint) for cell in made.cells}

    assert cells(both)["tpvformer"] == cells(before)["tpvformer"]  # it reads none of them
    rays_cell: Cell = next(cell for cell in both.cells if cell.row.name == "rays")
    kept = rays_cell.data_read(both.data_fingerprint)
    assert kept.startswith(f"{before.data_fingerprint}+") and rays_cell.fingerprint(kept) == cells(both)["rays"]
    path = next((root / "nuscenes" / DEPTH).glob("scene-0001*.bin"))
    path.write_bytes(path.read_bytes() * 2)
    changed = plan.make(request, lambda: False)
    assert cells(changed)["rays"] != cells(both)["rays"] and cells(changed)["tpvformer"] == cells(both)["tpvformer"]
    assert changed.train_fingerprint != both.train_fingerprint
    generated = plan.make(replace(request, data_root=None), lambda: False)
    alone = plan.make(replace(request, data_root=None, rows=("tpvformer",)), lambda: False)
    assert cells(generated)["tpvformer"] == cells(alone)["tpvformer"] and " rays=" in generated.data_fingerprint


# ---- real frames ----


def test_real_frames_before_and_after(real_frames: Path, tmp_path: Path) -> None:
    """What a lidar sees of a real scene has the same colours in both moments' images, where history and neighbours put it."""
    image = ImageTransform(width=800, height=448)
    root = tmp_path / "data"
    shutil.copytree(real_frames, root, copy_function=os.symlink)
    occ3d_layout.list_key_frames(root, "val")
    frames = Occ3DNuScenes(root, "val", image=image, chain=True, history=(-1,), neighbours=(-1, 1))
    second = next(i for i, info in enumerate(frames._all_frames) if info["scene_name"] == "scene-0103" and info["frame_idx"] == 1)
    info, batch = frames._all_frames[second], frames[second]
    around, chain, earlier = batch.neighbours, batch.chain, batch.history
    assert around is not None and chain is not None and earlier is not None
    assert around.valid[0, :, 0].tolist() == [True, False]
    behind = around.camera_motion[0, 0, 0].inverse()[:3, 3]  # the front camera's place half a second ago
    assert abs(behind[0]) < 0.3 and abs(behind[1]) < 0.3 and -8 < behind[2] < -2

    sweep = info["sweeps"][0]
    points = np.fromfile(real_frames / sweep["data_path"].removeprefix("./data/"), "<f4").reshape(-1, 5)[:, :3]
    to_global = rigid(sweep["ego2global_rotation"], sweep["ego2global_translation"]) @ rigid(
        sweep["sensor2ego_rotation"], sweep["sensor2ego_translation"]
    )
    to_ego = np.linalg.inv(frames._to_global(info)) @ to_global
    ego = torch.from_numpy(homogeneous(points) @ to_ego.T)
    ego = ego[ego[:, :3].norm(dim=1) > 4]  # without the car itself
    for view in range(3):  # those that look ahead
        pixels, depth = dehomogenised(ego @ chain.projection()[0, view].double().T)
        then, then_depth = dehomogenised(ego @ earlier.projection[0, 0, view].double().T)
        lifted = (depth[:, None] * homogeneous(pixels)) @ torch.linalg.inv(around.intrinsics[0, view].double()).T
        moved = homogeneous(lifted) @ around.camera_motion[0, 0, view].double().T
        warped, _ = dehomogenised(moved[:, :3] @ around.intrinsics[0, view].double().T)
        inside = torch.stack([_inside(pixels, depth, image), _inside(then, then_depth, image)]).all(0)
        assert inside.sum() > 500 and torch.allclose(warped[inside], then[inside], atol=0.1)
        now, before = (torch.nn.functional.avg_pool2d(part[0, ..., view, :, :, :], 5, 1, 2) for part in (
            around.current, around.images[:, 0]))  # fmt: skip
        colours = _at(now, pixels[inside])
        found, unmoved = (float((_at(before, places[inside]) - colours).abs().mean()) for places in (then, pixels))
        assert found < (0.6, 0.8, 0.6)[view] * unmoved


def test_real_points_without_lidarseg_give_depth_alone(
    real_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of the frames has its key frame's sweep: its depth is made, and where it says surfaces are, voxels are occupied."""
    root = tmp_path / "data"
    shutil.copytree(real_frames, root, copy_function=os.symlink)
    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 1  # the others' sweeps are not there
    out = capsys.readouterr().out
    assert (
        "renderocc train: 1 frames made, 0 were there, 2 cannot be made" in out
        and "LIDAR_TOP" in out
        and "lidar key frames" in out
    )
    assert "lidarseg" in out and "rays: " in out, "what lacks classes is said"
    assert len(list((root / "nuscenes/depth_gt").glob("*.bin"))) == 6 and not (root / "nuscenes/seg_gt_lidarseg").exists()

    frames = Occ3DNuScenes(root, "val", image=ImageTransform(width=800, height=448), depth=True, chain=True)
    batch, grid = frames[0], frames.grid
    assert batch.depth is not None and batch.chain is not None
    view, row, column = (batch.depth[0] > 0).nonzero(as_tuple=True)
    metres = batch.depth[0, view, row, column].double()
    assert len(metres) > 5000
    pixel = torch.stack([column + 0.5, row + 0.5, torch.ones_like(metres)], dim=1) * metres[:, None]
    place = (batch.chain.projection()[0, view].double().inverse() @ homogeneous(pixel)[..., None])[:, :3, 0]
    voxel = ((place - torch.tensor(grid.lower)) / grid.voxel_size).floor().long()
    near = ((voxel > 0) & (voxel < torch.tensor(grid.shape) - 1)).all(1) & (metres < 25) & (metres > 4)
    around = torch.nn.functional.max_pool3d((batch.labels != grid.empty).float(), 3, 1, 1)[0]
    assert near.sum() > 2000 and around[tuple(voxel[near].T)].mean() > 0.9 > 2 * around.mean()


def homogeneous(points: Any) -> Any:
    """[n, k] -> [n, k + 1] with ones at the end."""
    return np.pad(points, ((0, 0), (0, 1)), constant_values=1) if isinstance(points, np.ndarray) else torch.nn.functional.pad(
        points, (0, 1), value=1.0
    )  # fmt: skip


def dehomogenised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(u*z, v*z, z, ...) [n, k] -> pixels [n, 2] and depths [n]."""
    return rows[:, :2] / rows[:, 2:3], rows[:, 2]


def _inside(pixels: Tensor, depth: Tensor, image: ImageTransform) -> Tensor:
    return (depth > 2) & (pixels > 2).all(1) & (pixels[:, 0] < image.width - 2) & (pixels[:, 1] < image.height - 2)


def _at(image: Tensor, pixels: Tensor) -> Tensor:
    column, row = pixels.floor().long().unbind(1)
    return image[:, row, column]


# ---- making the files ----


def test_surroundoccs_pickles_make_the_same_depth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = toyworld.ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=2, val_frames=1, image_width=192)
    roots = {layout: tmp_path / layout for layout in ("occ3d", "surroundocc")}
    for layout, root in roots.items():
        toyworld.ensure_at(replace(tiny, layout=layout), root)
    monkeypatch.setattr(plan, "toy", lambda _: SimpleNamespace(ensure=lambda _: roots["surroundocc"]))
    plan.toy_data(load_table("table_surroundocc"), "toy", reads={"depth"})
    made = {path.name: path.read_bytes() for path in (roots["surroundocc"] / "nuscenes" / DEPTH).glob("*.bin")}
    assert data.main(["prepare", "renderocc", "--data-root", str(roots["occ3d"])]) == 0
    assert made == {path.name: path.read_bytes() for path in (roots["occ3d"] / "nuscenes" / DEPTH).glob("*.bin")}
    assert len(made) == 18
    frames = SurroundOccNuScenes(roots["surroundocc"], "train", image=IMAGE, depth=True, chain=True)
    depth = frames[0].depth
    assert depth is not None and (depth > 0).float().mean() > 0.3

    # By the command for people, which says what is at fault.
    assert data.main(["prepare", "renderocc", "--data-root", str(roots["surroundocc"])]) == 0
    assert "renderocc train: 0 frames made, 2 were there, 0 cannot be made" in capsys.readouterr().out
    pickled = roots["surroundocc"] / "nuscenes_infos_train_sweeps_occ.pkl"
    content = load_infos(pickled, "")
    del next(iter(content["infos"].values()))[0]["data"]["CAM_BACK"]["calib"]
    pickled.write_bytes(pickle.dumps(content))
    assert data.main(["prepare", "renderocc", "--data-root", str(roots["surroundocc"])]) == 1
    out = capsys.readouterr().out
    assert "nuscenes_infos_train_sweeps_occ.pkl: calibration in frame 0 of scene" in out and "no 'calib'" in out


WRITTEN = {("kitti360", "depth"), ("ddad", "neighbours"), ("ddad", "semantics")}
"""Files of parts that generators write themselves."""


@pytest.mark.parametrize("name", table_names())
def test_what_toy_rows_read_is_generated_or_made(name: str) -> None:
    table = load_table(name)
    files = plan.DATASETS.load(table.dataset).part_files
    read = {part for row in table.rows if row.runs and "toy" in row.presets for part in row.parts(training=True)}
    without = {part for part in read & set(files) if not files[part].made}
    assert {(table.dataset, part) for part in without} <= WRITTEN


def test_the_generated_worlds_points_are_what_its_labels_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made from its lidar by the command; a ray ends in a voxel of its class, and the images show the same depth."""
    root = tmp_path / "world"
    toyworld.ensure_at(toyworld.ToyWorldConfig(train_scenes=1, val_scenes=1, train_frames=2, val_frames=1, image_width=192), root)
    assert data.main(["status", "occ3d", "--data-root", str(root)]) == 1  # of a tiny size, but nothing is missing of it
    assert "train, rays: 24 of 24 files are missing" in capsys.readouterr().out
    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "renderocc train: 2 frames made, 0 were there, 0 cannot be made" in out and "renderocc val: 1 frames made" in out
    assert data.main(["status", "occ3d", "--data-root", str(root)]) == 1
    assert "rays:" not in capsys.readouterr().out

    frames = Occ3DNuScenes(root, "train", image=IMAGE, rays=(0,), depth=True, chain=True)
    batch = frames[0]
    rays, grid = batch.rays, frames.grid
    assert rays is not None and batch.depth is not None and len(rays.depth) > 2000
    ends = rays.origins + rays.depth[:, None] * (rays.directions * 1.003)  # a little into the surface
    place = ((ends - torch.tensor(grid.lower)) / grid.voxel_size).floor().long()
    near = ((place >= 0) & (place < torch.tensor(grid.shape))).all(1) & (rays.depth < 20)
    labels = batch.labels[0][tuple(place[near].T)]
    assert (labels == rays.semantic[near]).float().mean() > 0.6 and (labels != grid.empty).float().mean() > 0.7
    assert (batch.depth > 0).float().mean() > 0.3

    # A run that was stopped goes on; what is there stays as it is.
    paths = sorted((root / "nuscenes").glob("*_gt*/*.bin"))
    content = {path: path.read_bytes() for path in paths}
    paths[0].unlink()
    paths[-1].write_bytes(content[paths[-1]][:-5])
    times = {path: path.stat().st_mtime_ns for path in paths[1:-1]}
    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 0
    assert {path: path.read_bytes() for path in paths} == content
    assert sum(path.stat().st_mtime_ns != times[path] for path in times) <= 2 * 12 - 2  # of the frames that were not whole
    capsys.readouterr()

    # A run of the generated world makes them for rows that read them, and for no others.
    for path in paths:
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(plan, "toy", lambda _: SimpleNamespace(ensure=lambda _: root))
        plan.toy_data(load_table("table_occ3d"), "toy", reads={"chain", "history"})
        assert not any(path.exists() for path in paths)
        plan.toy_data(load_table("table_occ3d"), "toy", reads={"rays"})
        assert {path: path.read_bytes() for path in paths} == content
        # What an older version made is made anew, once.
        newer = replace(DATASET.preparations["renderocc"], version=DATASET.preparations["renderocc"].version + 1)
        known = replace(DATASET, preparations={**DATASET.preparations, "renderocc": newer})
        patch.setattr(plan, "DATASETS", SimpleNamespace(load=lambda _: known, part=plan.DATASETS.part))
        for made_anew in (True, False):
            paths[0].write_bytes(bytes([content[paths[0]][0] ^ 1]) + content[paths[0]][1:])  # whole, as far as can be seen
            plan.toy_data(load_table("table_occ3d"), "toy", reads={"rays"})
            assert (paths[0].read_bytes() == content[paths[0]]) == made_anew
        paths[0].write_bytes(content[paths[0]])

    # What cannot be made is named, and the rest is made.
    for path in paths:
        path.unlink()
    sweep = next(sweep for sweep in prepare_renderocc.sweeps(root, "train"))
    label = root / "nuscenes/lidarseg/v1.0-trainval" / f"{sweep.token}_lidarseg.bin"
    whole = label.read_bytes()
    for damage, said in ((whole[:-1], "labels"), (b"\x40" * len(whole), "holds class 64"), (None, "is missing: unpack")):
        label.unlink()
        if damage is not None:
            label.write_bytes(damage)
        assert data.main(["prepare", "renderocc", "--data-root", str(root), "--again"]) == 1
        out = capsys.readouterr().out
        assert f"{label} {said}" in out and "renderocc train: 1 frames made, 0 were there, 1 cannot be made" in out
    label.write_bytes(whole)

    # A pickle without the sweep's token, as upstream's, needs nuScenes' table of files.
    path = info_path(root, "train")
    infos = load_infos(path)
    listed = {Path(info["lidar_path"]).name: info.pop("lidar_idx") for info in infos["infos"]}
    path.write_bytes(pickle.dumps(infos))
    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 1
    table = root / "nuscenes/v1.0-trainval/sample_data.json"
    assert f"{table}, which does, is missing: unpack the metadata" in capsys.readouterr().out
    table.parent.mkdir(parents=True)
    rows = [{"token": token, "sample_token": "s", "filename": f"samples/LIDAR_TOP/{name}"} for name, token in listed.items()]
    table.write_text(json.dumps([{"token": "x", "filename": "samples/CAM_BACK/a.jpg"}, *rows], indent=0))
    assert data.main(["prepare", "renderocc", "--data-root", str(root)]) == 0
    assert {path: path.read_bytes() for path in paths} == content
    monkeypatch.setattr(verification, "layout_of", lambda _: replace(DATASET, image_size=(192, 108)))
    assert verification.FrameChecks("occ3d", root, "train")[0] == (0, "")
    paths[0].write_bytes(b"x" * 11)
    assert "11 bytes, expected rows of 12" in verification.FrameChecks("occ3d", root, "train")[0][1]
