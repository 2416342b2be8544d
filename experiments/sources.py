"""Which source files make a cell's numbers, and digests of them: what a record remembers of the code. Light: no torch.

Imports are followed statically from what runs inside a cell; lazy imports within functions and targets ("module:Class") in
recipes count too. Of what registries hold (baselines, renderers, data sets), only what the cell chose is followed, and their
entries are left out of their digests, so that a new baseline, or a change of one's folder, leaves the cells of the others
alone. Whatever is not named here as acting on nothing counts; of other packages, those that the cell chose something of.

A Python file's digest is that of its syntax tree, written in a form of our own (``ast.dump`` differs between versions of Python):
comments, docstrings and formatting change nothing. Compiled sources, and Python that does not parse, count byte by byte.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from baselines.registry import BASELINES
from experiments.datasets.registry import DATASETS
from experiments.datasets.unpickle import DataError
from experiments.metrics.registry import METRICS
from experiments.records import ROOT, Confirmation, Record
from experiments.spec import Cell, SpecError, load_table
from renderers.registry import RAY_RENDERERS, RENDERERS, UnknownName

PACKAGES = ("baselines", "renderers", "experiments")
BEFORE_DIGESTS = "made before digests were kept"

_COMPILED = (".c", ".cpp", ".cu", ".cuh", ".h", ".hpp")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_QUOTED_TARGET = re.compile(rb"[\"'][\w.]+:\w+[\"']")
_ENTRIES = ("experiments.cell.training", "experiments.cell.evaluation")
_GENERATOR = "experiments.toyworld"
_REGISTRIES = ("baselines.registry", "renderers.registry", "experiments.datasets.registry")
# Shows, logs, plans, commands, or lies in the fingerprint: not followed. Tables are specs.
_ACTS_ON_NOTHING = frozenset(
    f"experiments.{name}"
    for name in (
        *("command", "interruption", "run", "plan", "records", "sources", "absences", "summary", "predictions", "tables"),
        *("shell", "bars", "preflight", "comparable", "intervals", "settings", "plausible", "datasets.prepare_pseudo"),
        *(f"cell.{room}" for room in ("runner", "revisit", "folder", "environment", "tracking", "progress", "figures", "lock")),
    )
) | {"renderers.tables"}


class _Choice(NamedTuple):
    """What a cell chose where the code chooses by name."""

    model: str
    renderer: str
    rays: bool
    dataset: str
    metrics: tuple[str, ...]
    generated: bool


class _Import(NamedTuple):
    """A module that another one may import.

    key   under which a registry has it, None for an import statement
    """

    module: str
    key: str | None = None


def of_cell(cell: Cell) -> dict[str, str]:
    """Source file, relative to the project -> digest, of everything that makes the cell's numbers; in order of the names.

    As the files were when the process first asked.
    """
    generated = cell.data.source == "toyworld" and "data" not in cell.overrides
    metrics = tuple(column.metric for column in cell.table.columns)
    first = of_cell(cell.first_cell) if cell.first_cell is not None else {}
    rays = cell.row.runs and cell.row.recipe.renderer == "rays"
    own = dict(_closure(_Choice(cell.row.model or "", cell.renderer, rays, cell.table.dataset, metrics, generated)))
    return dict(sorted({**first, **own}.items()))


def of_record(record: Record) -> dict[str, str]:
    """``of_cell`` for the cell of a record; of a row or a part that is gone, the digests of the files that the record names."""
    preset: Any = record.preset
    try:
        table = load_table(record.table)
        return of_cell(table.cell(table.row(record.row), record.renderer, preset, record.seed, record.overrides))
    except (SpecError, UnknownName, DataError):
        return {name: _digest(ROOT / name) for name in record.sources if (ROOT / name).is_file()}


def code(sources: Mapping[str, str]) -> str:
    """One digest of a cell's sources."""
    return _hash("".join(f"{name} {digest}\n" for name, digest in sorted(sources.items())).encode())


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Files that differ; one that came or went is said to be new or gone."""
    differ = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return [name if name in before and name in now else f"{name} ({'gone' if name in before else 'new'})" for name in differ]


def changed_since(record: Record) -> list[str]:
    """Files that make the record's numbers and have changed since it was made, or last confirmed; empty if it stands for the
    code of today. A record without digests gives ``BEFORE_DIGESTS``."""
    if not record.code or not record.sources:
        return [BEFORE_DIGESTS]
    now = of_record(record)
    if code(now) in {record.code, *(confirmation.code for confirmation in record.confirmed)}:
        return []
    return changed(last_look(record).sources or record.sources, now)


def last_look(record: Record) -> Record | Confirmation:
    """What says with which code the record's numbers came out last: the newest confirmation, else the record itself."""
    return record.confirmed[-1] if record.confirmed else record


def notice(record: Record) -> str:
    """A remark for people at a number that is not plainly of the code of today: commit and date, and what changed since or in
    the midst of its training. "" if there is nothing to say."""
    files, look = changed_since(record), last_look(record)
    said = [f"its training went on {'; '.join(record.continued)}"] if record.continued else []
    if files:
        said.append(BEFORE_DIGESTS if files == [BEFORE_DIGESTS] else f"its code changed since: {', '.join(files)}")
    if not said:
        return ""
    when = look.started if isinstance(look, Record) else look.when
    commit = look.git_commit[:7] + (" and uncommitted changes" if look.git_dirty else "")
    return f"of {commit}, {when[:10]}; {'; '.join(said)}"


