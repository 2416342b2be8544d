"""Which instructions and how many threads a process computes with: held by default, the user's where set, recorded as is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import instructions
from experiments.instructions import HELD, THREADS, machine_bound
from experiments.records import ROOT, Hardware

pytestmark = pytest.mark.skipif(not instructions._X86_64_V3 <= instructions._flags(), reason="no x86-64 processor with AVX2")

OURS = {*instructions._VARIABLES, "NPY_DISABLE_CPU_FEATURES", "OPENCV_CPU_DISABLE", "DNNL_MAX_CPU_ISA"}
ASK = """
import json
import numba, numpy, cv2, torch
from experiments import instructions
from experiments.cell import environment
from renderers.cpu import native
torch.ones(20, 20) @ torch.ones(20, 20)
if {fix}: instructions.fix_threads()
print(json.dumps(environment.hardware(gpu=False).model_dump()))
"""


def process(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with these of our variables and no others."""
    env = {name: value for name, value in os.environ.items() if name not in OURS} | {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def hardware(code: str, **variables: str) -> Hardware:
    done = process(code, **variables)
    assert done.stderr == "", "no library complains about what it was told"
    return Hardware(**json.loads(done.stdout))


def test_a_command_is_held_and_its_record_says_so() -> None:
    found = hardware("import experiments.run" + ASK.format(fix=True), OMP_NUM_THREADS="1")
    assert found.instruction_sets == HELD and found.threads == THREADS
    assert machine_bound(found) == ""


@pytest.mark.parametrize("command", ["experiments.predict", "experiments.toyworld.__main__", "reports.visualise"])
def test_every_command_that_computes_is_held(command: str) -> None:
    said = process(f"import {command}, os, json; print(json.dumps(dict(os.environ)))").stdout
    assert instructions._VARIABLES.items() <= json.loads(said).items()


def test_what_a_user_sets_stays_and_is_recorded() -> None:
    found = hardware(
        "import experiments.run" + ASK.format(fix=False),
        ATEN_CPU_CAPABILITY="default",
        DNNL_MAX_CPU_ISA="SSE41",
        OCC_CPU_TARGET="portable",
        NUMBA_CPU_NAME="generic",
        OMP_NUM_THREADS="1",
    )
    changed = {"torch": "DEFAULT", "onednn": "SSE41", "renderers.cpu": "portable", "numba": "generic"}
    assert found.instruction_sets == HELD | changed
    assert machine_bound(found) == "computed with " + ", ".join(
        ["torch DEFAULT", "onednn SSE41", "numba generic", "renderers.cpu portable", f"{found.threads} threads"]
    )


def test_where_a_library_is_loaded_first_nothing_is_held_and_the_record_says_that() -> None:
    found = hardware("import numpy, experiments.run" + ASK.format(fix=False))
    assert found.instruction_sets["mkl"] == found.instruction_sets["onednn"] == found.instruction_sets["numba"] == "native"
    assert "mkl native" in machine_bound(found)


@pytest.mark.parametrize("machine, flags", [("x86_64", "flags : fpu sse2 avx"), ("aarch64", "Features : asimd sve")])
def test_on_other_processors_nothing_is_set(machine: str, flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(instructions, "_READERS", ())
    monkeypatch.setattr(instructions.platform, "machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", lambda path: flags)
    instructions.hold()
    assert not OURS & set(os.environ)


def test_other_makers_and_gpus_are_told_apart() -> None:
    base = Hardware(cpu="x", cores=8, memory_gb=1, threads=THREADS, instruction_sets=HELD)
    assert machine_bound(base) == ""
    assert machine_bound(base.model_copy(update={"gpu": "NVIDIA H200"})) == "computed on a GPU (NVIDIA H200)"
    assert "older record" in machine_bound(base.model_copy(update={"instruction_sets": {}}))
    assert machine_bound(base.model_copy(update={"threads": 16})) == "computed with 16 threads"


def test_numba_leaves_pytorchs_number_of_threads_alone() -> None:
    """Its first parallel call started as many OpenMP threads as there are cores, PyTorch's included."""
    code = """
import numba, torch
from baselines.ops.deform_attn import _with_torch_threads
@numba.njit(parallel=True)
def add(x):
    for i in numba.prange(len(x)): x[i] += 1
x = torch.zeros(8)
_with_torch_threads(add, x)
print(torch.get_num_threads(), int(x.sum()))
"""
    assert process(code, OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="3").stdout.split() == ["1", "8"]


BITS = """
import experiments.run
import sys, hashlib, torch
from experiments import instructions, toyworld
from experiments.cell import models
from experiments.datasets.build import build_dataset
from experiments.plan import toy_data
from experiments.spec import Cell, load_table
import experiments.tables
experiments.tables.__path__.append({tables!r})
instructions.fix_threads()
for table, row in (("table_tiny", "small+gaussrender"), ("table_tiny_surroundocc", "surroundocc+gaussrender"),
                   ("table_tiny_kitti360", "symphonies+gaussrender")):
    spec = load_table(table)
    cell = Cell(spec, spec.row(row), "cpu", "toy", 0)
    frames = build_dataset(
        spec.dataset, toy_data(spec, "toy"), "train", cell.data, 0, cell.row.reads)
    torch.manual_seed(0)
    model = models.build(cell, frames.grid)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    for step in range(2):
        torch.manual_seed(step)
        losses = model.loss(frames[step])
        optimizer.zero_grad()
        sum(value.sum() for name, value in losses.items() if "loss" in name).backward()
        optimizer.step()
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    print(digest.hexdigest())
"""


@pytest.mark.slow
def test_trained_weights_have_the_same_bits_however_many_threads_and_cores_are_offered() -> None:
    code = BITS.format(tables=str(Path(__file__).parent / "tables"))
    one, many = (process(code, OMP_NUM_THREADS=n, NUMBA_NUM_THREADS=m).stdout.split() for n, m in (("1", "1"), ("4", "3")))
    assert len(one) == 3 and one == many
