"""The contract every splatting backend fulfils: Gaussians + cameras -> features, depth, alpha.

Conventions (all backends, no exceptions):

- World points are metres in one reference frame. Cameras use OpenCV axes (x right, y down, +z forward).
- Pixel centres lie at +0.5: the pixel in column 0 samples image coordinate u = 0.5.
- Quaternions are (w, x, y, z); backends normalise them.
- Depth is the z coordinate of a Gaussian's centre in the camera; background depth is 0.
- Device and dtype of the outputs follow the inputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from renderers.dialects import CONTRACT, Dialect

Extent = Literal["iso", "tile3sigma"]
ClampRule = Literal["symmetric", "principal"]
DepthMode = Literal["accumulated", "expected"]


class SettingNotSupported(ValueError):
    """A backend was asked for a setting that it cannot honour."""

    def __init__(self, backend: str, setting: str, value: object, hint: str) -> None:
        super().__init__(f"renderer '{backend}' cannot honour {setting}={value!r}: {hint}")


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here; if not, why and what would make it run."""

    ok: bool
    reason: str = ""
    remedy: str = ""

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True)
class Gaussians:
    """A batch of Gaussians in the reference frame.

    means       [B, N, 3] centres in metres, or [B, T, N, 3] with a time axis (see ``Cameras.time_index``)
    scales      [B, N, 3] standard deviations in metres along the Gaussian's own axes, or [B, N, 1] if isotropic
    opacities   [B, N] in 0..1
    features    [B, N, C]
    quaternions [B, N, 4] (w, x, y, z), any non-zero length; None is allowed for isotropic scales only
    """

    means: Tensor
    scales: Tensor
    opacities: Tensor
    features: Tensor
    quaternions: Tensor | None = None

    @property
    def batch(self) -> int:
        return self.means.shape[0]

    @property
    def count(self) -> int:
        return self.means.shape[-2]

    @property
    def channels(self) -> int:
        return self.features.shape[-1]

    @property
    def isotropic(self) -> bool:
        return self.scales.shape[-1] == 1


@dataclass(frozen=True)
class Cameras:
    """V pinhole cameras for each of B scenes.

    intrinsics      [B, V, 3, 3] in pixels; any fx, fy, cx, cy (no skew)
    world_to_camera [B, V, 4, 4] reference frame -> camera, OpenCV axes
    width, height   image size in pixels, shared by all views
    time_index      [V] int64, the time slice of ``means`` each view shows; only with a time axis
    """

    intrinsics: Tensor
    world_to_camera: Tensor
    width: int
    height: int
    time_index: Tensor | None = None

    @property
    def views(self) -> int:
        return self.intrinsics.shape[1]


