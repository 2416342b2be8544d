"""The project under its own name: where its packages lie, and that nothing else stands in their place. Standard library only.

The packages themselves have common names (``renderers``, ``baselines``, ``experiments``, ``reports``), which a folder of a user's
or another package may have too. ``python -m camera_occupancy_bench`` shows where each comes from.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the packages: a checkout, or an environment's ``site-packages``."""

PACKAGES = ("experiments", "reports", "baselines", "renderers")

CHECKOUT = (ROOT / "pyproject.toml").is_file()
"""Whether the packages are those of a checkout: one runs from it, or it is installed in place (``pip install -e``)."""

HOME = ROOT if CHECKOUT else Path.cwd()
"""Where results, curves and weights lie by default: in the checkout, else in the working directory."""

HELP = "docs/installing.md says how to live with it"


def place(name: str) -> Path | None:
    """The folder (or file) that ``import name`` takes; None if there is none. Nothing is imported."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that somebody made by hand
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin).resolve() if spec.origin else None


def check(importer: str, *names: str) -> None:
    """Raise ImportError, naming both paths, where another package stands in the way of one that ``importer`` needs."""
    for name in names:
        found = place(name)
        if found != ROOT / name:
            raise ImportError(
                f"'{name}' of camera-occupancy-bench is {ROOT / name}, but Python finds {found or 'nothing'} under that name; "
                f"{HELP}, and python -m camera_occupancy_bench shows all names",
                name=importer,
            )
