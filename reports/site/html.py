"""From Markdown to the finished site: MkDocs with the Material theme, set so that nothing is loaded from anywhere else."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, MkDocsException
from mkdocs.plugins import BasePlugin
from pymdownx.slugs import slugify

from camera_occupancy_bench import ROOT
from camera_occupancy_bench.files import write
from reports.site.tree import Tree
from reports.summary import ReportError

ASSETS = Path(__file__).parent / "assets"
_ROOTED = ("404.html", "sitemap.xml", "sitemap.xml.gz")
"""What MkDocs makes for a site at the top of an address that it knows; this one may lie anywhere."""

_REFERENCE = {
    "docstring_style": None,
    "extensions": ["reports.site.docstrings:Columns"],
    "heading_level": 2,
    "merge_init_into_class": True,
    "members_order": "source",
    "separate_signature": True,
    "show_root_heading": True,
    "show_root_full_path": True,
    "show_signature_annotations": True,
    "show_source": False,
    "show_if_no_docstring": False,
    "filters": ["!^_"],
}


class Plots(BasePlugin):  # type: ignore[type-arg]
    """Puts figures in the place of their marks."""

    def __init__(self, drawn: dict[str, str]) -> None:
        super().__init__()
        self._drawn = drawn

    def on_page_content(self, html: str, **_: Any) -> str:
        """Called by MkDocs for every page."""
        return re.sub(r"<p>\s*(plot-[0-9a-f]{16}-here)\s*</p>", lambda found: self._drawn[found[1]], html)


def render(tree: Tree, work: Path, out: Path) -> None:
    """Write the site into the folder ``out``, which is emptied; ``work`` is an empty folder for what it is made of.

    Raises ReportError where MkDocs finds fault: a link that leads nowhere, a page that is missing.
    """
    docs = work / "docs"
    for name, text in tree.texts.items():
        write(docs / name, text)
    for name, content in tree.binaries.items():
        write(docs / name, content)
    for asset in sorted(ASSETS.iterdir()):
        write(docs / "assets" / asset.name, asset.read_bytes())
    settings = work / "mkdocs.yml"
    write(settings, "site_name: Camera occupancy bench\n")
    with _complaints() as said:
        try:
            config = load_config(str(settings), docs_dir=str(docs), site_dir=str(out), nav=tree.nav, **_options())
            config.plugins["plots"] = Plots(tree.plots)
            config.plugins.run_event("startup", command="build", dirty=False)
            build(config)
            for name in _ROOTED:
                (out / name).unlink(missing_ok=True)
        except (Abort, MkDocsException) as error:
            raise ReportError(f"the site cannot be built: {'; '.join(said) or error}") from error
        finally:
            if "config" in locals():
                config.plugins.run_event("shutdown")


def _options() -> dict[str, Any]:
    theme = {
        "name": "material",
        "font": False,
        "features": ["navigation.tabs", "navigation.top", "content.code.copy", "search.highlight"],
        "palette": [
            {"scheme": "default", "primary": "blue grey", "toggle": {"icon": "material/weather-night", "name": "dark"}},
            {"scheme": "slate", "primary": "blue grey", "toggle": {"icon": "material/weather-sunny", "name": "light"}},
        ],
    }
    handlers = {"python": {"paths": [str(ROOT)], "options": _REFERENCE}}
    return {
        "strict": True,
        "use_directory_urls": False,
        "not_in_nav": "/records/*\n/sources/*\n",
        "validation": {"links": {"anchors": "warn"}},
        "theme": theme,
        "extra": {"generator": False, "polyfills": ["assets/iframe-worker.js"]},
        "extra_css": ["assets/site.css"],
        "extra_javascript": ["assets/site.js"],
        "plugins": ["search", "offline", "autorefs", {"mkdocstrings": {"handlers": handlers}}],
        "markdown_extensions": [
            "attr_list",
            "md_in_html",
            "pymdownx.superfences",
            {"pymdownx.highlight": {"use_pygments": True}},
            {"toc": {"permalink": True, "slugify": slugify(case="lower")}},
        ],
    }


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What MkDocs and its plugins warn of meanwhile, in place of printing it."""
    said: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, logger = Kept(logging.WARNING), logging.getLogger("mkdocs")
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
