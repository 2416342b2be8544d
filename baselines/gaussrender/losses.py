"""The four rendered losses.

Reproduces ``valeoai/GaussRender`` src/loss/occupancy_loss.py:17-158 and base_loss.py:29-36. Upstream divides by the
number of cameras and works with one sample; here a batch gives the mean over its samples.
"""

from __future__ import annotations

from torch import Tensor

from baselines.gaussrender.config import GaussRenderConfig
from baselines.gaussrender.rendering import RenderedOccupancy

DEPTH_UNIT = 50.0  # metres that count as 1 in the depth loss of a camera view
BEV_DEPTH_UNIT = 100.0
MIN_DEPTH = 0.1  # metres; pixels with less ground-truth depth show nothing
KL_FACTOR = 10.0
KL_FLOOR = 1e-4  # mixed into both distributions: a pixel's class shares may be exactly zero


def render_losses(predicted: RenderedOccupancy, truth: RenderedOccupancy, config: GaussRenderConfig) -> dict[str, Tensor]:
    """The enabled terms, weighted: ``loss_render_image``, ``_depth``, ``_bev`` and ``_bev_depth``, each a scalar."""
    semantic = l1 if config.loss == "l1" else kl
    strict = config.empty_view_drops_depth
    losses = {}
    if config.with_camera:
        losses["loss_render_image"] = config.camera_weight * semantic(*_both(predicted.image, truth.image))
    if config.with_depth:
        depth = depth_l1(*_both(predicted.depth, truth.depth), DEPTH_UNIT, strict)
        losses["loss_render_depth"] = config.depth_weight * depth
    if config.with_bev:
        losses["loss_render_bev"] = config.bev_weight * semantic(*_both(predicted.bev, truth.bev))
    if config.with_bev_depth:
        depth = depth_l1(*_both(predicted.bev_depth, truth.bev_depth), BEV_DEPTH_UNIT, strict)
        losses["loss_render_bev_depth"] = config.bev_depth_weight * depth
    return losses


def _both(predicted: Tensor | None, truth: Tensor | None) -> tuple[Tensor, Tensor]:
    assert predicted is not None and truth is not None  # the renderer makes what the configuration uses
    return predicted, truth


def l1(predicted: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference of class images [B, V, H, W, C], over everything."""
    return (predicted - truth).abs().mean()


def kl(predicted: Tensor, truth: Tensor) -> Tensor:
    """10 x the Kullback-Leibler divergence from truth to prediction, averaged over pixels and classes, [B, V, H, W, C].

    Rendered pixels are class distributions already, because colours are a softmax and the background is one-hot.
    Upstream applies a log-softmax to them all the same, in the view from above along the image width
    (occupancy_loss.py:75-82, 109-117); that is not reproduced. Both sides get a floor of 1e-4.
    """
    total = 1 + KL_FLOOR * predicted.shape[-1]
    p, q = (predicted + KL_FLOOR) / total, (truth + KL_FLOOR) / total
    return KL_FACTOR * (q * (q.log() - p.log())).mean()


def depth_l1(predicted: Tensor, truth: Tensor, unit: float, empty_view_drops_all: bool) -> Tensor:
    """Mean over samples and views of the mean absolute depth difference in ``unit`` metres, where truth > 0.1 m.

    predicted, truth [B, V, H, W]. Where a view has no such pixel, ``empty_view_drops_all`` (published: its 0/0 turns the
    sum over the cameras into NaN, which becomes a constant 0; occupancy_loss.py:134-157) zeroes the sample; otherwise
    the sample's mean is over its other views, and 0 if there are none.
    """
    shown = truth > MIN_DEPTH
    count = shown.sum(dim=(2, 3))
    difference = ((predicted - truth).abs() * shown).sum(dim=(2, 3)) / unit
    per_view = difference / count.clamp_min(1)
    views = (count > 0).sum(dim=1)
    if empty_view_drops_all:
        per_sample = per_view.mean(dim=1) * (views == per_view.shape[1])
    else:
        per_sample = per_view.sum(dim=1) / views.clamp_min(1)
    return per_sample.mean()
