"""Pictures of a cell: what the cameras see, what the model says, what is true. matplotlib without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable as Colours
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from baselines.interface import OccupancyGrid
from camera_occupancy_bench.files import replacing

Image = NDArray[np.uint8]

# The colours in which this field draws nuScenes classes (TPVFormer, SurroundOcc and their successors), then those of
# SemanticKITTI for the classes that only KITTI-360 has; what both have looks the same in all pictures.
COLOURS: dict[str, str] = {
    "others": "#545454",
    "barrier": "#ff7832",
    "bicycle": "#ffc0cb",
    "bus": "#ffff00",
    "car": "#0096f5",
    "construction_vehicle": "#00ffff",
    "motorcycle": "#c8b400",
    "pedestrian": "#ff0000",
    "traffic_cone": "#fff096",
    "trailer": "#873c00",
    "truck": "#a020f0",
    "driveable_surface": "#ff00ff",
    "other_flat": "#8b898a",
    "sidewalk": "#4b004b",
    "terrain": "#96f050",
    "manmade": "#c8c8e6",
    "vegetation": "#00af00",
    "other-vehicle": "#6450fa",
    "person": "#ff1e1e",
    "road": "#ff00ff",
    "parking": "#ff96ff",
    "other-ground": "#af004b",
    "building": "#ffc800",
    "fence": "#ff7832",
    "pole": "#fff096",
    "traffic-sign": "#ff0000",
    "other-structure": "#ff9600",
    "other-object": "#32ffff",
    "free": "#ffffff",
    "empty": "#ffffff",
}
_UNKNOWN = "#000000"


def palette(grid: OccupancyGrid) -> NDArray[np.uint8]:
    """[256, 3] RGB by class id; ids without a class, the ignore label among them, are black."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index, name in enumerate(grid.class_names):
        colours[index] = np.round(np.array(matplotlib.colors.to_rgb(COLOURS.get(name, _UNKNOWN))) * 255)
    return colours


def colour(labels: NDArray[Any], grid: OccupancyGrid) -> Image:
    """Class ids [...] as RGB [..., 3]."""
    return palette(grid)[labels.astype(np.uint8)]


def from_above(labels: NDArray[Any], grid: OccupancyGrid) -> Image:
    """The topmost occupied voxel of every column, [X, Y, Z] -> RGB [forward, left, 3]; forward is up, left is left.

    Lower voxels are darker, so that a car stands out from the road under a tree's colour.
    """
    occupied = (labels != grid.empty) & (labels != grid.ignore)
    top = labels.shape[2] - 1 - occupied[:, :, ::-1].argmax(axis=2)
    classes = np.take_along_axis(labels, top[..., None], axis=2)[..., 0]
    shade = 0.65 + 0.35 * top / max(1, labels.shape[2] - 1)
    image = colour(classes, grid) * shade[..., None]
    image[~occupied.any(axis=2)] = 255
    # The lidar's x points to the right and its y forward, the other frames' x forward and y to the left.
    upright = image.transpose(1, 0, 2)[::-1] if grid.frame == "lidar" else image[::-1, ::-1]
    return np.round(upright).astype(np.uint8)


class Sheet(Figure):
    """Panels of one size in rows, drawn as one picture: with axes for every panel a figure takes several times as long."""

    axis: Axes
    """Its x and y are pixels of the whole picture."""
    corners: list[tuple[int, int]]
    """Row by row, the pixel (x, y) of each panel's upper left corner."""
    panel: tuple[int, int]
    """Width and height of a panel in pixels."""


_HEADING = 0.22  # inches above a panel of a sheet


