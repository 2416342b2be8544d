"""Fields of typed data by name: what ``--set schedule.lr=1e-4`` says, checked by name and type. Light: no torch."""

from __future__ import annotations

import ast
import difflib
import types
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Thing = TypeVar("Thing")

_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


class SettingError(ValueError):
    """A setting that does not exist or has another type; the message names it and what there is."""


def read(words: Iterable[str]) -> dict[str, Any]:
    """``section.field=value`` words as a dict; values are Python's literals, or else text."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split(".")) or name.count(".") != 1:
            raise SettingError(f"--set takes section.field=value, schedule.lr=1e-4 say, got '{word}'")
        if text.lower() in _WORDS:
            found[name] = _WORDS[text.lower()]
            continue
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings of a section, by the names of its fields."""
    return {key.partition(".")[2]: value for key, value in settings.items() if key.partition(".")[0] == name and "." in key}


def changed(thing: Thing, fields: Mapping[str, Any], where: str) -> Thing:
    """A dataclass with other values; raises SettingError for a field that it does not have or a value of another type."""
    if not fields:
        return thing
    hints = _hints(cast(Hashable, type(thing)))
    for name in fields:
        if name not in hints:
            near = difflib.get_close_matches(name, hints, n=1, cutoff=0.4)
            hint = f"; did you mean '{where}.{near[0]}'?" if near else ""
            raise SettingError(f"unknown setting '{where}.{name}'{hint} (known: {', '.join(hints)})")
    values = {name: _value(value, hints[name], f"{where}.{name}") for name, value in fields.items()}
    return replace(thing, **values)  # type: ignore[type-var]


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(cast(type, kind))


def _value(value: Any, hint: Any, name: str) -> Any:
    for one in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        fits, converted = _as(value, one)
        if fits:
            return converted
    kind = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint).replace("typing.", "")
    raise SettingError(f"--set {name} must be {kind}, got {value!r}")


def _as(value: Any, hint: Any) -> tuple[bool, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True, value
    if hint is None or hint is type(None):
        return value is None, None
    if origin is Literal:
        return value in inner, value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False, None
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        found = [_as(one, kind) for one, kind in zip(value, kinds, strict=False)]
        return len(kinds) == len(value) and all(fits for fits, _ in found), tuple(one for _, one in found)
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number, float(value) if number else None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63, value
    kind = origin or hint
    return isinstance(kind, type) and isinstance(value, kind), value


def text(value: Any) -> str:
    """A value in a file's name: the same for a tuple and for the list that JSON makes of it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(text, value))
    return str(value)
