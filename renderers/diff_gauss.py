"""Adapter to the original CUDA rasterizer in its three public forms (Inria/MPII licence, non-commercial).

- ``diff_gauss`` with 19 channels (``valeoai/GaussRender`` extensions/diff-gaussian-rasterization): a pass carries 19
  colour channels and up to 34 more as ``extra_attrs``, which are blended without background.
- ``diff_gauss`` with 3 channels (``slothfulxtx/diff-gaussian-rasterization``): likewise, 3 and 34.
- ``diff_gaussian_rasterization`` (``graphdeco-inria/diff-gaussian-rasterization``): 3 channels a pass and nothing else;
  alpha and depth are rendered as two more channels.

The channel count and the tile size are compiled in and the package does not tell them; a wrong guess would read out of
bounds. They are measured by a one-Gaussian render when the renderer is made, with arrays wide enough for any build.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from renderers.cuda import ViewGaussians, ViewImages, cuda_state, require_float32_on, view_by_view
from renderers.dialects import DIALECTS, Dialect
from renderers.interface import Availability, Cameras, Gaussians, RasterSettings, Renderer, Rendering
from renderers.registry import RendererUnavailable

PACKAGES = ("diff_gauss", "diff_gaussian_rasterization")
EXTRA_ATTRIBUTES = 34  # diff_gauss: cuda_rasterizer/auxiliary.h:20
PROBE_CHANNELS = 512  # wider than any build: its kernels index colours by their own compiled count
BUILD = "python -m renderers.build diff_gauss"


@dataclass(frozen=True)
class Build:
    """What is compiled into an installed rasterizer.

    colours  channels of its colour image
    extras   further channels a pass can carry (blended without background)
    dialect  its settings, see ``renderers.dialects``
    """

    colours: int
    extras: int
    dialect: Dialect


class DiffGaussRenderer(Renderer):
    """The original CUDA kernels; float32 on a CUDA device, one view a call.

    library      the package, or what stands in for it in tests; None imports the first of ``PACKAGES`` installed
    device_type  where the kernels run

    Raises RendererUnavailable if the package does not load, or renders something that no known build would.
    """

    name = "diff_gauss"

    def __init__(self, library: Any = None, device_type: str = "cuda") -> None:
        self.device_type = device_type
        self._library = importlib.import_module(_installed()[0]) if library is None else library
        self.build = self._probe()
        self.dialect = self.build.dialect

    @classmethod
    def availability(cls) -> Availability:
        state = cuda_state()
        packages = _installed()
        if not packages:
            remedy = f"{BUILD} (compiles it from source with nvcc; its licence is non-commercial)"
            if not state:
                remedy = f"{state.remedy}, then {remedy}"
            return Availability(False, f"neither {' nor '.join(PACKAGES)} is installed", remedy)
        if not state:
            return state
        try:
            importlib.import_module(packages[0])
        except (ImportError, OSError) as error:  # built against another torch, or a library is missing
            first = (str(error).strip().splitlines() or ["no message"])[0]
            return Availability(False, f"{packages[0]} does not load: {first}", f"build it for this torch: {BUILD}")
        return Availability(True)

    @property
    def _has_extras(self) -> bool:
        """Whether the package returns alpha and depth and takes extra attributes (``diff_gauss``)."""
        return self._library.__name__ == "diff_gauss"

    def _probe(self) -> Build:
        device = torch.device(self.device_type)
        one = ViewGaussians(
            means=torch.tensor([[0.0, 0.0, 2.0]], device=device),
            quaternions=torch.tensor([[1.0, 0.0, 0.0, 0.0]], device=device),
            scales=torch.full((1, 3), 0.1, device=device),
            opacities=torch.ones(1, device=device),
            features=torch.ones(1, PROBE_CHANNELS, device=device),
        )
        # A standard deviation of 5.03 px centred on pixel index 20.5: the square 3-sigma box ends at index 36.5. Tiles
        # of 12 px stop before pixel 36, where alpha is still 0.0087; tiles of 16 px go on to 47.
        intrinsics = torch.tensor([[100.0, 0.0, 21.0], [0.0, 100.0, 21.0], [0.0, 0.0, 1.0]], device=device)
        size, pose = (64, 64), torch.eye(4, device=device)
        black = torch.zeros(PROBE_CHANNELS, device=device)
        try:
            image = self._call(one, pose, intrinsics, size, RasterSettings(), one.features, None, black)[0]
        except Exception as error:  # the extension's errors have no common type
            first = (str(error).strip().splitlines() or ["no message"])[0]
            raise RendererUnavailable(
                f"{self._library.__name__} does not run here: {type(error).__name__}: {first}. To build it anew: {BUILD}"
            ) from error
        centre, tail = float(image[0, 20, 20]), float(image[0, 20, 36])
        dialects = {True: "original", False: "gaussrender"}
        expected_tail = math.exp(-(15.5**2 + 0.5**2) / (2 * 25.3))
        if abs(centre - 0.99) > 1e-4 or min(abs(tail), abs(tail - expected_tail)) > 1e-4:
            raise RendererUnavailable(
                f"{self._library.__name__} renders a saturated Gaussian with alpha {centre:.5f} at its centre and {tail:.5f} "
                f"15.5 px off; known builds give 0.99000, and 0 or {expected_tail:.5f}. To build a known one: {BUILD}"
            )
        extras = EXTRA_ATTRIBUTES if self._has_extras else 0
        return Build(image.shape[0], extras, DIALECTS[dialects[tail > expected_tail / 2]])

    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering:
        require_float32_on(self.device_type, self.name, gaussians)
        size = (cameras.width, cameras.height)
        background = settings.background
        if background is None:
            background = gaussians.features.new_zeros(gaussians.channels)

        def draw(chosen: ViewGaussians, pose: Tensor, intrinsics: Tensor) -> ViewImages:
            return self._draw(chosen, pose, intrinsics, size, settings, background)

        return view_by_view(gaussians, cameras, settings, visible, draw)

    def _draw(
        self,
        chosen: ViewGaussians,
        pose: Tensor,
        intrinsics: Tensor,
        size: tuple[int, int],
        settings: RasterSettings,
        background: Tensor,
    ) -> ViewImages:
        """Features [H, W, C], depth [H, W], alpha [H, W]."""
        if self._has_extras:
            image, depth, alpha = self._with_extras(chosen, pose, intrinsics, size, settings, background)
        else:
            # No alpha, no depth: a channel of ones and one of z, over black, are the same sums.
            z = chosen.means @ pose[2, :3] + pose[2, 3]
            features = torch.cat([chosen.features, torch.ones_like(z)[:, None], z[:, None]], -1)
            background = torch.nn.functional.pad(background, (0, 2))
            images = self._in_passes(chosen, pose, intrinsics, size, settings, features, background)
            image, alpha, depth = images[:-2], images[-2], images[-1]
        if settings.depth == "expected":
            depth = depth / alpha.clamp_min(1e-10)
        return image.permute(1, 2, 0), depth, alpha

    def _with_extras(
        self,
        chosen: ViewGaussians,
        pose: Tensor,
        intrinsics: Tensor,
        size: tuple[int, int],
        settings: RasterSettings,
        background: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``diff_gauss``: image [C, H, W], depth [H, W], alpha [H, W], colours and extra attributes in each pass."""
        per_pass = self.build.colours + self.build.extras
        parts: list[Tensor] = []
        depth = alpha = None
        for start in range(0, chosen.features.shape[1], per_pass):
            features = chosen.features[:, start : start + per_pass]
            behind = background[start : start + per_pass]
            colours, extras = features[:, : self.build.colours], features[:, self.build.colours :]
            image, *others = self._call(
                chosen,
                pose,
                intrinsics,
                size,
                settings,
                self._padded(colours),
                extras if extras.shape[1] else None,
                self._padded(behind[: self.build.colours]),
            )
            if depth is None:
                depth, alpha = others[0][0], others[2][0]
            parts.append(image[: colours.shape[1]])
            if extras.shape[1]:
                assert alpha is not None
                parts.append(others[4] + (1 - alpha) * behind[self.build.colours :, None, None])
        assert depth is not None and alpha is not None
        return torch.cat(parts), depth, alpha

    def _in_passes(
        self,
        chosen: ViewGaussians,
        pose: Tensor,
        intrinsics: Tensor,
        size: tuple[int, int],
        settings: RasterSettings,
        features: Tensor,
        background: Tensor,
    ) -> Tensor:
        """``diff_gaussian_rasterization``: features [P, K] as an image [K, H, W], a few channels a pass."""
        parts = []
        for start in range(0, features.shape[1], self.build.colours):
            colours = features[:, start : start + self.build.colours]
            behind = background[start : start + self.build.colours]
            image = self._call(chosen, pose, intrinsics, size, settings, self._padded(colours), None, self._padded(behind))[0]
            parts.append(image[: colours.shape[1]])
        return torch.cat(parts)

    def _padded(self, channels: Tensor) -> Tensor:
        """[..., K] filled up with zeros to the compiled channel count: the kernels read exactly that many."""
        return torch.nn.functional.pad(channels, (0, self.build.colours - channels.shape[-1])).contiguous()

    def _call(
        self,
        chosen: ViewGaussians,
        pose: Tensor,
        intrinsics: Tensor,
        size: tuple[int, int],
        settings: RasterSettings,
        colours: Tensor,
        extras: Tensor | None,
        background: Tensor,
    ) -> tuple[Tensor, ...]:
        """One call of the package for P Gaussians: (colours, radii, ...) or (colours, depth, normals, alpha, radii, extras).

        The package takes the view matrix and the full projection transposed, the field of view as tangents, and does
        not normalise quaternions (GaussRender src/model/head/gaussian_render.py:591-635, camera.py:7-60).
        """
        width, height = size
        projection = projection_matrix(intrinsics, width, height, settings.near)
        across = width / (2 * float(intrinsics[0, 0]))
        package_settings = self._library.GaussianRasterizationSettings
        values: dict[str, Any] = {
            "image_height": height,
            "image_width": width,
            "tanfovx": across,
            "tanfovy": across if settings.legacy_fov_y else height / (2 * float(intrinsics[1, 1])),
            "bg": background,
            "scale_modifier": 1.0,
            "viewmatrix": pose.T.contiguous(),
            "projmatrix": (projection @ pose).T.contiguous(),
            "sh_degree": 0,
            "campos": torch.linalg.inv(pose)[:3, 3].contiguous(),
            "prefiltered": False,
            "debug": False,
        }
        if "antialiasing" in package_settings._fields:  # later graphdeco versions
            values["antialiasing"] = False
        arguments: dict[str, Tensor] = {
            "means3D": chosen.means.contiguous(),
            "means2D": torch.zeros_like(chosen.means),
            "opacities": chosen.opacities[:, None].contiguous(),
            "colors_precomp": colours,
            "scales": chosen.scales.contiguous(),
            "rotations": torch.nn.functional.normalize(chosen.quaternions, dim=-1).contiguous(),
        }
        if extras is not None:
            arguments["extra_attrs"] = extras.contiguous()
        return self._library.GaussianRasterizer(package_settings(**values))(**arguments)


def projection_matrix(intrinsics: Tensor, width: int, height: int, near: float) -> Tensor:
    """[4, 4] camera coordinates -> clip coordinates, w = z, for intrinsics [3, 3] with any principal point.

    The rasterizer turns x_clip / w = n into the pixel index ((n + 1) * width - 1) / 2, so that pixel coordinate u (centres
    at +0.5) needs n = 2u / width - 1. The third row (depth in clip space) is not used by it.
    """
    fx, fy, cx, cy = intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]
    matrix = intrinsics.new_zeros(4, 4)
    matrix[0, 0] = 2 * fx / width
    matrix[0, 2] = 2 * cx / width - 1
    matrix[1, 1] = 2 * fy / height
    matrix[1, 2] = 2 * cy / height - 1
    matrix[2, 2] = 1.0
    matrix[2, 3] = -near
    matrix[3, 2] = 1.0
    return matrix


def _installed() -> list[str]:
    """Those of ``PACKAGES`` that are installed, in that order of preference."""
    return [package for package in PACKAGES if importlib.util.find_spec(package) is not None]