@cache
def _closure(choice: _Choice) -> tuple[tuple[str, str], ...]:
    """All (file, digest) reached from what runs inside a cell."""
    targets = [RENDERERS.target(choice.renderer), DATASETS.target(choice.dataset)]
    targets += [BASELINES.target(choice.model)] if choice.model else []
    targets += [RAY_RENDERERS.target(choice.renderer)] if choice.rays else []
    targets += [target for name in choice.metrics for target in (METRICS.target(name), METRICS.load(name).counted) if target]
    pending = [*_ENTRIES, *(target.partition(":")[0] for target in targets)]
    packages = frozenset((*PACKAGES, *(module.partition(".")[0] for module in pending)))
    seen: set[str] = set()
    files: set[Path] = set()
    while pending:
        module = pending.pop()
        file = _file(module, packages)
        if file is None or module in seen:
            continue
        seen.add(module)
        files |= {file, *_compiled(file.parent), *_parents(module, packages)}
        pending += [found.module for found in _read(file)[1] if _followed(module, found, choice)]
    return tuple(sorted((_name(file), _digest(file)) for file in files))


def _followed(importer: str, found: _Import, choice: _Choice) -> bool:
    """Whether an import belongs to the cell: it acts, and it is not one of several choices, which ``_closure`` begins with."""
    module = found.module
    if module == _GENERATOR or module.startswith(f"{_GENERATOR}."):
        return choice.generated
    if any(module == name or module.startswith(f"{name}.") for name in _ACTS_ON_NOTHING):
        return False
    return found.key is None or importer not in _REGISTRIES


@cache
def _file(module: str, packages: frozenset[str] = frozenset(PACKAGES)) -> Path | None:
    """The file of a module of these packages; None for others."""
    top = module.partition(".")[0]
    if top not in packages:
        return None
    base = (ROOT if top in PACKAGES else _place(top)).joinpath(*module.split("."))
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


def _place(package: str) -> Path:
    """The folder that holds another package, or a module of its own."""
    found = importlib.util.find_spec(package)
    file = Path(found.origin) if found is not None and found.origin is not None else ROOT / "nowhere.py"
    return file.parents[1] if file.name == "__init__.py" else file.parent


def _name(file: Path) -> str:
    """Relative to the project; of another package, to what holds it."""
    base = ROOT if file.is_relative_to(ROOT) else file.parents[len(_package(file))]
    return file.relative_to(base).as_posix()


def _package(file: Path) -> tuple[str, ...]:
    """The packages around a file, the outermost first."""
    around = list(itertools.takewhile(lambda folder: (folder / "__init__.py").is_file(), file.parents))
    return tuple(folder.name for folder in reversed(around))


def _parents(module: str, packages: frozenset[str]) -> Iterator[Path]:
    """Files of the packages around a module: they run, but what they import for others is none of the module's."""
    package = module.rpartition(".")[0]
    while package:
        file = _file(package, packages)
        if file is not None:
            yield file
        package = package.rpartition(".")[0]


@cache
def _compiled(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.suffix in _COMPILED))


@cache
def _read(file: Path) -> tuple[str, tuple[_Import, ...]]:
    """The digest of a Python file, and what may be a module that it imports or names as a target."""
    text = file.read_bytes()
    try:
        tree = ast.parse(text, filename=str(file))
    except SyntaxError:
        return _hash(text), ()
    found = [*_statements(tree, ".".join(_package(file)))]
    if _QUOTED_TARGET.search(text):  # to look at every expression takes time, and few files have one
        found += _targets(tree)
    if file in map(_file, _REGISTRIES):
        _leave_out_entries(tree)
    parts: list[str] = []
    _write(tree, parts)
    return _hash("".join(parts).encode()), tuple(found)


def _statements(node: ast.AST, package: str) -> Iterator[_Import]:
    """What import statements below a node name: modules, and names that may be modules."""
    if isinstance(node, ast.Import):
        yield from (_Import(alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield _Import(base)
        yield from (_Import(f"{base}.{alias.name}") for alias in node.names)
    elif not isinstance(node, ast.expr) and not _for_types_only(node):
        for child in ast.iter_child_nodes(node):
            yield from _statements(child, package)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _targets(node: ast.AST, key: str | None = None) -> Iterator[_Import]:
    """What strings of the form "module:Class" name, with the key that a dictionary has them under."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and _TARGET.fullmatch(node.value):
            yield _Import(node.value.partition(":")[0], key)
    elif isinstance(node, ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            named = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else key
            yield from _targets(value, named)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _targets(child, key)


def _leave_out_entries(tree: ast.AST) -> None:
    """Drop what dictionaries have of the form name: "module:Class"; the modules that a cell chose count by themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            kept = [
                (name, value)
                for name, value in zip(node.keys, node.values, strict=True)
                if not (isinstance(value, ast.Constant) and isinstance(value.value, str) and _TARGET.fullmatch(value.value))
            ]
            node.keys, node.values = [name for name, _ in kept], [value for _, value in kept]


def _digest(file: Path) -> str:
    return _read(file)[0] if file.suffix == ".py" else _hash(file.read_bytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _write(node: ast.AST, parts: list[str]) -> None:
    """The tree as text: no places, no empty fields (versions of Python differ in which there are), no lone strings."""
    if isinstance(node, ast.Constant):
        parts.append(f"({node.value!r})")
        return
    parts.append(f"({type(node).__name__}")
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or name == "ctx" or value == []:
            continue
        parts.append(f" {name}=")
        if isinstance(value, list):
            parts.append("[")
            for item in value:
                if isinstance(item, ast.AST):
                    if not _is_docstring(item):
                        _write(item, parts)
                else:
                    parts.append(f"{item!r},")
            parts.append("]")
        elif isinstance(value, ast.AST):
            _write(value, parts)
        else:
            parts.append(repr(value))
    parts.append(")")


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
