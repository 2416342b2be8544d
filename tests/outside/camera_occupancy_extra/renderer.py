"""A renderer: the reference, computed in double precision."""

from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from renderers import Cameras, Gaussians, RasterSettings, Rendering
from renderers.reference import ReferenceRenderer


def _cast(thing: Any, kind: str) -> Any:
    tensors = {f.name: getattr(thing, f.name) for f in fields(thing) if isinstance(getattr(thing, f.name), Tensor)}
    return replace(thing, **{name: getattr(t, kind)() for name, t in tensors.items() if t.is_floating_point()})


class DoubleRenderer(ReferenceRenderer):
    name = "double"

    def _render(self, gaussians: Gaussians, cameras: Cameras, settings: RasterSettings, visible: Tensor | None) -> Rendering:
        if settings.background is not None:
            settings = settings.with_(background=settings.background.double())
        out: Rendering = _cast(super()._render(_cast(gaussians, "double"), _cast(cameras, "double"), settings, visible), "float")
        return out
