"""The contract every splatting backend fulfils: Gaussians + cameras -> features, depth, alpha.

Conventions (all backends, no exceptions):

- World points are metres in one reference frame. Cameras use OpenCV axes (x right, y down, +z forward).
- Pixel centres lie at +0.5: the pixel in column 0 samples image coordinate u = 0.5.
- Quaternions are (w, x, y, z); backends normalise them.
- Depth is the z coordinate of a Gaussian's centre in the camera; background depth is 0.
- Device and dtype of the outputs follow the inputs.
- A backend works on the cameras of the moment of the call: the caller may fill its buffers again before the backward pass.
- Whatever would draw a wrong image is refused by name, in every backend: ``RasterSettings`` checks itself, ``validate`` the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from renderers.dialects import CONTRACT, Dialect
from renderers.registry import Kind

Extent = Literal["iso", "tile3sigma"]
ClampRule = Literal["symmetric", "principal"]
DepthMode = Literal["accumulated", "expected"]

LARGEST_SIZE = 1 << 20  # px of an image's or a tile's edge
LEAST_NEAR = 1e-6  # m; nearer, 1 / z^2 leaves what float32 resolves
OPACITY_SLACK = 1e-6  # what rounding may add to an opacity that was in 0..1
# R R^T of float32 poses is off by 1e-7 to 1e-6 (nuScenes: 2e-7 at most), of poses rounded to four decimals by a few 1e-4;
# transposed, scaled and mirrored ones are off by far more than this.
POSE_SLACK = 1e-3
SKEW_SLACK = 1e-5  # of the focal length: a hundredth of a pixel at most
ROW_SLACK = 1e-6  # of the last rows (0, 0, 1) and (0, 0, 0, 1)
QUATERNION_LENGTHS = (1e-12, 1e18)  # what float32 can normalise: squares stay within its range


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
    scales      [B, N, 3] standard deviations in metres along the Gaussian's own axes, or [B, N, 1] if isotropic; none negative,
                zero is a point, which the low pass draws
    opacities   [B, N] in 0..1
    features    [B, N, C]
    quaternions [B, N, 4] (w, x, y, z), any length from 1e-12 to 1e18; None is allowed for isotropic scales only
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

    intrinsics      [B, V, 3, 3] in pixels; any positive fx, fy and any cx, cy, no skew, last row 0, 0, 1
    world_to_camera [B, V, 4, 4] reference frame -> camera, OpenCV axes: a rotation and a shift, last row 0, 0, 0, 1
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

    near, far          Gaussians with camera z <= near or z > far are dropped (m); near at least 1e-6, far may be infinite
    low_pass           added to both diagonals of the projected covariance (px^2)
    alpha_min          a contribution below it is skipped
    alpha_max          a contribution is cut to it
    transmittance_min  blending stops before the Gaussian that would push transmittance below it. What alpha_max lets through
                       must be more: else that Gaussian may be the first, and an opaque one has a hole where it is densest
    extent             "iso": a Gaussian reaches exactly the pixels where alpha >= alpha_min;
                       "tile3sigma": the pixels of the tiles touched by its square 3-sigma box
    tile_size          tile edge in pixels, used by "tile3sigma"
    clamp              the limit on x/z, y/z in the projection's Jacobian: "symmetric" = 1.3 tan(fov/2) about the
                       optical axis, "principal" = aware of the principal point (gsplat's rule)
    legacy_fov_y       True: Gaussians' shapes, and the limit on y/z, are projected as if fy were fx height / width, whatever it
                       is; centres are not (GaussianOcc lib/gaussian_renderer/__init__.py:66-67, which gives the original
                       rasterizer the horizontal field of view twice). Where pixels are not square, splats are squashed
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
    legacy_fov_y: bool = False
    clamp_gradient: bool = True
    background: Tensor | None = field(default=None)
    depth: DepthMode = "accumulated"

    def __post_init__(self) -> None:
        for name, allowed in (("extent", Extent), ("clamp", ClampRule), ("depth", DepthMode)):
            value = getattr(self, name)
            _require(value in get_args(allowed), f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
        for name in ("near", "far", "low_pass", "alpha_min", "alpha_max", "transmittance_min"):
            value = getattr(self, name)
            _require(isinstance(value, Real) and not isinstance(value, bool), f"{name} must be a number, got {value!r}")
        for name in ("legacy_fov_y", "clamp_gradient"):
            value = getattr(self, name)
            _require(isinstance(value, bool), f"{name} must be True or False, got {value!r}")
        _require(
            LEAST_NEAR <= self.near < self.far,
            f"near and far must satisfy {LEAST_NEAR} <= near < far, got {self.near} and {self.far}",
        )
        _require(0 <= self.low_pass < math.inf, f"low_pass must not be negative or infinite, got {self.low_pass}")
        _require(0 < self.alpha_min < 1, f"alpha_min must lie between 0 and 1, got {self.alpha_min}")
        _require(0 <= self.transmittance_min < 1, f"transmittance_min must lie in [0, 1), got {self.transmittance_min}")
        highest = 1 - max(self.transmittance_min, 1e-6) - 2e-7  # less what float32 may round away
        _require(
            self.alpha_min < self.alpha_max <= highest,
            f"alpha_max must lie in (alpha_min, {highest:.7g}], got {self.alpha_max}: behind one opaque Gaussian it must leave "
            f"more than transmittance_min, {self.transmittance_min}, or that Gaussian is not drawn",
        )
        _require(_is_size(self.tile_size), f"tile_size must be a whole number in 1..{LARGEST_SIZE}, got {self.tile_size!r}")
        _require(
            self.background is None or isinstance(self.background, Tensor),
            f"background must be a tensor [C] or None, got {type(self.background).__name__}",
        )

    def with_(self, **changes: Any) -> RasterSettings:
        """A copy with the named settings changed."""
        return replace(self, **changes)

    def shape_fy(self, fx: Tensor, fy: Tensor, width: int, height: int) -> Tensor:
        """The vertical focal length with which Gaussians' shapes are projected (px), see ``legacy_fov_y``."""
        return fx * height / width if self.legacy_fov_y else fy