def _sheet(
    rows: Sequence[Sequence[Image]],
    title: str,
    width: float,
    above: Sequence[str] = (),
    left: Sequence[str] = (),
    bar: Colours | None = None,
    legend: Sequence[Patch] = (),
    interpolation: str = "nearest",
) -> Sheet:
    """Rows of panels [h, w, 3] RGB, enlarged to the largest one's size; what is missing of a row stays white.

    width   inches of the figure
    above   headings of the panels, of all or of the first row
    left    headings of the rows
    bar     colours of metres, for a scale on the right
    legend  below

    ``interpolation`` is matplotlib's: "nearest" adds no colour between those of two classes.
    """
    wide, high = (max(panel.shape[side] for row in rows for panel in row) for side in (1, 0))
    gap = max(2, wide // 40)
    columns = max(map(len, rows))
    headed = [bool(above[columns * number : columns * number + 1]) for number in range(len(rows))]
    margin_left, margin_right = (0.3 if left else 0.05), (0.05 if bar is None else 0.8)
    pixels = columns * (wide + gap) - gap
    inch = pixels / (width - margin_left - margin_right)
    heading = round(_HEADING * inch)
    tops, bottom = [], 0
    for has in headed:
        tops.append(bottom + heading * has)
        bottom = tops[-1] + high + gap
    picture = np.full((bottom - gap, pixels, 3), 255, dtype=np.uint8)
    corners = []
    for top, row in zip(tops, rows, strict=True):
        for column, panel in enumerate(row):
            corners.append((column * (wide + gap), top))
            lines, places = (np.arange(size) * have // size for size, have in zip((high, wide), panel.shape, strict=False))
            picture[top : top + high, corners[-1][0] : corners[-1][0] + wide] = panel[lines[:, None], places]
    margin_below = 0.1 + 0.22 * -(-len(legend) // _names_in_a_row(width))
    margin_above = 0.1 + 0.2 * (title.count("\n") + 1)
    height = margin_below + margin_above + len(picture) / inch
    figure = Sheet(figsize=(width, height))
    figure.corners, figure.panel = corners, (wide, high)
    figure.axis = axis = figure.add_axes(
        (margin_left / width, margin_below / height, pixels / inch / width, len(picture) / inch / height), frameon=False
    )
    axis.imshow(picture, aspect="auto", interpolation=interpolation)
    axis.set_axis_off()
    for corner, name in zip(corners, above, strict=False):
        axis.text(corner[0] + wide / 2, corner[1] - heading / 5, name, ha="center", fontsize=9)
    for top, name in zip(tops, left, strict=False):
        axis.text(-0.05 * inch, top + high / 2, name, ha="right", va="center", rotation=90, fontsize=9)
    if bar is not None:
        place = (1 - 0.7 / width, margin_below / height + 0.1, 0.15 / width, len(picture) / inch / height - 0.2)
        figure.colorbar(bar, cax=figure.add_axes(place), label="depth (m)")
    _add_legend(figure, legend)
    figure.suptitle(title, fontsize=10, y=1 - 0.05 / height, va="top")
    return figure


def input_views(images: NDArray[np.uint8], names: Sequence[str], title: str) -> Sheet:
    """Camera images [V, H, W, 3] RGB, up to three in a row."""
    columns = min(3, len(images))
    rows = [list(images[start : start + columns]) for start in range(0, len(images), columns)]
    return _sheet(rows, title, 12.0, above=names, interpolation="auto")


def sight(
    images: NDArray[np.uint8],
    names: Sequence[str],
    intrinsics: NDArray[np.float64],
    reference_to_camera: NDArray[np.float64],
    labels: NDArray[Any],
    grid: OccupancyGrid,
    title: str,
) -> Sheet:
    """Camera images [V, H, W, 3] with the occupied voxels of labels [X, Y, Z] over them, which must lie on what they are.

    intrinsics [V, 3, 3] in pixels of the images; reference_to_camera [V, 4, 4]. Titles tell the share of all the grid's voxels
    that a camera sees. Raises ValueError for cameras that cannot be the grid's (``baselines.gaussrender.check_cameras``).
    """
    import torch

    from baselines.gaussrender import check_cameras
    from renderers import Cameras

    height, width = images.shape[1:3]
    shares = check_cameras(
        grid, Cameras(torch.from_numpy(intrinsics)[None], torch.from_numpy(reference_to_camera)[None], width, height)
    )[0].tolist()
    headings = [f"{name}: sees {share:.1%}" for name, share in zip(names, shares, strict=True)]
    sheet = input_views(images, headings, title)
    occupied = (labels != grid.empty) & (labels != grid.ignore)
    points, colours = grid.centres().numpy()[occupied], colour(labels[occupied], grid) / 255
    for (left, top), k, pose in zip(sheet.corners, intrinsics, reference_to_camera, strict=True):
        x, y, z = (points @ pose[:3, :3].T + pose[:3, 3]).T
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]
        shown = (z > 0) & (u > 0) & (u < width) & (v > 0) & (v < height)
        far_first = np.flatnonzero(shown)[np.argsort(-z[shown], kind="stable")]
        sizes = np.clip(grid.voxel_size * k[0, 0] / z[far_first] / width * 200, 1, 200)
        places = left + u[far_first] - 0.5, top + v[far_first] - 0.5
        sheet.axis.scatter(*places, s=sizes, c=colours[far_first], alpha=0.5, linewidths=0)
    return sheet


def occupancy_from_above(
    predicted: NDArray[Any], true: NDArray[Any], visible: NDArray[np.bool_], grid: OccupancyGrid, title: str
) -> Figure:
    """Predicted, true, and true where it is scored ([X, Y, Z] each), with a legend of the classes that occur."""
    seen = np.where(visible, true, grid.empty)
    panels = {"predicted": predicted, "true": true, "true, where it counts": seen}
    figure = Figure(figsize=(13, 5.6))
    axes = figure.subplots(1, len(panels))
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.2, top=0.86, wspace=0.12)
    if grid.frame == "lidar":
        extent, across, along = (grid.lower[0], grid.upper[0], grid.lower[1], grid.upper[1]), "x, right (m)", "y, forward (m)"
    else:
        extent, across, along = (grid.upper[1], grid.lower[1], grid.lower[0], grid.upper[0]), "y, left (m)", "x, forward (m)"
    for axis, (name, labels) in zip(axes, panels.items(), strict=True):
        axis.imshow(from_above(labels, grid), extent=extent, interpolation="nearest")
        axis.plot(0, 0, marker="^", color="black", markersize=5)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(across, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel(along, fontsize=8)
    _add_legend(figure, _names([predicted, true], grid))
    figure.suptitle(title, fontsize=10)
    return figure


def rendered_views(
    images: NDArray[np.uint8] | None,
    views: Mapping[str, NDArray[Any]],
    names: Sequence[str],
    grid: OccupancyGrid,
    title: str,
) -> Sheet:
    """One column a camera: image, semantics and depth, each true above predicted.

    images [V, h, w, 3] RGB or None; views: gt_semantics, gt_depth [V, H, W] and, where a model has spoken,
    pred_semantics and pred_depth. Depth is in metres, on one scale for all panels, white where nothing is.
    """
    order = [index for name in _DISPLAY_ORDER if name in names for index in [names.index(name)]] or list(range(len(names)))
    bar = Colours(Normalize(0, float(np.percentile(views["gt_depth"], 99)) if views["gt_depth"].size else 1.0), "turbo_r")
    panels: dict[str, NDArray[np.uint8]] = {} if images is None else {"image": images}
    for key, heading in (("gt_semantics", "true classes"), ("pred_semantics", "predicted classes")):
        if key in views:
            panels[heading] = colour(views[key], grid)
    for who, heading in (("gt", "true depth"), ("pred", "predicted depth")):
        if f"{who}_depth" in views:
            # Accumulated depth falls to 0 where a surface fades out, which would look near.
            panels[heading] = _depth(views[f"{who}_depth"], bar, views[f"{who}_semantics"] == grid.empty)
    rows = [[content[index] for index in order] for content in panels.values()]
    shown = [views[key] for key in ("gt_semantics", "pred_semantics") if key in views]
    width = max(3.0 * len(order), 8.0)
    return _sheet(rows, title, width, [names[index] for index in order], list(panels), bar, _names(shown, grid))


def bev_views(views: Mapping[str, NDArray[Any]], grid: OccupancyGrid, title: str) -> Sheet:
    """The rendered view from above: semantics and depth [H, W], true beside predicted."""
    bar = Colours(Normalize(float(views["gt_bev_depth"].min()), float(views["gt_bev_depth"].max())), "turbo_r")
    panels = {
        "true classes": colour(views["gt_bev"], grid),
        "predicted classes": colour(views["pred_bev"], grid),
        "true depth": _depth(views["gt_bev_depth"], bar),
        "predicted depth": _depth(views["pred_bev_depth"], bar),
    }
    return _sheet([list(panels.values())], title, 13.0, above=list(panels), bar=bar)


_DISPLAY_ORDER = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")


def _depth(depth: NDArray[Any], bar: Colours, nothing: NDArray[np.bool_] | bool = False) -> Image:
    """Metres [...] as RGB [..., 3] in the colours of a scale, white where ``nothing`` is or what is no number."""
    image: Image = bar.to_rgba(depth.ravel(), bytes=True)[:, :3].reshape(*depth.shape, 3)
    image[nothing | ~np.isfinite(depth)] = 255
    return image


def _names(shown: Sequence[NDArray[Any]], grid: OccupancyGrid) -> list[Patch]:
    """The classes that occur, for a legend."""
    present = np.unique(np.concatenate([np.unique(labels) for labels in shown]))
    names = [grid.class_names[int(c)] for c in present if c != grid.empty and c < grid.num_classes]
    return [Patch(facecolor=COLOURS.get(name, _UNKNOWN), edgecolor="grey", label=name) for name in names]


def _names_in_a_row(width: float) -> int:
    return int(width / 1.4)  # about 1.4 inches a name


def _add_legend(figure: Figure, names: Sequence[Patch]) -> None:
    if names:
        columns = min(len(names), _names_in_a_row(figure.get_figwidth()))
        figure.legend(handles=names, loc="lower center", ncols=columns, fontsize=8, frameon=False, borderaxespad=0.1)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG at 110 dots an inch; returns the path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path


def normalised_to_rgb(images: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> Image:
    """The network's input [V, 3, H, W] (blue, green, red, normalised) as RGB [V, H, W, 3]."""
    shape = (1, 3, 1, 1)
    pixels = images * np.reshape(std, shape) + np.reshape(mean, shape)
    return np.clip(np.round(pixels[:, ::-1]), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def labelled_scene(labels: NDArray[Any], rig: Mapping[str, Any], grid: OccupancyGrid, renderer: str, width: int = 400) -> Sheet:
    """A label file rendered into the six cameras of a rig: classes and depth, no images needed.

    labels  [X, Y, Z] class ids in the ego frame
    rig     ``image_wh`` and ``cams``: name -> {K [3, 3] pixels, cam2ego: {matrix [4, 4]}}
    width   of the rendered images in pixels

    Raises ValueError for a rig without one of nuScenes' cameras.
    """
    import torch

    from baselines.gaussrender import render_views
    from renderers import Cameras

    missing = [name for name in _DISPLAY_ORDER if name not in rig["cams"]]
    if missing:
        raise ValueError(f"the rig has no {', '.join(missing)}")
    scale = width / rig["image_wh"][0]
    intrinsics = np.stack([np.array(rig["cams"][name]["K"], dtype=np.float64) for name in _DISPLAY_ORDER])
    intrinsics[:, :2] *= scale
    poses = np.stack([np.linalg.inv(np.array(rig["cams"][name]["cam2ego"]["matrix"])) for name in _DISPLAY_ORDER])
    cameras = Cameras(
        torch.from_numpy(intrinsics).float()[None],
        torch.from_numpy(poses).float()[None],
        width,
        round(rig["image_wh"][1] * scale),
    )
    _, views = render_views(grid, cameras, labels=torch.from_numpy(labels.astype(np.int64))[None], renderer=renderer)
    assert views is not None
    shown = {"gt_semantics": views.semantics[0].numpy(), "gt_depth": views.depth[0].numpy()}
    return rendered_views(None, shown, _DISPLAY_ORDER, grid, f"{rig['scene_name']}, label {rig['token']}")
