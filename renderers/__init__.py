"""Gaussian splatting backends behind one contract; usable on its own (needs only torch)."""

from renderers.interface import (
    Availability,
    Cameras,
    Gaussians,
    RasterSettings,
    Renderer,
    Rendering,
    SettingNotSupported,
)
from renderers.registry import RendererUnavailable, UnknownRenderer, availability, get, names

__all__ = [
    "Availability",
    "Cameras",
    "Gaussians",
    "RasterSettings",
    "Renderer",
    "RendererUnavailable",
    "Rendering",
    "SettingNotSupported",
    "UnknownRenderer",
    "availability",
    "get",
    "names",
]
