"""What every backend keeps to beyond its images: functions of a renderer that assert, for whatever process can run it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from renderers.cases import FIELDS
from renderers.interface import Cameras, Gaussians, RasterSettings, Renderer, Rendering
from renderers.scenes import one_view, pinhole, random_scene


def device_of(backend: str) -> str:
    """Where the tensors of a backend that is available belong; Triton's kernels are interpreted where there is no GPU."""
    return "cuda" if torch.cuda.is_available() and backend not in ("reference", "cpu") else "cpu"


def _leaves(gaussians: Gaussians) -> dict[str, Tensor]:
    return {n: t.detach().clone().requires_grad_() for n in FIELDS if (t := getattr(gaussians, n)) is not None}


def _loss(out: Rendering) -> Tensor:
    return out.features.square().sum() + out.depth.sum() + out.alpha.square().sum()


def buffers_filled_again(renderer: Renderer) -> None:
    """Cameras, mask and time index change between the passes: the gradient is that of the image, or PyTorch objects."""
    gaussians, cameras = random_scene(count=30, channels=3, views=2, width=24, height=18)
    moving = replace(gaussians, means=gaussians.means[:, None] + torch.tensor([0.0, 0.1])[None, :, None, None])
    settings = renderer.native(RasterSettings(background=torch.zeros(3)))

    def spoil(name: str, cameras: Cameras, visible: Tensor) -> None:
        if name == "aside":
            cameras.world_to_camera[..., 0, 3] += 0.5
        elif name == "out of sight":
            cameras.world_to_camera[..., 2, 3] -= 100.0
        elif name == "intrinsics":
            cameras.intrinsics[..., :2, :] *= 0.5
        elif name == "visible":
            visible.logical_not_()
        else:
            assert cameras.time_index is not None
            cameras.time_index.fill_(10**9)

    for name in ("aside", "out of sight", "intrinsics", "visible", "time_index"):
        # A loader may store poses transposed and hand out views of them: contiguous once an adapter transposes them again.
        poses = cameras.world_to_camera.mT.contiguous().mT
        given = Cameras(cameras.intrinsics.clone(), poses, 24, 18, torch.tensor([1, 0]))
        visible = torch.rand(1, 2, 30, generator=torch.Generator().manual_seed(0)) < 0.7
        leaves = _leaves(moving)
        loss = _loss(renderer.render(Gaussians(**leaves), given, settings, visible))
        right = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        assert max(float(g.abs().max()) for g in right) > 0.1
        spoil(name, given, visible)
        try:
            now = torch.autograd.grad(loss, list(leaves.values()))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error), name
            continue
        for field, a, b in zip(leaves, now, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=f"{name}: {field}")


def second_derivatives(renderer: Renderer) -> None:
    """They are right or refused with the renderer's name; a first derivative is to be had either way."""
    gaussians, cameras = random_scene(count=12, channels=2, width=14, height=12)
    for output in ("features", "depth", "alpha"):
        leaves = _leaves(gaussians)
        out = renderer.render(Gaussians(**leaves), cameras, renderer.native(RasterSettings()))
        image = getattr(out, output).square().sum() if output == "features" else getattr(out, output).sum()
        (first,) = torch.autograd.grad(image, leaves["means"], retain_graph=True)
        assert first.abs().max() > 0
        try:
            (slope,) = torch.autograd.grad(image, leaves["means"], create_graph=True)
            (second,) = torch.autograd.grad(slope.pow(2).sum() + 0 * leaves["means"].sum(), leaves["means"])
            assert renderer.second_derivatives and second.abs().max() > 0
        except NotImplementedError as error:
            assert not renderer.second_derivatives
            assert f"renderer '{renderer.name}' has no second derivatives" in str(error) and "'reference'" in str(error)


def nothing_to_draw(renderer: Renderer) -> None:
    """No scenes, views or Gaussians: images of the right shape, and gradients of zero for every input."""
    for batch, views, count in ((0, 2, 5), (1, 0, 5), (2, 3, 0), (0, 0, 0)):
        gaussians, cameras = random_scene(count=count, channels=3, batch=batch, views=views, width=7, height=6)
        for visible in (None, torch.zeros(batch, views, count, dtype=torch.bool)):
            leaves = _leaves(gaussians)
            background = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
            settings = renderer.native(RasterSettings(background=background))
            out = renderer.render(Gaussians(**leaves), cameras, settings, visible)
            assert out.features.shape == (batch, views, 6, 7, 3)
            assert out.depth.shape == out.alpha.shape == (batch, views, 6, 7)
            assert out.features.equal(background.detach().expand_as(out.features))
            assert not out.depth.any() and not out.alpha.any()
            for gradient in torch.autograd.grad(_loss(out), list(leaves.values())):
                assert gradient.eq(0).all()


def dropped_gaussians(renderer: Renderer) -> None:
    """Gaussians that no view draws leave every gradient finite, and have none themselves."""
    kept = (0.0, 0.0, 2.0)
    dropped = [(0.0, 0.0, 0.0), (0.3, 0.1, 1e-30), (0.01, 0.0, 0.1), (0.0, 0.0, 0.2), (0.0, 0.0, -3.0), (0.0, 0.0, 60.0)]
    dropped += [(1e6, 0.0, 2.0), (-50.0, 40.0, 3.0), (0.0, 0.0, -1e20)]
    faint, masked, flat = (0.1, 0.0, 2.0), (-0.1, 0.0, 2.0), (0.0, 0.1, 2.0)
    means = torch.tensor([[kept, *dropped, faint, masked, flat]])
    count = means.shape[1]
    opacities = torch.full((1, count), 0.7)
    opacities[0, -3] = 0.0
    visible = torch.ones(1, 1, count, dtype=torch.bool)
    visible[0, 0, -2] = False
    camera = one_view(pinhole(32, 32, 40.0), 32, 32)
    settings = renderer.native(RasterSettings(far=50.0, low_pass=0.0))
    for columns in (1, 3):
        scales = torch.full((1, count, columns), 0.1)
        scales[0, -1] = 0.0  # without a low pass it covers nothing
        quaternions = None if columns == 1 else torch.randn(1, count, 4, generator=torch.Generator().manual_seed(0))
        leaves = _leaves(Gaussians(means, scales, opacities, torch.ones(1, count, 2), quaternions))
        for depth in ("accumulated", "expected"):
            out = renderer.render(Gaussians(**leaves), camera, settings.with_(depth=depth), visible)
            gradients = torch.autograd.grad(_loss(out), list(leaves.values()))
            assert torch.isfinite(out.features).all() and torch.isfinite(out.depth).all() and out.alpha.max() > 0.5
            for name, gradient in zip(leaves, gradients, strict=True):
                assert torch.isfinite(gradient).all(), name
                assert not gradient[0, 1:-1].any(), name
                assert gradient[0, 0].any() or name == "quaternions"


CHECKS = (buffers_filled_again, second_derivatives, nothing_to_draw, dropped_gaussians)
