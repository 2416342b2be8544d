"""Things by name, imported only when asked for: the registry that every kind has, and the renderers' own. Loads no torch."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

if TYPE_CHECKING:
    from renderers.interface import Availability, Renderer
    from renderers.rays.interface import RayRenderer

Kind = Literal["splats", "rays"]

Thing = TypeVar("Thing")

PACKAGE = "camera_occupancy_bench"
"""What groups of entry points begin with: another installed package adds to a kind below ``camera_occupancy_bench.<kind>``."""


class UnknownName(ValueError):
    """Nothing is registered under a name, or what is cannot be imported; the message names both and the way out."""


class UnknownRenderer(UnknownName):
    """The name is not a registered backend."""


class RendererUnavailable(RuntimeError):
    """The backend exists but cannot run on this machine."""


@dataclass(frozen=True)
class Registry(Generic[Thing]):
    """Things of one kind by name.

    kind     for messages ("renderer")
    own      name -> "module:attribute", in the order in which they are listed to users
    group    entry points ``camera_occupancy_bench.<group>`` of installed packages add to them, and never replace one; "": none do
    error    what is raised for a name without a thing

    Wherever a name is taken, ``module:attribute`` is too.
    """

    kind: str
    own: dict[str, str]
    group: str
    error: type[Exception] = UnknownName

    def names(self) -> list[str]:
        """All names, those of other packages last."""
        return list(self.targets())

    def targets(self) -> dict[str, str]:
        """Name -> "module:attribute"."""
        if not self.group:
            return dict(self.own)
        return {**self.own, **_of_other_packages(f"{PACKAGE}.{self.group}", tuple(sys.path)), **self.own}

    def target(self, name: str) -> str:
        """The "module:attribute" behind a name; raises ``error`` with a suggestion."""
        if ":" in name:
            return name
        known = self.own if name in self.own else self.targets()
        if name not in known:
            raise self.error(suggestion(self.kind, name, self.names()))
        return known[name]

    def part(self, target: str) -> Any:
        """What a thing of this kind names as "module:attribute"; raises ``error`` if it cannot be imported."""
        return Registry(f"part of a {self.kind}", {}, "", self.error).load(target)

    def load(self, name: str) -> Thing:
        """The thing behind a name; raises ``error``, also for a ``module:attribute`` that cannot be imported."""
        module, _, attribute = self.target(name).partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            if name in self.own:
                raise
            raise self.error(f"{self.kind} '{name}' cannot be imported from {module}:{attribute}: {error}") from error
        thing: Thing = found
        return thing


def suggestion(kind: str, name: str, known: Sequence[str]) -> str:
    """What is said of a name that is not known, with the nearest one that is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown {kind} '{name}'{hint} (known: {', '.join(known)})"


@lru_cache
def _of_other_packages(group: str, path: tuple[str, ...]) -> dict[str, str]:
    """The entry points of a group; ``path`` is where packages were looked for."""
    return {point.name: point.value for point in entry_points(group=group)}


BACKENDS: dict[str, str] = {
    "reference": "renderers.reference:ReferenceRenderer",
    "cpu": "renderers.cpu:CpuRenderer",
    "triton": "renderers.triton:TritonRenderer",
    "gsplat": "renderers.gsplat:GsplatRenderer",
    "diff_gauss": "renderers.diff_gauss:DiffGaussRenderer",
}

RAY_BACKENDS: dict[str, str] = {
    "reference": "renderers.rays.reference:ReferenceRayRenderer",
    "cpu": "renderers.rays.cpu:CpuRayRenderer",
    "triton": "renderers.rays.triton:TritonRayRenderer",
}

RENDERERS: Registry[type[Renderer]] = Registry("renderer", BACKENDS, "renderers", UnknownRenderer)
RAY_RENDERERS: Registry[type[RayRenderer]] = Registry("renderer", RAY_BACKENDS, "ray_renderers", UnknownRenderer)

KINDS: dict[Kind, Registry[Any]] = {"splats": RENDERERS, "rays": RAY_RENDERERS}
"""What renderers draw: Gaussians as splats (``renderers.interface``), or grids along rays (``renderers.rays.interface``). A
backend has one name in both, and one kind or both."""


def names(kind: Kind = "splats") -> list[str]:
    """Names of the backends that have a kind, in the order they are listed to users."""
    return KINDS[kind].names()


def every_name() -> list[str]:
    """Names of all backends, whichever kind they have."""
    return list(dict.fromkeys(name for kind in KINDS for name in names(kind)))


def kinds(name: str) -> tuple[Kind, ...]:
    """What the backend ``name`` renders; raises UnknownRenderer with a suggestion."""
    found = tuple(kind for kind in KINDS if name in names(kind))
    return found or (RENDERERS.load(name).kind,)


@overload
def load(name: str, kind: Literal["splats"] = "splats") -> type[Renderer]: ...
@overload
def load(name: str, kind: Literal["rays"]) -> type[RayRenderer]: ...
def load(name: str, kind: Kind = "splats") -> type[Renderer] | type[RayRenderer]:
    """The backend class of a kind; raises UnknownRenderer with a suggestion, or with who has the kind if this one lacks it."""
    elsewhere = any(name in names(other) for other in KINDS if other != kind)
    if not (elsewhere and name not in names(kind)):
        backend: type[Renderer] | type[RayRenderer] = KINDS[kind].load(name)
        if backend.kind == kind:
            return backend
    raise UnknownRenderer(f"renderer '{name}' does not render {kind}; those that do: {', '.join(names(kind))}")


def availability(name: str, kind: Kind = "splats") -> Availability:
    """Whether the backend ``name`` can run here, never raising for a name that has the kind."""
    return (load(name) if kind == "splats" else load(name, kind)).availability()


@overload
def get(name: str, kind: Literal["splats"] = "splats") -> Renderer: ...
@overload
def get(name: str, kind: Literal["rays"]) -> RayRenderer: ...
def get(name: str, kind: Kind = "splats") -> Renderer | RayRenderer:
    """An instance of the backend ``name``; raises RendererUnavailable with the reason and the remedy."""
    backend = load(name) if kind == "splats" else load(name, kind)
    state = backend.availability()
    if not state:
        remedy = f" To make it available: {state.remedy}" if state.remedy else ""
        raise RendererUnavailable(f"renderer '{name}' is not available here: {state.reason}.{remedy}")
    return backend()
