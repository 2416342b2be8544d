"""Which files make a cell's numbers, and what changes their digests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_records import make_record
from test_run_training import ROW, environment

from baselines.registry import BASELINES
from experiments import sources
from experiments.records import ROOT, Confirmation, Hardware
from experiments.spec import load_table


@pytest.fixture(autouse=True)
def forget() -> None:
    """Digests are kept for a process; a test changes files within one."""
    for cached in (sources._closure, sources._file, sources._compiled, sources._read):
        cached.cache_clear()


def of(table: str, row: str, renderer: str = "cpu", **overrides: object) -> dict[str, str]:
    spec = load_table(table)
    return sources.of_cell(spec.cell(spec.row(row), renderer, "toy", 0, overrides))


def test_a_cell_has_the_sources_of_its_own_model_renderer_and_data_and_not_of_others() -> None:
    tpvformer, symphonies = of("table_occ3d", "tpvformer"), of("table_kitti360", "symphonies", "triton")
    for file in (
        "baselines/losses.py",
        "baselines/tpvformer/head.py",
        "baselines/ops/_msda_numba.py",  # imported within a function
        "renderers/cpu/__init__.py",  # named by the registry: "renderers.cpu:CpuRenderer"
        "renderers/cpu/toolchain.py",
        "renderers/cpu/splat.h",
        "experiments/cell/training.py",
        "experiments/cell/evaluation.py",
        "experiments/metrics/rayiou.py",
        "experiments/datasets/occ3d.py",
        "experiments/toyworld/raycast.py",  # relative imports
    ):
        assert file in tpvformer, file
    assert "baselines/symphonies/decoder.py" in symphonies and "renderers/triton/op.py" in symphonies
    assert "experiments/datasets/kitti360.py" in symphonies
    for folder in (
        "baselines/symphonies/",
        "baselines/surroundocc/",
        "renderers/triton/",
        "renderers/gsplat",
        "experiments/tables/",
    ):
        assert not [file for file in tpvformer if file.startswith(folder)], folder
    for file in ("cell/figures", "summary", "run", "cell/tracking", "cell/progress", "datasets/kitti360"):
        assert f"experiments/{file}.py" not in tpvformer
    assert not {file for file in of("table_occ3d", "prior") if file.startswith("baselines/ops")}
    assert not {file for file in of("table_occ3d", "prior", data="mine") if "toyworld" in file}, "these frames are not generated"


def test_what_a_cell_loads_is_among_its_sources_or_acts_on_nothing(tmp_path: Path) -> None:
    """The static search misses nothing that a real training and evaluation imported."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import run_tiny, experiments.tables\n"
        "experiments.tables.__path__.append(run_tiny.TABLES)\n"
        "assert run_tiny.main(['table_tiny', '--row', sys.argv[2], '--iterations', '1']) == 0\n"
        "print('LOADED', *[m for m in sys.modules if m.split('.')[0] in ('baselines', 'renderers', 'experiments')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), ROW], env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.rpartition("LOADED ")[2].split()
    assert "baselines.tpvformer.head" in loaded
    files = of("table_occ3d", "tpvformer+gaussrender")  # the tiny table's cells: the same model, renderer and data
    others = (
        *(f"baselines.{name}" for name in BASELINES.names() if name != "tpvformer"),
        "experiments.datasets.surroundocc",
        "experiments.datasets.kitti360",
        "experiments.datasets.dataset_",
        "experiments.datasets.prepare_kitti360",
    )
    for module in loaded:
        if module.startswith(others) or any(f"{module}.".startswith(f"{name}.") for name in sources._ACTS_ON_NOTHING):
            continue
        path = ROOT.joinpath(*module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert file.relative_to(ROOT).as_posix() in files, module


def test_names_that_act_on_nothing_are_modules() -> None:
    assert [name for name in sources._ACTS_ON_NOTHING if sources._file(name) is None] == []


ORIGINAL = '''"""Says what."""
import math  # and why

KEYS = ("a", "b")
"""What follows a name, says something of it."""


class Loss:
    """A loss."""

    def __call__(self, x: float) -> float:
        """x -> x"""
        return f"{math.pi * x:.2f}", 'one' "two"
'''
REFORMATTED = """import math
KEYS = (
    "a",
    'b',
)
class Loss:
  def __call__(self, x: float) -> float:
    # a comment
    return (f'{math.pi * x:.2f}', "onetwo")
"""


def digest(folder: Path, text: str, name: str = "x.py", monkeypatch: pytest.MonkeyPatch | None = None) -> str:
    file = folder / name
    file.write_text(text)
    sources._read.cache_clear()
    return sources._digest(file)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return tmp_path


def test_an_entry_more_in_a_registry_changes_no_digest(project: Path) -> None:
    (project / "baselines").mkdir()
    text = 'X = R("model", {{"a": "baselines.a.recipe:RECIPE"{}}}, {{"kind": "other"}})\n'
    more = text.format(', "b": "baselines.b.recipe:RECIPE"')

    def digests(name: str) -> list[str]:
        return [digest(project, content, name) for content in (text.format(""), more, more.replace("other", "another"))]

    for name in ("baselines/registry.py", "baselines/model.py"):
        sources._file.cache_clear()
        plain, longer, other = digests(name)
        assert (plain == longer) is (name == "baselines/registry.py") and longer != other
    assert [found.module for found in sources._read(project / "baselines/model.py")[1]] == [
        "baselines.a.recipe",
        "baselines.b.recipe",
    ]


def test_comments_docstrings_and_formatting_change_no_digest(project: Path) -> None:
    assert digest(project, ORIGINAL) == digest(project, REFORMATTED)
    # Written down: the same on every version of Python, in every checkout.
    assert digest(project, ORIGINAL) == "c2c0a6bb395c5045"


@pytest.mark.parametrize(
    "old, new",
    [
        ("math.pi", "math.e"),
        (":.2f", ":.3f"),
        ('("a", "b")', '["a", "b"]'),
        ('("a", "b")', '("a", b"b")'),
        ("two", "three"),
        ("return", "yield"),
        ("x: float)", "x: float = 0)"),
        ("x: float)", "x: float = None)"),
        ("x: float)", "*, x: float)"),
    ],
)
def test_code_changes_the_digest(project: Path, old: str, new: str) -> None:
    changed = ORIGINAL.replace(old, new)
    assert changed != ORIGINAL and digest(project, changed) != digest(project, ORIGINAL)


def test_compiled_sources_and_broken_python_count_by_their_bytes(project: Path) -> None:
    assert digest(project, "int a; // b", "op.cpp") != digest(project, "int a; // c", "op.cpp")
    assert digest(project, "def f(:") != digest(project, "def f(: ")


def test_a_change_is_named_until_the_record_is_confirmed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_table("table_occ3d")
    now = of("table_occ3d", "tpvformer")
    before = {**now, "baselines/losses.py": "0" * 16, "baselines/left.py": "1" * 16}
    del before["experiments/cell/engine.py"]
    record = make_record(table=spec.name, row="tpvformer", code=sources.code(before), sources=before)
    assert sources.changed_since(record) == [
        "baselines/left.py (gone)",
        "baselines/losses.py",
        "experiments/cell/engine.py (new)",
    ]
    confirmed = Confirmation(
        when="2026-01-01",
        git_commit="c",
        git_dirty=False,
        code=sources.code(now),
        versions={},
        hardware=Hardware(cpu="test", cores=1, memory_gb=1.0),
    )
    assert sources.changed_since(record.model_copy(update={"confirmed": [confirmed]})) == []
    assert sources.changed_since(record.model_copy(update={"code": sources.code(now), "sources": now})) == []
    assert sources.changed_since(make_record(table=spec.name, row="tpvformer")) == ["made before digests were kept"]
    gone = record.model_copy(update={"row": "a row that is gone"})
    assert sources.changed_since(gone) == ["baselines/left.py (gone)", "baselines/losses.py"]


def test_digests_read_each_file_once_and_need_no_torch() -> None:
    code = (
        "import sys; from experiments import sources; from experiments.spec import load_table; t = load_table('table_occ3d')\n"
        "sources.of_cell(t.cell(t.row('tpvformer'), 'cpu', 'toy', 0)); print('torch' in sys.modules)"
    )
    files = {*of("table_kitti360", "symphonies+gaussrender"), *of("table_kitti360", "tpvformer")}
    of("table_kitti360", "symphonies+gaussrender", **{"schedule.iterations": 5})
    assert sources._read.cache_info().misses == sum(name.endswith(".py") for name in files)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
