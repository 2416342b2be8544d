"""Renderer backends by name, imported only when asked for."""

from __future__ import annotations

import difflib
import importlib

from renderers.interface import Availability, Renderer

BACKENDS: dict[str, str] = {
    "reference": "renderers.reference:ReferenceRenderer",
    "cpu": "renderers.cpu:CpuRenderer",
    "triton": "renderers.triton:TritonRenderer",
    "gsplat": "renderers.gsplat:GsplatRenderer",
    "diff_gauss": "renderers.diff_gauss:DiffGaussRenderer",
}


class UnknownRenderer(ValueError):
    """The name is not a registered backend."""


class RendererUnavailable(RuntimeError):
    """The backend exists but cannot run on this machine."""


def names() -> list[str]:
    """Registered backend names, in the order they are listed to users."""
    return list(BACKENDS)


def load(name: str) -> type[Renderer]:
    """The backend class registered under ``name``; raises UnknownRenderer with a suggestion."""
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1, cutoff=0.4)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UnknownRenderer(f"unknown renderer '{name}'{hint} (known: {', '.join(BACKENDS)})")
    module, attribute = BACKENDS[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def availability(name: str) -> Availability:
    """Whether the backend ``name`` can run here, never raising for a known name."""
    return load(name).availability()


def get(name: str) -> Renderer:
    """An instance of the backend ``name``; raises RendererUnavailable with the reason and the remedy."""
    backend = load(name)
    state = backend.availability()
    if not state:
        remedy = f" To make it available: {state.remedy}" if state.remedy else ""
        raise RendererUnavailable(f"renderer '{name}' is not available here: {state.reason}.{remedy}")
    return backend()
