"""The settings that published rasterizers have compiled in, by name.

A dialect maps fields of ``RasterSettings`` to the only value a backend can work with; fields that are absent are free.
``RasterSettings().with_(**DIALECTS[name])`` makes the ``reference`` renderer emulate that backend.

Sources: ``valeoai/GaussRender`` extensions/diff-gaussian-rasterization/cuda_rasterizer/{config.h, auxiliary.h:157,
forward.cu:82-87,122,287-293}; ``graphdeco-inria/diff-gaussian-rasterization`` (the same lines);
``nerfstudio-project/gsplat`` gsplat/cuda/csrc/RasterizeToPixels3DGSFwd.cu (1.5.3) and gsplat/cuda/include/Common.h:170-187
(1.6).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Dialect = Mapping[str, float | int | str | bool]

_ORIGINAL: dict[str, float | int | str | bool] = {
    "near": 0.2,
    "low_pass": 0.3,
    "alpha_min": 1.0 / 255.0,
    "alpha_max": 0.99,
    "transmittance_min": 1e-4,
    "extent": "tile3sigma",
    "clamp": "symmetric",
    "clamp_gradient": True,
}
_GSPLAT: dict[str, float | int | str | bool] = {
    "alpha_min": 1.0 / 255.0,
    "transmittance_min": 1e-4,
    "extent": "iso",
    "clamp": "principal",
    "clamp_gradient": False,
}

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "gaussrender": MappingProxyType(_ORIGINAL | {"tile_size": 12}),
        "original": MappingProxyType(_ORIGINAL | {"tile_size": 16}),
        "gsplat-1.5": MappingProxyType(_GSPLAT | {"alpha_max": 0.999}),
        "gsplat-1.6": MappingProxyType(_GSPLAT | {"alpha_max": 0.99}),
    }
)
