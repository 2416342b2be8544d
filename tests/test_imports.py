"""Which way imports go: from reports down to renderers, never round, no door from a cell, and lightly where it says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("renderers", "baselines", "experiments", "reports")
HEAVY = ("torch", "torchvision", "mmengine", "mmcv", "mmdet", "mmdet3d", "mlflow")
LIGHT = (
    "baselines.bevdetocc",
    "baselines.monoscene",
    "baselines.occformer",
    "baselines.gaussianformer2",
    "baselines.recipe",
    "baselines.registry",
    "baselines.surroundocc",
    "baselines.symphonies",
    "baselines.tpvformer",
    "experiments.cell.folder",
    "experiments.datasets.registry",
    "experiments.metrics.registry",
    "experiments.plan",
    "experiments.records",
    "experiments.run",
    "experiments.score_records",
    "experiments.sources",
    "experiments.spec",
    "experiments.summary",
    "experiments.sweep.__main__",
    "experiments.sweep.task",
    "renderers.registry",
    "reports.build",
    "reports.publish",
)
"""What is looked at without a model: a list of cells, a report. Everything that these import as they are loaded counts."""


class Import(NamedTuple):
    """lazy: within a function, hence not loaded together with the importer."""

    module: str
    lazy: bool


@cache
def modules() -> dict[str, Path]:
    files = [file for package in ORDER for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(_parts(file)): file for file in files}


def _parts(file: Path) -> tuple[str, ...]:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


@cache
def imports(module: str) -> frozenset[Import]:
    file = modules()[module]
    package = file.relative_to(ROOT).parent.parts
    return frozenset(found for found in _walk(ast.parse(file.read_text()), package, False) if found.module != module)


def _walk(node: ast.AST, package: tuple[str, ...], lazy: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, lazy) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join((*above, *((node.module,) if node.module else ())))
        for alias in node.names:  # a module of a package, or something that the module has
            inner = f"{base}.{alias.name}"
            yield Import(inner if inner in modules() else base, lazy)
    elif not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
        inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, package, inside)


def loaded_with(module: str) -> Iterator[str]:
    """Everything outside of the project that comes with importing a module, the packages around it included."""
    seen: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in modules():
            yield name
            continue
        parts = name.split(".")
        pending += [".".join(parts[:count]) for count in range(1, len(parts)) if ".".join(parts[:count]) in modules()]
        pending += [found.module for found in imports(name) if not found.lazy]


def test_imports_go_down() -> None:
    wrong = [
        f"{module} imports {found.module}"
        for module in modules()
        for found in imports(module)
        if found.module.split(".")[0] in ORDER and ORDER.index(found.module.split(".")[0]) > ORDER.index(module.split(".")[0])
    ]
    assert not wrong


def test_what_is_in_a_cell_knows_no_door() -> None:
    doors = {
        "experiments.command",
        *(name for name, file in modules().items() if 'if __name__ == "__main__"' in file.read_text()),
    }
    assert {"experiments.run", "experiments.data", "experiments.predict", "experiments.doctor"} <= doors
    rooms = [name for name in modules() if name.startswith("experiments.cell.")]
    assert len(rooms) > 8
    assert not [f"{room} imports {found.module}" for room in rooms for found in imports(room) if found.module in doors]


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Lazy imports count: they put a circle off, they do not break it."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module in done or module not in modules():
            return
        for found in sorted(imports(module)):
            visit(found.module, (*path, module))
        done.add(module)

    for module in modules():
        visit(module, ())


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_torch(module: str) -> None:
    assert module in modules()
    assert not sorted({name for name in loaded_with(module) if name.split(".")[0] in HEAVY})
