"""The project's docstrings as Markdown, for mkdocstrings: their columns of names and meanings become lists."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"^( *)(\S.*?) {2,}(\S.*)$")
_PLAIN = re.compile(r"^[\w*.,@ ()\[\]=|-]+$")


class Columns(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """``name  meaning`` lines, with their continuations, as a list; what is indented otherwise stays code."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text))


def _paragraph(text: str) -> str:
    entries: list[list[str]] = []
    for line in text.split("\n"):
        found = _ENTRY.match(line)
        if found and not found[1] and _PLAIN.match(found[2]):
            entries.append([found[2], found[3]])
        elif entries and line.startswith("  "):
            entries[-1].append(line.strip())
        else:
            return text
    return "\n".join(f"- `{name}`: {' '.join(words)}" for name, *words in entries)
