"""Class and depth images of occupancy, for image metrics and pictures.

The published protocol (``valeoai/GaussRender`` eval.py:133-195, readme.md:347-359): the sensor cameras and the view from
above, predicted voxels opaque where their arg-max class is not empty and not rendered elsewhere, colours still the
softmax of the logits, the class of a pixel the arg-max over C channels. No decoder and no voxel features are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.gaussrender.checks import cameras_on, check_camera_values, check_labels, check_logits
from baselines.gaussrender.config import PAPER, GaussRenderConfig
from baselines.gaussrender.rendering import VoxelRenderer
from baselines.gaussrender.views import reduced
from baselines.interface import OccupancyGrid
from renderers import Cameras, Renderer


@dataclass(frozen=True)
class RenderedViews:
    """What one occupancy looks like.

    semantics      [B, V, H, W] int64 class ids; grid.empty where nothing is seen
    depth          [B, V, H, W] metres, 0 where nothing is seen
    bev_semantics  [B, Hb, Wb] int64, from above: image x along +x, image y along -y of the reference frame
    bev_depth      [B, Hb, Wb] metres below the camera, which hangs x_max - x_min above z = 0
    """

    semantics: Tensor
    depth: Tensor
    bev_semantics: Tensor
    bev_depth: Tensor


@torch.no_grad()
def render_views(
    grid: OccupancyGrid,
    cameras: Cameras,
    prediction: Tensor | None = None,
    labels: Tensor | None = None,
    renderer: str | Renderer = "cpu",
    config: GaussRenderConfig = PAPER,
) -> tuple[RenderedViews | None, RenderedViews | None]:
    """(views of the prediction, views of the labels), each None where its argument is.

    cameras     all V cameras of each sample, rendered where they stand at width // config.image_reduction
    prediction  [B, C, X, Y, Z] logits, or [B, X, Y, Z] integer class ids
    labels      [B, X, Y, Z] integer class ids. Predicted voxels whose label is ``grid.ignore`` are not rendered
                (``config.drop_ignored``, published); without labels all are
    renderer    a backend's name or, better in a loop, a backend
    config      of it, only gaussian_scale, the two reductions, drop_ignored and raster count here

    Runs on the device of ``prediction`` (else of ``labels``). Raises ValueError for wrong shapes.
    """
    given = prediction if prediction is not None else labels
    if given is None:
        raise ValueError("nothing to render: pass a prediction, labels, or both")
    check_camera_values(cameras, given.shape[0])
    views = reduced(cameras_on(cameras, given.device), config.image_reduction)
    drawer = VoxelRenderer(grid, renderer, config).to(given.device)
    seen = drawer.in_image(views)
    truth = None
    if labels is not None:
        check_labels(labels, grid)
        labels = labels.to(given.device).long()
        occupied = drawer.occupied(labels)
        truth = _render(drawer, occupied, _label_colours(drawer, labels, occupied), views, seen)
    if prediction is None:
        return None, truth
    if prediction.is_floating_point():
        check_logits(prediction, grid, given.shape[0])
        classes = prediction.argmax(dim=1)
    else:
        check_labels(prediction, grid)
        classes = prediction.long()
    occupied = drawer.occupied(classes)
    if labels is not None:
        occupied = occupied & drawer.known(labels)
    if prediction.is_floating_point():
        by_voxel = prediction.flatten(2).transpose(1, 2)
        colours = [sample[chosen].float().softmax(dim=-1) for sample, chosen in zip(by_voxel, occupied, strict=True)]
    else:
        colours = _label_colours(drawer, classes, occupied)
    return _render(drawer, occupied, colours, views, seen), truth


def _label_colours(drawer: VoxelRenderer, classes: Tensor, occupied: Tensor) -> list[Tensor]:
    return [drawer.one_hot(sample[chosen]) for sample, chosen in zip(classes.flatten(1), occupied, strict=True)]


def _render(drawer: VoxelRenderer, occupied: Tensor, colours: list[Tensor], views: Cameras, seen: Tensor) -> RenderedViews:
    semantics, depth = [], []
    for v in range(views.views):  # one view at a time: six full-size class images take gigabytes
        one = Cameras(views.intrinsics[:, v : v + 1], views.world_to_camera[:, v : v + 1], views.width, views.height)
        image = drawer.solid(occupied, colours, one, seen[:, v : v + 1])
        semantics.append(image.features.argmax(dim=-1))
        depth.append(image.depth)
    above = drawer.solid(occupied, colours, drawer.above(views), None)
    return RenderedViews(
        torch.cat(semantics, dim=1), torch.cat(depth, dim=1), above.features.argmax(dim=-1)[:, 0], above.depth[:, 0]
    )