@dataclass(frozen=True)
class RasterSettings:
    """Numerical settings of a rendering; the defaults are those of the rasterizer that GaussRender trained with.

    near, far          Gaussians with camera z <= near or z > far are dropped (m)
    low_pass           added to both diagonals of the projected covariance (px^2)
    alpha_min          a contribution below it is skipped
    alpha_max          a contribution is cut to it
    transmittance_min  blending stops before the Gaussian that would push transmittance below it
    extent             "iso": a Gaussian reaches exactly the pixels where alpha >= alpha_min;
                       "tile3sigma": the pixels of the tiles touched by its square 3-sigma box
    tile_size          tile edge in pixels, used by "tile3sigma"
    clamp              the limit on x/z, y/z in the projection's Jacobian: "symmetric" = 1.3 tan(fov/2) about the
                       optical axis, "principal" = aware of the principal point (gsplat's rule)
    clamp_gradient     True: where alpha was cut to alpha_max its gradient passes as if it had not been
                       (the original CUDA rasterizer); False: it is zero (gsplat)
    background         [C] features behind everything, or None for zeros
    depth              "accumulated" = sum of weight * z; "expected" = that divided by alpha
    """

    near: float = 0.2
    far: float = 1e10
    low_pass: float = 0.3
    alpha_min: float = 1.0 / 255.0
    alpha_max: float = 0.99
    transmittance_min: float = 1e-4
    extent: Extent = "iso"
    tile_size: int = 16
    clamp: ClampRule = "symmetric"
    clamp_gradient: bool = True
    background: Tensor | None = field(default=None)
    depth: DepthMode = "accumulated"

    def __post_init__(self) -> None:
        for name, allowed in (("extent", Extent), ("clamp", ClampRule), ("depth", DepthMode)):
            value = getattr(self, name)
            _require(value in get_args(allowed), f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        _require(0 <= self.near < self.far, f"near and far must satisfy 0 <= near < far, got {self.near} and {self.far}")
        _require(self.low_pass >= 0, f"low_pass must not be negative, got {self.low_pass}")
        _require(0 < self.alpha_min < 1, f"alpha_min must lie between 0 and 1, got {self.alpha_min}")
        _require(self.alpha_min < self.alpha_max <= 1, f"alpha_max must lie in (alpha_min, 1], got {self.alpha_max}")
        _require(0 <= self.transmittance_min < 1, f"transmittance_min must lie in [0, 1), got {self.transmittance_min}")
        _require(self.tile_size > 0, f"tile_size must be positive, got {self.tile_size}")

    def with_(self, **changes: Any) -> RasterSettings:
        """A copy with the named settings changed."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Rendering:
    """features [B, V, H, W, C], depth [B, V, H, W] in metres, alpha [B, V, H, W] in 0..1."""

    features: Tensor
    depth: Tensor
    alpha: Tensor


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_finite(name: str, value: Tensor) -> None:
    # One NaN or infinity makes the sum one, which is several times faster to know than every value; only finite values
    # whose sum overflows are looked at one by one.
    if not bool(torch.isfinite(value.detach().sum())):
        bad = int((~torch.isfinite(value)).sum())
        _require(bad == 0, f"{name} has {bad} non-finite value(s) (NaN or infinity)")


def validate(gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> None:
    """Raise ValueError naming the first argument with a wrong shape, dtype, device or non-finite value."""
    g, c = gaussians, cameras
    _require(g.means.dim() in (3, 4) and g.means.shape[-1] == 3, f"means must be [B,N,3] or [B,T,N,3], got {list(g.means.shape)}")
    _require(g.means.dtype in (torch.float32, torch.float64), f"means must be float32 or float64, got {g.means.dtype}")
    b, n = g.batch, g.count
    shapes = {"opacities": (g.opacities, [[b, n]]), "scales": (g.scales, [[b, n, 3], [b, n, 1]])}
    if g.quaternions is not None:
        shapes["quaternions"] = (g.quaternions, [[b, n, 4]])
    else:
        _require(g.isotropic, "quaternions may be None only for isotropic scales [B,N,1]")
    for name, (value, allowed) in shapes.items():
        _require(list(value.shape) in allowed, f"{name} must be {' or '.join(map(str, allowed))}, got {list(value.shape)}")
    _require(
        g.features.dim() == 3 and list(g.features.shape[:2]) == [b, n] and g.features.shape[2] > 0,
        f"features must be [{b},{n},C] with C > 0, got {list(g.features.shape)}",
    )
    v = c.intrinsics.shape[1] if c.intrinsics.dim() == 4 else -1
    _require(list(c.intrinsics.shape) == [b, v, 3, 3], f"intrinsics must be [{b},V,3,3], got {list(c.intrinsics.shape)}")
    _require(
        list(c.world_to_camera.shape) == [b, v, 4, 4],
        f"world_to_camera must be [{b},{v},4,4], got {list(c.world_to_camera.shape)}",
    )
    for name in ("intrinsics", "world_to_camera"):
        wanted = getattr(c, name).requires_grad and torch.is_grad_enabled()
        _require(not wanted, f"{name} requires a gradient, and no backend has one for cameras: pass {name}.detach()")
    _require(c.width > 0 and c.height > 0, f"width and height must be positive, got {c.width}x{c.height}")
    if g.means.dim() == 4:
        _require(c.time_index is not None and list(c.time_index.shape) == [v], "means with a time axis need time_index [V]")
        assert c.time_index is not None
        t = g.means.shape[1]
        _require(v == 0 or (int(c.time_index.min()) >= 0 and int(c.time_index.max()) < t), f"time_index must lie in 0..{t - 1}")
    else:
        _require(c.time_index is None, "time_index is given but means have no time axis")
    named = {
        "means": g.means,
        "scales": g.scales,
        "opacities": g.opacities,
        "features": g.features,
        "intrinsics": c.intrinsics,
        "world_to_camera": c.world_to_camera,
    }
    if g.quaternions is not None:
        named["quaternions"] = g.quaternions
    if settings.background is not None:
        _require(
            list(settings.background.shape) == [g.channels],
            f"background must be [{g.channels}], got {list(settings.background.shape)}",
        )
        named["background"] = settings.background
    for name, value in named.items():
        _require(value.device == g.means.device, f"{name} is on {value.device}, means on {g.means.device}")
        _require(value.dtype == g.means.dtype, f"{name} is {value.dtype}, means are {g.means.dtype}")
        _require_finite(name, value)
    if g.quaternions is not None and n > 0:
        zero = int((g.quaternions == 0).all(-1).sum())
        _require(zero == 0, f"quaternions has {zero} of length zero: they say no rotation; use (1, 0, 0, 0)")
    if visible is not None:
        _require(
            list(visible.shape) == [b, v, n] and visible.dtype == torch.bool,
            f"visible must be bool [{b},{v},{n}], got {visible.dtype} {list(visible.shape)}",
        )
        _require(visible.device == g.means.device, f"visible is on {visible.device}, means on {g.means.device}")


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)  # kernels hold them in float32
    return a == b


class Renderer(ABC):
    """A splatting backend.

    ``render`` checks its arguments, then hands over to the backend's ``_render``; it is differentiable in every
    Gaussian field (not in the cameras).

    dialect  how this backend computes (see ``renderers.dialects``); asking for another value of a setting that it has
             compiled in raises SettingNotSupported
    """

    name: ClassVar[str]
    dialect: Dialect = CONTRACT

    @classmethod
    @abstractmethod
    def availability(cls) -> Availability:
        """Whether this backend can run on this machine."""

    def render(
        self,
        gaussians: Gaussians,
        cameras: Cameras,
        settings: RasterSettings | None = None,
        visible: Tensor | None = None,
    ) -> Rendering:
        """Render every view of every scene.

        visible [B, V, N] bool drops Gaussians per view before projection. No Gaussians, or none visible, give the
        background with depth 0 and alpha 0. Raises ValueError for wrong shapes, non-finite values or cameras that
        require a gradient, naming the argument, and SettingNotSupported for a setting the backend cannot honour.
        """
        settings = settings or RasterSettings()
        validate(gaussians, cameras, settings, visible)
        for name, (asked, native) in self.departures(settings).items():
            hint = f"its value is {native!r}, compiled in; pass renderer.native(settings) to accept the backend's values"
            raise SettingNotSupported(self.name, name, asked, hint)
        # Half precision cannot hold the transmittance threshold; mixed-precision training must not reach in here.
        with torch.autocast(gaussians.means.device.type, enabled=False):
            return self._render(gaussians, cameras, settings, visible)

    def departures(self, settings: RasterSettings) -> dict[str, tuple[object, object]]:
        """The settings that this backend cannot honour: name -> (value asked for, the backend's own value)."""
        asked = {name: (getattr(settings, name), own) for name, own in self.dialect.settings.items()}
        return {name: (value, own) for name, (value, own) in asked.items() if not _same(value, own)}

    def native(self, settings: RasterSettings) -> RasterSettings:
        """``settings`` with this backend's own value wherever it cannot honour the one asked for.

        For callers that accept the differences: rendering with the result never raises SettingNotSupported for a
        compiled-in value. What changed is in ``departures(settings)``, to be logged beside the results.
        """
        return settings.with_(**{name: native for name, (_, native) in self.departures(settings).items()})

    @abstractmethod
    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering: ...
