"""Where the site shows what is behind a number: our records, and the sources of published ones.

Links are made before it is known which page shows the number, so they start with ``at:`` and name the page from the site's top;
``resolved`` turns them into paths from where they stand.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import PurePosixPath
from urllib.parse import quote

from experiments.renderer_records import TABLE, RendererRecord
from reports.summary import WHOLE, Group, Number, Summary

_TOP = "at:"


def slug(text: str) -> str:
    """``text`` as a part of a path or an anchor; different texts (of which none has a "~") stay different."""
    return quote(text, safe="+=").replace("%", "~")


def record_page(table: str, group: Group, row: str) -> str:
    """The page of a row's records of one group, all seeds together."""
    weights = "--weights" if group.origin == "weights" else ""
    return f"records/{slug(table)}/{slug(group.preset)}--{slug(row)}--{slug(group.renderer)}{weights}.md"


def source_page(table: str) -> str:
    """The page of a table's published numbers with their sources."""
    return f"sources/{slug(table)}.md"


def source_anchor(number: Number) -> str:
    """Where on that page a published number stands; those per class stand together."""
    parts = (number.group.origin, number.row, number.metric, *(("classes",) if number.class_name != WHOLE else ()))
    return "--".join(slug(part) for part in parts)


def machine_page(machine: str) -> str:
    """The page of all records of renderers on one machine."""
    return f"records/{TABLE}/{slug(machine)}.md"


def machine_anchor(record: RendererRecord) -> str:
    """Where on that page a record stands."""
    return f"{slug(record.workload)}--{slug(record.renderer)}"


def link(place: str) -> str:
    """A link to a page (and anchor), from anywhere."""
    return _TOP + place


def linked(summary: Summary) -> Summary:
    """The same summary, its numbers with links."""

    def at(number: Number) -> Number:
        table = summary.spec.name
        if number.group.published:
            return replace(number, link=link(f"{source_page(table)}#{source_anchor(number)}"))
        return replace(number, link=link(record_page(table, number.group, number.row)))

    return replace(
        summary,
        numbers={key: at(number) for key, number in summary.numbers.items()},
        gains={key: replace(gain, difference=at(gain.difference)) for key, gain in summary.gains.items()},
        renderer_differences={key: at(number) for key, number in summary.renderer_differences.items()},
    )


def resolved(text: str, page: PurePosixPath) -> str:
    """A page's text with its links as paths from where the page lies."""

    def path(found: re.Match[str]) -> str:
        place, _, anchor = found[1].partition("#")
        relative = os.path.relpath(place, page.parent)
        return f"]({relative}{'#' if anchor else ''}{anchor})"

    return re.sub(rf"\]\({_TOP}([^)\s]+)\)", path, text)