@dataclass(frozen=True)
class Rendering:
    """features [B, V, H, W, C], depth [B, V, H, W] in metres, alpha [B, V, H, W] in 0..1."""

    features: Tensor
    depth: Tensor
    alpha: Tensor


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_size(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= LARGEST_SIZE


def require_finite(name: str, value: Tensor) -> None:
    # One NaN or infinity makes the sum one, which is several times faster to know than every value; only finite values
    # whose sum overflows are looked at one by one.
    if not bool(torch.isfinite(value.detach().sum())):
        bad = int((~torch.isfinite(value)).sum())
        _require(bad == 0, f"{name} has {bad} non-finite value(s) (NaN or infinity)")


def validate(gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> None:
    """Raise ValueError naming the first argument that cannot be rendered, or not rendered right.

    That is a wrong shape, dtype or device, a non-finite value, an opacity outside 0..1, a negative scale, a quaternion that
    cannot be normalised, a size that is none, intrinsics that are no pinhole camera's in pixels, a pose that is not rigid.
    """
    g, c = gaussians, cameras
    named = {
        "means": g.means,
        "scales": g.scales,
        "opacities": g.opacities,
        "features": g.features,
        "intrinsics": c.intrinsics,
        "world_to_camera": c.world_to_camera,
    }
    optional = {
        "quaternions": g.quaternions,
        "background": settings.background,
        "time_index": c.time_index,
        "visible": visible,
    }
    for name, given in {**named, **{n: t for n, t in optional.items() if t is not None}}.items():
        _require(isinstance(given, Tensor), f"{name} must be a tensor, got {type(given).__name__}")
    _require(g.means.dim() in (3, 4) and g.means.shape[-1] == 3, f"means must be [B,N,3] or [B,T,N,3], got {list(g.means.shape)}")
    _require(g.means.dtype in (torch.float32, torch.float64), f"means must be float32 or float64, got {g.means.dtype}")
    b, n = g.batch, g.count
    shapes = {"opacities": (g.opacities, [[b, n]]), "scales": (g.scales, [[b, n, 3], [b, n, 1]])}
    if g.quaternions is not None:
        shapes["quaternions"] = (g.quaternions, [[b, n, 4]])
    for name, (value, allowed) in shapes.items():
        _require(list(value.shape) in allowed, f"{name} must be {' or '.join(map(str, allowed))}, got {list(value.shape)}")
    _require(g.quaternions is not None or g.isotropic, "quaternions may be None only for isotropic scales [B,N,1]")
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
    _require(
        _is_size(c.width) and _is_size(c.height),
        f"width and height must be whole numbers in 1..{LARGEST_SIZE}, got {c.width!r} and {c.height!r}",
    )
    if g.means.dim() == 4:
        _require(c.time_index is not None and list(c.time_index.shape) == [v], "means with a time axis need time_index [V]")
        assert c.time_index is not None
        whole = c.time_index.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
        _require(whole, f"time_index must be int64, got {c.time_index.dtype}")
        t = g.means.shape[1]
        _require(v == 0 or (int(c.time_index.min()) >= 0 and int(c.time_index.max()) < t), f"time_index must lie in 0..{t - 1}")
    else:
        _require(c.time_index is None, "time_index is given but means have no time axis")
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
        require_finite(name, value)
    if b * n > 0:
        _require_shapes_and_opacities(g)
    if b * v > 0:
        validate_cameras(c)
    if visible is not None:
        _require(
            list(visible.shape) == [b, v, n] and visible.dtype == torch.bool,
            f"visible must be bool [{b},{v},{n}], got {visible.dtype} {list(visible.shape)}",
        )
        _require(visible.device == g.means.device, f"visible is on {visible.device}, means on {g.means.device}")


def _require_shapes_and_opacities(g: Gaussians) -> None:
    extremes = [*g.opacities.detach().aminmax(), g.scales.detach().amin()]
    if g.quaternions is not None:
        extremes += torch.linalg.vector_norm(g.quaternions.detach(), dim=-1).aminmax()
    faintest, densest, smallest, *lengths = torch.stack(extremes).tolist()  # one wait for a GPU
    _require(
        -OPACITY_SLACK <= faintest and densest <= 1 + OPACITY_SLACK,
        f"opacities must lie in 0..1, got {faintest:.6g} to {densest:.6g}; logits become opacities by .sigmoid()",
    )
    _require(
        smallest >= 0,
        f"scales must not be negative, got {smallest:.6g}: they are standard deviations in metres; logarithms need .exp()",
    )
    shortest, longest = QUATERNION_LENGTHS
    _require(
        not lengths or (lengths[0] >= shortest and lengths[1] <= longest),
        f"quaternions must have lengths in {shortest}..{longest} to be normalised, got {lengths}: (1, 0, 0, 0) says no rotation",
    )


def validate_cameras(c: Cameras) -> None:
    """Raise ValueError for intrinsics that are no pinhole camera's and poses that are not rigid; shapes are as they should be."""
    k, pose = (t.detach().to("cpu", torch.float64).flatten(0, 1) for t in (c.intrinsics, c.world_to_camera))

    def refuse(bad: Tensor, name: str, matrices: Tensor, what: str) -> None:
        if bool(bad.any()):
            first = int(bad.nonzero()[0])
            rows = [[round(value, 6) for value in row] for row in matrices[first].tolist()]
            raise ValueError(f"{name} of scene {first // c.views}, view {first % c.views} {what}: {rows}")

    def differs(rows: Tensor, last: list[float]) -> Tensor:
        return ((rows - rows.new_tensor(last)).abs() > ROW_SLACK).any(-1)

    focal = k[:, [0, 1], [0, 1]]
    skew = k[:, [0, 1], [1, 0]].abs().amax(-1)
    refuse((focal <= 0).any(-1), "intrinsics", k, "have a focal length that is not positive")
    refuse(skew > SKEW_SLACK * focal.amin(-1), "intrinsics", k, "have skew, which no backend draws")
    refuse(differs(k[:, 2], [0, 0, 1]), "intrinsics", k, "must have the last row 0, 0, 1")
    refuse(differs(pose[:, 3], [0, 0, 0, 1]), "world_to_camera", pose, "must have the last row 0, 0, 0, 1 (is it transposed?)")
    rotation = pose[:, :3, :3]
    off = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    refuse(off > POSE_SLACK, "world_to_camera", pose, "is not rigid: its upper left 3x3 is no rotation but scales or shears")
    refuse(torch.linalg.det(rotation) < 0, "world_to_camera", pose, "mirrors: the determinant of its rotation is -1")


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)  # kernels hold them in float32
    return a == b


def _own(cameras: Cameras) -> Cameras:
    """Copies, which the caller's next frame does not change before the backward pass: a few numbers a view."""
    index = cameras.time_index
    return Cameras(
        cameras.intrinsics.detach().clone(memory_format=torch.contiguous_format),
        cameras.world_to_camera.detach().clone(memory_format=torch.contiguous_format),
        int(cameras.width),
        int(cameras.height),
        None if index is None else index.to(torch.int64, copy=True),
    )


def _no_images(g: Gaussians, c: Cameras, settings: RasterSettings) -> Rendering:
    """No scenes or no views: images without a pixel, connected to the graph of the inputs."""
    fields = (g.means, g.scales, g.opacities, g.features, g.quaternions, settings.background)
    zero = torch.stack([field.flatten()[:0].sum() for field in fields if field is not None]).sum()
    flat = zero.expand(g.batch, c.views, int(c.height), int(c.width))
    return Rendering(flat[..., None].expand(*flat.shape, g.channels).clone(), flat.clone(), flat.clone())


def first_derivative_only(output: Tensor, what: str, instead: str) -> Tensor:
    """``output`` of a function whose backward pass leaves no graph; differentiating that pass then raises NotImplementedError.

    PyTorch would take the second derivative for zero without a word, under ``once_differentiable`` too where the incoming
    gradient is a constant. what: the function's name; instead: what to do about it.
    """

    def refuse(_: Tensor) -> None:
        if torch.is_grad_enabled():  # in a backward pass: create_graph=True
            raise NotImplementedError(
                f"{what} has no second derivatives, and this backward pass keeps a graph for them (create_graph=True): {instead}"
            )

    if output.requires_grad:
        output.register_hook(refuse)
    return output


class Renderer(ABC):
    """A splatting backend.

    ``render`` checks its arguments, then hands over to the backend's ``_render``; it is differentiable in every
    Gaussian field (not in the cameras).

    dialect             how this backend computes (see ``renderers.dialects``); asking for another value of a setting that it has
                        compiled in raises SettingNotSupported
    second_derivatives  whether gradients can be differentiated again (``create_graph=True``); where not, asking raises
                        NotImplementedError
    """

    name: ClassVar[str]
    kind: ClassVar[Kind] = "splats"
    dialect: Dialect = CONTRACT
    second_derivatives: ClassVar[bool] = False

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
        background with depth 0 and alpha 0; no scenes or no views give empty images. Gradients then are zeros. Raises
        ValueError for whatever ``validate`` refuses and for cameras that require a gradient, naming the argument, and
        SettingNotSupported for a setting the backend cannot honour.
        """
        settings = settings or RasterSettings()
        validate(gaussians, cameras, settings, visible)
        for name, (asked, native) in self.departures(settings).items():
            hint = f"its value is {native!r}, compiled in; pass renderer.native(settings) to accept the backend's values"
            raise SettingNotSupported(self.name, name, asked, hint)
        # Half precision cannot hold the transmittance threshold; mixed-precision training must not reach in here.
        with torch.autocast(gaussians.means.device.type, enabled=False):
            if gaussians.batch * cameras.views == 0:
                return _no_images(gaussians, cameras, settings)
            out = self._render(gaussians, _own(cameras), settings, visible)
        if not self.second_derivatives:
            for image in (out.features, out.depth, out.alpha):
                first_derivative_only(image, f"renderer '{self.name}'", "render with 'reference'")
        return out

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
