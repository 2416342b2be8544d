"""The upstream packages' call signatures with the reference renderer behind them, recording what they were called with.

They make the adapters' arguments and outputs testable to exact values without a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from renderers.cases import Case
from renderers.conformance import differentiated, largest, loss_weights
from renderers.dialects import DIALECTS
from renderers.interface import Cameras, Gaussians, RasterSettings, Renderer
from renderers.reference import ReferenceRenderer

COMPILED = {  # as the sources list them, kept apart from the adapter's own lists
    "1.5.3": {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513},
    "1.6.0": {1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 21, 23, 24, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513},
}


def assert_exact(renderer: Renderer, case: Case, tolerance: float = 1e-6) -> None:
    """``case`` through an adapter and its double is the reference in the adapter's dialect: outputs and gradients, float32.

    What is left is the order of sums: an adapter splits channels into passes and pads them.
    """
    case = replace(case, settings=renderer.native(case.settings))
    counted = torch.ones(case.gaussians.batch, case.cameras.views, case.cameras.height, case.cameras.width, dtype=torch.bool)
    weights = loss_weights(case, counted)
    got, gradients = differentiated(renderer, case, weights)
    right, right_gradients = differentiated(ReferenceRenderer(), case, weights)
    for name in ("features", "depth", "alpha"):
        scale = max(1.0, largest(getattr(right, name)))
        error = getattr(got, name) - getattr(right, name)
        if name == "depth" and case.settings.depth == "expected":
            error = error * right.alpha  # what was divided by it has its rounding divided too
        assert largest(error) <= tolerance * scale, name
    for name, gradient in right_gradients.items():
        assert largest(gradients[name] - gradient) <= 1e-5 * max(largest(gradient), 1e-6), f"gradient of {name}"


class FakeGsplat:
    """``gsplat`` of a version: ``rasterization`` with the keyword arguments the adapter may use."""

    def __init__(self, version: str, alpha_max: float | None = None) -> None:
        self.__version__ = version
        self.calls: list[dict[str, Any]] = []
        dialect = DIALECTS["gsplat-1.5" if version.startswith("1.5") else "gsplat-1.6"]
        assert dialect.keeps_near and not dialect.unit_quaternions
        self._settings = RasterSettings().with_(**dialect.settings)
        if alpha_max is not None:
            self._settings = self._settings.with_(alpha_max=alpha_max)

    def rasterization(
        self,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        near_plane: float = 0.01,
        far_plane: float = 1e10,
        eps2d: float = 0.3,
        packed: bool = True,
        backgrounds: Tensor | None = None,
        render_mode: str = "RGB",
        rasterize_mode: str = "classic",
        channel_chunk: int = 32,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        self.calls.append({k: v for k, v in locals().items() if k != "self"})
        assert rasterize_mode == "classic"
        assert means.dim() == 2, "gsplat 1.5.3 renders batches wrongly"
        views = viewmats.shape[-3]
        assert quats.shape == (*means.shape[:-1], 4) and scales.shape == means.shape
        assert opacities.shape == means.shape[:-1] and Ks.shape == (views, 3, 3)
        assert all(t.is_contiguous() for t in (means, quats, scales, opacities, viewmats, Ks))
        with_depth = render_mode in ("RGB+D", "RGB+ED")
        total = colors.shape[-1] + with_depth
        passes = [min(channel_chunk, total - start) for start in range(0, total, channel_chunk)]
        assert set(passes) <= COMPILED[self.__version__], f"no kernel for {passes} channels"

        assert backgrounds is None or not packed, "gsplat 1.5.3 fails to take both"
        background = None
        if backgrounds is not None:
            assert backgrounds.shape == (views, colors.shape[-1])
            background = backgrounds.reshape(-1, colors.shape[-1])[0]
            assert bool((backgrounds == background).all())
        below = torch.nextafter(torch.tensor(near_plane), torch.tensor(0.0))  # the real one keeps z == near_plane
        settings = self._settings.with_(
            near=float(below),
            far=far_plane,
            low_pass=eps2d,
            background=background,
            depth="expected" if render_mode == "RGB+ED" else "accumulated",
        )
        out = ReferenceRenderer().render(
            Gaussians(means[None], scales[None], opacities[None], colors[None], quats[None]),
            Cameras(Ks[None], viewmats[None], width, height),
            settings,
        )
        image = torch.cat([out.features, out.depth[..., None]], -1) if with_depth else out.features
        alpha = out.alpha[..., None]
        return image[0], alpha[0], {}


class _Settings(NamedTuple):
    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool


class _AntialiasingSettings(NamedTuple):
    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor
    scale_modifier: float
    viewmatrix: Tensor
    projmatrix: Tensor
    sh_degree: int
    campos: Tensor
    prefiltered: bool
    debug: bool
    antialiasing: bool


def fake_original(package: str, channels: int, tile_size: int, antialiasing: bool = False, **settings: Any) -> Any:
    """A build of the original rasterizer: ``diff_gauss`` or ``diff_gaussian_rasterization``.

    ``module.calls`` records (settings, arguments). settings: deviations from what real builds have compiled in.
    ``module.cameras``, if set, are those a call must be for: its matrices are held to them within float32 rounding, and
    what is rendered is exactly them, so that an adapter's output can be compared to the last digit.
    """
    compiled = RasterSettings().with_(**DIALECTS["original"].settings).with_(tile_size=tile_size, **settings)
    calls: list[tuple[Any, dict[str, Tensor]]] = []

    def empty(h: int, w: int) -> tuple[Tensor, ...]:
        """The original leaves its buffers at zero, also where the background should be."""
        assert DIALECTS["original"].empty_view == "zeros"
        image, flat, radii = torch.zeros(channels, h, w), torch.zeros(1, h, w), torch.zeros(0, dtype=torch.int32)
        if package == "diff_gaussian_rasterization":
            return image, radii
        return image, flat, torch.zeros(3, h, w), flat, radii, torch.zeros(0, h, w)

    class Rasterizer:
        def __init__(self, raster_settings: Any) -> None:
            self.settings = raster_settings

        def __call__(self, **arguments: Tensor) -> tuple[Tensor, ...]:
            s = self.settings
            calls.append((s, arguments))
            means, colours = arguments["means3D"], arguments["colors_precomp"]
            count, h, w = len(means), s.image_height, s.image_width
            if count == 0:
                return empty(h, w)
            assert colours.shape[1] >= channels and s.bg.shape[0] >= channels, "out-of-bounds read"
            assert len(calls) == 1 or (colours.shape[1] == channels and s.bg.shape[0] == channels)
            assert arguments["opacities"].shape == (count, 1) and arguments["rotations"].shape == (count, 4)
            extras = arguments.get("extra_attrs")
            assert all(t.is_contiguous() for t in arguments.values())
            assert s.viewmatrix.is_contiguous() and s.projmatrix.is_contiguous() and not s.prefiltered
            payload = colours[:, :channels]
            background = s.bg[:channels]
            if extras is not None:
                assert package == "diff_gauss" and extras.shape[1] <= 34
                payload = torch.cat([payload, extras], 1)
                background = torch.nn.functional.pad(background, (0, extras.shape[1]))  # extras have none
            pose = s.viewmatrix.T.contiguous()
            torch.testing.assert_close(s.campos, torch.linalg.inv(pose)[:3, 3])
            projection = s.projmatrix.T @ torch.linalg.inv(pose)
            intrinsics = torch.eye(3)
            # Centres follow the projection, shapes the angles; of two equal angles the vertical one says nothing of fy.
            legacy = s.tanfovy == s.tanfovx
            intrinsics[0, 0], intrinsics[1, 1] = w / (2 * s.tanfovx), h / (2 * s.tanfovy)
            if legacy:
                intrinsics[1, 1] = projection[1, 1] * h / 2
            # pixel index ((n + 1) * size - 1) / 2 of n = (P p)_x / (P p)_w, plus the half pixel of the contract
            torch.testing.assert_close(projection[0, 0] * w / 2, intrinsics[0, 0], atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(projection[1, 1] * h / 2, intrinsics[1, 1], atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(projection[3], torch.tensor([0.0, 0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
            intrinsics[0, 2], intrinsics[1, 2] = (projection[0, 2] + 1) * w / 2, (projection[1, 2] + 1) * h / 2
            if module.cameras is not None:
                intrinsics = exact_intrinsics(s, module.cameras)
            rotations = arguments["rotations"]
            torch.testing.assert_close(rotations.norm(dim=1), torch.ones(count))  # the kernel does not normalise
            out = ReferenceRenderer().render(
                Gaussians(
                    means[None],
                    arguments["scales"][None],
                    arguments["opacities"][None, :, 0],
                    payload[None],
                    rotations[None],
                ),
                Cameras(intrinsics[None, None], pose[None, None], w, h),
                compiled.with_(background=background, legacy_fov_y=legacy),
            )
            image = out.features[0, 0].permute(2, 0, 1)
            radii = torch.ones(count, dtype=torch.int32)
            if package == "diff_gaussian_rasterization":
                return image[:channels], radii
            normals = torch.zeros(3, h, w)
            return image[:channels], out.depth[0], normals, out.alpha[0], radii, image[channels:]

    module = SimpleNamespace(
        __name__=package,
        GaussianRasterizationSettings=_AntialiasingSettings if antialiasing else _Settings,
        GaussianRasterizer=Rasterizer,
        calls=calls,
        cameras=None,
    )
    return module


def exact_intrinsics(settings: Any, cameras: Cameras) -> Tensor:
    """[3, 3] of the camera among ``cameras`` whose matrices and angles a call of the original got, to float32 rounding."""
    w, h = settings.image_width, settings.image_height
    assert (w, h) == (cameras.width, cameras.height)
    pose = settings.viewmatrix.T
    for k, candidate in zip(cameras.intrinsics.flatten(0, 1), cameras.world_to_camera.flatten(0, 1), strict=True):
        if not candidate.equal(pose):
            continue
        projection = torch.zeros(4, 4, dtype=torch.float64)  # clip x / w = 2 u / width - 1, w = z; its third row is unused
        projection[0, 0], projection[0, 2] = 2 * k[0, 0].double() / w, 2 * k[0, 2].double() / w - 1
        projection[1, 1], projection[1, 2] = 2 * k[1, 1].double() / h, 2 * k[1, 2].double() / h - 1
        projection[3, 2] = 1.0
        expected, given = (projection @ pose.double())[[0, 1, 3]], settings.projmatrix.T.double()[[0, 1, 3]]
        allowed = 3e-7 * (projection.abs() @ pose.double().abs())[[0, 1, 3]] + 1e-12
        angles = [settings.tanfovx * 2 * float(k[0, 0]) / w]
        if settings.tanfovy != settings.tanfovx:
            angles.append(settings.tanfovy * 2 * float(k[1, 1]) / h)
        if bool(((expected - given).abs() <= allowed).all()) and max(abs(a - 1) for a in angles) < 1e-12:
            return k
    raise AssertionError("the call is for none of the cameras of the case")
