"""Gaussian splatting backends behind one contract; usable on its own (needs only torch)."""

from typing import TYPE_CHECKING, Any

from renderers.registry import RendererUnavailable, UnknownRenderer, availability, get, names

if TYPE_CHECKING:
    from renderers.interface import (
        Availability,
        Cameras,
        Gaussians,
        RasterSettings,
        Renderer,
        Rendering,
        SettingNotSupported,
    )

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


def __getattr__(name: str) -> Any:
    """The contract's types at first use: they load torch, which the names alone do not need."""
    if name not in __all__:
        raise AttributeError(f"module 'renderers' has no attribute '{name}'")
    from renderers import interface

    return getattr(interface, name)
