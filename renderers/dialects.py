"""How published rasterizers compute, by name: what they have compiled in, and how they differ beyond that.

``renderers.reference.emulate(name)`` is the ``reference`` renderer with the settings of a dialect;
``renderers.agreement`` predicts from two dialects how far two backends may differ on a scene.

Sources: ``valeoai/GaussRender`` extensions/diff-gaussian-rasterization/cuda_rasterizer/{config.h, auxiliary.h:33-49,157,
forward.cu:82-87,122,127,287-293, backward.cu:168-176,690,706}, rasterize_points.cu:72-93;
``graphdeco-inria/diff-gaussian-rasterization`` (the same lines); ``nerfstudio-project/gsplat`` gsplat/cuda/csrc/
{ProjectionEWA3DGSFused.cu, RasterizeToPixels3DGSFwd.cu, RasterizeToPixels3DGSBwd.cu:162-236} (1.5.3) and
gsplat/cuda/include/Common.h:170-187 (1.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Value = float | int | str | bool


@dataclass(frozen=True)
class Dialect:
    """A rasterizer's way of computing.

    settings          fields of ``RasterSettings`` that it has compiled in, with their only value; the others are free.
                      Settings carry the rules for alpha, extent, tiles and the Jacobian: "tile3sigma" includes the floor of
                      the radius (variance enlarged by up to sqrt(0.1) px^2), a clamp rule includes its gradient
    near              near plane that the package itself defaults to (m)
    keeps_near        a Gaussian exactly at the near plane is drawn; the contract drops it
    unit_quaternions  quaternions are used as they come: other lengths distort the covariance
    empty_view        what the package leaves in an image of no Gaussians at all
    exp_error         largest relative error of alpha from the exponential, for exponents in -5.6..0
    w_offset          added to w before the perspective division of the mean

    In every one of them Gaussians of equal depth blend in the order of the input. ``near``, ``keeps_near``,
    ``unit_quaternions`` and ``empty_view`` describe the package: its adapter makes up for them.
    """

    name: str
    settings: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    near: float = 0.2
    keeps_near: bool = False
    unit_quaternions: bool = False
    empty_view: Literal["background", "zeros"] = "background"
    exp_error: float = 2e-7
    w_offset: float = 0.0


CONTRACT = Dialect("contract")
"""Every setting free, all as the contract says: ``reference`` and ``cpu``."""

_ORIGINAL: dict[str, Value] = {
    "near": 0.2,
    "low_pass": 0.3,
    "alpha_min": 1.0 / 255.0,
    "alpha_max": 0.99,
    "transmittance_min": 1e-4,
    "extent": "tile3sigma",
    "clamp": "symmetric",
    "clamp_gradient": True,
}
_GSPLAT: dict[str, Value] = {
    "alpha_min": 1.0 / 255.0,
    "transmittance_min": 1e-4,
    "extent": "iso",
    "clamp": "principal",
    "legacy_fov_y": False,
    "clamp_gradient": False,
}


def _original(name: str, tile_size: int) -> Dialect:
    settings = MappingProxyType(_ORIGINAL | {"tile_size": tile_size})
    return Dialect(name, settings, unit_quaternions=True, empty_view="zeros", w_offset=1e-7)


def _gsplat(name: str, alpha_max: float) -> Dialect:
    settings = MappingProxyType(_GSPLAT | {"alpha_max": alpha_max})
    return Dialect(name, settings, near=0.01, keeps_near=True, exp_error=2e-6)


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            _original("gaussrender", 12),  # GaussRender's build of diff_gauss: 19 channels
            _original("original", 16),  # diff_gauss as published, and graphdeco's: 3 channels
            _gsplat("gsplat-1.5", 0.999),
            _gsplat("gsplat-1.6", 0.99),
        )
    }
)
