"""Pictures: orientation and colours by hand, and the official label in the six cameras of its car."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from grids import occ3d_grid

from experiments.cell import figures
from experiments.datasets.layout import CAMERAS

GRID = occ3d_grid(4)


def rgb(name: str) -> list[int]:
    return figures.palette(GRID)[GRID.class_names.index(name)].tolist()


def test_from_above_shows_the_topmost_class_forward_up_and_left_left() -> None:
    labels = np.full(GRID.shape, GRID.empty)
    top = GRID.shape[2] - 1
    labels[-1, -1, 0] = GRID.class_names.index("driveable_surface")  # far front, far left
    labels[-1, -1, top] = GRID.class_names.index("vegetation")
    labels[0, 0, top] = GRID.ignore
    image = figures.from_above(labels, GRID)
    assert image.shape == (*GRID.shape[:2], 3)
    assert image[0, 0].tolist() == rgb("vegetation")
    assert image[-1, -1].tolist() == [255, 255, 255], "an unknown voxel is not drawn"
    assert (image.reshape(-1, 3) != 255).any(axis=1).sum() == 1


def test_every_class_has_a_colour_of_its_own() -> None:
    colours = figures.palette(GRID)[: GRID.num_classes].tolist()
    assert len({tuple(c) for c in colours}) == GRID.num_classes
    assert [0, 0, 0] not in colours


def test_network_input_becomes_the_picture_again() -> None:
    image = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    mean, std = (100.0, 110.0, 120.0), (1.0, 2.0, 3.0)
    network = ((image[..., ::-1].astype(np.float32) - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    assert (figures.normalised_to_rgb(network, mean, std) == image).all()


def test_labels_lie_on_the_pixels_that_show_them() -> None:
    """One occupied voxel in front of a camera that looks along +x, and one behind it."""
    labels = np.full(GRID.shape, GRID.empty)
    car = GRID.class_names.index("car")
    x, y, z = (int((p - lo) / GRID.voxel_size) for p, lo in zip((10.0, 2.0, 0.0), GRID.lower, strict=True))
    labels[x, y, z] = labels[0, y, z] = car
    k = np.array([[[60.0, 0, 40], [0, 60, 24], [0, 0, 1]]])
    pose = np.array([[[0.0, -1, 0, 0], [0, 0, -1, 1.5], [1, 0, 0, 0], [0, 0, 0, 1]]])
    k, pose = np.repeat(k, 2, axis=0), np.stack([pose[0], np.diag([-1.0, 1, -1, 1]) @ pose[0]])  # the second looks back
    sheet = figures.sight(np.zeros((2, 48, 80, 3), np.uint8), ["front", "back"], k, pose, labels, GRID, "title")
    dots, behind = sheet.axis.collections
    centre = GRID.centres().numpy()[x, y, z]
    u, v = 40 - 60 * centre[1] / centre[0], 24 + 60 * (1.5 - centre[2]) / centre[0]
    (left, top), (right, _) = sheet.corners
    assert right - left > 80 and sheet.panel == (80, 48)
    np.testing.assert_allclose(dots.get_offsets(), [[left + u - 0.5, top + v - 0.5]], atol=1e-4)
    assert right < behind.get_offsets()[0, 0] < right + 80
    np.testing.assert_allclose(dots.get_facecolors()[0, :3] * 255, rgb("car"), atol=0.5)
    headings = [text.get_text() for text in sheet.axis.texts]
    assert [heading.split(":")[0] for heading in headings] == ["front", "back"] and all(
        " sees " in text and "%" in text for text in headings
    )


def test_panels_of_a_sheet_are_where_it_says_enlarged_to_one_size() -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((4, 2, 4, 3), np.uint8) * 60
    small = figures.input_views(images, "abcd", "t")
    picture = np.asarray(small.axis.images[0].get_array())
    assert len(small.corners) == 4, "three in the first row, one in the second"
    for (x, y), image in zip(small.corners, images, strict=True):
        assert (picture[y : y + 2, x : x + 4] == image).all()
    semantics = np.stack([np.array([[1, 2], [3, 4]])] * 2)
    semantics[1, 1, 1] = GRID.empty
    depth = np.array([[[5.0, 10.0], [15.0, 20.0]], [[5.0, np.nan], [15.0, 20.0]]])
    views = {
        "gt_semantics": semantics,
        "gt_depth": np.nan_to_num(depth, nan=1.0),
        "pred_semantics": semantics,
        "pred_depth": depth,
    }
    sheet = figures.rendered_views(np.zeros((2, 4, 4, 3), np.uint8), views, ("left", "right"), GRID, "t")
    picture = np.asarray(sheet.axis.images[0].get_array())
    assert sheet.panel == (4, 4) and len(sheet.corners) == 10, "image, classes and depth, both twice, of two cameras"
    x, y = sheet.corners[3]  # true classes of the second camera
    assert (picture[y : y + 4, x : x + 4] == figures.colour(semantics[1], GRID).repeat(2, axis=0).repeat(2, axis=1)).all()
    far = np.percentile(views["gt_depth"], 99)
    scale = matplotlib.colormaps["turbo_r"](depth / far, bytes=True)[..., :3]
    for (x, y), camera in zip(sheet.corners[8:], (0, 1), strict=True):  # predicted depth
        panel = picture[y : y + 4 : 2, x : x + 4 : 2]
        shown = np.isfinite(depth[camera]) & (semantics[camera] != GRID.empty)
        assert (panel[shown] == scale[camera][shown]).all() and (panel[~shown] == 255).all()


def test_views_and_plans_are_written_as_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    semantics = generator.integers(0, GRID.num_classes, (6, 8, 16))
    depth = generator.uniform(1, 40, (6, 8, 16))
    views = {f"{who}_{what}": v for who in ("gt", "pred") for what, v in (("semantics", semantics), ("depth", depth))}
    above = {f"{who}_bev{d}": v[0] for who in ("gt", "pred") for d, v in (("", semantics), ("_depth", depth))}
    labels = generator.integers(0, GRID.num_classes, GRID.shape)
    drawn = {
        "input": figures.input_views(np.zeros((6, 8, 16, 3), np.uint8), CAMERAS, "t"),
        "cameras": figures.rendered_views(None, views, CAMERAS, GRID, "t"),
        "above": figures.bev_views(above, GRID, "t"),
        "plan": figures.occupancy_from_above(labels, labels, labels > 3, GRID, "t"),
    }
    for name, figure in drawn.items():
        path = figures.save(figure, tmp_path / "figures" / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_the_official_label_renders_in_all_six_cameras(
    real_frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = json.loads((real_frames / "occ3d_official_scene-1077.json").read_text())
    with np.load(real_frames / rig["occ_path"]) as arrays:
        labels = arrays["semantics"]
    grid = occ3d_grid()
    drawn: dict[str, np.ndarray] = {}
    draw = figures.rendered_views
    monkeypatch.setattr(figures, "rendered_views", lambda images, views, *rest: drawn.update(views) or draw(images, views, *rest))
    sheet = figures.labelled_scene(labels, rig, grid, "cpu")
    path = figures.save(sheet, tmp_path / "official.png")
    assert path.stat().st_size > 50_000
    picture, (wide, high) = np.asarray(sheet.axis.images[0].get_array()), sheet.panel
    pictures = [picture[y : y + high, x : x + wide] for x, y in sheet.corners]
    semantics = dict(zip(figures._DISPLAY_ORDER, pictures[:6], strict=True))

    def share(camera: str, name: str) -> float:
        picture = semantics[camera]
        return float((picture == figures.palette(grid)[grid.class_names.index(name)]).all(axis=-1).mean())

    # The car drives along a hedge on its left; the street with a bus and cars lies ahead, to the right and behind.
    for camera in ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK"):
        assert share(camera, "driveable_surface") > 0.2
    for camera in ("CAM_FRONT_LEFT", "CAM_BACK_LEFT"):
        assert share(camera, "vegetation") > 0.8
    for camera in ("CAM_FRONT_RIGHT", "CAM_BACK_RIGHT"):
        assert share(camera, "bus") > 0.05
    for index, picture in enumerate(pictures[6:12]):
        depth, something = drawn["gt_depth"][index], drawn["gt_semantics"][index] != grid.empty
        seen = depth[something]
        assert seen.size > depth.size / 3 and 2 < np.median(seen) < 40 and seen.max() < 60
        assert ((picture != 255).any(axis=-1) == something).all()
