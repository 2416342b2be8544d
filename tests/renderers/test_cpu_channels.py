"""The compiled renderer for every number of channels from 1 to 64, outputs and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from renderers.cases import FIELDS
from renderers.conformance import largest
from renderers.cpu import CpuRenderer
from renderers.interface import Gaussians, RasterSettings
from renderers.reference import ReferenceRenderer
from renderers.scenes import random_scene

pytestmark = [
    pytest.mark.skipif(not CpuRenderer.availability(), reason=CpuRenderer.availability().reason),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture(scope="module")
def right() -> tuple:
    """A scene of 64 channels, its weights, its rendering, and the gradients by channel of what is weighted, float64.

    gradients: field -> [65, N, ...]: of each channel alone, and last of depth and alpha. They add up to those of any number
    of channels, since a loss of several channels is the sum of theirs.
    """
    gaussians, cameras = random_scene(seed=17, count=25, channels=64, width=20, height=12)
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(1, 1, 12, 20, 66, generator=generator, dtype=torch.float64)
    background = torch.linspace(-1, 1, 64)
    leaves = {f: getattr(gaussians, f).double().requires_grad_() for f in FIELDS}
    double = replace(cameras, intrinsics=cameras.intrinsics.double(), world_to_camera=cameras.world_to_camera.double())
    out = ReferenceRenderer().render(Gaussians(**leaves), double, RasterSettings(background=background.double()))
    stacked = torch.cat([out.features, out.depth[..., None], out.alpha[..., None]], -1)
    losses = (stacked * weights).sum((0, 1, 2, 3))
    each = [*losses[:64], losses[64:].sum()]
    rows = [torch.autograd.grad(loss, list(leaves.values()), retain_graph=True) for loss in each]
    gradients = {f: torch.stack([row[i][0] for row in rows]) for i, f in enumerate(FIELDS)}
    return gaussians, cameras, background, weights, stacked.detach(), gradients


@pytest.mark.parametrize("channels", range(1, 65))
def test_every_number_of_channels(right: tuple, channels: int) -> None:
    gaussians, cameras, background, weights, expected, gradients = right
    leaves = {f: getattr(gaussians, f).clone() for f in FIELDS}
    leaves["features"] = leaves["features"][..., :channels].contiguous()
    leaves = {f: value.requires_grad_() for f, value in leaves.items()}
    out = CpuRenderer().render(Gaussians(**leaves), cameras, RasterSettings(background=background[:channels]))
    stacked = torch.cat([out.features, out.depth[..., None], out.alpha[..., None]], -1)
    kept = [*range(channels), 64, 65]
    assert largest(stacked.detach().double() - expected[..., kept]) < 1e-4
    got = torch.autograd.grad((stacked * weights[..., kept].float()).sum(), list(leaves.values()))
    for field, gradient in zip(FIELDS, got, strict=True):
        true = gradients[field][[*range(channels), 64]].sum(0)
        if field == "features":
            true = true[:, :channels]
        assert largest(gradient[0].double() - true) <= 1e-3 * largest(true), field
